"""The console in Chromium: what an operator does with it, by pointer and by keyboard, on a phone and in the dark."""

from __future__ import annotations

import re
import time
from contextlib import closing

import polars as pl
import pytest

from suisen.data.dataset import Dataset
from suisen.models import EASE
from suisen.pipeline.recommender import Recommender
from suisen.recommending import bundle
from suisen.serving import keys
from tests.fitted import fitted, seen_by, small_log
from tests.services.programs import program
from tests.serving.test_admin import served

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
expect.set_options(timeout=60_000)
KEY, USER = "a" * 30, "u0003"
EVIL = "<img src=x onerror=alert(1)>"
"""How all titles of the second bundle begin."""
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
CONTRAST = """
() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const found = parts(getComputedStyle(one).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !one.checkVisibility() || one.closest("option, .skip, noscript")) continue;
    const style = getComputedStyle(one), inside = one.namespaceURI.includes("svg");
    const [a, b] = [light(parts(inside ? style.fill : style.color)), light(behind(one))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.push([one.tagName, one.className.toString(), one.textContent.slice(0, 40), ratio]);
  }
  return found;
}
"""
"""Texts whose contrast is below what WCAG 2.2 asks for (1.4.3, level AA)."""
REACHED = """
() => { document.activeElement.dataset.reached = "yes"; }
"""
MISSED = """
() => [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")]
  .filter((one) => one.checkVisibility() && one.dataset.reached !== "yes")
  .filter((one) => !(one.type === "radio" && !one.checked))
  .map((one) => `${one.tagName} ${one.id} ${one.textContent.slice(0, 30)}`)
"""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    log = small_log()
    titles = log.items.with_columns(pl.format(EVIL + " {}", "title").alias("title"))
    other = Recommender(EASE()).fit(Dataset.of(type(log)(log.events, log.users, titles, log.kinds)))
    return [bundle.save(fitted("ease + fm").system, folder / "first"), bundle.save(other.system, folder / "second")]


@pytest.fixture(scope="module")
def browser():
    path = program("chromium")
    with (
        sync_api.sync_playwright() as playwright,
        closing(playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])) as one,
    ):
        yield one


@pytest.fixture
def server(bundles, tmp_path):
    with served(bundles[0], insecure=False, admin_key=KEY, log_dir=tmp_path / "log") as (made, caller, admin):
        admin.headers["x-api-key"] = KEY
        yield made, caller, admin


@pytest.fixture
def visit(browser, server):
    """Opens the console in a tab of its own; at the end nothing was asked elsewhere and nothing went wrong in it."""
    opened, wrong = [], []

    def open_page(key=KEY, viewport=DESK, **options):
        context = browser.new_context(viewport=viewport, reduced_motion="reduce", **options)
        page = context.new_page()
        opened.append(context)
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
        page.on("console", lambda said: wrong.append(said.text) if "Security Policy" in said.text else None)
        url = server[0].admin_url
        page.on("request", lambda one: None if one.url.startswith((url, "data:")) else wrong.append(one.url))
        page.goto(f"{url}/console")
        if key is not None:
            enter(page, key)
            expect(page.locator("#answers")).to_be_visible()
            expect(page.locator("#slots .slot")).to_have_count(1)
        return page

    yield open_page
    for context in opened:
        context.close()
    assert wrong == []


def enter(page, key):
    page.get_by_label("Key that is allowed").fill(key)
    page.get_by_role("button", name="Use it").click()


def listed(page, role="serving"):
    rows = page.locator(f"article[data-role={role}] > .ranked > li")
    return rows.evaluate_all("all => all.map((one) => one.dataset.item)")


def shown(page, user=USER, role="serving"):
    """The list of a user, asked for by the form."""
    page.get_by_label("User id").fill(user)
    page.get_by_role("button", name="Show the list").click()
    expect(page.locator("#lists:not([aria-busy])")).to_have_count(1)
    expect(page.locator(f"article[data-role={role}]")).to_be_visible()
    return listed(page, role)


def test_a_wrong_key_says_so_and_a_right_one_stays_in_the_tab(visit):
    page = visit(key=None)
    expect(page.locator("#entry")).to_be_visible()
    expect(page.locator("#entry-said")).to_be_empty()
    enter(page, "b" * 30)
    expect(page.locator("#entry-said")).to_contain_text("the key is unknown")
    enter(page, "schlüssel" * 4)
    expect(page.locator("#entry-said")).to_contain_text("printable ASCII")
    assert not page.locator("#console").is_visible()
    enter(page, KEY)
    expect(page.locator("#state")).to_have_text("ready, 1 worker")
    page.reload()
    expect(page.locator("#answers")).to_be_visible()
    assert page.evaluate("[...Object.keys(localStorage), document.cookie]") == [""]
    page.get_by_role("button", name="Forget the key").click()
    expect(page.locator("#entry")).to_be_visible()


def test_a_users_list_appears_as_clients_get_it_with_what_led_to_it(visit, server):
    _, caller, _ = server
    page = visit()
    items = shown(page)
    assert items == caller.items(USER)[1]
    article = page.locator("article")
    first = article.locator(".ranked > li").first
    title = first.locator(".title")
    expect(title).to_contain_text("日本 «")
    expect(title).to_contain_text(items[0])
    assert article.locator("> .bars dt").all_inner_texts() == ["rows", "plan"]
    page.get_by_text("Milliseconds of the precise way").click()
    assert article.locator("details .bars dt").all_inner_texts() == ["rows", "retrieve", "rank"]
    page.get_by_text("Candidates by stage: 30").click()
    expect(article.locator("tbody tr")).to_have_count(30)
    expect(article.locator("tbody tr.in")).to_have_count(10)
    page.get_by_text("Kept out before the last candidate").click()
    out = set(article.locator("[data-kept-out]").evaluate_all("all => all.map((one) => one.dataset.keptOut)"))
    assert out
    assert out <= seen_by(fitted("ease + fm"), USER)
    expect(article.locator("[data-kept-out] .tag").first).to_have_text("seen before")
    why = first.get_by_role("button", name="Why")
    why.click()
    expect(first.locator(".why")).to_contain_text("retrieval_score")
    assert why.get_attribute("aria-expanded") == "true"
    why.click()
    expect(first.locator(".why")).to_be_hidden()
    assert shown(page, "ghost") != items
    expect(article).to_contain_text("gets the popular list")


def test_a_history_is_put_together_by_keyboard_alone(visit, server):
    _, caller, _ = server
    page = visit()
    page.get_by_label("a user").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#find")).to_be_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "find"
    for item in ("i003", "i010"):
        page.keyboard.type(item)
        expect(page.locator("#found [role=option]")).to_have_count(1)
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        expect(page.locator("#history")).to_contain_text(item)
    page.keyboard.type("no such item")
    expect(page.locator("#found")).to_contain_text("no item fits")
    page.keyboard.press("Escape")
    expect(page.locator("#found")).to_be_hidden()
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    page.keyboard.press("Enter")
    expect(page.locator("article")).to_be_visible()
    body = {"queries": [{"history": ["i003", "i010"]}]}
    _, answer = caller.call("POST", "/v1/recommend", body)
    assert listed(page) == [item["item_id"] for item in answer["answers"][0]["items"]]
    clicked = listed(page)[0]
    page.get_by_role("button", name="Click: add").first.click()
    expect(page.locator("#history > li")).to_have_count(3)
    expect(page.locator(f"li[data-item={clicked}]")).to_have_count(0)


def test_the_tabulator_reaches_everything(visit, server, bundles):
    server[2].asked("load", bundle=str(bundles[1]))
    page = visit(key=None)
    enter(page, KEY)
    expect(page.locator("#slots .slot")).to_have_count(2)
    shown(page)
    for summary in page.locator("article summary").all():
        summary.click()
    for _ in range(40):
        for _ in range(10):
            page.keyboard.press("Tab")
            page.evaluate(REACHED)
        if not (missed := page.evaluate(MISSED)):
            break
    assert missed == []
    outline = page.locator("#ask button[type=submit]").evaluate(
        "(one) => { one.focus(); return getComputedStyle(one).outlineStyle; }"
    )
    assert outline == "solid"


def test_a_swap_by_button_changes_the_answer_and_a_rollback_brings_it_back(visit, server, bundles, tmp_path):
    _, caller, _ = server
    page = visit()
    before = shown(page)
    page.get_by_label("Bundle on the server").fill(str(tmp_path / "nothing"))
    page.get_by_role("button", name="Load beside").click()
    expect(page.locator("#said.bad")).to_contain_text("nothing")
    page.get_by_label("Bundle on the server").fill(str(bundles[1]))
    page.get_by_role("button", name="Load beside").click()
    candidate = page.locator("[data-slot=candidate]")
    expect(candidate).to_be_visible()
    candidate.get_by_label("% of the live requests").fill("100")
    candidate.get_by_role("button", name="Compare").click()
    expect(candidate).to_contain_text("identical")
    candidate.get_by_role("button", name="Let it answer").click()
    expect(page.locator("[data-slot=former]")).to_be_visible()
    expect(page.locator("article .title").first).to_contain_text(EVIL)
    after = listed(page)
    assert after == caller.items(USER)[1]
    assert after != before
    page.get_by_role("button", name="Roll back to it").click()
    expect(page.locator("article .title").first).not_to_contain_text(EVIL)
    assert listed(page) == before == caller.items(USER)[1]
    page.locator("[data-slot=former]").get_by_role("button", name="Let go").click()
    expect(page.locator("#slots .slot")).to_have_count(1)


def test_two_versions_side_by_side_and_titles_are_only_text(visit, server, bundles):
    server[2].asked("load", bundle=str(bundles[1]))
    page = visit(key=None)
    enter(page, KEY)
    page.get_by_label("Beside it").select_option("candidate")
    items = shown(page)
    beside = listed(page, "candidate")
    assert set(items) & set(beside)
    for role, mine, others in (("serving", items, beside), ("candidate", beside, items)):
        for place, item in enumerate(mine):
            row = page.locator(f"article[data-role={role}] li[data-item={item}]")
            said = f"beside: {others.index(item) + 1}" if item in others else "only here"
            expect(row.locator(".place")).to_have_text(str(place + 1))
            expect(row).to_contain_text(said)
    expect(page.locator("article[data-role=candidate] .title").first).to_contain_text(EVIL)
    assert page.locator("img").count() == 0


def test_a_block_by_button_changes_the_answer_and_can_be_taken_back(visit, server):
    _, caller, admin = server
    page = visit()
    before = shown(page)
    page.locator(f"li[data-item={before[0]}]").get_by_role("button", name="Block").click()
    expect(page.locator(f"[data-barred={before[0]}]")).to_be_visible()
    expect(page.locator(f"article > .ranked > li[data-item={before[0]}]")).to_have_count(0)
    assert listed(page) == caller.items(USER)[1]
    assert listed(page)[:9] == before[1:]
    expect(page.locator(f"[data-kept-out={before[0]}] .tag")).to_have_text("blocked")
    field = page.get_by_label("Block an item")
    field.fill(before[1])
    expect(page.locator("#block-found [role=option]")).to_have_count(1)
    field.press("Enter")
    expect(page.locator("#barred > li")).to_have_count(2)
    assert sorted(admin.call("GET", "/admin/blocklist")[1]["blocked"]) == sorted(before[:2])
    for item in before[:2]:
        page.get_by_role("button", name=f"Show {item} again").click()
        expect(page.locator(f"[data-barred={item}]")).to_have_count(0)
    expect(page.locator(f"article > .ranked > li[data-item={before[1]}]")).to_have_count(1)
    assert listed(page) == before


def test_what_the_server_refuses_is_said(visit):
    page = visit()
    page.get_by_text("More of the request").click()
    for more, said in (
        ("{", "no JSON object"),
        ('{"no_such": 1}', "no_such"),
        ('{"where": {"title": "x"}}', "where"),
        ('{"context": {"colour": 1}}', "colour"),
    ):
        page.locator("#more").fill(more)
        page.get_by_role("button", name="Show the list").click()
        expect(page.locator("#said.bad, article .said").first).to_contain_text(said)
    page.locator("#more").fill('{"among": ["i001", "i002"], "exclude": ["i002"]}')
    assert set(shown(page, "u0007")) <= {"i001"}
    expect(page.locator("article")).to_contain_text("not among the items asked for: 79 of the catalogue")


def test_charts_tell_what_the_metrics_tell(visit, server):
    _, caller, _ = server
    page = visit()
    chart = page.locator("#charts svg")
    expect(chart).to_have_count(5)

    def told(place):
        return chart.nth(place).get_attribute("aria-label")

    version, until = caller.items(USER)[0], time.monotonic() + 60
    expected = [
        r"Requests per second: all of /v1 [1-9][\d.]*", r"Time to an answer, ms: p50 ([\d.]+), p99 ([\d.]+)",
        r"Errors per second: 4xx (?!0)[\d.]+, 5xx 0", r"Rows kept, % of queries: of the plan’s visitors (?!0)[\d.]+",
        rf"Queries per second by version: {re.escape(version)} (?!0)[\d.]+",
    ]  # fmt: skip
    found = [None]
    while not all(found):
        assert time.monotonic() < until, [told(place) for place in range(5)]
        for _ in range(5):
            caller.items(USER)
            caller.call("GET", "/v1/recommend/x?no_such=1")
        page.wait_for_timeout(100)
        found = [re.fullmatch(one, told(place)) for place, one in enumerate(expected)]
    assert float(found[1][1]) <= float(found[1][2])
    assert page.locator("[data-tile=rate]").inner_text() not in ("–", "0")
    page.locator("#charts svg").first.hover()
    expect(page.locator("#charts .cross")).to_have_count(1)
    page.mouse.move(0, 0)


def test_a_key_that_lacks_metrics_gets_all_but_the_charts(browser, tmp_path, bundles):
    secret, lines = keys.made("operator", ["admin"])
    (tmp_path / "keys.toml").write_text(lines)
    serving = served(bundles[0], insecure=False, api_keys=tmp_path / "keys.toml")
    with serving as (other, _, _), closing(browser.new_context()) as context:
        page = context.new_page()
        page.goto(f"{other.admin_url}/console")
        enter(page, secret)
        expect(page.locator("#live-said")).to_contain_text("Charts need a key that is allowed metrics")
        assert shown(page)


@pytest.mark.parametrize("viewport", [PHONE, {"width": 320, "height": 640}, DESK, {"width": 2200, "height": 1200}])
def test_nothing_is_wider_than_the_screen(visit, server, bundles, viewport):
    server[2].asked("load", bundle=str(bundles[1]))
    server[2].asked("blocklist", block=["x" * 200, "i001"])
    page = visit(key=None, viewport=viewport)
    enter(page, KEY)
    page.get_by_label("Beside it").select_option("candidate")
    shown(page)
    for summary in page.locator("article summary").all():
        summary.click()
    page.locator("article .ranked > li").first.get_by_role("button", name="Why").click()
    expect(page.locator(".why .bars").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    small = page.locator("button, input:not([type=radio]), select, summary").evaluate_all(
        "all => all.filter((one) => one.checkVisibility() && one.getBoundingClientRect().height < 24)"
        ".map((one) => one.outerHTML.slice(0, 80))"
    )
    assert small == []  # WCAG 2.2, 2.5.8: targets of at least 24 pixels


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_can_be_read(visit, server, bundles, scheme):
    server[2].asked("load", bundle=str(bundles[1]))
    page = visit(key=None, color_scheme=scheme)
    assert page.evaluate(CONTRAST) == []
    enter(page, KEY)
    page.get_by_label("Beside it").select_option("candidate")
    shown(page)
    for summary in page.locator("article summary").all():
        summary.click()
    page.locator("#bundle").fill("/nothing")
    page.get_by_role("button", name="Load beside").click()
    expect(page.locator("#said.bad")).to_be_visible()
    assert page.evaluate(CONTRAST) == []
    page_colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert page_colour == {"light": "rgb(246, 247, 246)", "dark": "rgb(16, 21, 23)"}[scheme]
