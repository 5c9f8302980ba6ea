"""The page that ``suisen train`` writes: what of the run is in it."""

import re
from types import SimpleNamespace

import pytest

from suisen.runs.page import QUERIES, recalls
from tests.cli.conftest import call, data_flags


@pytest.fixture(scope="module")
def page(run_folder):
    return (run_folder / "report.html").read_text(encoding="utf-8")


def test_the_headline_names_models_and_file_and_no_path(page):
    assert re.search(r"<h1>(.*?)</h1>", page)[1] == "ease + deepfm on my.csv"
    assert re.search(r"<title>(.*?)</title>", page)[1] == "ease + deepfm on my.csv · Suisen report"
    assert re.search(r'<p class="muted">\d+\s\w{3}\s20\d\d\s\d\d:\d\d UTC</p>', page)


def test_valid_stands_beside_test_with_coverage_and_novelty(page):
    assert page.count('<span class="tag">on valid</span>') == 1
    assert page.count('<span class="tag">this run</span>') == 1
    for metric in ("coverage@10", "novelty@10"):
        row = re.search(rf'<th scope="row">{metric}</th>.*?</tr>', page, re.DOTALL)[0]
        assert len(re.findall(r"<small>\[", row)) == 4  # popularity, ease alone, both stages, and they on valid


def test_recall_is_drawn_by_candidates_up_to_the_catalogue(page):
    described = re.search(r"Recall of the first stage by candidates\. (.*?)\.</desc>", page)[1]
    assert [int(part.split(":")[0]) for part in described.split("; ")] == [10, 20, 48]
    assert described.endswith("48: 1.0000")


def test_recall_is_that_of_the_first_stage(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "suisen.runs.page.report_on",
        lambda *given: asked.append(given) or SimpleNamespace(scores=[0.1] * len(given[2])),
    )
    engine = SimpleNamespace(candidates=20, alone="first stage")
    store = SimpleNamespace(items=range(31))
    rec = SimpleNamespace(store=store, engine=engine, scorer=lambda: "whole", name="x")
    found = recalls(SimpleNamespace(recommender=rec, split=SimpleNamespace(test=Asked(range(5_000)))))
    assert list(found) == [10, 20, 30]
    assert asked[0][2] == ["recall@10", "recall@20", "recall@30"]
    assert asked[0][4] == "first stage"
    assert len(asked[0][1]) == QUERIES


class Asked(list):
    """Queries over the catalogue, as far as their number goes."""

    labels = candidates = None

    def take(self, rows):
        return [self[row] for row in rows.tolist()]


def test_titles_stand_where_the_catalogue_has_them(page):
    assert "映画, “A” № " in page.partition('<section id="examples"')[2].partition("</section>")[0]


def test_the_last_run_is_told_in_a_sentence(shop, tmp_path):
    flags = [*data_flags(shop), "--quiet", "--out"]
    call("train", "--retriever", "popularity", *flags, tmp_path / "one")
    call("train", "--retriever", "ease", "--retriever.l2", "1", *flags, tmp_path / "two")
    head = (tmp_path / "two" / "report.html").read_text(encoding="utf-8").partition("<nav")[0]
    assert re.search(r"Against the last run on these data: two is \w+ than one on ndcg@10: ", head) or (
        "No significant difference between two and one on ndcg@10" in head
    )
    assert "metric " not in head.partition("Against the last run")[2]


def test_what_is_repeated_is_no_warning_where_it_is_offered(tmp_path):
    rows = [f"u{n % 20},i{(n // 20) % 4},{1_600_000_000 + n}" for n in range(200)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time", *rows]))
    words = ["train", "--events", tmp_path / "log.csv", "--retriever", "popularity", "--threads", "1", "--quiet"]
    said = []
    for name, more in (("a", []), ("b", ["--no-exclude-seen"])):
        call(*words, *more, "--out", tmp_path / name)
        text = (tmp_path / name / "report.html").read_text(encoding="utf-8")
        said.append("people take things again, and a list leaves out" in text)
    assert said == [True, False]
