import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from suisen.evaluation import Comparison, Score
from suisen.evaluation.report import interval, number, probability
from suisen.pages import report_charts
from suisen.pages.render import asset
from suisen.pages.report import (
    DataFacts,
    Example,
    Listed,
    ModelScores,
    ReportData,
    data_table,
    funnel_lines,
    metric_rows,
    one_protocol,
    outcome,
    render_report,
    verdict,
    verdicts,
    write_report,
)
from suisen.pipeline.funnel import Figure, Funnel, StageLoss
from suisen.training.options import Curve, EpochRow

NASTY = "<script>alert(\"1 & 2\")</script> 水仙 'é'"
VOID = {"meta", "link", "br"}
SECTIONS = ["results", "differences", "funnel", "training", "examples", "data", "settings", "notes", "repeat"]


class Page(HTMLParser):
    """Sections with their text, tags with their attributes, and whether every tag that opens closes."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.sections, self.inside, self.ids = [], [], {}, None, []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "section":
            self.inside = attributes["id"]
            self.sections[self.inside] = ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        assert self.open.pop() == tag
        if tag == "section":
            self.inside = None

    def handle_data(self, data):
        if self.inside:
            self.sections[self.inside] += re.sub(r"\s+", " ", data)

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def score(metric, value, n=943, protocol="leave last out; full ranking"):
    return Score(metric, value, value - 0.01, value + 0.012, n, protocol)


def comparison(metric="ndcg@10", difference=0.0123, p_holm=0.0004, **changes):
    plain = {
        "model": "two stages",
        "baseline": "ease",
        "low": difference - 0.01,
        "high": difference + 0.01,
        "p": 0.0002,
    }
    plain |= {"n": 943, "protocol": "leave last out; full ranking"}
    return Comparison(metric=metric, difference=difference, p_holm=p_holm, **{**plain, **changes})


def curve(epochs=7, best=5, metrics=True):
    rows = [
        EpochRow(e, 1 / e, 0.1 - 0.01 * abs(e - best) if metrics else None, 0.5, 2000.0) for e in range(1, epochs + 1)
    ]
    return Curve(rows, best, 0.1 if metrics else None, "no better validation metric for 2 epochs")


def funnel():
    stages = (
        StageLoss("catalogue", 1682.0, 943, 0),
        StageLoss("not filtered", 1577.0, 940, 3),
        StageLoss("retrieved", 500.0, 837, 103),
        StageLoss("top list", 10.0, 140, 697),
    )
    figures = (Figure("recall@500", 0.8876, 0.8649, 0.9067), Figure("precision@10 end to end", 0.0148, 0.0126, 0.0171))
    halves = (Figure("predicted", 0.1614, 0.1313, 0.1953), Figure("counted", 0.1356, 0.1059, 0.1674))
    return Funnel(10, 500, 943, 943, stages, figures, 0.1485, 0.1486, 0.1487, halves, "leave last out")


def facts(**changes):
    plain = {
        "name": "MovieLens 100K",
        "users": 943,
        "items": 1682,
        "events": 100_000,
        "first": "1997-09-20 03:05 UTC",
        "last": "1998-04-22 23:10 UTC",
        "timeline": (3, 0, 7, 2),
        "item_counts": [583, 12, 1, 1, 0, 3, 0, 1, 9, 4],
        "history_lengths": [1, 2, 3, 20, 737],
        "parts": {"train events": 98_115, "test queries": 942},
    }
    return DataFacts(**{**plain, **changes})


def full(**changes):
    models = tuple(
        ModelScores(name, (score("ndcg@10", base), score("hr@10", 2 * base), score("recall@100", 5 * base)))
        for name, base in (("popularity", 0.0432), ("ease", 0.0735), ("two stages", 0.0858))
    )
    plain = {
        "title": "runs/demo",
        "command": "suisen train --config runs/demo/config.toml",
        "when": "2026-11-24 07:50 UTC",
        "remarks": ("Against the last run: ndcg@10 +0.0012.",),
        "data": facts(),
        "models": models,
        "valid": (score("ndcg@10", 0.0911, n=900),),
        "recalls": {10: score("recall@10", 0.2), 100: score("recall@100", 0.55), 500: score("recall@500", 0.8876)},
        "comparisons": (comparison(), comparison("hr@10", -0.02, 0.03), comparison("recall@100", 0.001, 0.8)),
        "curves": {"retriever": [], "ranker": [curve()]},
        "watched": "ndcg@10",
        "funnel": funnel(),
        "examples": (
            Example(
                "196",
                {"history": [Listed("Fargo")], "two stages": [Listed("Heat", True), Listed("Speed")]},
                "age 49",
                ("Heat",),
            ),
        ),
        "hyper_parameters": {"retriever: ease": {"l2": "250.0"}},
        "environment": {"torch": "2.13.0"},
        "notes": {"reading": ("3 rows dropped: no item",)},
    }
    return ReportData(**{**plain, **changes})


def only(**parts):
    """A report of nothing but these parts: a tenth of the time of the whole."""
    return ReportData(title="runs/demo", command="", **parts)


@pytest.fixture(scope="module")
def text():
    return render_report(full())


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_every_section_is_there_in_order_and_in_the_contents(page):
    assert list(page.sections) == SECTIONS
    links = [a["href"] for a in page.named("a")]
    assert links == [f"#{name}" for name in SECTIONS]


def test_the_page_asks_the_network_for_nothing(text, page):
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert not page.named("script")
    assert [link["href"] for link in page.named("link")] == ["data:,"]
    loading = {(tag, name) for tag, attributes in page.tags for name in attributes if name in ("src", "srcset", "data")}
    assert loading == set()
    assert not page.named("use")
    assert "url(" not in text
    policy = next(meta["content"] for meta in page.named("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'")


def test_ids_are_unique_and_every_reference_has_its_target(page):
    assert len(page.ids) == len(set(page.ids))
    named = [word for _, a in page.tags for word in a.get("aria-labelledby", "").split()]
    assert len(named) > 10
    assert set(named) <= set(page.ids)


def test_pictures_use_the_colours_of_the_page_and_say_what_they_show(text, page):
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(pictures) == 3 + 2 + 1 + 3  # metrics, funnel and candidates, one trained stage, data
    declared = set(re.findall(r"(--[\w]+):", text))
    for picture in pictures:
        assert re.search(
            r'role="img".*?<title id="[^"]+">[^<]+</title><desc id="[^"]+">[^<]+</desc>', picture, re.DOTALL
        )
        style = "".join(re.findall(r'style="([^"]*)"', picture))
        assert not re.search(r"#[0-9a-fA-F]{3,6}\b|rgb\(|font-family|DejaVu", style)
        assert set(re.findall(r"var\((--\w+)\)", picture)) <= declared
        assert "var(--" in style
        assert "<style" not in picture
        assert "<metadata" not in picture
    assert len(page.named("svg")) == len(pictures)


def contrast(one, other):
    def light(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([light(one), light(other)])
    return (high + 0.05) / (low + 0.05)


def test_text_has_enough_contrast_in_light_dark_and_print():
    style = asset("colours.css") + asset("report.css")
    themes = [
        dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    ]
    assert len(themes) == 3
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for theme in themes:
        assert set(theme) == set(themes[0])
        for ground in ("page", "card"):
            for words in ("ink", "muted", "accent", "second", "bad"):
                assert contrast(theme[words], theme[ground]) >= 4.5, (words, ground)
        for words in ("ink", "accent"):
            assert contrast(theme[words], theme["mark"]) >= 4.5, words


def test_metric_table_holds_the_numbers_given(page):
    data = full()
    for model in data.models:
        assert model.name in page.sections["results"]
        for one in model.scores:
            assert number(one.value) + interval(one.low, one.high) in page.sections["results"]
    assert "Protocol: leave last out; full ranking." in page.sections["results"]
    assert "943" in page.sections["results"]


def test_metric_rows_keep_models_apart_that_were_measured_differently():
    a = ModelScores("a", (score("hr@10", 0.1, n=5),))
    b = ModelScores("b", (score("hr@10", 0.2, n=4, protocol="sampled"), score("auc", 0.6)))
    first, second = metric_rows([a, b])
    assert (first.n, first.protocol) == ("5 / 4", "leave last out; full ranking / sampled")
    assert second.cells[0] is None
    assert second.cells[1].value == "0.6000"
    assert one_protocol([first, second]) == ""
    results = Page(render_report(only(models=(a, b)))).sections["results"]
    assert "leave last out; full ranking / sampled" in results
    assert "–" in results


def test_a_metric_without_a_value_is_a_dash_and_has_no_picture():
    none = Score("mrr", float("nan"), float("nan"), float("nan"), 0, "p")
    text = render_report(only(models=(ModelScores("a", (none,)), ModelScores("b", (none,)))))
    assert "–" in Page(text).sections["results"]
    assert "<svg" not in text


def test_differences_hold_the_numbers_given_and_a_verdict(page):
    for row in full().comparisons:
        for cell in (
            number(row.difference, signed=True),
            interval(row.low, row.high, signed=True),
            probability(row.p),
            probability(row.p_holm),
            outcome(row),
        ):
            assert cell in page.sections["differences"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (comparison(), "better"),
        (comparison(difference=-0.0123), "worse"),
        (comparison(p_holm=0.05), "no difference"),
        (comparison(p_holm=float("nan")), "no difference"),
        (comparison("logloss", -0.01), "better"),
        (comparison("logloss", 0.01), "worse"),
        (comparison("coverage@10", 0.1), "higher"),
        (comparison("popularity_bias@10", -0.1), "lower"),
    ],
)
def test_outcome(row, said):
    assert outcome(row) == said
    start = "No significant difference between" if said == "no difference" else f"two stages is {said} than ease on"
    assert verdict(row).startswith(start)


def test_verdict_is_a_sentence_with_its_numbers():
    assert " ".join(verdict(comparison()).split()) == (
        "two stages is better than ease on ndcg@10: +0.0123 [+0.0023, +0.0223], p (Holm) 0.0004, n = 943."
    )


def test_verdicts_are_of_the_primary_metric_or_else_of_the_first():
    rows = full().comparisons
    assert [kind for kind, _ in verdicts(rows, "hr@10")] == ["worse"]
    assert [kind for kind, _ in verdicts(rows, "map@10")] == ["better"]
    assert verdicts((), "ndcg@10") == []
    assert verdict(rows[1]) in render_report(only(comparisons=rows, primary="hr@10"))


def test_funnel_shows_what_is_kept_and_lost(text, page):
    shown = page.sections["funnel"]
    for stage in funnel().stages:
        assert f"{funnel().named(stage.stage)}: {stage.hits:,} of 943 kept, {stage.lost:,} lost" in text
        assert funnel().named(stage.stage) in shown
    assert "lost here: 697" in shown
    assert "140 hits" in shown
    for wanted in (
        "0.8876",
        "[0.8649, 0.9067]",
        "0.1487 counted",
        "0.1485 from",
        "0.1486 from",
        "0.1614 [0.1313, 0.1953]",
    ):
        assert wanted in shown


def test_the_funnel_is_told_in_three_lines(page):
    lines = [spaced(line) for line in funnel_lines(funnel())]
    assert lines == [
        "Test asks 943 times, for 943 items in all; 3 of them are filtered out and cannot be recommended.",
        "The first stage finds 837 of them (88.8 %) with 500 candidates per query.",
        "The second stage puts 140 of those (16.7 %) into the top 10: 14.8 % of all that was asked for.",
    ]
    shown = spaced(page.sections["funnel"])
    assert all(line in shown for line in lines)
    assert shown.index(lines[2]) < shown.index("All figures of the stages")


def test_recall_by_number_of_candidates_is_drawn_with_and_without_a_second_stage(page):
    assert "500 in place of 100 candidates: +0.3376 recall." in page.sections["funnel"]
    alone = Page(render_report(only(recalls=full().recalls))).sections
    assert list(alone) == ["funnel"]
    assert "10: 0.2000; 100: 0.5500; 500: 0.8876" in alone["funnel"]
    assert "second stage" not in alone["funnel"]


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("ndcg@10", (0.1, 0.3, 0.2), [1]),
        ("ndcg@10", (0.3, 0.3, 0.2), [0, 1]),
        ("ndcg@10", (0.30001, 0.30002, 0.2), [0, 1]),
        ("logloss", (0.5, 0.3, 0.4), [1]),
        ("coverage@10", (0.5, 0.3, 0.4), []),
        ("ndcg@10", (0.3, float("nan"), 0.4), [2]),
        ("ndcg@10", (0.3, 0.3, 0.3), []),
        ("unheard@10", (0.3, 0.2, 0.1), []),
    ],
)
def test_bold_is_the_best_of_its_row(metric, values, best):
    models = [ModelScores(str(place), (score(metric, value),)) for place, value in enumerate(values)]
    (row,) = metric_rows(models)
    assert [place for place, cell in enumerate(row.cells) if cell.best] == best
    assert render_report(only(models=tuple(models))).count('class="best"') == len(best)


def test_this_run_is_tagged_and_valid_stands_beside_test(page, text):
    results = page.sections["results"]
    assert "two stages this run" in results
    assert "two stages on valid" in results
    assert "0.0911[0.0811, 0.1031]" in results
    assert text.count('<span class="tag">this run</span>') == 1
    head = results.partition("metric")[2]
    assert head.index("this run") < head.index("on valid") < head.index("popularity")  # a phone shows the first columns
    row = results.partition("hr@10")[2]
    assert row.index("0.1716") < row.index("–") < row.index("0.0864") < row.index("0.1470")
    assert "this run" not in render_report(only(models=full().models[:1]))


def test_the_head_has_a_day_for_people(text):
    assert "24 Nov 2026 07:50 UTC" in spaced(text)


def test_curves_mark_the_best_epoch(page):
    shown = page.sections["training"]
    assert "Learnt without epochs: retriever." in shown
    assert "best: epoch 5, 0.1000" in shown
    assert "7 epochs in 3.5 s; 2,000 examples/s; no better validation metric for 2 epochs" in shown
    assert "Loss from 1.0000 to 0.1429, 7 epochs." in shown


def test_phases_are_drawn_one_by_one():
    shown = Page(render_report(only(curves={"neumf": [curve(), curve(3, 2), Curve()]}))).sections["training"]
    assert "neumf, phase 1 of 3" in shown
    assert "neumf, phase 2 of 3" in shown
    assert "phase 3 of 3" not in shown
    assert "Learnt without" not in shown


def test_without_validation_there_is_a_loss_and_no_best_epoch():
    shown = Page(render_report(only(curves={"ranker": [curve(metrics=False)]}))).sections["training"]
    assert "loss" in shown
    assert "best" not in shown


def test_a_single_epoch_is_a_number():
    html = render_report(only(curves={"ranker": [curve(epochs=1, best=1)]}))
    shown = Page(html).sections["training"]
    assert "ranker: loss 1.0000, validation metric 0.1000; 1 epoch in 0.5 s; 2,000 examples/s" in shown
    assert "Training of ranker" not in html
    assert "Training of ranker" in render_report(only(curves={"ranker": [curve(epochs=2, best=1)]}))


def test_seconds_are_told_with_validation_and_without():
    phase = curve(epochs=2, best=1)
    rows = [row._replace(seconds=2.0, validation_seconds=3.0) for row in phase.rows]
    shown = Page(render_report(only(curves={"retriever-inner1": [replace(phase, rows=rows)]}))).sections["training"]
    assert "2 epochs in 4.0 s (10.0 s with validation)" in shown
    assert "retriever for the lists" in shown


def test_data_facts(page):
    shown = page.sections["data"]
    for wanted in (
        "943",
        "1,682",
        "100,000",
        "6.3",
        "learnt from98,115 events",
        "test942 queries",
        "20 Sep 1997 to 22 Apr 1998 (UTC)",
    ):
        assert wanted in spaced(shown)
    assert "The most popular tenth of the items takes 95 % of the events; 2 items have none." in shown
    assert "median 3, mean 152.6, from 1 to 737" in shown
    assert "1 event: 1; 2 to 3 events: 2; 4 to 7 events: 0" in shown
    assert "guest sessions" not in shown
    assert "guest sessions" in Page(render_report(only(data=facts(guests=12)))).sections["data"]


def table(**changes):
    """The data's table: name → (value, what to look at, level)."""
    rows = data_table(facts(**changes), "2026-11-24 07:50 UTC")
    return {row.name: (spaced(row.value), spaced(row.look), row.level) for row in rows}


def spaced(text):
    return " ".join(text.split())


def test_a_sound_log_has_nothing_in_colour():
    rows = table(parts={"test queries": 942}, item_counts=[3, 4], history_lengths=[3, 4, 9])
    assert {level for _, _, level in rows.values()} == {""}
    assert rows["events per user"][0] == "median 4, most 9"
    assert rows["repeats"][0] == "0 of the events, 0 %"


@pytest.mark.parametrize(
    ("changes", "row", "level", "said"),
    [
        ({"history_lengths": [1, 1, 2]}, "users", "warn", "66.7 % have one event"),
        ({"history_lengths": [1, 2, 2, 2]}, "users", "", ""),
        ({"item_counts": [1, 0, 0]}, "items", "warn", "2 more have no event"),
        ({"item_counts": [1, 1, 0]}, "items", "", "1 more have no event"),
        ({"repeats": 31_000}, "repeats", "warn", "exclude_seen=False"),
        ({"repeats": 4_000}, "repeats", "", ""),
        ({"first": "", "last": ""}, "times", "warn", "order of the events is not known"),
        ({"first": "1970-01-18T00:00:00Z"}, "times", "bad", "before 1990"),
        ({"last": "2031-01-01T00:00:00Z"}, "times", "bad", "in the future"),
        ({"first": "2020-01-01T00:00:00Z", "last": "2020-01-01T00:00:00Z"}, "times", "bad", "one moment"),
        ({"parts": {"test queries": 84}}, "test", "warn", "intervals are wide"),
        ({"parts": {"test queries": 842, "test truth": 900}}, "test", "", ""),
        ({"parts": {"test queries": 842, "test truth": 900, "test truth seen": 300}}, "test", "warn", "33.3 % of what"),
        ({"parts": {"valid queries": 842, "valid truth": 900, "valid truth unknown": 90}}, "valid", "warn", "missed"),
        ({"parts": {"test events": 84, "pairs": 3}}, "pairs", "", ""),
        ({"losses": ("my.csv: 3 bad rows dropped",)}, "reading", "warn", "3 bad rows dropped"),
        ({"repeats": 31_000, "seen_excluded": False}, "repeats", "", ""),
    ],
)
def test_what_is_wrong_with_a_log_is_said_in_colour(changes, row, level, said):
    _, look, found = table(**changes)[row]
    assert found == level
    assert (said in look) if said else not look
    text = render_report(only(data=facts(**changes), when="2026-11-24 07:50 UTC"))
    assert not look or f'<span class="look {level}">' in text


def test_tail_share_is_its_definition():
    counts = list(range(1, 101))
    assert report_charts.tail_share(counts) == pytest.approx(sum(range(91, 101)) / 5050)
    assert report_charts.tail_share([7]) == 1.0
    assert len(report_charts.long_tail(range(1, 200_000))) < 30_000


@pytest.mark.parametrize("lengths", [[1], [5] * 3, [1, 100_000, 2**20]])
def test_histories_of_any_length_are_drawn(lengths):
    described = re.search(r"<desc[^>]*>(.*?)</desc>", report_charts.history_lengths(lengths))[1]
    assert sum(int(n.replace(",", "")) for n in re.findall(r"events?: ([\d,]+)", described)) == len(lengths)


def test_examples_show_lists_side_by_side_and_mark_hits(page):
    shown = page.sections["examples"]
    assert "User 196 age 49" in shown
    assert "Took afterwards: Heat" in shown
    assert "Heat ✓ taken" in shown
    assert "Speed ✓" not in shown
    assert shown.index("history") < shown.index("Fargo") < shown.index("two stages") < shown.index("Speed")


def test_settings_notes_and_command(page):
    for wanted in ("retriever: ease", "l2", "250.0", "torch", "2.13.0"):
        assert wanted in page.sections["settings"]
    assert "3 rows dropped: no item" in page.sections["notes"]
    assert page.sections["repeat"].strip() == "Repeat the run suisen train --config runs/demo/config.toml"


def test_everything_that_comes_from_data_is_escaped():
    one = comparison()._replace(model=NASTY, baseline=NASTY, protocol=NASTY)
    stage = StageLoss(NASTY, 5.0, 3, 1)
    bad = full(
        title=NASTY,
        command=NASTY,
        when=NASTY,
        remarks=(NASTY,),
        data=facts(name=NASTY, first=NASTY, last=NASTY, parts={NASTY: 1}),
        models=tuple(ModelScores(f"{NASTY}{i}", (score("hr@10", 0.1, protocol=NASTY),)) for i in range(2)),
        comparisons=(one,),
        curves={NASTY: [curve()], NASTY + "2": []},
        watched=NASTY,
        funnel=replace(
            funnel(), stages=(stage, *funnel().stages[1:]), figures=(Figure(NASTY, 0.1, 0.0, 0.2),), protocol=NASTY
        ),
        examples=(Example(NASTY, {NASTY: [Listed(NASTY, True)]}, NASTY, (NASTY,)),),
        hyper_parameters={NASTY: {NASTY: NASTY}},
        environment={NASTY: NASTY},
        notes={NASTY: (NASTY,)},
    )
    text = render_report(bad)
    page = Page(text)
    assert "<script" not in text.lower()
    assert list(page.sections) == SECTIONS
    for name in SECTIONS:
        assert re.sub(r"\s+", " ", NASTY) in page.sections[name], name
    assert "1 &amp; 2" in text
    assert "水仙 &#39;é&#39;" in text


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({"funnel": None, "recalls": {}}, "funnel"),
        ({"comparisons": ()}, "differences"),
        ({"models": ()}, "results"),
        ({"examples": ()}, "examples"),
        ({"curves": {}}, "training"),
        ({"data": None}, "data"),
        ({"hyper_parameters": {"popularity": {}}, "environment": {}}, "settings"),
        ({"notes": {"reading": (), "training": ()}}, "notes"),
        ({"command": ""}, "repeat"),
    ],
)
def test_an_empty_part_has_no_section(changes, gone):
    page = Page(render_report(full(**changes)))
    assert list(page.sections) == [name for name in SECTIONS if name != gone]
    assert f"#{gone}" not in [a["href"] for a in page.named("a")]


def test_the_least_report_is_a_page():
    page = Page(render_report(ReportData(title="empty", command="")))
    assert page.sections == {}
    assert not page.named("svg")


def test_without_time_there_is_no_time_line():
    shown = Page(render_report(only(data=facts(first="", last="", timeline=())))).sections["data"]
    assert "Events over time" not in shown
    assert "UTC" not in shown
    assert "Long tail" in shown


def test_without_events_there_is_no_picture_of_them():
    shown = Page(render_report(only(data=facts(item_counts=[0, 0], history_lengths=[], timeline=())))).sections["data"]
    assert "Long tail" not in shown
    assert "Length of histories" not in shown


def test_a_metric_that_is_the_same_of_all_models_has_no_picture():
    same = tuple(
        ModelScores(name, (score("recall@100", 1.0), score("hr@10", base))) for name, base in (("a", 0.1), ("b", 0.2))
    )
    text = render_report(only(models=same))
    assert text.count("<svg") == 1
    assert "<h3>hr@10</h3>" in text


def test_one_model_alone_has_a_table_and_no_comparison():
    text = render_report(only(models=full().models[:1]))
    assert "0.0432" in Page(text).sections["results"]
    assert "<svg" not in text


def test_an_example_without_titles_or_history():
    assert "A guest" in Page(render_report(only(examples=(Example("", {"ease": []}),)))).sections["examples"]
    example = Example("7", {"history": [], "ease": [Listed("50")]})
    shown = Page(render_report(only(examples=(example,)))).sections["examples"]
    assert "none" in shown
    assert "Took afterwards" not in shown


def test_tables_have_captions_and_scroll_in_their_own_box(page):
    tables = [place for place, (tag, _) in enumerate(page.tags) if tag == "table"]
    assert len(tables) == 5
    for place in tables:
        box = page.tags[place - 1][1]
        assert (box["class"], box["tabindex"], box["role"]) == ("scroll", "0", "region")
        assert page.tags[place + 1][0] == "caption"


def test_write_report_writes_utf8_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("an older one")
    write_report(path, ReportData(title="水仙", command=""))
    assert "<h1>水仙</h1>" in path.read_bytes().decode("utf-8")
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_run_gives_the_same_bytes(text):
    assert render_report(full()) == text
