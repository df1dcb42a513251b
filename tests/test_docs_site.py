"""The documentation's site: it builds without a warning, its links lead somewhere, and it needs no network."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

import prepo_cli

pytest.importorskip("material", reason="needs mkdocs-material: pip install 'prepo[docs]'")

from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

ROOT = Path(__file__).parents[1]
LOADED = re.compile(r"""<(?:script|img|iframe|link(?=[^>]*rel="?(?:stylesheet|icon)))[^>]*?(?:src|href)="?([^"\s>]+)""")
UNSEPARATED = re.compile(r"<p>(?:(?!</p>).)*?\n\s*(?:[-*]|\d+\.) ", re.DOTALL)


def built(root: Path, site: Path) -> Path:
    """Build the site of the repository at `root`; a warning raises Abort."""
    build(load_config(str(root / "mkdocs.yml"), site_dir=str(site), strict=True))
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parts of the repository that the site shows."""
    root = tmp_path_factory.mktemp("repository")
    for name in ("docs", "examples", "benchmarks", "prepo_cli/engines"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("dead-*", "__pycache__"))
    for name in ("mkdocs.yml", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff"):
        shutil.copy(ROOT / name, root / name)
    return root


def test_the_site_builds_without_a_warning(site: Path) -> None:
    assert len(list(site.glob("*.html"))) > 15


@pytest.mark.parametrize(
    "link", ["[x](gone.md)", "[x](data.md#gone)", "[x](../examples/gone.yaml)", "[x](../examples/paper/gone)"]
)
def test_a_link_that_leads_nowhere_fails_the_build(copy: Path, tmp_path: Path, link: str) -> None:
    page = copy / "docs" / "cite.md"
    text = page.read_text()
    page.write_text(f"{text}\n{link}\n")
    try:
        with pytest.raises(Abort):
            built(copy, tmp_path)
    finally:
        page.write_text(text)


def test_pages_load_only_files_of_the_site(site: Path) -> None:
    for page in site.rglob("*.html"):
        if page.name == "page.html":  # a study's page, which has everything in it
            continue
        loaded = LOADED.findall(page.read_text())
        assert len(loaded) > 3
        for address in loaded:
            target = site / address.lstrip("/") if page.name == "404.html" else page.parent / address
            assert target.is_file(), f"{page.relative_to(site)} loads {address}"


def test_every_list_is_shown_as_one(site: Path) -> None:
    """Without an empty line between, an item after an indented paragraph would be text of that paragraph."""
    assert UNSEPARATED.search("<p>one\n- two</p>")
    assert not UNSEPARATED.search("<p>one</p>\n- two")
    for page in site.glob("*.html"):
        assert not UNSEPARATED.search(page.read_text()), page.name


def test_a_linked_file_of_the_repository_is_shown(site: Path) -> None:
    page = (site / "source" / "examples" / "accelerate" / "fsdp2.yaml.html").read_text()
    assert "fsdp_version" in page
    assert 'href="source/examples/accelerate/fsdp2.yaml.html"' in (site / "gpu.html").read_text()
    recipes = (site / "source" / "examples" / "recipes.html").read_text()
    assert all(path.name in recipes for path in (ROOT / "examples" / "recipes").glob("*.yaml"))


def test_the_site_leaves_out_the_raw_runs(site: Path) -> None:
    assert (site / "study" / "index.html").is_file()
    assert not list(site.rglob("metrics.jsonl.gz"))


def test_the_citation_has_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == prepo_cli.__version__
    assert f"version = {{{prepo_cli.__version__}}}" in (ROOT / "docs" / "cite.md").read_text()
