"""The page in a real browser: by mouse, by keyboard alone, on a phone, in the dark, and under its own strict policy."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

sync_api = pytest.importorskip("playwright.sync_api")
from cliplet import load  # noqa: E402
from cliplet.serve.app import build_app  # noqa: E402
from cliplet.serve.settings import Settings  # noqa: E402
from tests.serve.in_thread import Served, Shelf  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
KEY = "0123456789abcdef0123"
WATCH = """
window.violations = [];
addEventListener('securitypolicyviolation', (event) => {
  violations.push(event.violatedDirective + ' ' + event.blockedURI);
});
"""


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("chosen") / "a photo.jpg"
    Image.linear_gradient("L").resize((500, 375)).convert("RGB").save(path)
    return path


@pytest.fixture(scope="module")
def served(tiny, tmp_path_factory) -> Iterator[Served]:
    running = Served(build_app(load(tiny), Settings(), Shelf(tmp_path_factory.mktemp("shelf"))))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM)
        yield found
        found.close()


@pytest.fixture
def page(browser, served) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = opened(context, served.url)
    yield page
    assert page.evaluate("violations") == []
    assert page.complaints == []
    assert {url for url in page.asked if not url.startswith((served.url, "blob:", "data:"))} == set()
    context.close()


def opened(context: Any, url: str) -> Any:
    page = context.new_page()
    page.complaints, page.asked = [], []
    page.on(
        "console", lambda message: page.complaints.append(message.text) if message.type == "error" else None
    )
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.add_init_script(WATCH)
    page.goto(url)
    page.wait_for_selector("html[data-ready]")
    return page


def until(page: Any, expression: str) -> None:
    """Wait until an expression is true: the policy forbids ``wait_for_function`` to evaluate it again by itself."""
    end = time.monotonic() + 10
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(50)


def drop(page: Any, path: Path) -> None:
    content = list(path.read_bytes())
    data = page.evaluate_handle(
        """(content) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(content)], 'a photo.jpg', {type: 'image/jpeg'}));
          return data;
        }""",
        content,
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})


def test_a_dropped_photo_ranks_captions_and_a_broken_one_is_said(page, photo):
    drop(page, photo)
    assert page.text_content("#photo-name") == "a photo.jpg"
    page.fill("#captions", "a dog\n\n two cats on the beach \na red car")
    page.click("#rank")
    page.wait_for_selector("#ranking li")
    values = [float(text.split("CLIPScore")[0]) for text in page.locator(".value").all_text_contents()]
    assert len(values) == 3
    assert values == sorted(values, reverse=True)
    assert {text.strip() for text in page.locator(".caption").all_text_contents()} == {
        "a dog",
        "two cats on the beach",
        "a red car",
    }
    assert "Ranked 3 captions" in page.text_content("#status")
    assert page.evaluate("document.activeElement.id") == "rank-title"


def test_what_is_missing_is_said_and_gets_the_focus(page, photo):
    page.click("#rank")
    assert page.text_content("#error") == "Choose a photo first."
    page.set_input_files("#photo", photo)
    page.click("#rank")
    assert page.text_content("#error") == "Write at least one caption."
    assert page.evaluate("document.activeElement.id") == "captions"
    page.fill("#captions", "a dog")
    page.click("#rank")
    page.wait_for_selector("#ranking li")
    assert not page.is_visible("#error")


def test_an_error_of_the_service_is_shown_in_words(browser, served, tmp_path):
    context = browser.new_context()
    page = opened(context, served.url)
    (tmp_path / "broken.jpg").write_bytes(b"no photo at all")
    page.set_input_files("#photo", tmp_path / "broken.jpg")
    page.fill("#captions", "<img src=x onerror=alert(1)>")
    page.click("#rank")
    page.wait_for_selector("#error:not([hidden])")
    assert "not of a format that is taken" in page.text_content("#error")
    assert page.get_attribute("#error", "role") == "alert"
    context.close()


def test_captions_are_never_markup(page, photo):
    page.set_input_files("#photo", photo)
    page.fill("#captions", "a dog <img src=x onerror=alert(1)><b>bold</b>")
    page.click("#rank")
    page.wait_for_selector("#ranking li")
    assert page.locator("#ranking b, #ranking img").count() == 0


def test_by_keyboard_alone(page, photo):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    seen = []
    for _ in range(12):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id"))
        outline = page.evaluate(
            "(() => { const e = document.activeElement, o = (x) => getComputedStyle(x).outlineStyle !== 'none';"
            " return e === document.body || o(e) || o(e.parentElement); })()"
        )
        assert outline, f"no focus can be seen on {seen[-1]}"
        if seen[-1] == "rank":
            break
    assert [name for name in seen if name] == ["tab-rank", "photo", "captions", "rank"]
    with page.expect_file_chooser() as chooser:
        page.focus("#photo")
        page.keyboard.press("Enter")
    chooser.value.set_files(photo)
    page.focus("#captions")
    page.keyboard.type("a dog\na cat")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#ranking li")
    page.focus("#tab-rank")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-search"
    assert page.is_visible("#panel-search")
    assert not page.is_visible("#panel-rank")
    page.keyboard.press("Tab")
    page.keyboard.type("a red car")
    page.keyboard.press("Enter")
    page.wait_for_selector("#grid li")
    page.focus("#tab-search")
    page.keyboard.press("Home")
    assert page.is_visible("#panel-rank")


def test_search_shows_a_grid_of_photos(page):
    page.click("#tab-search")
    page.fill("#query", "a red car")
    page.click("#search")
    until(page, "document.querySelectorAll('#grid img').length === 6")
    until(page, "[...document.querySelectorAll('#grid img')].every((i) => i.complete && i.naturalWidth)")
    assert all(page.locator("#grid img").nth(i).get_attribute("alt") for i in range(6))
    page.fill("#without", "red")
    page.click("#search")
    until(page, "document.querySelectorAll('#grid img').length === 5")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_overflows(browser, served, photo, scheme):
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page = opened(context, served.url)
    page.set_input_files("#photo", photo)
    page.fill("#captions", "a dog\n" + "averyveryverylongwordwithoutanyspace" * 4)
    page.click("#rank")
    page.wait_for_selector("#ranking li")
    fits = "document.documentElement.scrollWidth <= 390"
    assert page.evaluate(fits)
    page.click("#tab-search")
    page.fill("#query", "a red car")
    page.click("#search")
    page.wait_for_selector("#grid li")
    assert page.evaluate(fits)
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(int(part) for part in back.strip("rgb()").split(",")) > 380
    assert light == (scheme == "light")
    assert contrasts(page) >= 4.5
    context.close()


def contrasts(page: Any) -> float:
    """The smallest contrast of the text colours that the page uses on its papers (WCAG 2)."""
    return float(
        page.evaluate("""() => {
          const style = getComputedStyle(document.documentElement);
          const light = (name) => {
            const hex = style.getPropertyValue(name).trim().slice(1);
            const [r, g, b] = [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255)
              .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const pairs = [['--ink', '--paper'], ['--ink', '--card'], ['--soft', '--paper'], ['--soft', '--card'],
            ['--down', '--down-back'], ['--on-accent', '--accent'], ['--accent', '--paper'], ['--ink', '--track']];
          return Math.min(...pairs.map(([a, b]) => {
            const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
            return (high + 0.05) / (low + 0.05);
          }));
        }""")
    )


def test_the_page_asks_for_a_key_and_keeps_it_in_its_tab(browser, tiny, photo, tmp_path):
    running = Served(build_app(load(tiny), Settings(keys=(KEY,)), Shelf(tmp_path)))
    context = browser.new_context()
    try:
        page = opened(context, running.url)
        assert page.is_visible("#key-form")
        page.set_input_files("#photo", photo)
        page.fill("#captions", "a dog")
        page.click("#rank")
        page.wait_for_selector("#error:not([hidden])")
        assert "key is needed" in page.text_content("#error")
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        page.click("#rank")
        page.wait_for_selector("#ranking li")
        page.click("#tab-search")
        page.fill("#query", "a dog")
        page.click("#search")
        until(page, "[...document.querySelectorAll('#grid img')].every((i) => i.naturalWidth)")
        assert page.evaluate("localStorage.length") == 0
        assert context.cookies() == []
        assert page.evaluate("violations") == []
    finally:
        context.close()
        running.stop()


def test_without_an_index_there_is_no_search(browser, tiny):
    running = Served(build_app(load(tiny), Settings()))
    context = browser.new_context()
    try:
        page = opened(context, running.url)
        assert not page.is_visible("#tabs")
        assert page.evaluate("fetch('v1/search', {method: 'POST'}).then((a) => a.status)") == 404
    finally:
        context.close()
        running.stop()
