"""The three hashes: published numbers, the column beside one by one, even spread, independence of two salts."""

import json
from importlib.resources import files

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from suisen.errors import InputError
from suisen.experiments import hashing
from suisen.experiments.hashing import HASHES, as_units, fnv1a_32, hashed, hashed_one, murmur3_32

VECTORS = json.loads(files("suisen.experiments").joinpath("vectors.json").read_text(encoding="utf-8"))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


def test_public_numbers_of_both_functions():
    for case in VECTORS["murmur3_32"]:
        assert murmur3_32(case["text"].encode(), case["seed"]) == case["hash"], case
    for case in VECTORS["fnv1a_32"]:
        assert fnv1a_32(case["text"]) == case["hash"], case


def test_growthbooks_published_numbers():  # packages/sdk-js/test/cases.json of growthbook/growthbook, "hash"
    published = [("seed", "a", 0.0505), ("seed", "b", 0.2696), ("foo", "ab", 0.2575), ("foo", "def", 0.2019)]
    published += [("89123klj", "8952klfjas09ujkasdf", 0.124), ("90850943850283058242805", "123", 0.7516)]
    for salt, unit, u in published:
        assert hashed_one(salt, unit, "growthbook-2") == u
        assert hashed(salt, pl.Series([unit]), "growthbook-2").tolist() == [u]


def test_growthbooks_published_numbers_of_its_older_hash():
    """The same file's "hash", version 1, as (seed, value); there it hashes value + seed, version 2 seed + value."""
    published = [("", "a", 0.22), ("", "b", 0.077), ("b", "a", 0.946), ("ef", "d", 0.652)]
    published += [("asdf", "8952klfjas09ujk", 0.549), ("", "123", 0.011), ("", '___)((*":&', 0.563)]
    published += [("feature", "123", 0.863), ("feature", "456", 0.178), ("feature", "fds", 0.514)]  # its "bucket"
    for salt, unit, u in published:
        assert hashed_one(salt, unit, "growthbook-1") == u
        assert hashed(salt, pl.Series([unit]), "growthbook-1").tolist() == [u]


def test_two_salts_of_the_older_hash_are_not_independent():
    """Why nothing new should start with it, and why GrowthBook made another: salts that differ in their last letter."""
    units = as_units(range(20_000))
    one, other = (hashed(salt, units, "growthbook-1") for salt in ("a", "b"))
    cells = np.histogram2d(one, other, bins=8, range=((0, 1), (0, 1)))[0]
    assert stats.chi2_contingency(cells).pvalue < 1e-9


@pytest.mark.parametrize("how", HASHES)
def test_vectors_of_the_repository_hold_one_by_one_and_as_columns(how):
    for case in VECTORS["hash"][how]:
        assert hashed_one(case["salt"], case["unit"], how) == case["u"], case
        assert hashed(case["salt"], pl.Series([case["unit"]]), how)[0] == case["u"], case
        if "hash" in case:
            assert case["u"] * 2**32 == case["hash"]


@pytest.mark.parametrize("how", HASHES)
@given(salt=st.text(st.characters(exclude_categories=["Cs"]), max_size=9), units=st.lists(TEXT, min_size=1, max_size=9))
def test_a_column_is_its_units_one_by_one(how, salt, units):
    assert hashed(salt, pl.Series(units), how).tolist() == [hashed_one(salt, unit, how) for unit in units]


@pytest.mark.parametrize("how", HASHES)
def test_blocks_and_halved_blocks_change_nothing(how, monkeypatch):
    units = pl.Series([f"u{number}" for number in range(50)] + ["long" * 500, "é" * 300, "tail"])
    whole = hashed("s", units, how)
    monkeypatch.setattr(hashing, "UNITS_PER_CHUNK", 7)
    monkeypatch.setattr(hashing, "BYTES_PER_CHUNK", 64)
    assert hashed("s", units, how).tolist() == whole.tolist()


@pytest.mark.parametrize("how", HASHES)
def test_consecutive_numbers_spread_evenly(how):
    u = hashed("salt", as_units(range(100_000)), how)
    counts = np.bincount((100 * u + 1e-9).astype(int), minlength=100)  # thousandths may lie on the edge of a bin
    assert stats.chisquare(counts).pvalue > 1e-4
    assert u.min() >= 0
    assert u.max() < 1


@pytest.mark.parametrize("how", ["suisen-1", "growthbook-2"])
@pytest.mark.parametrize("salts", [("a", "b"), ("exp1", "exp2"), ("ranker-may", "ranker-june"), ("", "x")])
def test_draws_of_two_salts_are_independent(how, salts):
    units = as_units(range(100_000))
    one, other = (hashed(salt, units, how) for salt in salts)
    cells = np.histogram2d(one, other, bins=8, range=((0, 1), (0, 1)))[0]
    assert stats.chi2_contingency(cells).pvalue > 1e-4


def test_numbers_are_their_decimal_text():
    assert as_units([7, -1]).to_list() == ["7", "-1"]
    assert as_units(pl.Series(["x"], dtype=pl.Categorical)).to_list() == ["x"]
    assert hashed("s", as_units([7])).tolist() == [hashed_one("s", "7")] == [hashed_one("s", 7)]


def test_an_empty_column_has_no_numbers():
    assert hashed("s", as_units([])).shape == (0,)


@pytest.mark.parametrize(
    ("units", "said"),
    [
        ([1.5], "user holds Float64; units are text or integers"),
        ([True], "user holds Boolean"),
        ([None, "a", None], "user holds 2 nulls; a unit without an id cannot be assigned"),
        (["a", ""], "user holds 1 empty ids"),
        ("abc", "user = 'abc' is one unit; give a column of them"),
        (["a", 1], "user is no column of units"),
        (5, "user is no column of units"),
    ],
)
def test_what_is_no_unit_is_refused(units, said):
    with pytest.raises(InputError, match=said):
        as_units(units, "user")


def test_an_unknown_hash_is_refused():
    for call in (lambda: hashed_one("s", "a", "growthbook-3"), lambda: hashed("s", pl.Series(["a"]), "growthbook-3")):
        with pytest.raises(InputError, match="hash = 'growthbook-3' is unknown; did you mean 'growthbook-2'"):
            call()
