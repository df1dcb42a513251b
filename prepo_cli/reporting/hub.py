"""Push a finished run to the Hugging Face Hub: model, card, configuration, metrics and learning curve in one commit.

The repository name and the token are checked before anything is loaded. A failed push leaves the run untouched; retry
it with `push_folder` or `python -m prepo_cli.reporting.hub RUN_FOLDER [OWNER/NAME]`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from prepo_cli import manifest
from prepo_cli.config import read_yaml
from prepo_cli.errors import RunError, UsageError, one_line
from prepo_cli.files import atomic_write
from prepo_cli.ownership import write_unless_edited
from prepo_cli.reporting.card import model_card
from prepo_cli.reporting.run_folder import RunFolder
from prepo_cli.sections import RunConfig
from prepo_cli.terminal import say
from prepo_cli.validation import validation_message

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"
RUN_FILES = (CARD, "config.yaml", "metrics.jsonl", "learning_curve.png")
PUSH_COMMAND = "python -m prepo_cli.reporting.hub"


def check_hub(config: RunConfig) -> None:
    """Check, before anything is loaded, that a requested push can succeed.

    Raises:
        UsageError: the repository name is missing or invalid, or no token is available.
    """
    if config.reporting.push_to_hub:
        _check_name(config.reporting.hub_model_id)
        _check_access()


def push_run(config: RunConfig, folder: Path, api: HfApi | None = None) -> str:
    """Create the repository if needed, upload the finished run, and return the repository's URL.

    Args:
        config: gives the repository's name and visibility.
        folder: the folder of a finished run.
        api: the Hub client; by default one with the user's token.

    Raises:
        UsageError: the repository name is missing, the folder is not a finished run, or its model is damaged.
        RunError: the push failed.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HTTPError

    repository = _check_name(config.reporting.hub_model_id)
    final = RunFolder(folder).final
    if not (final / "config.json").is_file() or not (folder / CARD).is_file():
        raise UsageError(
            f"the run in {folder} is unfinished; finish it with: prepo train --resume --output-dir {folder}"
        )
    if manifest.has_manifest(final):
        try:
            manifest.verify(final, part=final)
        except manifest.Damaged as error:
            raise UsageError(f"{final} is damaged: {error}; write it again with prepo train --resume") from error
    files = {path.relative_to(final).as_posix(): path for path in sorted(final.rglob("*")) if path.is_file()}
    files |= {name: folder / name for name in RUN_FILES if (folder / name).is_file()}
    api = api or HfApi()
    try:
        url = api.create_repo(repository, private=config.reporting.hub_private_repo, exist_ok=True)
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()]
        api.create_commit(repository, operations, commit_message=f"Trained with prepo, recipe {config.recipe}")
    # the Hub client raises ValueError for an invalid card or response, RuntimeError for a broken upload
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        raise RunError(
            f"pushing to {repository} failed ({one_line(error)}); the run in {folder} is complete; "
            f"retry with: {PUSH_COMMAND} {folder} {repository}"
        ) from error
    return str(url)


def push_folder(folder: Path, hub_model_id: str | None = None, api: HfApi | None = None) -> str:
    """Push a run that has already finished; returns the repository's URL.

    Args:
        folder: the run folder.
        hub_model_id: the repository, `owner/name`; by default the one in the run's configuration. The card is updated
            to name it, unless the user has edited the card.
        api: the Hub client; by default one with the user's token.

    Raises:
        UsageError: no repository or token, or not a finished run; RunError: the push failed.
    """
    run = RunFolder(folder)
    if not run.config.is_file() or not run.summary.is_file():
        raise UsageError(f"{folder} is not a finished run; pass a run folder with config.yaml and summary.json")
    try:
        config = RunConfig.model_validate(read_yaml(run.config))
    except ValidationError as error:
        raise UsageError(f"{run.config}: {validation_message(error)}") from error
    repository = _check_name(hub_model_id or config.reporting.hub_model_id)
    if api is None:
        _check_access()
    renamed = config.reporting.model_copy(update={"hub_model_id": repository})
    target = config.model_copy(update={"reporting": renamed})
    summary = json.loads(run.summary.read_text(encoding="utf-8"))
    card = folder / CARD
    if card.is_file() and card.read_text(encoding="utf-8") == model_card(config, summary):
        text = model_card(target, summary)
        if not write_unless_edited(folder, CARD, text):
            atomic_write(card, text)  # the folder of an older prepo, without a marker
    return push_run(target, folder, api)


def main(arguments: Sequence[str]) -> int:
    """Push RUN_FOLDER to OWNER/NAME, by default the repository in its configuration; returns the exit code."""
    if len(arguments) not in (1, 2):
        say(f"usage: {PUSH_COMMAND} RUN_FOLDER [OWNER/NAME]")
        return 2
    try:
        print(push_folder(Path(arguments[0]), arguments[1] if len(arguments) == 2 else None))
    except (UsageError, RunError) as error:
        say(str(error))
        return 2 if isinstance(error, UsageError) else 1
    return 0


def _check_name(repository: str | None) -> str:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not repository:
        raise UsageError("reporting.push_to_hub needs a repository; add --set reporting.hub_model_id=owner/name")
    if not re.fullmatch(r"[^/]+/[^/]+", repository):
        raise UsageError(f"reporting.hub_model_id={repository} is not a repository name; write owner/name")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UsageError(f"reporting.hub_model_id={repository} is not a valid Hub name: {error}") from error
    return repository


def _check_access() -> None:
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise UsageError("reporting.push_to_hub needs the network, but HF_HUB_OFFLINE is set; unset it, or push later")
    if get_token() is None:
        raise UsageError("reporting.push_to_hub needs a Hub token with write access; run: hf auth login")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
