"""The playground as a visitor has it: the command as it is typed, and a real Chromium."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("gradio")
pytest.importorskip("playwright")

from playwright.sync_api import Browser, Page, expect, sync_playwright

from electra_qa.client.playground.examples import EXAMPLES

from ..addresses import free_port

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium")

# The command, with a note of every address that its process looks up or connects to.
NOTED = """
import sys
notes = open(sys.argv.pop(1), "a", buffering=1)

def note(event, arguments):
    if event == "socket.connect":
        address = arguments[1]
        print(address[0] if isinstance(address, tuple) else "unix", file=notes)
    elif event == "socket.getaddrinfo":
        print(arguments[0], file=notes)

sys.addaudithook(note)
from electra_qa.cli import main
main()
"""
# Answers take long where much else runs on the machine.
TIMEOUT_MS = 60_000.0


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("playground") / "notes"


@pytest.fixture(scope="module")
def url(notes: Path) -> Iterator[str]:
    """The page on a private server with the default bundle; it must end by itself on Ctrl-C."""
    port = free_port()
    command = [sys.executable, "-c", NOTED, str(notes), "playground"]
    process = subprocess.Popen(
        [*command, "--address", f"127.0.0.1:{port}"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == f"electra-qa playground: http://127.0.0.1:{port}/\n"
        yield line.split()[-1]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Chromium's own sandbox does not work for root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def requested() -> list[str]:
    """Every address that the browser asked for."""
    return []


@pytest.fixture
def page(browser: Browser, url: str, requested: list[str]) -> Iterator[Page]:
    expect.set_options(timeout=TIMEOUT_MS)
    page = browser.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.on("request", lambda request: requested.append(request.url))
    page.on("websocket", lambda websocket: requested.append(websocket.url))
    page.goto(url)
    yield page
    page.close()


def click_example(page: Page, label: str) -> None:
    page.get_by_role("button", name=label, exact=True).click()


def set_threshold(page: Page, value: str) -> None:
    number = page.locator("#threshold input[type=number]")
    number.fill(value)
    number.press("Enter")


def test_an_example_is_answered_in_its_place(page: Page) -> None:
    click_example(page, "A name")
    expect(page.locator("#verdict")).to_contain_text("Ingrid Solheim")
    expect(page.locator("#passage-answered .highlighted .text")).to_have_text("Ingrid Solheim")
    expect(page.locator("#passage-answered .label")).to_have_text("the answer")
    expect(page.locator("#passage-answered")).to_contain_text(EXAMPLES[0].passage[:60])
    expect(page.locator("#n-best tbody tr")).to_have_count(5)
    expect(page.locator("#n-best tbody td").first).to_have_text("Ingrid Solheim")
    times = page.locator("#times .qa-tile b").all_inner_texts()
    assert len(times) == 5
    assert all(re.fullmatch(r"\d+\.\d ms", time) for time in times[:4]), times
    assert times[4] == "1"


def test_a_question_of_one_s_own_is_asked_by_button_and_by_enter(page: Page) -> None:
    page.get_by_label("Passage", exact=True).fill("Rome was founded by Romulus in 753 BC.")
    question = page.get_by_label("Question", exact=True)
    question.fill("Who founded Rome?")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#verdict .qa-text")).to_have_text("Romulus")
    question.fill("When was Rome founded?")
    question.press("Enter")
    expect(page.locator("#verdict .qa-text")).to_have_text("753 BC")
    expect(page.locator("#passage-answered .highlighted .text")).to_have_text("753 BC")


def test_the_slider_changes_the_verdict(page: Page) -> None:
    click_example(page, "No answer")
    verdict, label = page.locator("#verdict"), page.locator("#passage-answered .label")
    expect(verdict).to_contain_text("No answer")
    expect(label).to_have_text("the best span, refused")
    expect(page.locator("#scale b").last).to_have_text("over")
    set_threshold(page, "15")
    expect(verdict).to_contain_text("Tomas Berg")
    expect(label).to_have_text("the answer")
    expect(page.locator("#scale b").last).to_have_text("not over")
    page.locator("#threshold input[type=range]").press("Home")
    expect(verdict).to_contain_text("No answer")
    expect(page.locator("#scale")).to_contain_text("the threshold of −15.00")


def test_the_slider_counts_for_the_next_question_too(page: Page) -> None:
    set_threshold(page, "-15")
    expect(page.locator("#scale .qa-side-answer")).to_have_attribute("style", "width:0.00%")
    click_example(page, "A name")
    expect(page.locator("#verdict")).to_contain_text("No answer")


def test_a_long_text_is_scrolled_to_its_answer(page: Page) -> None:
    click_example(page, "A long text")
    expect(page.locator("#verdict .qa-text")).to_have_text("Elena Marchetti")
    windows = page.locator("#times .qa-tile").last
    expect(windows).to_have_text(re.compile(r"^[2-9]\s*windows, by model \w+$"))
    span = page.locator("#passage-answered .highlighted")
    text = page.locator("#passage-answered .textfield")
    assert text.evaluate("text => text.scrollHeight > text.clientHeight")
    page.wait_for_function("document.querySelector('#passage-answered .textfield').scrollTop > 0")
    box, within = span.bounding_box(), text.bounding_box()
    assert box is not None
    assert within is not None
    assert within["y"] <= box["y"] <= within["y"] + within["height"]


def test_an_empty_question_gets_a_readable_error(page: Page) -> None:
    click_example(page, "A name")
    expect(page.locator("#verdict")).to_contain_text("Ingrid Solheim")
    page.get_by_label("Question", exact=True).fill("")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#verdict .qa-failure")).to_contain_text("question is empty")
    expect(page.locator("#n-best")).to_be_empty()
    expect(page.locator("#passage-answered .highlighted")).to_have_count(0)
    expect(page.locator("body")).not_to_contain_text("Traceback")


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_window(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    click_example(page, "A close call")
    expect(page.locator("#times .qa-tile")).to_have_count(5)
    # The table scrolls by itself where its spans are long.
    wider = page.evaluate(
        """width => [...document.querySelectorAll("main *")]
            .filter(e => !e.closest(".qa-table table") && e.getBoundingClientRect().right > width)
            .map(e => e.outerHTML.slice(0, 80))""",
        width,
    )
    assert wider == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_nothing_goes_to_another_host(
    page: Page, url: str, requested: list[str], notes: Path
) -> None:
    click_example(page, "A number")
    expect(page.locator("#verdict .qa-text")).to_contain_text("412")
    hosts = {urlsplit(each).netloc for each in requested if not each.startswith(("data:", "blob:"))}
    assert hosts == {urlsplit(url).netloc}
    connected = set(notes.read_text().split())
    assert connected, "the start itself connects to the page once"
    assert connected <= {"127.0.0.1", "localhost", "::1", "unix"}
