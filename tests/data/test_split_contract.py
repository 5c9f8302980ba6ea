"""What every rule of ``SPLITS`` promises, whatever it splits by: a new line there is tested here by itself."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.data.dataset import Dataset, Split
from suisen.data.encode import Encoder
from suisen.data.ids import IdMap
from suisen.data.log import Log
from suisen.data.ordered import OrderedLog
from suisen.data.split_checks import check_no_future
from suisen.data.splits import SPLITS
from suisen.data.synthetic import World
from suisen.errors import InputError
from suisen.runs.settings import attribute_docs
from tests.helpers import make_log, same

ALL = pytest.mark.parametrize("rule", SPLITS.values(), ids=SPLITS)


@cache
def everything() -> Log:
    """A log with all that a rule may ask for: tables, times, labels, sessions, guests and a context column."""
    log = World(users=40, items=30, dim=4, groups=3, sessions=6, events=4, seed=2).generate().log
    rng = np.random.default_rng(0)
    n = log.events.height
    guest = pl.Series(rng.random(n) < 0.1)
    return dataclasses.replace(
        log,
        events=log.events.with_columns(
            pl.when(guest).then(None).otherwise("user").alias("user"),
            pl.Series("label", (rng.random(n) < 0.8).astype(np.int8)),
            pl.Series("device", rng.choice(["tv", "web"], n)),
        ),
        parts=(int(n * 0.8), int(n * 0.9)),
    )


@cache
def split_by(rule: type) -> Split:
    return Dataset.of(everything()).split(rule())


def queries_in(split: Split) -> list:
    return [queries for queries in (split.valid, split.test) if queries is not None]


@ALL
def test_every_event_is_in_exactly_one_part(rule):
    split = split_by(rule)
    counts = [split.facts[f"{part}_events"] for part in ("train", "valid", "test")]
    assert sum(counts) == everything().events.height
    assert counts[0] == len(split.train.events) == split.train.log.events.height
    kept = set(split.train.log.events["row"])
    assert kept < set(everything().events["row"])
    positives = everything().events.filter(pl.col("label") == 1)["row"]
    held_out = [split.facts.get(f"{part}_positives", 0) for part in ("valid", "test")]
    assert sum(held_out) == len(set(positives) - kept)


@ALL
def test_train_is_what_its_own_log_gives(rule):
    train = split_by(rule).train
    assert same(Dataset.of(train.log), train)


@ALL
def test_it_keeps_what_it_promises(rule):
    split = split_by(rule)
    if split.order in ("user", "global", "session"):
        check_no_future(split)
    else:
        with pytest.raises(InputError, match=r"split by time|name the time column"):
            check_no_future(split)


@ALL
def test_queries_are_in_the_ids_of_train(rule):
    split = split_by(rule)
    schema = split.train.schema
    for queries in queries_in(split):
        contexts = queries.contexts
        assert len(queries) > 0
        assert 0 <= int(contexts.user.min()) <= int(contexts.user.max()) < schema.n_users
        assert len(contexts.user_features) == len(contexts.context_features) == len(queries)
        assert contexts.context_features.categorical.shape[1] == len(schema.context) == 1
        for lists, least in ((queries.truth, 0), (contexts.history, 1), (queries.seen, 1)):
            assert len(lists) == len(queries)
            assert ((lists.values >= least) & (lists.values < schema.n_items)).all()
        assert contexts.history_time.numel() == contexts.history.values.numel()
        assert (contexts.history_time <= contexts.time[contexts.history.rows()]).all()
        if queries.candidates is None:
            assert (queries.truth.lengths > 0).all()
        else:
            assert queries.candidates.shape == queries.labels.shape == (len(queries), 1)
            assert queries.candidates.max() < schema.n_items


@ALL
def test_it_says_what_it_did(rule):
    split = split_by(rule)
    assert all(queries.protocol for queries in queries_in(split))
    assert all(isinstance(note, str) and note for note in split.notes)
    for part, queries in (("valid", split.valid), ("test", split.test)):
        if queries is not None:
            assert split.facts[f"{part}_queries"] == len(queries)
            assert split.facts[f"{part}_truth"] == queries.truth.values.numel()
            assert split.facts[f"{part}_truth_unknown"] == int((queries.truth.values == 0).sum())


@ALL
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_split_of_a_shuffled_log_is_the_same(rule, seed):
    log = everything()
    shuffled = dataclasses.replace(log, events=log.events.sample(fraction=1.0, shuffle=True, seed=seed))
    assert same(Dataset.of(shuffled).split(rule()), split_by(rule))


@ALL
def test_a_log_is_split_like_its_dataset(rule):
    assert same(rule().split(OrderedLog.of(everything())), split_by(rule))


@ALL
@pytest.mark.parametrize("of", [Dataset.of, OrderedLog.of])
def test_ids_are_made_dense_and_features_fitted_once(rule, of, monkeypatch):
    source, calls = of(everything()), []
    ids, fit = IdMap.of, Encoder.fit
    monkeypatch.setattr(IdMap, "of", lambda *args: calls.append("ids") or ids(*args))
    monkeypatch.setattr(Encoder, "fit", lambda *args: calls.append("fit") or fit(*args))
    train = rule().split(source).train
    tables = [table for table in (train.log.users, train.log.items) if table is not None]
    assert calls.count("ids") == 2  # users and items of train
    assert calls.count("fit") == len(tables) + 1  # train's tables and its contexts


@ALL
def test_the_data_set_is_left_as_it_was(rule):
    data, untouched = Dataset.of(everything()), Dataset.of(everything())
    data.split(rule())
    assert same(data, untouched)


@ALL
def test_it_is_a_frozen_dataclass_whose_fields_are_described(rule):
    made = rule()
    assert made == rule()
    assert all(attribute_docs(rule).get(field.name) for field in dataclasses.fields(rule))
    assert (rule.__doc__ or "").strip()
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.test = None
    with pytest.raises(TypeError):
        rule(tset=1)


@ALL
def test_a_log_of_one_event_is_refused(rule):
    with pytest.raises(InputError):
        Dataset.of(make_log(user=["a"], item=[1], time=[1], label=[1])).split(rule())


def test_the_world_leaves_something_to_learn_and_to_ask():
    for rule in SPLITS.values():
        split = split_by(rule)
        assert len(split.train.events) > 100
        assert len(split.test) > 10
        assert split.test.contexts.user.dtype == torch.int64
