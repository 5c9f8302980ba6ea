"""The read-out of a holdout: the units that no experiment had, against the rest."""

import polars as pl
import pytest

from suisen.errors import InputError
from suisen.experiments import analyze
from suisen.experiments.assignment import Assigner
from suisen.experiments.holdout import HELD, REST, held_out, holdout_plan
from suisen.experiments.plan import Plan
from tests.experiments.made import made

KEPT = {"assignment": {"holdout": 0.1, "holdout_salt": "2024-q2", "overrides": {"17": "treatment"}}}


def of(name="ranker", **more):
    base = {"name": name, "arms": {"control": 0.5, "treatment": 0.5}, "metrics": {"ctr": {"kind": "ctr"}}}
    return Plan.of({**base, "primary": "ctr", **KEPT, **more})


@pytest.mark.parametrize("hashed", ["suisen-1", "growthbook-2"])
def test_the_held_out_are_those_whom_no_experiment_assigns(hashed):
    users = pl.DataFrame({"user": [str(i) for i in range(5000)]})
    plans = [of(name, assignment={**KEPT["assignment"], "hash": hashed}) for name in ("one", "two")]
    read = held_out(plans[0], users)
    assert set(read["user"]) == set(users["user"]) - {"17"}
    held = set(read.filter(arm=HELD)["user"])
    assert 400 < len(held) < 600
    for plan in plans:
        why = Assigner.of(plan).assign(users)
        assert set(why.filter(why="holdout")["user"]) == held
        assert held_out(plan, users).equals(read)


def test_whom_an_experiment_takes_does_not_matter_to_the_read_out():
    users = pl.DataFrame({"user": [str(i) for i in range(2000)], "country": ["JP", "FI"] * 1000})
    picky = of(assignment={**KEPT["assignment"], "eligible": "country = 'JP'", "layer": "l", "slots": [0.0, 0.5]})
    assert held_out(picky, users).equals(held_out(of(), users))


def test_what_was_shipped_is_read_against_the_holdout():
    shown, log = made(8000, lift=0.3, share=0.9, seed=4)  # "treatment": all that was shipped
    plan = holdout_plan(of(), start="2024-05-01", end="2024-05-11")
    assert plan.arms == {HELD: 0.1, REST: 0.9}
    arms = pl.col("arm").replace_strict({"control": HELD, "treatment": REST})
    found = analyze(shown.with_columns(arms), log, plan)
    assert found.ratio.holds
    assert found.estimates[0].arm == REST
    assert found.estimates[0].relative.low > 0.1
    assert found.verdict.startswith(REST.capitalize()) or REST in found.verdict


def test_a_plan_without_a_holdout_has_none_to_read():
    with pytest.raises(InputError, match=r"assignment.holdout = 0 holds nobody out"):
        holdout_plan(of(assignment={}), start="2024-04-01", end="2024-07-01")
