"""The papers' published figures, and the number of steps that they correspond to.

PREPO's table (2511.00794) with corrected model labels, accuracy in percent as the mean over 16 samples, and E3's
averages over four benchmarks (2505.18573). Nothing here was measured with prepo.
"""

from __future__ import annotations

from dataclasses import dataclass

ROLLOUTS_PER_STEP = 256 * 8
MATH = ("AIME25", "AIME24", "MATH500", "Olympiad")
LLAMA = ("GSM8K", "MATH500")


@dataclass(frozen=True)
class Published:
    """One row of a paper's table; `mean` is as printed, even if the cells average to something else."""

    paper: str
    model: str
    method: str
    mean: float | None
    rollouts: int | None = None
    columns: tuple[str, ...] = ()
    cells: tuple[float, ...] = ()
    pass_at_16: float | None = None

    @property
    def doubtful(self) -> bool:
        """True if the printed mean is not the mean of the printed cells."""
        return bool(self.cells) and abs(sum(self.cells) / len(self.cells) - (self.mean or 0)) > 0.05

    @property
    def steps(self) -> int | None:
        """The rollouts as steps of 256 prompts x 8 rollouts; None if they include dropped rollouts."""
        return None if self.rollouts is None or self.method == "greso" else round(self.rollouts / ROLLOUTS_PER_STEP)


def _prepo(model: str, method: str, mean: float | None, rollouts: int | None, *cells: float) -> Published:
    columns = LLAMA if model.startswith("llama") else MATH
    return Published("2511.00794", model, method, mean, rollouts, columns, cells)


TABLE = (
    _prepo("qwen2.5-math-7b", "base", 35.45, None, 9.17, 20.80, 72.26, 39.56),
    _prepo("qwen2.5-math-7b", "random", 39.45, 905_000, 10.00, 26.67, 77.80, 43.26),
    _prepo("qwen2.5-math-7b", "greso", 37.46, 654_000, 18.33, 25.83, 77.80, 26.83),
    _prepo("qwen2.5-math-7b", "prepo", 39.59, 540_000, 12.81, 26.15, 77.85, 41.58),
    _prepo("qwen2.5-math-1.5b", "base", 15.03, None, 1.88, 2.97, 27.85, 27.41),
    _prepo("qwen2.5-math-1.5b", "random", 35.86, 3_000_000, 20.00, 16.67, 76.25, 30.50),
    _prepo("qwen2.5-math-1.5b", "greso", 34.16, 2_500_000, 15.38, 20.00, 76.65, 24.17),
    _prepo("qwen2.5-math-1.5b", "prepo", 36.23, 1_100_000, 20.00, 16.67, 76.25, 32.00),
    _prepo("qwen3-4b", "base", 57.53, None, 30.00, 53.33, 94.10, 52.67),
    _prepo("qwen3-4b", "random", 71.33, 553_000, 60.00, 70.00, 96.00, 59.33),
    _prepo("qwen3-4b", "greso", 69.89, 472_000, 56.67, 69.17, 96.40, 57.33),
    _prepo("qwen3-4b", "prepo", 75.99, 348_000, 66.67, 80.00, 96.60, 60.67),
    _prepo("qwen2.5-7b", "base", 25.80, None, 1.46, 5.31, 63.35, 33.09),
    _prepo("qwen2.5-7b", "random", None, 716_000),
    _prepo("qwen2.5-7b", "greso", 34.59, 680_000, 9.22, 10.83, 77.20, 41.13),
    _prepo("qwen2.5-7b", "prepo", 35.61, 304_000, 10.20, 16.09, 76.30, 39.85),
    _prepo("llama-3.1-8b", "base", 7.79, None, 9.53, 6.05),
    _prepo("llama-3.1-8b", "random", 30.61, 266_000, 46.63, 14.60),
    _prepo("llama-3.1-8b", "greso", 29.29, 273_000, 41.77, 16.80),
    _prepo("llama-3.1-8b", "prepo", 33.90, 136_000, 49.80, 18.00),
    Published("2505.18573", "deepseek-r1-distill-qwen-7b", "grpo", 60.40, pass_at_16=85.63),
    Published("2505.18573", "deepseek-r1-distill-qwen-7b", "e3", 61.95, pass_at_16=87.64),
)
