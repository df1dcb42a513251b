"""vLLM in the trainer's own process: continuous batching, a prefix cache, and weights handed over in memory.

Weights are loaded through `reload_weights`, the one way that also reverts what vLLM does to them after loading (fusing,
repacking). The prefix cache, which holds states of the old weights, is emptied afterwards. Log-probs are those of
softmax(logits / temperature), except that with top_p < 1 vLLM reports those of the nucleus it draws from.

With several processes, each has its own engine over `vllm_tensor_parallel_size` neighboring GPUs; processes
that share an engine must hand it the same requests. On GPUs, `sleep` frees the engine's memory for the update: weights
move to host memory and the key-value cache is dropped. Only the CPU path with one process has been run.

vLLM wants the process to itself: building an engine initializes torch.distributed if nothing else has, and on the CPU
disables `torch.set_num_threads`. It also reseeds the global random generators, which is undone here.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch

from prepo_cli.engines.base import EngineSetup
from prepo_cli.engines.vllm_common import Answer, Completion, Job, OnAnswer, VllmBase, check_version
from prepo_cli.errors import RunError, UsageError, one_line
from prepo_cli.sections import EngineConfig

FORCED = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # tensors cannot be handed to an engine in another process
    "VLLM_NO_USAGE_STATS": "1",
}
DEFAULTS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout is for results
}


class VllmEngine(VllmBase):
    """Generates with vLLM in this process.

    Args:
        config: engine settings.
        model: folder or hub name of the model to load first.
        dtype: of weights and compute: float32, bfloat16 or float16.
        eos_token_ids: all tokens that end a rollout.
        max_model_len: tokens of a prompt and its completion together, unless `config` says otherwise.
        seed: of the engine; rollouts have their own.
        revision: of a model on the hub.
        trust_remote_code: as in transformers.
        num_processes: processes of the run.

    Raises:
        UsageError: vLLM is missing, of an unsupported version, or cannot load the model; RunError: it does not start.
    """

    serves_all: ClassVar[bool] = False

    def __init__(
        self,
        config: EngineConfig,
        *,
        model: str,
        dtype: str,
        eos_token_ids: frozenset[int],
        max_model_len: int,
        seed: int,
        revision: str | None = None,
        trust_remote_code: bool = False,
        num_processes: int = 1,
    ) -> None:
        super().__init__(eos_token_ids, config.vllm_max_model_length or max_model_len)
        if num_processes % config.vllm_tensor_parallel_size:
            raise UsageError(
                f"engine.vllm_tensor_parallel_size={config.vllm_tensor_parallel_size} does not "
                f"divide the number of processes, {num_processes}; start one per GPU with "
                "accelerate launch --num_processes"
            )
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._sleeps = config.vllm_enable_sleep_mode and torch.cuda.is_available()
        self._asleep: set[str] = set()
        self._owns_process_group = not torch.distributed.is_initialized()
        options = _options(config, self._max_model_len, num_processes) | {"enable_sleep_mode": self._sleeps}
        options |= {"dtype": dtype, "seed": seed, "revision": revision, "trust_remote_code": trust_remote_code}
        self._llm: Any = _start(model, options)

    @classmethod
    def build(cls, setup: EngineSetup) -> VllmEngine:
        """An engine that loads the setup's model."""
        return cls(
            setup.config,
            model=setup.model.source,
            dtype=setup.model_config.dtype,
            eos_token_ids=setup.model.eos_token_ids,
            max_model_len=setup.max_context,
            seed=setup.seed,
            revision=setup.model_config.revision,
            trust_remote_code=setup.model_config.trust_remote_code,
            num_processes=setup.num_processes,
        )

    def sync(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Load new weights: all of them, under the hub's names and always including `lm_head.weight`."""
        self._wake("weights")
        stream = ((name, tensor.detach().to(self._dtype)) for name, tensor in weights)
        with torch.no_grad():
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": stream})
        if not self._llm.reset_prefix_cache():
            raise RunError("vLLM kept entries of the old weights in its prefix cache; continue with --resume")

    def sleep(self) -> None:
        """Free GPU memory until the next `wake`, `sync` or request; does nothing on the CPU."""
        if self._sleeps and not self._asleep:
            self._llm.sleep(level=1)
            self._asleep = {"weights", "kv_cache"}

    def wake(self) -> None:
        """Reclaim the memory. Before loading new weights this is not needed: `sync` wakes only what it uses."""
        self._wake("weights")
        self._wake("kv_cache")

    def close(self) -> None:
        """Free the engine, which also ends all process groups if it started them; further calls do nothing."""
        if self._llm is None:
            return
        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        gc.collect()
        if self._owns_process_group:
            from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

            cleanup_dist_env_and_memory()

    def _wake(self, tag: str) -> None:
        if tag in self._asleep:
            self._llm.wake_up(tags=[tag])
            self._asleep.remove(tag)

    def _answer(self, jobs: Sequence[Job], on_answer: OnAnswer) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self.wake()
        engine = self._llm.llm_engine
        added: list[str] = []
        finished = False
        try:
            for number, job in enumerate(jobs):
                settings = SamplingParams(
                    **job.settings, detokenize=False, flat_logprobs=True, output_kind=RequestOutputKind.FINAL_ONLY
                )
                added.append(engine.add_request(str(number), {"prompt_token_ids": list(job.prompt_ids)}, settings))
            while engine.has_unfinished_requests():
                for output in engine.step():
                    if output.finished:
                        on_answer(int(output.request_id), _read(output))
            finished = True
        finally:
            if not finished:
                engine.abort_request(added, internal=True)


def _options(config: EngineConfig, max_model_len: int, num_processes: int) -> dict[str, Any]:
    """vLLM's arguments, apart from those about the model."""
    options: dict[str, Any] = {
        "skip_tokenizer_init": True,
        "max_model_len": max_model_len,
        "max_num_seqs": config.vllm_max_num_seqs,
        "gpu_memory_utilization": config.vllm_gpu_memory_utilization,
        "tensor_parallel_size": config.vllm_tensor_parallel_size,
        "enforce_eager": config.vllm_enforce_eager,
        "enable_prefix_caching": True,
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if num_processes > 1:
        options["distributed_executor_backend"] = "external_launcher"
    if not torch.cuda.is_available():
        # A prompt that is scheduled in chunks rewinds its request's random generator, which CPU generators cannot do.
        options |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(8192, max_model_len)}
    return options


def _start(model: str, options: dict[str, Any]) -> Any:
    """A `vllm.LLM`; raises UsageError if vLLM or the model cannot be used, RunError if the engine does not start."""
    vllm = _import_vllm()
    try:
        with _global_randomness_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # vLLM's own, about its dependencies
            return vllm.LLM(model, **options)
    except (ValueError, OSError) as error:
        raise UsageError(f"vLLM can't load '{model}': {one_line(error)}") from error
    except RuntimeError as error:
        raise RunError(
            f"vLLM failed to start: {one_line(error)}; if it ran out of memory, change "
            "engine.vllm_gpu_memory_utilization"
        ) from error


def _import_vllm() -> Any:
    """The vllm package, configured to stay quiet and in this process; raises UsageError if it is unusable."""
    if importlib.util.find_spec("vllm") is None:
        raise UsageError("--engine vllm needs vLLM, which is not installed; run: pip install 'prepo[vllm]'")
    os.environ.update(FORCED)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    import vllm

    check_version(vllm.__version__, "the installed vllm")
    return vllm


def _read(output: Any) -> Answer:
    """A finished request's answer."""
    if output.prompt_logprobs is not None:
        return Answer([], output.prompt_logprobs.logprobs)
    return Answer([Completion(one.token_ids, one.logprobs.logprobs, one.finish_reason) for one in output.outputs])


@contextmanager
def _global_randomness_kept() -> Iterator[None]:
    """Restore the process-wide random generators after the block."""
    python, numbers, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
        torch.set_rng_state(cpu)
        if devices:
            torch.cuda.set_rng_state_all(devices)
