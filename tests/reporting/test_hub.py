"""Push runs to a fake Hub on loopback through the real Hub client."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from huggingface_hub import HfApi, ModelCard

from prepo_cli.config import resolve, to_yaml
from prepo_cli.errors import RunError, UsageError
from prepo_cli.reporting import hub
from prepo_cli.reporting.card import model_card
from prepo_cli.reporting.hub import check_hub, push_folder, push_run
from prepo_cli.sections import RunConfig

TOKEN = "hf_of_nobody"
SUMMARY: dict[str, Any] = {
    "recipe": "prepo",
    "steps": 3,
    "metric": "avg@2",
    "before": None,
    "after": {"avg@2": {"value": 0.5, "low": 0.4, "high": 0.6}, "prompts": 10},
    "difference": None,
    "cost": {},
}


class FakeHub(ThreadingHTTPServer):
    """The parts of the Hub's API that one commit needs: repositories, large files, commits."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.refuse: dict[str, int] = {}
        self.created: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        self.large: dict[str, bytes] = {}
        self.commits: list[dict[str, bytes]] = []
        self.messages: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.tokens.add(self.headers.get("Authorization"))
        path = self.path.partition("?")[0]
        for part, status in self.server.refuse.items():
            if part in path:
                self._answer({"error": "no write\naccess"}, status)
                return
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            self._answer({"files": [self._mode(file) for file in json.loads(body)["files"]]})
        elif path.endswith("/info/lfs/objects/batch"):
            self._answer({"objects": [self._upload(o) for o in json.loads(body)["objects"]]})
        elif path.endswith("/commit/main"):
            self._commit([json.loads(line) for line in body.splitlines()])
        else:
            self._answer({"error": f"no such endpoint: {path}"}, 404)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.large[hashlib.sha256(content).hexdigest()] = content
        self._answer({})

    def _create(self, asked: dict[str, Any]) -> None:
        self.server.created.append(asked)
        url = f"{self.server.url}/{asked['organization']}/{asked['name']}"
        self._answer({"url": url}, 409 if len(self.server.created) > 1 else 200)

    def _mode(self, file: dict[str, Any]) -> dict[str, Any]:
        large = file["path"].endswith(".safetensors")
        return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}

    def _upload(self, asked: dict[str, Any]) -> dict[str, Any]:
        target = {"href": f"{self.server.url}/large/{asked['oid']}"}
        return {"oid": asked["oid"], "size": asked["size"], "actions": {"upload": target}}

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.server.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                files[value["path"]] = self.server.large[value["oid"]]
        self.server.commits.append(files)
        self._answer({"commitUrl": f"{self.server.url}/me/model/commit/{'0' * 40}", "commitOid": "0" * 40})

    def _answer(self, content: dict[str, Any], status: int = 200) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with FakeHub() as fake:
        thread = threading.Thread(target=fake.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield fake
        fake.shutdown()
        thread.join()


def client(server: FakeHub) -> HfApi:
    return HfApi(endpoint=server.url, token=TOKEN)


def configuration(**reporting: Any) -> RunConfig:
    return resolve(flags={f"reporting.{key}": value for key, value in reporting.items()})


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A finished run whose configuration names no repository."""
    (tmp_path / "final" / "inner").mkdir(parents=True)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "state.json").write_text("{}")
    (tmp_path / "final" / "config.json").write_text("{}")
    (tmp_path / "final" / "README.md").write_text("a library's own card")
    (tmp_path / "final" / "inner" / "notes.txt").write_text("deep")
    (tmp_path / "final" / "model.safetensors").write_bytes(bytes(range(256)) * 10)
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    (tmp_path / "learning_curve.png").write_bytes(b"\x89PNG")
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    (tmp_path / "config.yaml").write_text(to_yaml(configuration()))
    (tmp_path / "README.md").write_text(model_card(configuration(), SUMMARY))
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everything_is_pushed_in_one_commit(server: FakeHub, run_folder: Path) -> None:
    config = configuration(push_to_hub=True, hub_model_id="me/model", hub_private_repo=True)
    assert push_run(config, run_folder, client(server)) == f"{server.url}/me/model"
    (files,) = server.commits
    assert set(files) == {
        "config.json", "inner/notes.txt", "model.safetensors", "README.md", "config.yaml", "metrics.jsonl",
        "learning_curve.png",
    }  # fmt: skip
    assert files["model.safetensors"] == (run_folder / "final" / "model.safetensors").read_bytes()
    assert files["README.md"] == (run_folder / "README.md").read_bytes(), "the run's card, not the library's"
    assert server.created[0]["organization"] == "me" and server.created[0]["name"] == "model"
    assert server.created[0].get("visibility", server.created[0].get("private")) in ("private", True)
    assert server.messages == ["Trained with prepo, recipe prepo"]
    assert server.tokens == {f"Bearer {TOKEN}"}


def test_an_existing_repository_is_used(server: FakeHub, run_folder: Path) -> None:
    config = configuration(push_to_hub=True, hub_model_id="me/model")
    push_run(config, run_folder, client(server))
    assert push_run(config, run_folder, client(server)) == f"{server.url}/me/model"
    assert len(server.commits) == 2
    assert server.created[0].get("visibility", server.created[0].get("private")) in ("public", False)


@pytest.mark.parametrize(("place", "status"), [("repos/create", 403), ("preupload", 401), ("commit/main", 500)])
def test_a_failed_push_leaves_the_run_untouched_and_says_how_to_retry(
    server: FakeHub, run_folder: Path, place: str, status: int
) -> None:
    server.refuse = {place: status}
    before = contents(run_folder)
    with pytest.raises(RunError) as raised:
        push_run(configuration(hub_model_id="me/model"), run_folder, client(server))
    message = str(raised.value)
    assert message.startswith("pushing to me/model failed (")
    assert str(status) in message and "\n" not in message
    assert f"is complete; retry with: python -m prepo_cli.reporting.hub {run_folder} me/model" in message
    assert contents(run_folder) == before
    server.refuse = {}
    assert push_folder(run_folder, "me/model", client(server)) == f"{server.url}/me/model"


def test_no_network_is_one_line(run_folder: Path) -> None:
    with FakeHub() as gone:
        address = gone.url
    with pytest.raises(RunError, match=r"pushing to me/model failed \(.*\); the run in .* is complete"):
        push_run(configuration(hub_model_id="me/model"), run_folder, HfApi(endpoint=address, token=TOKEN))


def test_a_run_without_a_repository_can_be_pushed_later(server: FakeHub, run_folder: Path) -> None:
    before = (run_folder / "README.md").read_text()
    push_folder(run_folder, "me/model", client(server))
    card = server.commits[0]["README.md"].decode()
    assert card != before
    assert 'name = "me/model"' in card
    assert ModelCard(card).data.model_name == "model"


def test_a_card_that_the_user_edited_is_kept(server: FakeHub, run_folder: Path) -> None:
    changed = (run_folder / "README.md").read_text().replace("# license:", "license: apache-2.0 #")
    (run_folder / "README.md").write_text(changed)
    push_folder(run_folder, "me/model", client(server))
    assert server.commits[0]["README.md"].decode() == changed
    assert ModelCard(changed).data.license == "apache-2.0"


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a finished run"):
        push_folder(tmp_path, "me/model")
    with pytest.raises(UsageError, match="is unfinished; finish it with: prepo train --resume"):
        push_run(configuration(hub_model_id="me/model"), tmp_path)


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A user without a token."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "add --set reporting.hub_model_id=owner/name"),
        ("model", "reporting.hub_model_id=model is not a repository name; write owner/name"),
        ("a/b/c", "write owner/name"),
        ("me/mo del", "is not a valid Hub name"),
        ("me/model", "run: hf auth login"),
    ],
)
def test_impossible_pushes_are_refused_before_the_run(
    name: str | None, message: str, nobody: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=message):
        check_hub(configuration(push_to_hub=True, hub_model_id=name))


def test_nothing_is_refused_with_a_token_or_without_a_push(nobody: pytest.MonkeyPatch) -> None:
    check_hub(configuration())
    nobody.setenv("HF_TOKEN", TOKEN)
    check_hub(configuration(push_to_hub=True, hub_model_id="me/model"))
    nobody.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE"):
        check_hub(configuration(push_to_hub=True, hub_model_id="me/model"))


def test_from_the_command_line(
    server: FakeHub, run_folder: Path, nobody: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hub.main([str(run_folder), "me/model"]) == 2
    assert capsys.readouterr().err.endswith("run: hf auth login\n")
    assert hub.main([]) == 2
    assert "usage: python -m prepo_cli.reporting.hub RUN_FOLDER [OWNER/NAME]" in capsys.readouterr().err
    nobody.setenv("HF_TOKEN", TOKEN)
    nobody.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    assert hub.main([str(run_folder), "me/model"]) == 0
    assert capsys.readouterr().out == f"{server.url}/me/model\n"
    server.refuse = {"commit": 403}
    assert hub.main([str(run_folder), "me/model"]) == 1
