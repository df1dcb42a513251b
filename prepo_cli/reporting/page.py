"""The comparison as one self-contained HTML file: table, figures and differences between the configurations."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .35rem .8rem; text-align: right; border-bottom: 1px solid #8886; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
"""


def write_page(
    path: Path,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    figures: Mapping[str, Path],
    configs: Mapping[str, Mapping[str, Any]],
    note: str,
) -> None:
    """Write the page; `figures` maps captions to PNG files, `configs` run names to configurations."""
    pictures = "".join(
        f'<h2>{escape(caption)}</h2><img alt="{escape(caption)}" src="data:image/png;base64,'
        f'{base64.b64encode(file.read_bytes()).decode()}">'
        for caption, file in figures.items()
    )
    body = (
        f"<h1>Comparison of {len(rows)} runs</h1><p>{escape(note)}</p>{_table(headings, rows)}{pictures}"
        f"<h2>Differences between the configurations</h2>{_differences(configs)}"
    )
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>prepo comparison</title>'
        f"<style>{STYLE}</style><body>{body}</body></html>\n",
        encoding="utf-8",
    )


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """All settings by dotted name, values as text.

    >>> flat({"seed": 0, "training": {"beta": 0.0}})
    {'seed': '0', 'training.beta': '0.0'}
    """
    settings: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            settings |= flat(value, f"{prefix}{key}.")
        else:
            settings[f"{prefix}{key}"] = str(value)
    return settings


def _differences(configs: Mapping[str, Mapping[str, Any]]) -> str:
    settings = {name: flat(config) for name, config in configs.items()}
    keys = sorted({key for config in settings.values() for key in config})
    differing = [key for key in keys if len({config.get(key) for config in settings.values()}) > 1]
    if not differing:
        return "<p>None.</p>"
    return _table(
        ["setting", *settings], [[key, *(config.get(key, "") for config in settings.values())] for key in differing]
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
