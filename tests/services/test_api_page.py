"""The page of the API in a real browser: it sends its examples, finds what is searched, and fits on a phone."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from urllib.parse import urlsplit

import pytest

from suisen.data.dataset import Dataset
from suisen.data.synthetic import World
from suisen.models import EASE
from suisen.pipeline.recommender import Recommender
from suisen.serving.server import running
from suisen.serving.settings import Settings
from tests.services.programs import program

playwright = pytest.importorskip(
    "playwright.sync_api", reason="PLAYWRIGHT IS NOT INSTALLED: nothing is shown about the page in a browser"
)
KEY = "k" * 30
WIDTHS = (320, 390, 820, 1280)


@pytest.fixture(scope="module")
def browser():
    path = program("chromium")
    with playwright.sync_playwright() as play:
        made = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(scope="module")
def system():
    return Recommender(EASE()).fit(Dataset.of(World(users=60, items=40).generate().log)).system


@pytest.fixture(scope="module")
def server(system, tmp_path_factory):
    options = Settings(
        log_dir=tmp_path_factory.mktemp("log"), deadline_s=30.0, api_key=KEY, admin_port=0, admin_key="a" * 30
    )
    with running(system, options) as made:
        yield made


@contextlib.contextmanager
def opened(browser, url, width=1280, **options):
    """A page, of which it is checked at the end that nothing failed in it and that it asked its own server alone."""
    context = browser.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce", **options)
    page = context.new_page()
    page.set_default_timeout(20_000)
    hosts, failures = set(), []
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda line: failures.append(line.text) if line.type == "error" else None)
    page.goto(url)
    try:
        yield page
    finally:
        context.close()
    assert hosts - {""} == {urlsplit(url).netloc}  # "": data:, in the page itself
    assert not [each for each in failures if "Failed to load resource" not in each], failures  # refusals that were sent


def tried(page, operation):
    """The form of an operation, opened."""
    section = page.locator(f"#{operation}")
    section.locator("summary").click()
    return section


def outcome(section):
    section.locator(".outcome").wait_for()
    return section.locator(".outcome").inner_text()


def test_examples_are_sent_and_their_answers_shown(browser, server):
    with opened(browser, f"{server.url}/docs") as page:
        section = tried(page, "recommend_user")
        section.locator(".send").click()
        assert outcome(section).startswith("401 Unauthorized · ")
        assert "no key is given" in section.locator(".reply pre").inner_text()
        page.get_by_label("Key", exact=True).fill(KEY)
        section.locator("[data-name=k]").fill("3")
        section.locator("[data-name=unknown]").select_option("popular")
        section.locator(".send").click()
        section.locator(".outcome", has_text="200 OK").wait_for()
        answer = json.loads(section.locator(".reply pre").inner_text())
        request = urllib.request.Request(f"{server.url}/v1/recommend/7?k=3", headers={"x-api-key": KEY})
        with urllib.request.urlopen(request, timeout=30) as same:
            assert answer["answers"] == json.loads(same.read())["answers"]
        command = section.locator(".curl").inner_text()
        assert command.endswith('/v1/recommend/7?k=3&unknown=popular\' -H "X-Api-Key: $SUISEN_API_KEY"')
        assert KEY not in page.content()
        section.locator("[data-name=k]").fill("0")
        section.locator("[data-name=k]").press("Enter")
        section.locator(".outcome.bad", has_text="422").wait_for()
        assert "at least 1" in section.locator(".reply pre").inner_text()
        section.locator("[data-name=user]").fill("")
        section.locator(".send").click()
        section.locator(".outcome", has_text="user is empty").wait_for()


@pytest.mark.parametrize("operation", ["recommend", "recommend_batch", "rank", "similar", "bundle", "ready", "metrics"])
def test_every_example_is_answered_as_it_stands(browser, server, operation):
    with opened(browser, f"{server.url}/docs#{operation}") as page:
        page.get_by_label("Key", exact=True).fill(KEY)
        section = tried(page, operation)
        section.locator(".send").click()
        section.locator(".outcome", has_text="200 OK").wait_for()


def test_a_body_is_sent_from_the_keyboard_and_what_comes_back_is_text(browser, server):
    with opened(browser, f"{server.url}/docs") as page:
        page.get_by_label("Key", exact=True).fill(KEY)
        section = tried(page, "recommend")
        hostile = "<img src=x onerror=document.title='broken'>"
        section.locator("textarea").fill(json.dumps({"queries": [{"user_id": hostile}], "k": 1}))
        section.locator("textarea").press("Control+Enter")
        section.locator(".outcome", has_text="200 OK").wait_for()
        assert hostile in section.locator(".reply pre").inner_text()
        assert section.locator("img").count() == 0
        section.locator("textarea").fill("{")
        section.locator(".send").click()
        section.locator(".outcome.bad", has_text="400").wait_for()
        section.locator("[data-name=X-Request-Id]").fill("水")  # no header of HTTP
        section.locator(".send").click()
        section.locator(".outcome.bad", has_text="No answer").wait_for()


def test_large_numbers_are_shown_as_they_came(browser, server):
    with opened(browser, f"{server.url}/docs") as page:
        page.get_by_label("Key", exact=True).fill(KEY)
        section = tried(page, "recommend")
        section.locator("textarea").fill('{"queries": [{"user_id": 9007199254740993}]}')
        section.locator(".send").click()
        section.locator(".outcome", has_text="200 OK").wait_for()
        assert '"user_id":9007199254740993' in section.locator(".reply pre").inner_text()


def test_the_key_lives_as_long_as_the_tab(browser, server):
    with opened(browser, f"{server.url}/docs") as page:
        page.get_by_label("Key", exact=True).fill(KEY)
        page.reload()
        assert page.get_by_label("Key", exact=True).input_value() == KEY
        assert page.evaluate("localStorage.length + document.cookie.length") == 0
        page.get_by_role("button", name="Forget").click()
        page.reload()
        assert page.get_by_label("Key", exact=True).input_value() == ""
    with opened(browser, f"{server.url}/docs") as page:
        assert page.get_by_label("Key", exact=True).input_value() == ""


def test_search_finds_and_a_link_shows_what_the_search_hides(browser, server):
    with opened(browser, f"{server.url}/docs") as page:
        page.keyboard.press("/")
        page.keyboard.type("Idempotency-Key")
        assert page.locator(".entry:visible").evaluate_all("all => all.map(one => one.id)") == ["events"]
        assert page.locator("nav li:visible").count() == 1
        assert page.locator("#found").inner_text().startswith("1 of ")
        page.keyboard.press("Escape")
        assert page.locator(".entry:visible").count() == page.locator(".entry").count() > 20
        page.get_by_label("Search").fill("no such word")
        assert page.locator(".entry:visible").count() == 0
        page.evaluate("location.hash = '#similar'")
        page.locator("#similar").wait_for(state="visible")
        assert page.locator("#similar").evaluate("one => one.getBoundingClientRect().top") < 900
        assert page.locator("nav a[aria-current]").inner_text().endswith("/v1/similar/{item}")


def test_a_deep_link_opens_at_its_operation(browser, server):
    with opened(browser, f"{server.url}/docs#rank") as page:
        top = page.locator("#rank").evaluate("one => one.getBoundingClientRect().top")
        assert 0 <= top < 200


def test_the_keyboard_reaches_a_request_and_sends_it(browser, server):
    with opened(browser, f"{server.url}/docs#live") as page:
        page.locator("#live summary").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")  # the request's id
        page.keyboard.press("Tab")  # the command
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Send"
        page.keyboard.press("Enter")
        page.locator("#live .outcome", has_text="200 OK").wait_for()


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen(browser, server, width):
    with opened(browser, f"{server.url}/docs", width) as page:
        page.get_by_label("Key", exact=True).fill(KEY)
        for section in page.locator("details").all():
            section.evaluate("one => { one.open = true }")
        section = page.locator("#recommend")
        section.locator(".send").click()
        section.locator(".outcome", has_text="200 OK").wait_for()
        wide = page.evaluate(
            "[...document.querySelectorAll('body *')].filter(one => one.getBoundingClientRect().right > innerWidth + 1)"
            ".map(one => one.outerHTML.slice(0, 120))"
        )
        assert wide == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_light_and_dark_can_both_be_read(browser, server):
    """Every text has a contrast of 4.5 against its background (WCAG 2.1, 1.4.3)."""
    measure = """() => {
      const bright = (colour) => {
        const [r, g, b] = colour.match(/[0-9.]+/g).slice(0, 3).map((part) => {
          const x = part / 255;
          return x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const behind = (one) => {
        for (; one; one = one.parentElement) {
          const colour = getComputedStyle(one).backgroundColor;
          if (!colour.endsWith(", 0)")) return colour;
        }
        return "rgb(255, 255, 255)";
      };
      const bad = [];
      for (const one of document.querySelectorAll("body *")) {
        const own = [...one.childNodes].some((part) => part.nodeType === 3 && part.textContent.trim());
        if (!own || !one.checkVisibility()) continue;
        const [low, high] = [bright(getComputedStyle(one).color), bright(behind(one))].sort((a, b) => a - b);
        if ((high + 0.05) / (low + 0.05) < 4.5) bad.push(one.outerHTML.slice(0, 100));
      }
      return [bad, behind(document.body)];
    }"""
    grounds = []
    for scheme in ("light", "dark"):
        with opened(browser, f"{server.url}/docs", color_scheme=scheme) as page:
            tried(page, "events")
            bad, ground = page.evaluate(measure)
            assert bad == [], scheme
            grounds.append(ground)
    assert grounds[0] != grounds[1]


def test_the_admin_listener_has_a_page_of_its_own(browser, server):
    with opened(browser, f"{server.admin_url}/docs") as page:
        page.get_by_label("Key", exact=True).fill("a" * 30)
        section = tried(page, "replace_blocklist")
        assert " -X PUT " in section.locator(".curl").inner_text()
        section.locator(".send").click()
        section.locator(".outcome", has_text="200 OK").wait_for()
        assert json.loads(section.locator(".reply pre").inner_text())["blocked"] == ["3"]
        section = tried(page, "admin_switch")
        section.locator(".send").click()
        section.locator(".outcome.bad", has_text="409").wait_for()
