"""Fields that tell little or nothing, over every ranker: missing columns, one value, unseen categories, no number."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from suisen.data.batch import Candidates, Contexts
from suisen.data.dataset import Dataset
from suisen.errors import InputError
from suisen.models import RANKERS
from suisen.training.options import RunOptions
from suisen.training.trainer import fit
from tests.models.test_contract import small

KINDS = {
    "device": "categorical", "price": "numeric", "tags": "multi", "one": "categorical", "flat": "numeric",
    "no_category": "categorical", "no_number": "numeric", "no_tags": "multi",
}  # fmt: skip
ROWS = 120


def clicks(**changes) -> pl.DataFrame:
    """Labelled rows with a column of each kind, columns of one value, and columns that are missing in every row."""
    rng = np.random.default_rng(0)
    device = rng.choice(["phone", "desk", "tv"], ROWS)
    price = rng.normal(50, 20, ROWS)
    price[::7] = np.nan
    columns: dict[str, Any] = {
        "user": rng.integers(0, 8, ROWS), "item": rng.integers(0, 9, ROWS), "time": np.arange(ROWS),
        "label": (device == "phone").astype(int), "device": device, "price": price,
        "tags": [["new", "red"][: n % 3] for n in range(ROWS)], "one": ["same"] * ROWS, "flat": [3.5] * ROWS,
        "no_category": [None] * ROWS, "no_number": [None] * ROWS, "no_tags": [None] * ROWS,
    }  # fmt: skip
    return pl.DataFrame({**columns, **changes}, strict=False)


def data_of(frame: pl.DataFrame) -> Dataset:
    return Dataset.from_frame(frame, label="label", context=tuple(KINDS), kinds=KINDS, time_unit="s")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return data_of(clicks())


@pytest.fixture(scope="module", params=list(RANKERS))
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def net(name, data):
    short = {"batch_size": 32} if hasattr(small(name), "batch_size") else {}
    found, curves = fit(small(name, epochs=3, **short), data, options=RunOptions())
    assert all(np.isfinite([row.loss for row in curve.rows]).all() for curve in curves)
    return found


@torch.no_grad()
def scores(net, data: Dataset, contexts: Contexts) -> torch.Tensor:
    items = torch.arange(data.schema.n_items).expand(len(contexts), -1)
    found = net.score(contexts, Candidates(items))
    assert found.isfinite().all()
    return found


def asked(data: Dataset, **values) -> Contexts:
    """Six rows of the log whose request holds these values."""
    contexts = data.contexts(torch.arange(6), 10)
    frame = data.log.events.head(6).with_columns(**{name: pl.lit(value) for name, value in values.items()})
    return replace(contexts, context_features=data.encoders["context"].encode(frame))


def test_all_weights_stay_finite(net, data):
    assert all(weight.isfinite().all() for weight in net.state_dict().values())
    scores(net, data, asked(data))


def test_an_unseen_category_is_a_missing_one(name, net, data):
    unseen, missing = asked(data, device="watch"), asked(data, device=None)
    assert torch.equal(scores(net, data, unseen), scores(net, data, missing))
    if "features" in RANKERS[name].abilities:
        assert not torch.equal(scores(net, data, unseen), scores(net, data, asked(data, device="phone")))


def test_a_number_that_is_none_is_the_mean(net, data):
    mean = data.encoders["context"].columns[1].mean
    none = scores(net, data, asked(data, price=float("nan")))
    assert torch.equal(none, scores(net, data, asked(data, price=None)))
    torch.testing.assert_close(none, scores(net, data, asked(data, price=mean)))


def test_columns_that_told_nothing_in_train_tell_nothing_now(net, data):
    plain = scores(net, data, asked(data))
    told = asked(data, flat=99.0, no_category="now", no_number=5.0, no_tags="a|b")
    assert torch.equal(scores(net, data, told), plain)


def test_nothing_known_of_a_request_at_all(net, data):
    assert torch.isfinite(scores(net, data, asked(data, **dict.fromkeys(KINDS)))).all()


@pytest.mark.parametrize("value", [float("inf"), -float("inf")])
def test_an_infinite_number_is_refused(value):
    price = [1.0] * ROWS
    price[5] = value
    with pytest.raises(InputError, match="feature 'price' holds an infinite number"):
        data_of(clicks(price=price))


@pytest.mark.parametrize("label", [2, -1, 0.5, None, float("nan")])
def test_a_label_that_is_neither_0_nor_1_is_refused(label):
    labels = [0.0, 1.0] * (ROWS // 2)
    labels[3] = label
    with pytest.raises(InputError, match="1 bad row, at row 4: label"):
        data_of(clicks(label=labels))


@pytest.mark.parametrize("name", [name for name, cls in RANKERS.items() if hasattr(cls, "recent")])
def test_the_newest_items_are_read_even_where_all_together_are_not(name):
    view = RANKERS[name](history=0, recent=2).view
    assert view.history == 2
