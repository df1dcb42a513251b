"""The Typer app: commands, exit codes and one-line errors.

Parsing imports neither torch nor numpy; each command imports what it needs when it runs.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TextIO

import typer

from prepo_cli import __version__
from prepo_cli.commands.compare import compare
from prepo_cli.commands.config import config_command
from prepo_cli.commands.eval import evaluate_command
from prepo_cli.commands.score_passrate import score_passrate
from prepo_cli.commands.score_ppl import score_ppl
from prepo_cli.commands.show import show
from prepo_cli.commands.strategies import strategies_command
from prepo_cli.commands.train import train
from prepo_cli.commands.watch import watch
from prepo_cli.errors import NO_ROOM, RunError, UsageError
from prepo_cli.text import plain

COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "watch": watch,
    "score-ppl": score_ppl,
    "score-passrate": score_passrate,
    "eval": evaluate_command,
    "compare": compare,
    "show": show,
    "strategies": strategies_command,
    "config": config_command,
}
FAILED, BAD_USAGE, INTERRUPTED = 1, 2, 130
DEBUG = "--debug"


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command line (`sys.argv` by default) and exit with its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = DEBUG in arguments
    arguments = [argument for argument in arguments if argument != DEBUG]
    _accept_any_text()
    try:
        _refuse_broken_text(arguments)
        code = build_app(debug)(arguments, prog_name="prepo", standalone_mode=False)
        sys.stdout.flush()  # here, where a failure has an exit code of its own
    except UsageError as error:
        _say(str(error))
        code = BAD_USAGE
    except typer.TyperException as error:
        _say(f"{error.format_message().rstrip('.')}; see: {_help_for(arguments)}")
        code = error.exit_code
    except typer.Abort:
        code = INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _discard(sys.stdout)
        code = FAILED
    except OSError as error:
        _say(f"can't write the results ({error.strerror})")
        _discard(sys.stdout)
        code = FAILED
    try:
        sys.stderr.flush()
    except OSError:  # lines that a full disk did not take
        _discard(sys.stderr)
    sys.exit(code)


def build_app(debug: bool = False) -> typer.Typer:
    """The app with all commands; with `debug` they print tracebacks besides the one-line error."""
    built = typer.Typer(
        name="prepo",
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
    )
    built.callback(invoke_without_command=True)(_root)
    for name, command in COMMANDS.items():
        about = " ".join((command.__doc__ or "").split("\n\n")[0].split())  # whole, where click would cut it
        built.command(name, short_help=about)(_guarded(command, debug))
    return built


def _root(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[
        bool, typer.Option(DEBUG, help="Show tracebacks for errors; allowed anywhere on the command line.")
    ] = False,
) -> None:
    """Train language models with RL on verifiable rewards, using fewer rollouts.

    Choose which prompts to roll out and how often, which rollouts to train on and with what weight, and at which
    temperature to sample; then measure the cost and the gain. Without arguments, `prepo train` trains the embedded
    model on the embedded task on the CPU.

    Results go to stdout, progress and logs to stderr. Exit codes: 0 success, 1 run-time failure, 2 bad input or usage,
    130 interrupted.
    """
    if version:
        typer.echo(f"prepo {__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def _guarded(command: Callable[..., None], debug: bool) -> Callable[..., None]:
    """Wrap a command so that every failure becomes one line and an exit code."""

    @functools.wraps(command)
    def run(*args: object, **kwargs: object) -> None:
        _refuse_foreign_strategies()
        try:
            _refuse_launcher(command.__name__)
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.TyperException, BrokenPipeError):
            raise
        except KeyboardInterrupt as error:
            _say(str(error) or "interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except SystemExit as error:
            if isinstance(error.__context__, BrokenPipeError):  # how rich ends when its reader has gone
                raise error.__context__ from None
            caller = traceback.extract_tb(error.__traceback__)[-1]
            _say(f"sys.exit({error.code!r}) was called at {caller.filename}:{caller.lineno}; remove that call")
            raise typer.Exit(FAILED) from None
        except Exception as error:  # the outermost frame: users see tracebacks only with --debug
            if debug:
                for line in traceback.format_exc().splitlines():
                    typer.echo(plain(line), err=True)
            message, code = _explain(error)
            _say(message)
            raise typer.Exit(code) from None

    return run


def _accept_any_text() -> None:
    """Let results hold characters that the terminal's encoding lacks, and let there be no stdout at all."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (open until the end)
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _refuse_broken_text(arguments: Sequence[str]) -> None:
    """Bytes that are no text in this locale could be neither written to a configuration nor shown."""
    for argument in arguments:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise UsageError(f"{argument} is not valid UTF-8; rename the file or quote the text as UTF-8")


def _discard(stream: TextIO) -> None:
    """Send what is left in its buffer nowhere, rather than fail once more when Python flushes it at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _refuse_launcher(command: str) -> None:
    """Only training distributes its work; several processes of any other command would write the same files."""
    count = os.environ.get("WORLD_SIZE", "1")
    if command != "train" and count.isdecimal() and int(count) > 1:
        raise UsageError(
            f"this command runs as one process, but a launcher started {count}; run it without the "
            "launcher (for several GPUs: --engine vllm --set engine.vllm_tensor_parallel_size=N)"
        )


def _refuse_foreign_strategies() -> None:
    """Another package called `strategies`, or a file of the user's, would be imported in place of ours."""
    found = importlib.util.find_spec("strategies")
    where = Path((found and found.origin) or "")
    if not where.is_file() or b"StrategySet" not in where.read_bytes():
        raise UsageError(
            f"{where} shadows prepo's package 'strategies'; rename or uninstall it, or run `prepo` without its "
            "folder on PYTHONPATH (`python -m prepo_cli` adds the current folder)"
        )


def _explain(error: Exception) -> tuple[str, int]:
    """The error line and the exit code."""
    from strategies import places  # the package imports numpy, which parsing does without
    from strategies.errors import StrategyError

    if isinstance(error, RunError):
        return str(error), FAILED
    if isinstance(error, (UsageError, StrategyError)):
        return str(error), BAD_USAGE
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return f"can't write {error.filename or 'the results'} ({error.strerror}); free some space", FAILED
    place = places.of_error(error)  # in a strategy of the user's, say
    return f"{type(error).__name__}{place and f' at {place}'}: {error} ({DEBUG} shows the traceback)", FAILED


def _help_for(arguments: Sequence[str]) -> str:
    command = next((argument for argument in arguments if argument in COMMANDS), None)
    return f"prepo {command} --help" if command else "prepo --help"


def _say(message: str) -> None:
    rank = os.environ.get("RANK", "0")
    if rank != "0":
        message = f"process {rank}: {message}"
    try:
        typer.echo(f"prepo: {plain(' '.join(message.split()))}", err=True)
    except OSError as error:
        if error.errno not in NO_ROOM:  # as with `terminal.say`
            raise


app = build_app()

if __name__ == "__main__":
    main()
