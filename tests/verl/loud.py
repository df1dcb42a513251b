"""Agent loops of the user's own."""

from __future__ import annotations

from typing import Any

from verl.experimental.agent_loop.agent_loop import register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

LOUD: list[float] = []


@register("loud")
class Loud(SingleTurnAgentLoop):
    """verl's agent loop, which also notes the temperature that it is given."""

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> Any:
        LOUD.append(sampling_params["temperature"])
        assert set(sampling_params) >= {"top_p", "top_k"} and "__temperature__" not in row
        return await super().run(sampling_params, **row)


@register("twice")
class Twice(SingleTurnAgentLoop):
    """Answers twice; verl's reward is that of the second answer."""

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> Any:
        return [await super(Twice, self).run(sampling_params, **row) for _ in range(2)]
