"""`prepo config`: every setting of a run with its type, default, bounds and meaning."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer


def config_command(
    name: Annotated[
        str | None, typer.Argument(metavar="[SECTION]", help="Only this section, or one setting: training.beta.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the settings as one JSON object.")] = False,
) -> None:
    """List all settings of a run with type, default, bounds and description.

    Set them in a YAML file with `--config`, or one at a time with `--set`.

    \b
    Examples:
      prepo config
      prepo config training
      prepo config training.learning_rate
      prepo config --json
    """
    from prepo_cli.reference import sections, selected

    found = selected(name)
    if json_output:
        typer.echo(json.dumps({"settings": found}, indent=2))
    elif name == found[0]["name"]:
        _print_one(found[0])
    else:
        abouts = sections()
        for section in dict.fromkeys(setting["section"] for setting in found):
            _print_section(section, abouts[section], [one for one in found if one["section"] == section])
        typer.echo("* default with the embedded model   (r) can be changed on resume")


def _print_section(section: str, about: str, found: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from prepo_cli.reference import default_of
    from prepo_cli.terminal import results

    console = results()
    console.print(f"{section}: {about}", style="bold")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="cyan")
    table.add_column(overflow="fold", max_width=24)
    table.add_column(overflow="fold")
    for one in found:
        limits = f"{one['type']}, {one['bounds']}" if one["bounds"] else one["type"]
        mark = " (r)" if one["may_change_on_resume"] else ""
        table.add_row(f"  {one['name']}", "\n".join(default_of(one)), f"{one['description']} ({limits}){mark}")
    console.print(table)
    console.print()


def _print_one(one: dict[str, Any]) -> None:
    from prepo_cli.reference import default_of
    from prepo_cli.terminal import results

    console = results()
    console.print(one["name"], style="bold")
    console.print(f"  {one['description']}")
    console.print(f"  type     {one['type']}")
    plain, *embedded = default_of(one)
    console.print(f"  default  {plain}{''.join(f', {value[:-1]} with the embedded model' for value in embedded)}")
    console.print(f"  bounds   {one['bounds'] or 'none'}")
    console.print(f"  resume   {'may change' if one['may_change_on_resume'] else 'must stay the same'}")
