"""A temperature of its own for every step.

verl's rollout workers copy the sampling temperature from the configuration when they start. A row that names this agent
loop has its own temperature, and is otherwise rolled out by the agent loop that it would have had.
"""

from __future__ import annotations

from typing import Any

import hydra
from verl.experimental.agent_loop import agent_loop
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput, register

NAME = "prepo"
TEMPERATURE, AGENT = "__temperature__", "__agent_name__"
"""Columns of a row: the temperature, and the name of the agent loop that rolls it out."""


@register(NAME)
class TemperatureAgentLoop(AgentLoopBase):
    """Runs another agent loop at the row's temperature."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._arguments = arguments

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput:
        """Roll out a row; the sampling parameters are shared with other rows."""
        temperature, name = float(row.pop(TEMPERATURE)), row.pop(AGENT)
        inner = hydra.utils.instantiate(config=agent_loop._agent_loop_registry[name], **self._arguments)
        return await inner.run(sampling_params | {"temperature": temperature}, **row)
