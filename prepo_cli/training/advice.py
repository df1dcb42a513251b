"""Warnings about a run that does not learn: each symptom with likely causes and what to do about them."""

from __future__ import annotations

from prepo_cli.rewards.answers import final_answer
from prepo_cli.sections import RunConfig
from prepo_cli.text import brief
from prepo_cli.training.symptoms import CUT_OFF, WINDOW

SHOWN_COMPLETION = 240
"""Characters of the example."""


def advice(symptom: str, figures: str, config: RunConfig) -> str:
    """One line on a symptom of `symptoms.py`."""
    training, look = config.training, f"prepo show {config.output_dir}"
    return {
        "cut_off": (
            f"at least {CUT_OFF:.0%} of the completions were cut off at "
            f"training.max_completion_length={training.max_completion_length} for {figures} in a "
            "row. Likely causes: the limit is too low, or the model does not end its answers "
            "because its chat template is missing or wrong. Raise the limit, or check how "
            f"completions end: {look}"
        ),
        "no_reward": (
            f"every reward was 0 for {figures} in a row, so nothing is learned. Likely causes: the "
            "model does not put its answer where the reward looks for it (request that in "
            "data.system_prompt, or choose another --reward), the gold answers are wrong "
            "(--answer-column), or the prompts are too hard. Compare completions with gold "
            f"answers: {look} --wrong"
        ),
        "no_advantage": (
            f"all rewards within each group were equal for {figures} in a row, so nothing is "
            "learned. Likely causes: the prompts are always or never solved (use others, or a "
            "selector that avoids these, such as greso), or the reward function returns the same "
            "value for every completion. Raising training.num_generations or the temperature adds "
            f"variety. Inspect completions: {look}"
        ),
        "entropy": (
            f"entropy fell {figures} nats per token (means over {WINDOW} steps), so the "
            "completions of a prompt hardly differ. Likely cause: updates that are too large or "
            f"too frequent. Lower training.learning_rate={training.learning_rate:g}, raise "
            "training.epsilon_high or the temperature, or add a KL term with training.beta"
        ),
        "reward": (
            f"the reward fell {figures} (best and latest mean over {WINDOW} steps). Likely causes: "
            f"updates that are too large (lower training.learning_rate={training.learning_rate:g}, "
            "or add a KL term with training.beta), or a selector that has moved on to harder "
            "prompts (then held-out accuracy does not fall)"
        ),
    }[symptom]


def example(prompt_id: str, gold: str | None, completion: str) -> str:
    """A completion without reward, shortened, in one line: what it was to say, and what was found in it."""
    found = final_answer(completion)
    return (
        f"for example, prompt '{brief(prompt_id)}' has the gold answer '{brief(gold or 'none')}'; "
        + ("no answer" if found is None else f"the answer '{brief(found)}'")
        + f" was found in \\boxed{{}} or after #### of the completion: {brief(completion, SHOWN_COMPLETION)}"
    )
