"""``exclude_seen=False``: things that people take again, from learning to answering, without a look at the truth."""

import json
from dataclasses import replace

import polars as pl
import pytest
import torch

import suisen as su
from suisen.data.dataset import Dataset
from suisen.data.splits import LeaveLast
from suisen.models import EASE, MF, DeepFM, SASRec
from suisen.pipeline import evaluate, tuning
from suisen.pipeline.recommender import Recommender
from suisen.pipeline.two_stage import RankerLists, first_stage, first_takes, held_out, make_lists
from suisen.recommending.engine import Engine
from suisen.training.options import RunOptions
from tests.cli.conftest import call

USERS, ITEMS, TAKEN = 60, 30, 16


def plays():
    """Everybody goes round three favourites and sometimes tries something: most of what comes next came before."""
    rng = torch.Generator().manual_seed(0)
    rows = []
    for user in range(USERS):
        favourites = torch.randperm(ITEMS, generator=rng)[:3].tolist()
        for at in range(TAKEN):
            new = torch.rand((), generator=rng) < 0.2
            item = int(torch.randint(ITEMS, (), generator=rng)) if new else favourites[at % 3]
            rows.append((f"u{user}", f"i{item}", at * USERS + user))
    return pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")


DATA = Dataset.from_frame(plays())
SPLIT = DATA.split(LeaveLast(test=1, valid=1))
TWO = (EASE(l2=5.0), DeepFM(dim=4, hidden=(8,), epochs=4, batch_size=64))


def fitted(*models, exclude_seen=False, **more):
    made = Recommender(*models, candidates=20, seed=1, exclude_seen=exclude_seen, **more)
    return made.fit(SPLIT.train, SPLIT.valid)


def again(queries):
    """Share of what is asked for that was taken before."""
    return float(queries.truth.isin(queries.seen).float().mean())


def test_the_report_says_what_is_never_offered_and_what_to_do():
    share, rec = again(SPLIT.test), fitted(EASE(l2=5.0), exclude_seen=True)
    assert share > 0.6
    report = evaluate(rec, SPLIT.test)
    count = round(share * len(SPLIT.test))
    said = f"{share:.0%} of what is asked for ({count:,} of {len(SPLIT.test):,} items) was taken before"
    assert (
        report.notes[0]
        == f"{said} and is never offered: if people take things again, exclude_seen=False (--no-exclude-seen)"
    )
    assert report.notes[0] in str(report) and report.notes[0] in report.to_json()  # noqa: PT018
    assert not [note for note in evaluate(fitted(EASE(l2=5.0)), SPLIT.test).notes if "never offered" in note]


@pytest.mark.parametrize("models", [(EASE(l2=5.0),), TWO, (SASRec(dim=16, epochs=8, blocks=1, heads=1, length=12),)])
def test_what_is_taken_again_is_found_where_it_may_be(models):
    out, kept = (evaluate(fitted(*models, exclude_seen=seen), SPLIT.test, ["hr@5"]) for seen in (True, False))
    assert kept.value("hr@5") > 0.2 + out.value("hr@5")
    assert "full ranking, nothing excluded" in kept.protocol
    assert "full ranking, seen items excluded" in out.protocol


def test_candidates_do_not_come_from_the_truth():
    """Other truths, the same lists: nothing of the answer reaches a candidate set."""
    rec, test = fitted(*TWO), SPLIT.test
    turned = replace(test, truth=test.truth.take(torch.arange(len(test)).roll(1)))
    for queries in (test, turned):
        report = evaluate(rec, queries, ["hr@5"])
        lists = rec.engine.lists(queries.contexts, 5, su_filters(queries))[0]
        assert report.values["hr@5"].tolist() == queries.truth.holds(lists).any(1).float().tolist()


def su_filters(queries):
    from suisen.data.ragged import Ragged
    from suisen.recommending.engine import Filters

    return Filters(Ragged.empty(len(queries)))


def test_a_ranker_learns_on_lists_that_hold_what_was_taken_before():
    train, rng = SPLIT.train, torch.Generator().manual_seed(0)
    engine = Engine(fitted(EASE(l2=5.0)).engine.retriever, None, SPLIT.train.trained_items, 25)
    options = RankerLists(candidates=25, learnt=25, exclude_seen=False)
    asked = next(iter(held_out(train, options, 0)))
    lists, missed = make_lists(engine, train, asked, options, rng)
    rows = asked.nonzero().squeeze(1)
    assert len(lists) + missed == rows.numel()
    assert len(lists) > int((asked & first_takes(train)).sum())  # what is taken again is asked about, too
    if not missed:
        for at, row in enumerate(rows.tolist()):
            visitor = int(train.events.visitor[row])
            mine = train.histories.tolist()[visitor]
            place = int(train.positives_before[row] - train.histories.offsets[visitor])
            before, later = set(mine[:place]), set(mine[place:])
            ids, weights = lists.candidates.items[at].tolist(), lists.weights[at].tolist()
            assert ids[0] == mine[place]
            for item, weight in list(zip(ids, weights, strict=True))[1:]:
                assert weight == float(item > 0 and item not in later)
            assert before - later <= set(ids)


def test_stopping_and_tuning_ask_the_same():
    rec = Recommender(MF(dim=4, epochs=3, batch_size=128), seed=1, exclude_seen=False)
    rec.fit(SPLIT.train, SPLIT.valid, RunOptions(seed=1))
    assert rec.curves["retriever"][0].best_metric == evaluate(rec, SPLIT.valid, ["ndcg@10"]).value("ndcg@10")
    found = tuning.tune(rec, SPLIT.train, SPLIT.valid, tuning.TuneSettings(trials=1), options=RunOptions(seed=1))
    again = evaluate(found.recommender.fit(SPLIT.train, SPLIT.valid, RunOptions(seed=1)), SPLIT.valid, ["ndcg@10"])
    assert found.best.value == again.value("ndcg@10")
    assert found.recommender.exclude_seen is False
    two = Recommender(*TWO, candidates=20, exclude_seen=False)
    first = first_stage(two.recipe(RunOptions()), SPLIT.train, two.posed(SPLIT.valid))
    asked = next(iter(held_out(SPLIT.train, two.lists, 0)))
    assert len(first.lists) + first.missed == int(asked.sum())  # what is taken again is asked about, too
    held = torch.cat([ids for _, ids, _ in first.valid])
    assert bool(SPLIT.valid.seen.holds(held).any())


def test_the_bundle_answers_as_it_was_trained_unless_a_request_says_otherwise(tmp_path):
    rec = fitted(*TWO)
    loaded = su.load(rec.save(tmp_path / "a"))
    seen = {user: set(SPLIT.train.log.events.filter(user=user)["item"]) for user in ("u0", "u1", "u2")}
    for each in (rec, loaded, Recommender.of(loaded.system)):
        for options, may in ({}, True), ({"exclude_seen": True}, False), ({"exclude_seen": False}, True):
            lists = each.recommend(list(seen), k=ITEMS, **options)
            again = any(item in seen[user] for user, item in lists.select("user_id", "item_id").iter_rows())
            assert again is may
    assert loaded.refit(SPLIT.train).exclude_seen is False


def test_the_server_too(tmp_path):
    from suisen.recommending.queries import RecommendOptions
    from suisen.serving.answering import Answering, Recommend
    from suisen.serving.messages import ListOptions, Query

    answering = Answering(su.load(fitted(*TWO).save(tmp_path / "a")).system)
    seen = set(SPLIT.train.log.events.filter(user="u0")["item"])
    for precise in (True, False):
        for said, may in ({}, True), ({"exclude_seen": True}, False), ({"exclude_seen": False}, True):
            options = ListOptions(k=20, precise=precise, **said).options()
            assert isinstance(options, RecommendOptions)
            (answers,) = answering.work([Recommend([Query("u0")], options)])
            assert bool(seen & {item.item_id for item in answers[0].items}) is may


def test_a_run_from_the_command_line(tmp_path):
    plays().write_csv(tmp_path / "plays.csv")
    flags = ["--events", tmp_path / "plays.csv", "--retriever", "ease", "--retriever.l2", "5"]
    said = call("train", *flags, "--out", tmp_path / "out").stdout
    assert "was taken before and is never offered: if people take things again, exclude_seen=False" in said
    assert "never offered: if people" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    call("train", *flags, "--no-exclude-seen", "--out", tmp_path / "in", "-q")
    kept = {run: json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("out", "in")}
    hits = {
        run: next(s for s in facts["reports"]["test"]["scores"] if s["metric"] == "hr@10")
        for run, facts in kept.items()
    }
    assert hits["in"]["value"] > hits["out"]["value"] + 0.2
    same = json.loads(call("evaluate", tmp_path / "in", "--json").stdout)
    assert same["values_float32_base64"] == kept["in"]["reports"]["test"]["values_float32_base64"]
    other = json.loads(call("evaluate", tmp_path / "out", "--no-exclude-seen", "--json").stdout)
    assert (
        other["protocol"]
        == same["protocol"]
        != json.loads(call("evaluate", tmp_path / "out", "--json").stdout)["protocol"]
    )
    back = json.loads(call("evaluate", tmp_path / "in", "--exclude-seen", "--json").stdout)
    assert "seen items excluded" in back["protocol"]
    seen = set(plays().filter(user="u0")["item"])
    lists = {run: call("recommend", tmp_path / run, "--user", "u0", "--json").stdout for run in ("in", "out")}
    offered = {
        run: {item["item_id"] for item in json.loads(text)["answers"][0]["items"]} for run, text in lists.items()
    }
    assert offered["in"] & seen
    assert not offered["out"] & seen
    without = json.loads(call("recommend", tmp_path / "in", "--user", "u0", "--without-seen", "--json").stdout)
    assert not {item["item_id"] for item in without["answers"][0]["items"]} & seen
