"""Assignment: published vectors, weights, ramp-ups, layers, holdouts, eligibility, testers, and what is refused."""

import json
from importlib.resources import files
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from suisen.errors import InputError
from suisen.experiments.assignment import Assigner, buckets, check_layers
from suisen.experiments.frozen import Frozen
from suisen.experiments.hashing import HASHES
from suisen.experiments.plan import Plan

VECTORS = json.loads(files("suisen.experiments").joinpath("vectors.json").read_text(encoding="utf-8"))
UNITS = pl.Series("user", [f"user-{number}" for number in range(20_000)])


def plan(name="ranker", arms=None, **assignment):
    arms = arms or {"control": 0.5, "treatment": 0.5}
    return Plan(name=name, arms=arms, metrics={"ctr": {"kind": "ctr"}}, primary="ctr", assignment=assignment)


def arms_of(made, at="", units=UNITS):
    return Assigner.of(made, at=at).arms(units).to_numpy()


def test_bucket_ranges_are_growthbooks():  # R14
    for case in VECTORS["buckets"]:
        assert np.allclose(buckets(case["weights"], case["coverage"]), case["ranges"], atol=1e-12), case


@pytest.mark.parametrize("case", VECTORS["assign"], ids=range(len(VECTORS["assign"])))
def test_vectors_of_the_repository_hold_one_by_one_and_as_columns(case):
    made = Assigner.of(plan(case["plan"]["name"], case["plan"]["arms"], **case["plan"]["assignment"]), at=case["at"])
    names = [unit for unit, _, _ in case["units"]]
    assert [[unit, *made.one(unit)] for unit in names] == case["units"]
    assert [list(row) for row in made.assign(pl.Series(names)).rows()] == case["units"]


@pytest.mark.parametrize("how", HASHES)
@given(data=st.data())
def test_a_column_is_its_units_one_by_one(how, data):
    weights = data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=6))
    arms = {("control", *"abcdef")[place]: weight / sum(weights) for place, weight in enumerate(weights)}
    low, high = sorted(data.draw(st.lists(st.integers(0, 10), min_size=2, max_size=2, unique=True)))
    made = plan(
        data.draw(st.text("abc", min_size=1, max_size=3)),
        arms,
        hash=how,
        layer="home",
        slots=(low / 10, high / 10),
        holdout=data.draw(st.sampled_from([0.0, 0.2])),
        ramp={"2024-05-01": data.draw(st.sampled_from([0.0, 0.3, 1.0]))},
        overrides={"3": "a"},
    )
    assigner = Assigner.of(made)
    units = data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=20))
    assert assigner.assign(pl.DataFrame({"user": units})).rows() == [(unit, *assigner.one(unit)) for unit in units]


@pytest.mark.parametrize("how", HASHES)
@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.9, 0.1), (0.2, 0.3, 0.5), (0.1,) * 10])
def test_arms_get_their_weights(how, weights):
    arms = {("control" if place == 0 else f"t{place}"): weight for place, weight in enumerate(weights)}
    counts = [(arms_of(plan(arms=arms, hash=how)) == arm).sum() for arm in arms]
    assert stats.chisquare(counts, np.array(weights) * len(UNITS)).pvalue > 1e-4
    assert sum(counts) == len(UNITS)


@pytest.mark.parametrize("how", HASHES)
def test_a_ramp_adds_units_and_moves_none(how):
    arms = {"control": 0.6, "a": 0.3, "b": 0.1}
    made = plan(arms=arms, hash=how, ramp={"2024-05-01": 0.01, "2024-05-02T12:00:00Z": 0.2, "2024-05-09": 1.0})
    moments = ("2024-04-30", "2024-05-01", "2024-05-02T12:00:00Z", "2024-05-08T23:59:59Z", "2024-05-09", "")
    steps = [arms_of(made, at) for at in moments]
    for before, after in pairwise(steps):
        assert (before[before != None] == after[before != None]).all()  # noqa: E711  (elementwise)
    shares = [(step != None).mean() for step in steps]  # noqa: E711  (elementwise)
    assert shares[0] == 0
    assert shares[-1] == 1
    assert shares[4] == 1
    assert np.allclose(shares[1:4], [0.01, 0.2, 0.2], atol=0.01)
    assert shares[2] == shares[3]


@pytest.mark.parametrize("how", HASHES)
def test_experiments_of_one_layer_exclude_each_other_and_fill_it(how):
    parts = [
        plan(f"e{start}", hash=how, layer="home", slots=(start / 10, (start + 2) / 10)) for start in (0, 2, 4, 6, 8)
    ]
    check_layers(parts)
    taken = np.stack([arms_of(made) != None for made in parts])  # noqa: E711  (elementwise)
    assert (taken.sum(0) == 1).all()


@pytest.mark.parametrize("how", HASHES)
def test_different_layers_are_independent(how):
    one = arms_of(plan("one", hash=how, layer="home", slots=(0.0, 0.5)))
    other = arms_of(plan("other", hash=how, layer="search", slots=(0.0, 0.5)))
    names = (None, "control", "treatment")
    cells = [[int(((one == a) & (other == b)).sum()) for b in names] for a in names]
    assert stats.chi2_contingency(cells).pvalue > 1e-4


@pytest.mark.parametrize("how", HASHES)
def test_a_layer_a_holdout_and_an_experiment_of_one_name_are_independent(how):
    half = arms_of(plan("same", hash=how, layer="same", slots=(0.0, 0.5), holdout=0.2, holdout_salt="same"))
    counts = [(half == arm).sum() for arm in ("control", "treatment")]
    assert stats.binomtest(int(counts[0]), int(sum(counts))).pvalue > 1e-4
    assert abs(sum(counts) / len(UNITS) - 0.4) < 0.02


@pytest.mark.parametrize("how", ["growthbook-1", "growthbook-2"])
def test_namespaces_are_growthbooks(how):
    """packages/sdk-js/test/cases.json of growthbook/growthbook, "inNamespace": which part of it holds the user."""
    low, high = (0.0, 0.4), (0.4, 1.0)
    inside = {
        ("1", "namespace1"): high,
        ("1", "namespace2"): high,
        ("2", "namespace1"): high,
        ("2", "namespace2"): high,
    }
    inside |= {("3", "namespace1"): high, ("3", "namespace2"): low, ("4", "namespace1"): high, ("4", "namespace2"): low}
    for (user, name), part in inside.items():
        for slots in (low, high):
            made = Assigner.of(plan(hash=how, layer=name, slots=slots, namespace=True))
            assert (made.one(user).why == "assigned") == (slots == part)
            assert made.assign(pl.Series([user]))["why"].to_list() == [made.one(user).why]


def test_experiments_of_the_older_hash_assign_as_growthbook_says():
    """The same file's "feature": key "feature", three equal variations, users 123, 456 and fds."""
    arms = {"control": 1 / 3, "b": 1 / 3, "c": 1 / 3}
    made = Assigner.of(plan("feature", arms, hash="growthbook-1"))
    assert [made.one(user).arm for user in ("123", "456", "fds")] == ["c", "control", "b"]


def test_a_namespace_and_a_filter_of_one_name_are_two_draws():
    spaced = plan("one", hash="growthbook-2", layer="home", slots=(0.0, 0.5), namespace=True)
    older = plan("two", hash="growthbook-1", layer="home", slots=(0.5, 1.0))
    check_layers([spaced, older])
    taken = np.stack([arms_of(made) != None for made in (spaced, older)])  # noqa: E711  (elementwise)
    assert (taken.sum(0) == 1).all()
    with pytest.raises(InputError, match="differ in unit or hash"):
        check_layers([spaced, plan("two", hash="growthbook-2", layer="home", slots=(0.5, 1.0))])
    for wrong in ({"layer": "home"}, {"hash": "growthbook-2"}):
        with pytest.raises(InputError, match="name the layer and one of its hashes"):
            plan(namespace=True, **wrong)


def test_a_holdout_is_the_same_for_all_experiments():
    out = [Assigner.of(plan(name, holdout=0.1)).assign(UNITS)["why"] == "holdout" for name in ("one", "other")]
    assert (out[0] == out[1]).all()
    assert abs(out[0].mean() - 0.1) < 0.01


def test_eligibility_is_a_predicate_and_unknown_is_not_eligible():
    frame = pl.DataFrame({"user": [1, 2, 3], "country": ["JP", "DE", None]})
    made = Assigner.of(plan(eligible="country = 'JP'")).assign(frame)
    assert made["why"].to_list() == ["assigned", "ineligible", "ineligible"]
    assert made["arm"].is_null().to_list() == [False, True, True]
    assert Assigner.of(plan()).one(1, eligible=False) == (None, "ineligible")


def test_testers_get_their_arm_whatever_else_holds():
    made = plan(eligible="age > 99", overrides={"7": "treatment"}, ramp={"2024-05-01": 0.0})
    out = Assigner.of(made).assign(pl.DataFrame({"user": [6, 7], "age": [1, 1]}))
    assert out.select("arm", "why").rows() == [(None, "ineligible"), ("treatment", "override")]


def test_arrow_and_polars_columns_and_tables_are_taken_as_they_come():
    assigner = Assigner.of(plan())
    frame = pl.DataFrame({"user": UNITS[:50], "age": range(50)})
    wanted = assigner.arms(frame["user"]).to_list()
    for units in (frame, frame.lazy(), frame.to_arrow(), frame["user"].to_arrow(), frame["user"].to_list()):
        assert assigner.arms(units).to_list() == wanted
    assert assigner.arms(pa.chunked_array([["user-0"], ["user-1"]])).to_list() == wanted[:2]
    assert assigner.assign(frame.to_arrow()).columns == ["user", "age", "arm", "why"]
    assert assigner.arms([]).len() == 0


def test_a_session_is_a_unit_as_well():
    made = Plan(
        name="s", unit="session", arms={"control": 0.5, "t": 0.5}, metrics={"c": {"kind": "count"}}, primary="c"
    )
    assert Assigner.of(made).assign(pl.DataFrame({"session": ["x"], "user": [1]})).height == 1
    with pytest.raises(InputError, match="unit = 'session' is unknown; known: user"):
        Assigner.of(made).assign(pl.DataFrame({"user": [1]}))


@pytest.mark.parametrize(
    ("predicate", "said"),
    [
        ("agee > 3", 'cannot be answered: unable to find column "agee".*the units have the columns user, age'),
        ("age", "gives Int64; write a condition that is true or false"),
        ("sum(", "cannot be answered"),
        ("max(age) > 3", "gives one value for all units"),
    ],
)
def test_predicates_that_cannot_be_answered_are_refused(predicate, said):
    with pytest.raises(InputError, match=said):
        Assigner.of(plan(eligible=predicate)).arms(pl.DataFrame({"user": [1, 2], "age": [1, 2]}))


def test_units_are_refused_where_they_are_none():
    with pytest.raises(InputError, match="user holds 1 nulls"):
        Assigner.of(plan()).arms(pl.DataFrame({"user": [None, "a"]}))
    with pytest.raises(InputError, match="unit = '' is empty"):
        Assigner.of(plan()).one("")
    with pytest.raises(InputError, match="have a column 'arm' already; drop or rename it"):
        Assigner.of(plan()).assign(pl.DataFrame({"user": ["a"], "arm": ["x"]}))


@pytest.mark.parametrize("change", [{"arms": {"control": 0.4, "treatment": 0.6}}, {"name": "other"}, {"holdout": 0.1}])
def test_a_plan_that_moves_units_after_the_start_is_refused(change):
    frozen = Frozen(plan(), plan().fingerprint(), "2024-05-01T00:00:00Z")
    with pytest.raises(InputError, match=r"changed after its start at 2024-05-01.*would move units between arms"):
        Assigner.of(plan(**change), frozen=frozen)


def test_a_change_that_moves_nobody_is_let_through():
    frozen = Frozen(plan(), plan().fingerprint(), "2024-05-01T00:00:00Z")
    later = plan(overrides={"7": "treatment"}, ramp={"2024-05-01": 0.5})
    assert Assigner.of(later, frozen=frozen).plan == later


def test_a_salt_that_spells_out_the_name_moves_nobody():
    named = plan()
    salted = Plan.of({**named.as_dict(), "salt": named.name})
    frozen = Frozen(named, named.fingerprint(), "2024-05-01T00:00:00Z")
    assert (Assigner.of(salted, frozen=frozen).arms(UNITS) == Assigner.of(named).arms(UNITS)).all()
    renamed = Plan.of({**salted.as_dict(), "name": "another title"})
    assert (Assigner.of(renamed, frozen=frozen).arms(UNITS) == Assigner.of(named).arms(UNITS)).all()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"slots": (0.4, 0.9)}, r"'one' and 'two' of layer 'home' overlap: slots \[0.0, 0.5\] and \[0.4, 0.9\]"),
        ({"slots": (0.5, 1.0), "hash": "growthbook-2"}, "differ in unit or hash"),
    ],
)
def test_experiments_of_a_layer_that_do_not_exclude_each_other_are_refused(other, said):
    with pytest.raises(InputError, match=said):
        check_layers([plan("two", layer="home", **other), plan("one", layer="home", slots=(0.0, 0.5)), plan("free")])


def test_buckets_are_open_whole_where_no_coverage_is_given():
    assert buckets([0.25, 0.75]) == [(0.0, 0.25), (0.25, 1.0)]
