"""Write docs/commands.md from the commands' own help; `--check` fails if the file is not what it would write."""

from __future__ import annotations

import sys
from pathlib import Path

from typer.testing import CliRunner

from prepo_cli.main import COMMANDS, app

PAGE = Path(__file__).parent / "commands.md"
WIDTH = 100


def page() -> str:
    """The whole page, the same on every machine."""
    parts = [
        "# Commands\n\nWritten by `make docs` from the commands' own help; change it there.\n",
        _section("prepo", []),
    ]
    parts += [_section(f"prepo {name}", [name]) for name in COMMANDS]
    return "\n".join(parts)


def _section(title: str, arguments: list[str]) -> str:
    shown = CliRunner().invoke(app, [*arguments, "--help"], terminal_width=WIDTH, color=False)
    if shown.exit_code:
        raise SystemExit(f"{title} --help failed: {shown.output}")
    lines = "\n".join(line.rstrip() for line in shown.stdout.strip().splitlines())
    return f"## {title}\n\n```text\n{lines}\n```\n"


if __name__ == "__main__":
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit("docs/commands.md is not what the commands' help says now; run: make docs")
