"""The comparison page in a real Chromium: opened from disk, used by mouse and keyboard, printed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'prepo[dev]'")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("needs Chromium, on Debian: apt-get install chromium", allow_module_level=True)

from prepo_cli.comparison.page import write_page  # noqa: E402
from tests.comparison.made import HOSTILE, HOSTILE_TEXT, NAMES, make_comparison  # noqa: E402

QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
INTERACTIVE = "button, select, input, summary, [role=button]"


@dataclass
class Events:
    """What the page did that nobody asked for, what it asked for, and what was refused, with the reason."""

    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture(scope="module")
def tab() -> Iterator[tuple[Any, Events]]:
    """One tab for all tests, each of which opens the page anew: a process of its own for each would take seconds."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page, events = browser.new_page(), Events()
        page.on("console", lambda message: events.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: events.complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (events.complaints.append("dialog"), dialog.dismiss()))
        page.on("request", lambda request: events.requests.append(request.url))
        page.on("requestfailed", lambda request: events.refused.append((request.url, request.failure)))
        yield page, events
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    write_page(folder / "page.html", make_comparison(folder, rollout_steps=(0, 50, 100)))
    assert (folder / "page.html").stat().st_size < 5_000_000
    return (folder / "page.html").as_uri()


@pytest.fixture
def visit(tab: tuple[Any, Events], address: str) -> Iterator[Callable[..., Any]]:
    """Opens the page and waits for its charts; at the end the console must be empty and nothing else loaded."""
    page, events = tab
    events.complaints.clear()
    events.requests.clear()

    def visit(width: int = 1280, height: int = 900, scheme: str = "light") -> Any:
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(media="screen", color_scheme=scheme)
        page.goto(address)
        page.wait_for_selector("#ratios .scatterlayer")
        return page

    yield visit
    assert events.complaints == []
    assert set(events.requests) == {address}


def column(page: Any, table: str, place: int) -> list[str]:
    """The first line of every cell in a column."""
    cells = page.locator(f"#{table} tbody tr td:nth-child({place})").all_inner_texts()
    return [cell.split("\n")[0].strip() for cell in cells]


def traces(page: Any, figure: str) -> list[str]:
    """The names of the curves that are drawn, as the library holds them."""
    drawn = page.evaluate(f"document.querySelector('#{figure} .plot').data.filter(t => t.hoverinfo !== 'skip')")
    return [trace["name"] for trace in drawn]


def test_everything_is_there_in_order(visit: Callable[..., Any]) -> None:
    page = visit()
    headings = page.locator("h2:visible").all_inner_texts()
    assert headings == [
        "Notes",
        "Recipes",
        "Curves",
        "Cost to reach the baseline’s final accuracy",  # noqa: RUF001
        "Differences in configuration",
        "Rollouts",
    ]
    assert page.locator(".lead").inner_text().startswith("calibrated reaches")
    assert len(traces(page, "curves")) == len(traces(page, "training")) == 3
    assert len(traces(page, "ratios")) == 2


def test_tables_sort_both_ways_by_mouse_and_keyboard(visit: Callable[..., Any]) -> None:
    page = visit()
    accuracy = page.locator("#recipes th", has_text="Final accuracy")
    accuracy.locator("button").click()
    assert accuracy.get_attribute("aria-sort") == "descending"
    assert column(page, "recipes", 3) == sorted(column(page, "recipes", 3), reverse=True)
    accuracy.locator("button").focus()
    page.keyboard.press("Enter")
    assert accuracy.get_attribute("aria-sort") == "ascending"
    assert column(page, "recipes", 3) == sorted(column(page, "recipes", 3))

    names = page.locator("#recipes th", has_text="Recipe")
    names.locator("button").click()
    assert names.get_attribute("aria-sort") == "ascending" and accuracy.get_attribute("aria-sort") == "none"
    assert [name.removesuffix(" baseline") for name in column(page, "recipes", 1)][1:] == ["calibrated", "random"]


def test_cells_without_a_value_come_last_either_way_and_the_unreached_is_the_most_expensive(
    visit: Callable[..., Any],
) -> None:
    page = visit()
    for first in ("+0.014", "-0.006"):
        page.get_by_role("button", name="Difference").click()
        assert column(page, "recipes", 4)[0] == first and column(page, "recipes", 4)[-1] == "\N{EN DASH}"
    page.get_by_role("button", name="Cost ratio").click()
    assert column(page, "recipes", 7) == ["> 1.80", "1", "0.55"]


def test_single_runs_unfold_and_sort(visit: Callable[..., Any]) -> None:
    page = visit()
    assert not page.locator("#runs").is_visible()
    page.locator("summary").focus()
    page.keyboard.press("Enter")
    assert page.locator("#runs tbody tr").count() == 9
    page.locator("#runs").get_by_role("button", name="Seed").click()
    assert column(page, "runs", 3) == list("222111000")


def test_recipes_go_off_and_on_by_keyboard_in_every_chart(visit: Callable[..., Any]) -> None:
    page = visit()
    page.locator("#chips input").nth(1).focus()
    page.keyboard.press("Space")
    for figure in ("curves", "training", "ratios"):
        assert "calibrated" not in traces(page, figure)
    page.get_by_role("button", name="None").click()
    assert traces(page, "curves") == traces(page, "ratios") == []
    page.get_by_role("button", name="All").click()
    assert len(traces(page, "curves")) == 3


def test_a_recipe_keeps_its_color_in_every_chart(visit: Callable[..., Any]) -> None:
    page = visit()
    colors = page.evaluate(
        "[...document.querySelectorAll('.plot')].map(plot =>"
        " plot.data.filter(t => t.name === 'calibrated' && t.line?.width).map(t => t.line.color))"
    )
    assert len({color for chart in colors for color in chart}) == 1 and all(colors) and len(colors) == 3


def test_axes_switch_by_mouse_and_keyboard(visit: Callable[..., Any]) -> None:
    page = visit()
    label = page.locator("#curves .xtitle")
    assert label.text_content() == "rollouts generated"
    page.locator("#curves label", has_text="tokens").click()
    assert label.text_content() == "tokens generated and scored"
    page.keyboard.press("ArrowRight")
    assert label.text_content() == "training seconds"
    page.locator("#ratios label", has_text="tokens").click()
    assert page.locator("#ratios .xtitle").text_content() == "× the baseline’s tokens"  # noqa: RUF001


def test_the_menu_draws_a_metric_for_the_recipes_that_have_it(visit: Callable[..., Any]) -> None:
    page = visit()
    menu = page.locator("#metric")
    assert menu.locator("option").all_inner_texts()[:2] == ["reward", "frac_reward_zero_std"]
    menu.select_option("selector/ppl_kept_mean")
    assert traces(page, "training") == ["calibrated"]
    assert page.locator("#training .ytitle").text_content() == "selector/ppl_kept_mean"


def test_hovering_tells_a_point(visit: Callable[..., Any]) -> None:
    page = visit()
    page.locator("#curves .plot").scroll_into_view_if_needed()
    page.locator("#curves .scatterlayer .points path").nth(5).hover(force=True)
    page.wait_for_selector("#curves .hovertext")
    assert re.search(r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", page.locator("#curves .hovertext").first.text_content())


def test_rollouts_are_browsed_by_keyboard(visit: Callable[..., Any]) -> None:
    page = visit()
    title = page.locator("#rollout-title")
    assert title.inner_text() == "random · random-0 · step 0 · 1 of 24"
    assert page.locator("#previous").is_disabled()
    page.locator("#rollout").focus()
    page.keyboard.press("ArrowLeft")
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    assert title.inner_text() == "random · random-0 · step 50 · 9 of 24"
    assert page.locator("#rollout-step").input_value() == "50"
    page.keyboard.press("ArrowLeft")
    assert title.inner_text() == "random · random-0 · step 0 · 8 of 24"
    page.locator("#next").focus()
    page.keyboard.press("Enter")
    assert title.inner_text() == "random · random-0 · step 50 · 9 of 24"


def test_rollouts_are_chosen_by_recipe_and_step_and_say_why_they_were_dropped(visit: Callable[..., Any]) -> None:
    page = visit()
    page.locator("#rollout-recipe").select_option("calibrated")
    page.locator("#rollout-step").select_option("100")
    assert page.locator("#rollout-title").inner_text() == "calibrated · calibrated-0 · step 100 · 17 of 24"
    fates, cut = set(), False
    for _ in range(8):
        fates.add(page.locator("#rollout-facts dd").last.inner_text())
        cut |= "more characters" in page.locator("#completion").inner_text()
        page.keyboard.press("Tab") if page.locator("#next").is_disabled() else page.locator("#next").click()
    assert cut
    assert fates == {
        "kept",
        "kept, but masked: it reached the length limit",
        "dropped by the filter",
        "dropped: the batch was already full",
    }


def test_hostile_names_and_completions_are_shown_and_do_nothing(visit: Callable[..., Any]) -> None:
    page = visit()
    page.locator("#rollout-recipe").select_option(label=HOSTILE)
    shown = page.locator("#completion").text_content()
    while shown != HOSTILE_TEXT:
        page.locator("#next").click()
        shown = page.locator("#completion").text_content()
    assert page.locator("#recipes .name").all_text_contents() == list(NAMES)
    assert page.locator("#ratios .ytick text").all_text_contents()[1].startswith("</script><img")
    page.locator("#curves .scatterlayer .points path").last.hover(force=True)
    page.wait_for_timeout(100)
    assert page.locator("main img, main script, main a, main iframe, pre *:not(.cut)").count() == 0
    assert page.evaluate("document.scripts.length") == 4  # data, Plotly packed, the page's own, Plotly unpacked


def test_the_policy_stops_what_is_injected(tab: tuple[Any, Events], address: str) -> None:
    page, events = tab
    page.goto(address)
    events.complaints.clear()
    events.refused.clear()
    page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"https://example.org/x.png\" onerror=\"alert(1)\">');"
        "const s = document.createElement('script'); s.textContent = 'window.ran = true'; document.body.append(s)"
    )
    page.wait_for_selector("#ratios .scatterlayer")
    assert page.evaluate("window.ran") is None
    assert events.refused == [("https://example.org/x.png", "csp")]
    assert len(events.complaints) >= 2 and all("Content Security Policy" in text for text in events.complaints)


@pytest.mark.parametrize(("scheme", "other"), [("light", "Dark"), ("dark", "Light")])
def test_the_theme_follows_the_system_and_the_switch(visit: Callable[..., Any], scheme: str, other: str) -> None:
    page = visit(scheme=scheme)

    def brightness() -> list[int]:
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        curve = page.evaluate("document.querySelector('#curves .plot').data.at(-3).line.color")  # the baseline's
        return [sum(map(int, re.findall(r"\d+", color))) for color in (paper, curve)]

    paper, curve = brightness()
    assert (paper > curve) == (scheme == "light")
    button = page.locator("#theme")
    assert button.inner_text() == other
    button.focus()
    page.keyboard.press("Enter")
    paper, curve = brightness()
    assert (paper > curve) == (scheme == "dark")
    assert button.inner_text() == scheme.capitalize()


def test_it_prints_all_sections_and_nothing_to_press(visit: Callable[..., Any]) -> None:
    page = visit(scheme="dark")
    page.emulate_media(media="print")
    page.wait_for_selector("#runs", state="visible")
    controls = page.locator(INTERACTIVE).locator("visible=true")
    assert set(controls.evaluate_all("found => found.map(e => e.closest('th, summary')?.tagName)")) == {"TH", "SUMMARY"}
    assert page.evaluate("getComputedStyle(document.querySelector('th button'), '::after').display") == "none"
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
    for section in ("#recipes", "#runs", "#curves", "#training", "#ratios", "#settings", "#completion"):
        assert page.locator(section).is_visible()
    assert page.locator("#chips .name:visible").count() == 3
    page.emulate_media(media="screen")
    page.wait_for_selector("#runs", state="hidden")


def test_a_phone_needs_no_sideways_scrolling(visit: Callable[..., Any]) -> None:
    page = visit(width=390, height=844)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    right = page.evaluate(
        "Math.max(...[...document.querySelectorAll('main *:not(.scroll *):not(svg *)')]"
        ".filter(e => e.checkVisibility()).map(e => e.getBoundingClientRect().right))"
    )
    assert right <= 390


def test_every_control_is_reached_by_tab_and_shows_it(visit: Callable[..., Any]) -> None:
    page = visit()
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.name || ''"))
        ring = page.evaluate(
            "(e => getComputedStyle(e.closest('.chip, .switch label') ?? e).outlineStyle)(document.activeElement)"
        )
        if reached[-1] == "rollout":
            break
        assert ring == "solid"
    assert [name for name in reached if name][:1] == ["theme"]
    assert {"curve-axis", "ratio-axis", "metric", "rollout-recipe", "next", "rollout"} <= set(reached)
