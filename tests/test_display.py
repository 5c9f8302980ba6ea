"""What a person sees: short in a terminal, tables in a notebook, progress and notes where somebody looks on."""

import io
import re
import sys
import types
from html.parser import HTMLParser

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import suisen as su
from suisen import display
from suisen.display import Table, text_table
from suisen.evaluation.report import memory
from suisen.training.options import RunOptions
from suisen.training.progress import Progress
from tests.fitted import fitted, small_split


def objects():
    split, rec = small_split(), fitted("ease + fm")
    report = su.evaluate(rec, split.test, ["ndcg@10", "hr@10"])
    return {
        "dataset": split.train,
        "split": split,
        "queries": split.test,
        "report": report,
        "comparisons": su.compare(report, su.evaluate(fitted("popularity"), split.test, ["ndcg@10", "hr@10"])),
        "recommender": rec,
        "unfitted": su.Recommender(su.EASE()),
        "funnel": rec.funnel(split.test),
    }


class Tags(HTMLParser):
    """Whether every tag is closed, and the text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.said, self.cells = [], "", 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.cells += tag == "td"
        assert tag in {"div", "table", "thead", "tbody", "tr", "td", "th"}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said += data


@pytest.mark.parametrize("name", list(objects()))
def test_everything_is_short_in_a_terminal_and_a_table_in_a_notebook(name):
    shown = objects()[name]
    assert len(repr(shown)) < 2_500
    assert len(str(shown)) < 2_500
    assert "tensor(" not in repr(shown) + str(shown)
    html = shown._repr_html_()
    page = Tags(html)
    assert not page.open
    assert len(html) < 12_000
    assert (page.cells > 0) == (name != "queries")


def test_a_split_says_its_parts():
    split = small_split()
    said = repr(split)
    assert said.startswith("Split: leave last out")
    for name, count in (("train", len(split.train.events)), ("valid", len(split.valid)), ("test", len(split.test))):
        assert re.search(rf"^{name} +\d.*", said, re.MULTILINE)
        assert f"{count:,}" in said
    for note in split.notes:
        assert f"note: {note}" in said


def test_a_dataset_lists_its_notes_and_features():
    events = pl.DataFrame({"uid": ["a", "b", "b"], "sku": [1, 2, 1], "ts": [10, 20, 30], "more": [1, 1, 1]})
    items = pl.DataFrame({"sku": [1, 2, 3], "colour": ["red <b>", "blue", "red"]})
    data = su.Dataset.from_frame(events, item_features=items, kinds={"colour": "categorical"})
    assert repr(data) == "Dataset(2 users, 3 items, 3 events)"
    for said in (str(data), Tags(data._repr_html_()).said):
        assert "colour (categorical)" in said
        assert "not used: more" in said
        assert "from 1970-01-01 00:00:10 to 1970-01-01 00:00:30 UTC" in said


def test_a_recommender_says_what_it_learnt():
    rec = su.Recommender(su.MF(dim=4, epochs=3)).fit(small_split().train, small_split().valid)
    said = str(rec)
    assert f"{len(rec.curves['retriever'][0].rows)}" in said
    assert f"{rec.curves['retriever'][0].best_metric:.4f}" in said
    assert "MF(dim=4, epochs=3) " in said
    assert repr(rec).startswith("Recommender(MF(dim=4")
    assert "not fitted yet" in str(su.Recommender(su.EASE()))


def test_the_protocol_is_printed_once():
    for name in ("report", "comparisons"):
        shown = objects()[name]
        protocol = small_split().test.protocol
        assert str(shown).count(protocol) == shown._repr_html_().count(protocol) == 1


cells = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=5))
def test_text_and_html_hold_the_same_rows(rows):
    class Here(display.Shown):
        def _parts(self):
            return ["a <line> & more", Table(("what", "n"), rows), "note: <b>"]

    page = Tags(Here()._repr_html_())
    assert not page.open
    assert page.cells == 2 * len(rows)
    for row in rows:
        for cell in row:
            assert cell in page.said
            assert cell.rstrip() in str(Here())
    assert str(Here()) == "\n".join(["a <line> & more", text_table(("what", "n"), rows), "note: <b>"])


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (50_000, "48.8 KiB"),
        (2**20, "1.0 MiB"),
        (3 * 2**30, "3.0 GiB"),
    ],
)
def test_bytes_are_never_zero_of_a_large_unit(size, said):
    assert memory(size) == said


def test_a_report_of_few_scores_does_not_say_zero_memory():
    assert not re.search(r"\b0\.0 ", str(su.evaluate(fitted("ease"), small_split().test)).splitlines()[0])


# -- who looks on ------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(params=["terminal", "notebook"])
def looking(request, monkeypatch):
    """Called in a test (pytest puts its own streams back before): somebody looks on; returns what will be written."""

    def look():
        if request.param == "terminal":
            out, err = Terminal(), Terminal()
            monkeypatch.setattr(sys, "stdout", out)
            monkeypatch.setattr(sys, "stderr", err)
            monkeypatch.setenv("TERM", "dumb")
            return lambda: out.getvalue() + err.getvalue()
        shell = types.SimpleNamespace(kernel=object())
        out = io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
        return out.getvalue

    return look


def mf():
    return su.Recommender(su.MF(dim=4, epochs=2))


def test_progress_is_shown_where_somebody_looks_on(looking):
    said_by = looking()
    train, valid = small_split().train, small_split().valid
    mf().fit(train, valid)
    said = said_by()
    assert "retriever: 2 epochs in" in said
    assert re.search(r"mf: learnt from \d+ events in \d", said)
    assert "\x1b[31m" not in said


def test_a_closed_form_says_that_it_is_done(looking):
    said = looking()
    su.Recommender(su.EASE()).fit(small_split().train)
    assert "ease: learnt from" in said()


def test_verbose_and_silence_say_no(looking):
    said = looking()
    mf().fit(small_split().train, verbose=False)
    with display.silent():
        mf().fit(small_split().train)
    assert said() == ""
    with display.silent():
        mf().fit(small_split().train, verbose=True)
    assert "2 epochs in" in said()


def test_one_progress_is_enough(looking):
    said = looking()
    mf().fit(small_split().train, options=RunOptions(callbacks=(Progress(),)))
    assert said().count("2 epochs in") == 1


def test_reading_notes_are_shown(looking):
    said = looking()
    data = su.Dataset.from_frame(pl.DataFrame({"user": ["a", "b"], "item": [1, 2], "shelf": [1, 1]}))
    for note in data.log.notes:
        assert note in said()
    assert said().count("not used: shelf") == 1


def test_nobody_is_told_anything_elsewhere(capsys):
    split = su.Dataset.from_frame(small_split().train.log.events.drop("row")).split(su.LeaveLast(valid=0))
    mf().fit(split.train)
    assert capsys.readouterr() == ("", "")
    mf().fit(split.train, verbose=True)
    assert "epochs in" in capsys.readouterr().err


def test_half_a_terminal_is_none(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert not display.watched()


def test_whole_sweeps_have_a_speed():
    """iALS learns from one empty batch, which stands for all of train."""
    rec = su.Recommender(su.IALS(dim=4, epochs=2)).fit(small_split().train)
    for row in rec.curves["retriever"][0].rows:
        assert row.examples_per_second == pytest.approx(len(small_split().train.events) / row.seconds)


def test_validation_has_its_own_seconds():
    rec = su.Recommender(su.MF(dim=4, epochs=2)).fit(small_split().train, small_split().valid)
    assert all(row.validation_seconds > 0 for row in rec.curves["retriever"][0].rows)
    assert rec.curves["retriever"][0].rows[0].seconds > 0


def test_the_funnels_stages_are_words():
    said = str(objects()["funnel"])
    assert re.search(r"^left by the filters +\d", said, re.MULTILINE)
    assert re.search(r"^shown \(top 10\) +\d", said, re.MULTILINE)


def test_no_validation_takes_no_time():
    rec = su.Recommender(su.MF(dim=4, epochs=2)).fit(small_split().train)
    assert [row.validation_seconds for row in rec.curves["retriever"][0].rows] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0, "under 0.01 s"), (0.0099, "under 0.01 s"), (0.04, "0.04 s"), (0.999, "1.00 s"), (61.26, "61.3 s")],
)
def test_seconds_are_never_zero(value, said):
    assert display.seconds(value) == said


def test_what_lies_inside_is_short_too():
    split, rec = small_split(), fitted("ease + fm")
    inside = [split.test.contexts, split.train.events, split.train.user_features, rec.store, rec.system]
    for record in inside:
        assert repr(record).startswith(type(record).__name__ + "(")
        assert len(repr(record)) < 1_200
        assert "\n" not in repr(record)
    assert f"user=int64 ({len(split.test)},)" in repr(split.test.contexts)
