"""prepo's strategies inside verl: the trainer "prepo" and its replay buffer.

verl finds them through the entry point `verl.plugins`, or with VERL_USE_EXTERNAL_MODULES=prepo_cli.integrations.verl;
`trainer.v1.trainer_mode=prepo` selects them. docs/verl.md says what works.
"""

from __future__ import annotations

from prepo_cli.integrations.verl_hooks import check_verl

check_verl()

# After the check, as they build on what it checks.
from prepo_cli.integrations.verl_agent_loop import TemperatureAgentLoop  # noqa: E402
from prepo_cli.integrations.verl_buffer import PrepoReplayBuffer  # noqa: E402
from prepo_cli.integrations.verl_trainer import PrepoTrainer  # noqa: E402

__all__ = ["PrepoReplayBuffer", "PrepoTrainer", "TemperatureAgentLoop"]
