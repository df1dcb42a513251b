"""The pass through the output matrix against float64 autograd over full logits, and how often it computes logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prepo_cli.policy import output_matrix
from prepo_cli.policy.output_matrix import Head, Scaling, Tokens, Upstream, token_statistics

WIDTH, EXACT = 8, 1e-5
SCALINGS = [Scaling(), Scaling(0.25), Scaling(cap=2.0), Scaling(1.5, 3.0)]


@dataclass
class Case:
    """Inputs in float64, and the upstream gradient [M]."""

    states_MD: Tensor
    weight_VD: Tensor
    bias_V: Tensor
    target_M: Tensor
    temperature_M: Tensor
    gradient_M: Tensor
    scaling: Scaling

    @classmethod
    def make(cls, count: int, vocab: int, scaling: Scaling = SCALINGS[0], spread: float = 1.0, seed: int = 0) -> Case:
        torch.manual_seed(seed)
        states, weight, bias = (torch.randn(*shape).double() for shape in ((count, WIDTH), (vocab, WIDTH), (vocab,)))
        targets, temperatures = torch.randint(0, vocab, (count,)), 0.5 + torch.rand(count)
        return cls(states, weight * spread, bias, targets, temperatures, torch.randn(count), scaling)

    def naive(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Log-probs, entropies and the gradients of states, matrix and bias."""
        leaves = [x.clone().requires_grad_() for x in (self.states_MD, self.weight_VD, self.bias_V)]
        logits_MV = leaves[0] @ leaves[1].t() + leaves[2]
        logits_MV = logits_MV * self.scaling.factor
        if self.scaling.cap is not None:
            logits_MV = self.scaling.cap * torch.tanh(logits_MV / self.scaling.cap)
        logprob_MV = torch.log_softmax(logits_MV / self.temperature_M.double()[:, None], dim=1)
        logprob_M = logprob_MV[torch.arange(len(self.target_M)), self.target_M]
        (logprob_M * self.gradient_M).sum().backward()
        entropy_M = -(logprob_MV.exp() * logprob_MV).sum(dim=1)
        return logprob_M.detach(), entropy_M.detach(), [leaf.grad for leaf in leaves if leaf.grad is not None]

    def ours(
        self, trained: tuple[bool, bool, bool], upstream: Upstream | None, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """The same in a smaller dtype; gradients of what isn't trained are None."""
        inputs = (self.states_MD, self.weight_VD, self.bias_V)
        leaves = [x.to(dtype).requires_grad_(needed) for x, needed in zip(inputs, trained, strict=True)]
        head = Head(leaves[1], leaves[2], self.scaling)
        logprob_M, entropy_M = token_statistics(
            head, Tokens(leaves[0], self.target_M, self.temperature_M), True, upstream
        )
        assert entropy_M is not None and not entropy_M.requires_grad
        if any(trained):
            (logprob_M * self.gradient_M).sum().backward()
        return logprob_M.detach(), entropy_M, [leaf.grad for leaf in leaves]

    def told(self) -> Upstream:
        return lambda logprob_C, part: self.gradient_M[part]

    def lied(self) -> Upstream:
        return lambda logprob_C, part: self.gradient_M[part] + 1


UPSTREAM: dict[str, Callable[[Case], Upstream | None]] = {
    "unknown": lambda case: None,
    "told": Case.told,
    "lied": Case.lied,
}
TRAINED = [(True, True, True), (True, True, False), (True, False, False), (False, True, True), (True, False, True)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Chunks of 5 tokens worked on in blocks of 2, with a vocabulary of 11; the sizes of the chunks that are made."""
    monkeypatch.setattr(output_matrix, "CHUNK_ELEMENTS", 5 * 11)
    monkeypatch.setattr(output_matrix, "BLOCK_ELEMENTS", 2 * 11)
    made, logits = list[int](), output_matrix._logits

    def counted(*inputs: Any) -> Any:
        for part, logits_CV in logits(*inputs):
            made.append(len(logits_CV))
            yield part, logits_CV

    monkeypatch.setattr(output_matrix, "_logits", counted)
    return made


def test_golden_value(small: list[int]) -> None:
    """Logits 1 and 1 + ln 3 at temperature 1: probabilities 1/4 and 3/4. Halved, their ratio is the root of 3."""
    weight_VD = torch.tensor([[1.0], [1.0 + torch.log(torch.tensor(3.0))]])
    logprob_M, entropy_M = token_statistics(
        Head(weight_VD, None, Scaling()),
        Tokens(torch.ones(2, 1), torch.tensor([0, 1]), torch.tensor([1.0, 2.0])),
        with_entropy=True,
    )
    assert logprob_M.exp().tolist() == pytest.approx([0.25, 0.6339746], abs=1e-6)
    assert entropy_M is not None and entropy_M.tolist() == pytest.approx([0.5623351, 0.6568063], abs=1e-6)


@pytest.mark.parametrize("upstream", UPSTREAM)
@pytest.mark.parametrize("trained", TRAINED, ids=str)
@pytest.mark.parametrize("scaling", SCALINGS, ids=str)
@pytest.mark.parametrize("count", [1, 5, 13])
def test_values_and_gradients_equal_float64(
    small: list[int], upstream: str, trained: tuple[bool, bool, bool], scaling: Scaling, count: int
) -> None:
    case = Case.make(count, 11, scaling)
    expected_logprob_M, expected_entropy_M, expected = case.naive()
    logprob_M, entropy_M, gradients = case.ours(trained, UPSTREAM[upstream](case))
    torch.testing.assert_close(logprob_M.double(), expected_logprob_M, atol=EXACT, rtol=EXACT)
    torch.testing.assert_close(entropy_M.double(), expected_entropy_M, atol=EXACT, rtol=EXACT)
    for needed, ours, theirs in zip(trained, gradients, expected, strict=True):
        if needed:
            assert ours is not None
            torch.testing.assert_close(ours.double(), theirs, atol=EXACT, rtol=EXACT)
        else:
            assert ours is None
    once = upstream == "told" or trained == (True, False, False)
    chunks = [5] * (count // 5) + [count % 5] * (count % 5 > 0)
    assert small == chunks * (1 if once else 2)


@given(
    count=st.integers(1, 40),
    vocab=st.integers(1, 60),
    scaling=st.sampled_from(SCALINGS),
    spread=st.sampled_from([0.01, 1.0, 30.0]),
    seed=st.integers(0, 1000),
    chunk=st.integers(1, 400),
    rows=st.integers(1, 40),
    block=st.integers(1, 400),
)
def test_whatever_the_shape_and_the_chunks(
    count: int, vocab: int, scaling: Scaling, spread: float, seed: int, chunk: int, rows: int, block: int
) -> None:
    """Also with distributions so sharp that most probabilities vanish."""
    case = Case.make(count, vocab, scaling, spread, seed)
    expected = case.naive()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output_matrix, "CHUNK_ELEMENTS", chunk)
        patch.setattr(output_matrix, "CPU_ROWS", rows)
        patch.setattr(output_matrix, "BLOCK_ELEMENTS", block)
        ours = case.ours((True, True, True), case.told())
    # Rounding errors of logits grow with them.
    close = EXACT * max(1.0, spread)
    for mine, theirs in zip([*ours[:2], *ours[2]], [*expected[:2], *expected[2]], strict=True):
        assert mine is not None
        torch.testing.assert_close(mine.double(), theirs, atol=5 * close, rtol=close)


@pytest.mark.parametrize("upstream", UPSTREAM)
@pytest.mark.parametrize("scaling", SCALINGS, ids=str)
def test_bfloat16_differs_by_its_rounding_alone(small: list[int], scaling: Scaling, upstream: str) -> None:
    """Statistics and sums over tokens are in float32, so the errors are those of inputs, logits and products."""
    case = Case.make(60, 11, scaling)
    for name in ("states_MD", "weight_VD", "bias_V"):
        setattr(case, name, getattr(case, name).bfloat16().double())
    expected = case.naive()
    ours = case.ours((True, True, True), UPSTREAM[upstream](case), torch.bfloat16)
    assert ours[0].dtype == ours[1].dtype == torch.float32
    for mine, theirs in zip([*ours[:2], *ours[2]], [*expected[:2], *expected[2]], strict=True):
        assert mine is not None
        assert (mine.double() - theirs).norm() < 0.01 * theirs.norm()


def test_nothing_is_kept_without_gradients(small: list[int]) -> None:
    case = Case.make(13, 11)
    logprob_M, entropy_M = case.ours((False, False, False), case.told())[:2]
    expected_logprob_M, expected_entropy_M, _ = case.naive()
    torch.testing.assert_close(logprob_M.double(), expected_logprob_M, atol=EXACT, rtol=EXACT)
    torch.testing.assert_close(entropy_M.double(), expected_entropy_M, atol=EXACT, rtol=EXACT)
    assert small == [5, 5, 3]


def test_under_autocast_products_are_rounded_and_statistics_are_not(small: list[int]) -> None:
    case = Case.make(13, 11)
    expected = case.naive()
    with torch.autocast("cpu", torch.bfloat16):
        logprob_M, _, gradients = case.ours((True, True, True), case.told())
    assert logprob_M.dtype == torch.float32
    for mine, theirs in zip([logprob_M, *gradients], [expected[0], *expected[2]], strict=True):
        assert mine is not None and mine.dtype == torch.float32
        assert 1e-6 < (mine.double() - theirs).norm() / theirs.norm() < 0.02


def test_no_tokens_no_gradient() -> None:
    case = Case.make(0, 11)
    logprob_M, entropy_M, gradients = case.ours((True, True, True), case.told())
    assert len(logprob_M) == len(entropy_M) == 0
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_gradients_are_those_of_the_second_backward_pass_too(small: list[int]) -> None:
    """A graph that is kept can be gone through again; what was computed ahead is used once."""
    case = Case.make(13, 11)
    states_MD, weight_VD = case.states_MD.float().requires_grad_(), case.weight_VD.float().requires_grad_()
    tokens = Tokens(states_MD, case.target_M, case.temperature_M)
    for upstream in (None, case.told()):
        logprob_M, _ = token_statistics(Head(weight_VD, None, Scaling()), tokens, upstream=upstream)
        total = (logprob_M * case.gradient_M).sum()
        first = torch.autograd.grad(total, [states_MD, weight_VD], retain_graph=True)
        again = torch.autograd.grad(total, [states_MD, weight_VD])
        for one, other in zip(first, again, strict=True):
            torch.testing.assert_close(one, other)
