"""Every place where TRL's trainer keeps its sampling temperature.

It samples with one of three, and divides the logits by another one, which the fused head of the model (and of the
reference) holds in its closure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import CellType
from typing import Any

import trl
from accelerate.utils import is_peft_model
from trl import GRPOTrainer

from prepo_cli.errors import UsageError

VARIABLE = "temperature"


class Temperature:
    """A trainer's temperature, in all places at once."""

    def __init__(self, trainer: GRPOTrainer) -> None:
        """Find the places.

        Raises:
            UsageError: the model's head does not keep the temperature where TRL 1.16 does.
        """
        self.trainer, self.configured = trainer, float(trainer.temperature)
        models = [trainer.model] if trainer.ref_model is None else [trainer.model, trainer.ref_model]
        self._cells = [_cell(trainer.accelerator.unwrap_model(model)) for model in models]

    def set(self, value: float) -> None:
        """Sample and train at this temperature from now on."""
        trainer = self.trainer
        if value == trainer.temperature:
            return
        trainer.temperature = value
        for cell in self._cells:
            cell.cell_contents = value
        if trainer.use_vllm:
            trainer.vllm_generation.temperature = value
        else:
            trainer.generation_config.temperature = value
            trainer.generation_kwargs[VARIABLE] = value

    @contextmanager
    def at(self, value: float) -> Iterator[None]:
        """A context with this temperature."""
        before = self.trainer.temperature
        self.set(value)
        try:
            yield
        finally:
            self.set(before)


def _cell(model: Any) -> CellType:
    """The variable of the fused head's function that holds the temperature."""
    base = model.get_base_model() if is_peft_model(model) else model
    forward = vars(base).get("_original_forward", base.forward)  # where accelerate keeps what it wraps
    function = getattr(forward, "__func__", forward)
    names = function.__code__.co_freevars
    if VARIABLE not in names:
        raise UsageError(
            f"TRL {trl.__version__} keeps the temperature of its fused head where prepo can't set it; "
            "install trl==1.16.*"
        )
    cell: CellType = function.__closure__[names.index(VARIABLE)]
    return cell
