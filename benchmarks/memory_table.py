"""GPU memory that training needs, by model size: computed from the models' shapes, not measured.

python benchmarks/memory_table.py                                  # the Markdown in docs/gpu.md
python benchmarks/memory_table.py --max-tokens-per-micro-batch 8192 --gpus 16

Counted per GPU: weights, gradients, AdamW's two moments, the temporary memory of a step (activations of a full
micro-batch with gradient checkpointing, one chunk of logits, bfloat16 copies of float32 weights, gathered layers under
FSDP2, DDP's buckets, temporaries of the AdamW step), and vLLM's memory while it generates. There are no master copies:
AdamW updates the weights themselves, in their own precision. Not counted: the CUDA context, communication buffers,
vLLM's CUDA graphs and fragmentation, together a few gigabytes.

The activation formulas are those of transformers' Qwen2, Qwen3 and Llama with a fused attention kernel; a test compares
them with the tensors that autograd saves.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

GIB = 2**30
CHUNK_ELEMENTS = 2**25
LOGIT_BYTES = 4 + 2 + 2 + 4
"""Of each logit in a chunk: float32, as the product gives it, its gradient in bfloat16, and float32 for entropies."""
HEAD_GRADIENT_BYTES = 4 + 2
"""Of each weight of the output matrix, where it is trained: the sum over chunks, and its gradient in bfloat16."""

Weights = Literal["float32", "bfloat16"]
Layout = Literal["one", "ddp", "fsdp2"]


@dataclass(frozen=True)
class Shape:
    """The shape of a published model."""

    name: str
    family: Literal["qwen2", "qwen3", "llama"]
    layers: int
    width: int
    intermediate: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    tied: bool

    @property
    def linear(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of every matrix in a layer: q, k, v, o, gate, up, down."""
        query, key = self.heads * self.head_width, self.kv_heads * self.head_width
        attention = [(self.width, query), (self.width, key), (self.width, key), (query, self.width)]
        return [
            *attention,
            (self.width, self.intermediate),
            (self.width, self.intermediate),
            (self.intermediate, self.width),
        ]

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer: matrices, biases, norms."""
        biases_and_head_norms = {
            "qwen2": (self.heads + 2 * self.kv_heads) * self.head_width,
            "qwen3": 2 * self.head_width,
            "llama": 0,
        }[self.family]
        return sum(rows * columns for rows, columns in self.linear) + biases_and_head_norms + 2 * self.width

    @property
    def outer_parameters(self) -> int:
        """Parameters of the embedding and the output matrix."""
        return self.vocabulary * self.width * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """Parameters of the whole model."""
        return self.layers * self.layer_parameters + self.outer_parameters + self.width

    def adapters(self, rank: int) -> int:
        """Parameters of LoRA adapters on every matrix except the output matrix."""
        return self.layers * rank * sum(rows + columns for rows, columns in self.linear)

    def layer_input(self, weights: Weights) -> int:
        """Bytes per token that gradient checkpointing keeps per layer: its input, in the precision of the weights."""
        return self.width * (4 if weights == "float32" else 2)

    def layer_activations(self, weights: Weights) -> int:
        """Bytes per token that a layer keeps for its backward pass when computing in bfloat16."""
        rotated = (self.heads + self.kv_heads) * self.head_width
        norms = (
            2 * self.width * (4 + (4 if weights == "float32" else 2) + 2)
        )  # input, normalized, input of the matrices
        attention = 2 * (2 * self.heads + 2 * self.kv_heads) * self.head_width + 4 * self.heads  # q, k, v, output, sums
        copies = 4 * rotated if weights == "float32" else 0  # float32 results of the rotary embedding
        head_norms = (6 * self.head_width + 4) * (self.heads + self.kv_heads) if self.family == "qwen3" else 0
        return norms + 8 + attention + copies + head_norms + 4 * 2 * self.intermediate

    def kv_cache(self) -> int:
        """Bytes of KV cache per token, in bfloat16."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_width


MODELS = (
    Shape("Qwen2.5-0.5B", "qwen2", 24, 896, 4864, 14, 2, 64, 151936, True),
    Shape("Qwen2.5-1.5B", "qwen2", 28, 1536, 8960, 12, 2, 128, 151936, True),
    Shape("Qwen3-4B", "qwen3", 36, 2560, 9728, 32, 8, 128, 151936, True),
    Shape("Qwen2.5-7B", "qwen2", 28, 3584, 18944, 28, 4, 128, 152064, False),
    Shape("Llama-3.1-8B", "llama", 32, 4096, 14336, 32, 8, 128, 128256, False),
    Shape("Qwen2.5-14B", "qwen2", 48, 5120, 13824, 40, 8, 128, 152064, False),
    Shape("Qwen2.5-32B", "qwen2", 64, 5120, 27648, 40, 8, 128, 152064, False),
)


@dataclass(frozen=True)
class Setting:
    """Everything besides the model that the figures depend on."""

    tokens: int = 16384
    gpus: int = 8
    sequences: int = 64
    context: int = 4096
    rank: int = 16


@dataclass(frozen=True)
class Peak:
    """Bytes on one GPU at the two peaks of a step; with a server only `update` counts."""

    update: float
    generation: float


def activations(shape: Shape, weights: Weights, tokens: int, checkpointing: bool) -> float:
    """Bytes kept for the backward pass of one micro-batch; checkpointing recomputes one layer at a time."""
    layer = shape.layer_activations(weights)
    if not checkpointing:
        return float(tokens * shape.layers * layer)
    return float(tokens * (shape.layers * shape.layer_input(weights) + layer))


def logits_chunk() -> float:
    """Bytes of one chunk of logits and the tensors derived from it (prepo_cli/policy/output_matrix.py)."""
    return float(CHUNK_ELEMENTS * LOGIT_BYTES)


def engine(shape: Shape, setting: Setting) -> float:
    """Bytes of vLLM in one process: bfloat16 weights and the KV cache of `setting.sequences` full sequences."""
    return float(2 * shape.parameters + setting.sequences * setting.context * shape.kv_cache())


def peak(shape: Shape, weights: Weights, layout: Layout, setting: Setting, lora: bool = False) -> Peak:
    """Bytes on each GPU with gradient checkpointing and vLLM in process, asleep during the update."""
    size = 4 if weights == "float32" else 2
    trained, trained_size = (shape.adapters(setting.rank), 4) if lora else (shape.parameters, size)
    shards = setting.gpus if layout == "fsdp2" else 1
    frozen = shape.parameters * size / shards if lora else 0.0
    permanent = frozen + 3 * trained * trained_size / shards
    gradients = trained * trained_size / shards
    permanent += trained * trained_size if layout == "ddp" else 0  # buckets
    copies = 0.0
    if layout == "fsdp2":
        copies = 2.0 * (2 * shape.layer_parameters + shape.outer_parameters) * (1 if lora else 2)  # with gradients
    elif weights == "float32":  # autocast caches its copies of trained weights and recreates those of frozen ones
        copies = 2.0 * (shape.layer_parameters + shape.outer_parameters if lora else shape.parameters)
    head = 0.0 if lora else float(shape.vocabulary * shape.width * HEAD_GRADIENT_BYTES)
    backward = activations(shape, weights, setting.tokens, True) + logits_chunk() + head + copies
    optimizer_step = trained * trained_size / shards
    return Peak(permanent + gradients + max(backward, optimizer_step), permanent + engine(shape, setting))


def markdown(setting: Setting) -> str:
    """All tables as Markdown."""
    lines = [
        "| model | parameters | LoRA adapters | activations, float32 | bfloat16 | without checkpointing, float32 "
        "| bfloat16 | vLLM weights | cache |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for shape in MODELS:
        saved = [
            activations(shape, weights, setting.tokens, checkpointing)
            for checkpointing in (True, False)
            for weights in ("float32", "bfloat16")
        ]
        cache = setting.sequences * setting.context * shape.kv_cache()
        sizes = " | ".join(gib(value) for value in (*saved, 2 * shape.parameters, cache))
        millions = f"{shape.adapters(setting.rank) / 1e6:,.0f} M"
        lines.append(f"| {shape.name} | {shape.parameters / 1e9:.2f} B | {millions} | {sizes} |")
    lines += ["", "With gradient checkpointing:"]
    for weights in ("float32", "bfloat16"):
        lines += [
            "",
            f"{weights} weights, update / generation:",
            "",
            f"| model | 1 GPU | {setting.gpus} GPUs, DDP | {setting.gpus} GPUs, FSDP2 | LoRA, 1 GPU "
            f"| LoRA, {setting.gpus} GPUs, FSDP2 |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
        ]
        for shape in MODELS:
            peaks = [peak(shape, weights, layout, setting) for layout in ("one", "ddp", "fsdp2")]
            peaks += [peak(shape, weights, layout, setting, lora=True) for layout in ("one", "fsdp2")]
            cells = " | ".join(f"{gib(p.update)} / {gib(p.generation)}" for p in peaks)
            lines.append(f"| {shape.name} | {cells} |")
    assumptions = (
        f"Computed, not measured; GiB per GPU. Micro-batches of {setting.tokens:,} tokens, bf16 computation, LoRA rank "
        f"{setting.rank},\nvLLM with {setting.sequences} sequences of {setting.context:,} tokens. "
        f"A chunk of logits takes {gib(logits_chunk())} for every model."
    )
    return "\n".join([assumptions, "", *lines])


def gib(value: float) -> str:
    """Bytes as GiB, with one decimal below 10.

    >>> gib(2**30), gib(20 * 2**30)
    ('1.0', '20')
    """
    return f"{value / GIB:.1f}" if value < 10 * GIB else f"{value / GIB:,.0f}"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Setting()
    parser.add_argument("--max-tokens-per-micro-batch", dest="tokens", type=int, default=default.tokens)
    parser.add_argument("--gpus", type=int, default=default.gpus)
    parser.add_argument("--sequences", type=int, default=default.sequences, help="sequences in vLLM")
    parser.add_argument("--context", type=int, default=default.context, help="tokens per sequence in vLLM")
    parser.add_argument("--lora-r", dest="rank", type=int, default=default.rank)
    given = vars(parser.parse_args(argv))
    wrong = next((name for name, value in given.items() if value < 1), None)
    if wrong is not None:
        parser.error(f"{wrong} is {given[wrong]}; it must be at least 1")
    print(markdown(Setting(**given)))


if __name__ == "__main__":
    main()
