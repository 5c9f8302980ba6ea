"""The page of an experiment, the record that it is made from, and its pictures."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

from suisen.errors import InputError
from suisen.experiments import AnalysisOptions, Plan, analyze
from suisen.experiments.frozen import changes
from suisen.experiments.record import About, Record, Truth
from suisen.experiments.standing import Taken
from suisen.pages.experiment import render_record, sections, write_report

VOID = {"meta", "link", "br", "circle", "line", "polygon", "polyline"}
TABLES = {
    "name": "buttons & <b>more</b>", "primary": "ctr", "segments": ["country"], "start": "2024-05-01",
    "end": "2024-05-15", "arms": {"control": 0.5, "treatment": 0.5},
    "metrics": {"ctr": {"kind": "ctr"}, "clicks": {"kind": "count", "event": "click", "test": "mann-whitney"},
                "bought": {"kind": "conversion"}},
    "guardrails": {"bought": {"margin": 0.9}},
}  # fmt: skip


class Reader(HTMLParser):
    """Elements and texts in order; complains of what is not closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.seen, self.texts = [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and not {"style", "title"} & set(self.open):
            self.texts.append(data.strip())


def tables(users=400, seed=0):
    """Exposures and events: one visit of ten impressions a user; the treated click half as often again."""
    rng = np.random.default_rng(seed)
    day = rng.integers(0, 14, users)
    at = np.datetime64("2024-05-01", "us") + (day * 86_400 + 60) * np.timedelta64(10**6, "us")
    arm = np.where(np.arange(users) % 2, "treatment", "control")
    clicks = rng.binomial(10, np.where(arm == "treatment", 0.3, 0.2))
    counts = {"impression": np.full(users, 10), "click": clicks, "purchase": (clicks > 2).astype(int)}
    events = pl.concat([
        pl.DataFrame({"user": np.repeat(np.arange(users), n), "time": np.repeat(at, n), "event": np.full(n.sum(), kind),
                      "item": np.concatenate([np.arange(each) for each in n])})
        for kind, n in counts.items()
    ])  # fmt: skip
    country = np.where(np.arange(users) % 3, "JP", "D<E")
    return pl.DataFrame({"user": np.arange(users), "arm": arm, "time": at, "country": country}), events


@pytest.fixture(scope="module")
def result():
    return analyze(*tables(), Plan.of(TABLES), options=AnalysisOptions(cumulative=4, resamples=199))


@pytest.fixture(scope="module")
def record(result):
    truth = (Truth("ctr", "treatment", 0.1, 0.5), Truth("bought", "treatment", 9.0, 9.0))
    return Record(result, About(when="today", command="suisen <x>", frozen_at="2024-05-01T00:00:00Z", truth=truth))


def test_the_first_words_are_the_verdict_and_everything_is_there(record):
    page = render_record(record)
    read = Reader(page)
    assert read.texts[0] == record.result.verdict
    assert str(record.result.ratio)[1:] in page.replace("&gt;", ">")
    ids = {attrs["id"] for tag, attrs in read.seen if tag == "section"}
    assert ids == {"effects", "ratio", "warnings", "time", "segments", "ranks", "plan", "how", "repeat"}
    links = {attrs["href"][1:] for tag, attrs in read.seen if tag == "a"}
    assert links == ids
    for said in ("in the interval", "not in the interval", "Nothing was changed after", "guardrail holds", "D<E"):
        assert said in " ".join(read.texts)


def test_every_number_of_the_result_is_on_the_page(record):
    texts = [" ".join(text.split()) for text in Reader(render_record(record)).texts]
    for each in record.result.estimates:
        assert each.relative.percent() in texts
        assert each.absolute.plain() in texts
        assert f"{each.p:.3g}" in texts
        assert any(each.how in text for text in texts)


def test_the_page_stands_alone_and_escapes(record):
    page = render_record(record)
    assert "<b>more</b>" not in page
    assert "suisen &lt;x&gt;" in page
    assert not re.search(r"(src|href)=\"(?!#|data:)", page)
    assert "<script" not in page
    ids = [attrs["id"] for _, attrs in Reader(page).seen if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_colours_are_variables_that_both_schemes_define(record):
    page = render_record(record)
    light, dark = (set(re.findall(r"--(\w+):", block)) for block in re.findall(r":root \{(.*?)\}", page, re.DOTALL)[:2])
    used = set(re.findall(r"var\(--(\w+)\)", page))
    assert used <= light == dark


def test_what_was_changed_is_shown(record):
    now = replace(record.result.plan, alpha=0.1)
    result = replace(record.result, changes=changes(record.result.plan, now))
    texts = Reader(render_record(Record(result, record.about))).texts
    at = texts.index("alpha", texts.index("Changed after the plan was frozen."))
    assert texts[at : at + 3] == ["alpha", "0.05", "0.1"]


def test_a_plan_that_was_not_frozen_is_said(result):
    assert "the plan was not frozen" in render_record(Record(result))


def test_a_mismatch_is_the_first_word():
    exposures, events = tables()
    kept = exposures.filter((pl.col("arm") == "control") | (pl.col("user") % 4 == 1))
    page = Reader(render_record(Record(analyze(kept, events, Plan.of({**TABLES, "segments": []})))))
    assert page.texts[0].startswith("No verdict: sample ratio mismatch (200 : 100 units")
    assert any(text.startswith("SAMPLE RATIO MISMATCH") for text in page.texts)
    assert page.texts[0] in page.texts[1:]  # among the warnings
    assert page.texts.count("not judged") == 3 + 1  # decisions, and the guardrail
    assert not {"raised", "holds", "guardrail holds", "None."} & set(page.texts)
    colours = {attrs["class"] for tag, attrs in page.seen if tag == "td" and "class" in attrs}
    assert not {each for each in colours if {"better", "worse"} & set(each.split())}


def test_a_plan_that_was_frozen_late_proves_nothing(record):
    late = "plan frozen at 2026-01-01T00:00:00Z, after the last event"
    page = render_record(Record(replace(record.result, late=late), record.about))
    assert late[1:] in page
    assert "Nothing was changed after" not in page


def test_several_arms_show_the_intervals_that_hold_together():
    exposures, events = tables(600)
    arms = {arm: 0.25 for arm in ("control", "a", "b", "c")}
    dealt = exposures.with_columns(arm=pl.Series(np.array(list(arms))[np.arange(600) % 4]))
    result = analyze(dealt, events, Plan.of({**TABLES, "arms": arms, "segments": []}))
    page = Reader(render_record(Record(result)))
    for each in result.of("primary"):
        assert f"all arms {each.joint.shown(each.scale)}" in page.texts
    assert any("with 98.33 % intervals, which hold for all arms together." in text for text in page.texts)


def test_the_plan_is_shown_without_its_defaults():
    shown = sections(Plan.of(TABLES))
    assert shown["metric ctr"] == {"kind": "ctr", "test": "auto"}
    assert shown["guardrail bought"] == {"margin": "0.9", "scale": "relative"}
    assert shown["arms"] == {"control": "0.5", "treatment": "0.5"}
    assert "power" in shown["experiment"]
    assert "contamination" not in shown["experiment"]
    assert shown["assignment"] == {"hash": "suisen-1"}


# -- on disk -----------------------------------------------------------------------------------------------------------


def test_a_record_is_read_back_as_it_was(record, tmp_path):
    record.save(tmp_path / "result.json")
    again = Record.load(tmp_path / "result.json")
    assert again == record
    assert again.result.text() == record.result.text()
    assert again.result.plan.fingerprint() == record.result.fingerprint
    write_report(tmp_path / "a.html", record)
    assert (tmp_path / "a.html").read_text() == render_record(again)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "result.json"]


def test_infinities_come_back(record, tmp_path):
    first = record.result.estimates[0]
    endless = replace(first, relative=replace(first.relative, low=-np.inf, high=np.inf, p=np.nan))
    Record(replace(record.result, estimates=(endless,))).save(tmp_path / "r.json")
    found = Record.load(tmp_path / "r.json").result.estimates[0].relative
    assert (found.low, found.high) == (-np.inf, np.inf)
    assert np.isnan(found.p)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist; give what suisen experiment analyze wrote"),
        ("{", "is damaged"),
        ("[]", "format = None is not 1"),
        ('{"format": 2}', "format = 2 is not 1; analyze again with this version"),
        ('{"format": 1, "about": {}}', "is damaged"),
        ('{"format": 1, "about": {}, "result": {"plan": {}}}', "is damaged"),
    ],
)
def test_a_broken_record_is_named(tmp_path, text, message):
    path = tmp_path / "result.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        Record.load(path)


def test_what_blocks_and_the_looks_before_come_back(tmp_path):
    exposures, events = tables(800)
    arms = {"control": 0.4, "a": 0.3, "b": 0.3}
    dealt = exposures.with_columns(arm=pl.Series(np.array(list(arms))[np.arange(800) % 3]))
    lost = dealt.filter((pl.col("arm") != "a") | (pl.col("country") == "JP"))
    looks = {"kind": "group", "looks": [0.5, 1.0]}
    changed = Plan.of({**TABLES, "arms": arms, "metrics": {"ctr": {"kind": "ctr"}}, "guardrails": {}, "sample": 800,
                       "sequential": looks})  # fmt: skip
    result = analyze(lost, events, changed, looks=[Taken("group", 0.2, 160, "", 0, None, None, "none", "2024-05-02")])
    assert result.blocked.why == "sample ratio"
    assert result.parts
    assert result.looks
    assert all(each.joint for each in result.of("primary"))
    Record(result).save(tmp_path / "result.json")
    again = Record.load(tmp_path / "result.json").result
    assert again == result
    assert render_record(Record(again)) == render_record(Record(result))
    assert json.loads((tmp_path / "result.json").read_text())["result"]["blocked"]["todo"].startswith("find where")


def test_the_json_is_strict(record, tmp_path):
    record.save(tmp_path / "r.json")

    strange = []
    json.loads((tmp_path / "r.json").read_text(), parse_constant=strange.append)
    assert strange == []  # NaN and Infinity are no JSON


def test_equivalence_is_on_the_page_and_comes_back(tmp_path):
    tables_ = TABLES | {"guardrails": {}, "segments": [], "equivalence": {"bought": {"margin": 3.0}}}
    result = analyze(*tables(), Plan.of(tables_), options=AnalysisOptions(daily=False))
    assert result.estimates[-1].equality.state == "holds"
    page = render_record(Record(result))
    words = " ".join(" ".join(Reader(page).texts).split())
    for said in ("equal within 300 %", "Equivalence: equal within the margin", "± 300 %", "equivalence bought"):
        assert said in words
    assert result.estimates[-1].equality.effect.percent() in words
    Record(result).save(tmp_path / "result.json")
    assert Record.load(tmp_path / "result.json").result == result


def test_days_of_few_units_do_not_flatten_the_others(record):
    day = record.result.days[0]
    wide = replace(day, day=99, effect=replace(day.effect, low=-99.0), relative=replace(day.relative, low=-99.0))
    page = render_record(Record(replace(record.result, days=(*record.result.days, wide))))
    assert f"Not drawn for want of units: 1 of {len(record.result.days) + 1} days." in page
    assert "Not drawn" not in render_record(Record(replace(record.result, days=record.result.days[:2])))
