"""Tables as the terminal shows them, read back."""

from __future__ import annotations

import re
from itertools import pairwise


def rows_of(lines: list[str]) -> list[list[str]]:
    """The cells of a table whose columns, but for the first, are right-aligned; the lines start with its head."""
    ends = [found.end() for found in re.finditer(r"\S+(?: \S+)*", lines[0])]
    rows = []
    for line in lines[2:]:
        if not line.strip():
            break
        first = re.split(r"\s{3,}", line)[0]
        cuts = [len(first), *ends[1:]]
        rows.append([first.strip(), *(line[a:b].strip() for a, b in pairwise(cuts))])
    return rows
