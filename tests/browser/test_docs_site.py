"""The documentation's site in a real Chromium, opened from disk: both themes, a phone's width, search, print."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("material", reason="needs mkdocs-material: pip install 'prepo[docs]'")

from mkdocs.commands.build import build
from mkdocs.config import load_config

from tests.browser.test_page import CHROMIUM, QUIET, sync_api

ROOT = Path(__file__).parents[2]
DESKTOP, PHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """A tab in which every message of the console and every request for anything but a file is a failure."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        tab, complaints = browser.new_page(), []
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda sent: sent.url.startswith(("file:", "data:")) or complaints.append(sent.url))
        yield tab
        browser.close()
    assert complaints == []


def visit(page: Any, path: Path, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> Any:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.emulate_media(media="screen", color_scheme=scheme)
    page.goto(path.as_uri())
    return page


def pages(site: Path) -> list[Path]:
    """Every page of the navigation, and one that shows a file."""
    others = ("page.html", "404.html")
    shown = [path for path in site.rglob("*.html") if "source" not in path.parts and path.name not in others]
    assert len(shown) > 20
    return [*shown, site / "source" / "examples" / "recipes.html"]


def test_no_page_is_wider_than_a_phone(page: Any, site: Path) -> None:
    for path in pages(site):
        visit(page, path, PHONE)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0], path.name


def test_the_theme_follows_the_system_and_the_switch(page: Any, site: Path) -> None:
    def shows(scheme: str) -> None:
        page.wait_for_selector(f"body[data-md-color-scheme={scheme}]")

    visit(page, site / "concepts.html")
    shows("default")
    page.emulate_media(color_scheme="dark")
    shows("slate")
    for title, scheme in (("Light theme", "default"), ("Dark theme", "slate"), ("System theme", "slate")):
        page.locator(f"label[title='{title}']").click()
        shows(scheme)


@pytest.mark.parametrize(("words", "found"), [("refill", "Concepts"), ("out of memory", "GPUs")])
def test_search_works_from_disk(page: Any, site: Path, words: str, found: str) -> None:
    visit(page, site / "index.html")
    page.locator("input.md-search__input").press_sequentially(words)
    page.locator(".md-search-result__item").first.wait_for()
    assert found in page.locator(".md-search-result__list").inner_text()


def test_the_picture_of_the_slots_is_shown(page: Any, site: Path) -> None:
    for size in (DESKTOP, PHONE):
        visit(page, site / "concepts.html", size)
        picture = page.locator("img[src$='slots.svg']")
        assert picture.evaluate("image => image.complete && image.naturalWidth > 0")
        assert 300 < picture.bounding_box()["width"] <= size[0]


def test_pages_print(page: Any, site: Path) -> None:
    visit(page, site / "gpu.html")
    page.emulate_media(media="print")
    assert not page.locator(".md-header").is_visible()
    assert len(page.pdf(format="A4")) > 50_000
