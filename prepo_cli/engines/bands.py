"""Which rollouts decode together: as many as memory holds, of similar length, at most `max_rows`.

Rows are decoded side by side, each as wide as the widest. So rollouts are generated band by band: those whose context
is below the band's end decode until they have reached it, and as rows finish, waiting ones join. A rollout that reaches
the end while others still wait below it makes room, waits for the next band, and is prefilled again there. The end
doubles from band to band, so a token is prefilled again about twice at most. If as many rollouts as may decode together
fit into memory at full length, there is only one band.
"""

from __future__ import annotations

from dataclasses import dataclass

from prepo_cli.engines.kv_cache import allocated

FIRST_END = 512
"""No band ends below; it would only interrupt."""
WORTHWHILE = 1.5
"""A band's end is at least this far above its shortest context."""


@dataclass
class Bands:
    """How many rows fit, and where the present band ends.

    Attributes:
        max_tokens: bound on rows x columns of the cache.
        max_rows: bound on rows.
        end: the band's end, in tokens of context.
    """

    max_tokens: int
    max_rows: int
    end: int = 0

    def room(self, width: int) -> int:
        """Rows that fit at this width; always at least one.

        >>> Bands(max_tokens=10_000, max_rows=100).room(1000)
        8
        """
        return max(1, min(self.max_rows, self.max_tokens // allocated(width)))

    def advance(self, shortest: int, count: int, longest: int) -> None:
        """Choose the end, never below the last one.

        Args:
            shortest: context of the shortest rollout that waits, or of the longest that decodes if none waits.
            count: rollouts that are not finished.
            longest: context that one of them may reach.

        >>> bands = Bands(max_tokens=100_000, max_rows=100)
        >>> bands.advance(shortest=700, count=90, longest=4000)
        >>> bands.end
        2048
        """
        if min(count, self.max_rows) <= self.room(longest):
            self.end = longest
        while self.end < min(longest, WORTHWHILE * shortest):
            self.end = min(longest, max(FIRST_END, 2 * self.end))
