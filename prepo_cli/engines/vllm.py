"""vLLM in the trainer's own process: continuous batching, a prefix cache, and weights handed over in memory.

Weights go in through `reload_weights`, the one way that also undoes what vLLM does to them after loading (fusing,
repacking); afterwards the prefix cache, which holds states of the old weights, is emptied. The engine's log-probs are
of softmax(logits / temperature), except that with top_p < 1 vLLM gives those of the nucleus that was drawn from.

With several processes each has an engine of its own over `vllm_tensor_parallel_size` neighbouring GPUs; processes
that share one must hand it the same requests. On GPUs `sleep` gives the engine's memory to the update: weights move to
host memory, the key-value cache is dropped. Only the CPU path with one process was run.

vLLM wants the process to itself: building an engine starts torch.distributed if nobody has, and on the CPU turns
`torch.set_num_threads` off. Its reseeding of the global generators is undone.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prepo_cli.engines.base import Progress, Request, Rollout
from prepo_cli.engines.vllm_common import (
    check_length,
    check_requests,
    check_version,
    prompt_array,
    rollouts,
    sampling_fields,
    scoring_fields,
)
from prepo_cli.errors import RunError, UsageError
from prepo_cli.sections import EngineConfig

FORCED = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # tensors can't be handed to an engine in another process
    "VLLM_NO_USAGE_STATS": "1",
}
DEFAULTS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout is for results
}


class VllmEngine:
    """Generates with vLLM in this process.

    Args:
        config: engine settings.
        model_path: folder or hub name of the model to start from.
        dtype: of weights and compute: float32, bfloat16 or float16.
        eos_token_ids: all tokens that end a rollout.
        max_model_len: tokens a prompt and its completion may take, where `config` doesn't say.
        seed: of the engine; rollouts have their own.
        tokenizer_path: None loads no tokenizer; nothing here needs one.
        revision: of a hub model.
        trust_remote_code: as in transformers.
        num_processes: processes of the run.

    Raises:
        UsageError: vLLM is missing, of an unknown version, or can't load the model; RunError: it does not start.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        model_path: str,
        dtype: str,
        eos_token_ids: frozenset[int],
        max_model_len: int,
        seed: int,
        tokenizer_path: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        num_processes: int = 1,
    ) -> None:
        tensor_parallel = config.vllm_tensor_parallel_size
        if num_processes % tensor_parallel:
            raise UsageError(
                f"engine.vllm_tensor_parallel_size={tensor_parallel} does not divide the run's {num_processes} "
                "process(es): start the run with accelerate launch --num_processes, one process for each GPU"
            )
        vllm = _import_vllm()
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._eos_token_ids = eos_token_ids
        self._max_model_len = config.vllm_max_model_length or max_model_len
        self._sleeps = config.vllm_enable_sleep_mode and torch.cuda.is_available()
        self._asleep: set[str] = set()
        self._owns_process_group = not torch.distributed.is_initialized()
        options: dict[str, Any] = {"distributed_executor_backend": "external_launcher"} if num_processes > 1 else {}
        if not torch.cuda.is_available():
            # A prompt scheduled in parts rewinds its request's generator, which CPU generators can't.
            options |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(8192, self._max_model_len)}
        try:
            with _global_randomness_kept(), warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # vLLM's own, about its dependencies
                self._llm: Any = vllm.LLM(
                    model_path,
                    tokenizer=tokenizer_path,
                    skip_tokenizer_init=tokenizer_path is None,
                    revision=revision,
                    trust_remote_code=trust_remote_code,
                    dtype=dtype,
                    seed=seed,
                    max_model_len=self._max_model_len,
                    max_num_seqs=config.vllm_max_num_seqs,
                    gpu_memory_utilization=config.vllm_gpu_memory_utilization,
                    tensor_parallel_size=tensor_parallel,
                    enforce_eager=config.vllm_enforce_eager,
                    enable_sleep_mode=self._sleeps,
                    enable_prefix_caching=True,
                    logprobs_mode="processed_logprobs",
                    generation_config="vllm",
                    disable_log_stats=True,
                    use_tqdm_on_load=False,
                    **options,
                )
        except (ValueError, OSError) as error:
            raise UsageError(f"vLLM can't load '{model_path}': {_one_line(error)}") from error
        except RuntimeError as error:
            raise RunError(
                f"vLLM does not start: {_one_line(error)}; if memory is short, change "
                "engine.vllm_gpu_memory_utilization"
            ) from error

    def generate(self, requests: Sequence[Request], progress: Progress | None = None) -> list[list[Rollout]]:
        """Rollouts of each request, in the order of its seeds."""
        check_requests(requests, self._max_model_len)
        asked = [r for r, request in enumerate(requests) if request.seeds]
        results: list[list[Rollout]] = [[] for _ in requests]
        jobs = [(requests[r].prompt_ids, sampling_fields(requests[r], self._eos_token_ids)) for r in asked]

        def take(job: int, output: Any) -> None:
            r = asked[job]
            answers = ((one.token_ids, one.logprobs.logprobs, one.finish_reason) for one in output.outputs)
            results[r] = rollouts(requests[r], answers, self._eos_token_ids)
            if progress is not None:
                progress(len(results[r]))

        self._run(jobs, take)
        return results

    def prompt_logprobs(self, rows: Sequence[Sequence[int]]) -> list[npt.NDArray[np.float32]]:
        """Log-probs at temperature 1 of every token but the first of each row."""
        scored = [np.empty(0, dtype=np.float32) for _ in rows]
        asked = [i for i, row in enumerate(rows) if len(row) > 1]
        for i in asked:
            check_length(len(rows[i]), 1, self._max_model_len)

        def take(job: int, output: Any) -> None:
            i = asked[job]
            scored[i] = prompt_array(output.prompt_logprobs.logprobs, rows[i])

        self._run([(rows[i], scoring_fields()) for i in asked], take)
        return scored

    def sync(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take over the trainer's weights: all of them, under the hub's names, `lm_head.weight` always among them."""
        self._wake("weights")
        stream = ((name, tensor.detach().to(self._dtype)) for name, tensor in weights)
        with torch.no_grad():
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": stream})
        if not self._llm.reset_prefix_cache():
            raise RunError("vLLM kept states of the old weights in its prefix cache; --resume")

    def sleep(self) -> None:
        """Free GPU memory until the next `wake`, `sync` or request; nothing on the CPU."""
        if self._sleeps and not self._asleep:
            self._llm.sleep(level=1)
            self._asleep = {"weights", "kv_cache"}

    def wake(self) -> None:
        """Take the memory back. To load new weights, `sync` first: it wakes only what it needs."""
        self._wake("weights")
        self._wake("kv_cache")

    def close(self) -> None:
        """Free the engine, which on the way ends all process groups; further calls do nothing."""
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

    def _run(self, jobs: Sequence[tuple[Sequence[int], dict[str, Any]]], take: Callable[[int, Any], None]) -> None:
        """Put all jobs to the engine and hand each output over as it finishes; leave nothing behind on an error."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self.wake()
        engine = self._llm.llm_engine
        added: list[str] = []
        finished = False
        try:
            for number, (prompt_ids, fields) in enumerate(jobs):
                settings = SamplingParams(
                    **fields, detokenize=False, flat_logprobs=True, output_kind=RequestOutputKind.FINAL_ONLY
                )
                added.append(engine.add_request(str(number), {"prompt_token_ids": list(prompt_ids)}, settings))
            while engine.has_unfinished_requests():
                for output in engine.step():
                    if output.finished:
                        take(int(output.request_id), output)
            finished = True
        finally:
            if not finished:
                engine.abort_request(added, internal=True)


def _import_vllm() -> Any:
    """The vllm package, told beforehand to stay in this process and quiet; raises UsageError without a usable one."""
    if importlib.util.find_spec("vllm") is None:
        raise UsageError("--engine vllm needs vLLM, which is not installed: pip install 'prepo[vllm]'")
    os.environ.update(FORCED)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    import vllm

    check_version(vllm.__version__, "the installed vllm")
    return vllm


@contextmanager
def _global_randomness_kept() -> Iterator[None]:
    """Undo what the block does to the process-wide random generators."""
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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
