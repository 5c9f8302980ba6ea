"""Rolling splits look back only, and a recommender is measured on each fold as it would be alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

import suisen as su
from suisen.data.dataset import Dataset
from suisen.errors import InputError
from suisen.models import EASE, MF
from suisen.pipeline import Recommender, evaluate
from tests.fitted import small_log
from tests.helpers import make_data

DAY = 86_400_000_000


@pytest.fixture(scope="module")
def data():
    return Dataset.of(small_log())


@pytest.mark.parametrize(
    ("folds", "test", "valid"), [(1, "10d", None), (3, "10d", None), (4, "7d", "5d"), (2, "1w", "36h")]
)
def test_each_fold_tests_on_its_window_and_learns_from_what_lies_before(data, folds, test, valid):
    length = {"10d": 10, "7d": 7, "1w": 7}[test] * DAY
    end = int(data.events.time.max())
    made = list(su.Rolling(folds=folds, test=test, valid=valid).splits(data))
    assert len(made) == folds
    taken = data.events.time[data.positive]
    for at, split in enumerate(made):
        begin = end - (folds - at) * length
        inside = taken >= begin if at == folds - 1 else (taken >= begin) & (taken < begin + length)
        held = 0 if valid is None else {"5d": 5, "36h": 1.5}[valid] * DAY
        assert int(split.train.events.time.max()) < begin - held
        assert split.facts["test_positives"] == int(inside.sum())
        assert (split.valid is None) == (valid is None)
        assert int(split.test.contexts.history_time.max()) < begin + length
    alone = data.split(su.GlobalTime(test=test, valid=valid))
    assert made[-1].facts == alone.facts


def test_rolling_says_which_fold_is_empty_and_what_a_duration_is(data):
    with pytest.raises(InputError, match=r"Rolling: fold 1 of 60: .*take fewer or shorter folds"):
        list(su.Rolling(folds=60, test="7d").splits(data))
    for wrong in ({"folds": 0}, {"folds": 2.5}, {"folds": True}, {"test": 7}, {"test": "2024-01-01"}, {"valid": "0d"}):
        with pytest.raises(InputError, match="Rolling"):
            su.Rolling(**wrong)
    timeless = make_data(user=["a", "a"], item=[1, 2])
    with pytest.raises(InputError, match="time"):
        list(su.Rolling().splits(timeless))


def test_cross_validation_is_each_fold_alone(data):
    rule = su.Rolling(folds=3, test="10d")
    rec = Recommender(EASE(l2=20.0))
    found = su.cross_validate(rec, data, rule, ["ndcg@10", "hr@10"])
    alone = [evaluate(Recommender(EASE(l2=20.0)).fit(s.train), s.test, ["ndcg@10"]) for s in rule.splits(data)]
    values = [report.value("ndcg@10") for report in alone]
    score = found["ndcg@10"]
    assert score.folds == tuple(values)
    assert score.value == pytest.approx(np.mean(values))
    half = 4.302653 * np.std(values, ddof=1) / math.sqrt(3)  # t of 2 degrees of freedom
    assert (score.low, score.high) == (pytest.approx(max(0, score.value - half)), pytest.approx(score.value + half))
    assert len(found) == 3
    assert "ease: 3 folds" in str(found)
    assert "fold 3: global time: test from" in str(found)
    assert found.to_frame().columns == ["model", "metric", "value", "low", "high", "folds"]
    with pytest.raises(InputError, match="not fitted"):
        rec.recommend(["u0001"])


def test_seeds_splits_and_factories_are_folds_too(data):
    rules = [su.Ratio(by="random", test=0.2, valid=0, seed=seed) for seed in range(3)]
    found = su.cross_validate(lambda: Recommender(MF(dim=4, epochs=1)), data, rules, ["hr@10"])
    assert len(set(found["hr@10"].folds)) > 1
    splits = [data.split(rule) for rule in rules]
    again = su.cross_validate(Recommender(MF(dim=4, epochs=1)), data, splits, ["hr@10"])
    assert again["hr@10"].folds == found["hr@10"].folds
    one = su.cross_validate(Recommender(EASE()), data, rules[:1], ["hr@10"])
    assert math.isnan(one["hr@10"].low)
    with pytest.raises(InputError, match="is one split; give Rolling"):
        su.cross_validate(Recommender(EASE()), data, su.LeaveLast())
    with pytest.raises(InputError, match=r"give Recommender\(EASE\(\)\)"):
        su.cross_validate(EASE(), data, rules)
    with pytest.raises(InputError, match="a Dataset is cut into folds"):
        su.cross_validate(Recommender(EASE()), splits[0], rules)
    with pytest.raises(InputError, match="gives no fold"):
        su.cross_validate(Recommender(EASE()), data, [])
    with pytest.raises(InputError, match="did you mean 'hr@10'"):
        found["hr@1"]
