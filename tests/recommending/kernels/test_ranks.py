"""The second stage: every path against NumPy and torch, whatever the form, the lists and the speed."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.errors import BundleError, InputError
from suisen.models.form import Form
from suisen.recommending.kernels import Quantised, RankTables, Sample, Speed, candidates, ranked, two_stage
from suisen.recommending.kernels.pairs import features_of
from suisen.recommending.kernels.ranks import _ridge
from suisen.recommending.sources import pair_features
from suisen.retrieval import Excluded
from tests.recommending.kernels.conftest import clustered, excluded

SPEEDS = (
    Speed(),
    Speed(cut=20),
    Speed(quantised=True),
    Speed(quantised=True, finish=12),
    Speed(cut=30, quantised=True, finish=12),
    Speed(False, 30, True, 12),
    Speed(False),
)


def form_of(inner, p, widths, seed=0, size=1.0):
    """A form with random weights."""
    draw = torch.Generator().manual_seed(seed)
    normal = lambda *shape: size * torch.randn(*shape, generator=draw)  # noqa: E731
    layers = tuple((normal(b, a) * (2 / a) ** 0.5, 0.3 * normal(b)) for a, b in pairwise(widths))
    hidden = widths[0] if widths else 0
    gamma = torch.triu(0.2 * normal(p, p))
    return Form(inner, lambda x: x, lambda x: x, gamma, normal(hidden, p), layers, normal(widths[-1] if widths else 0))


class Case:
    """A form over n items, queries, contexts, and tables fitted to the first lists."""

    def __init__(self, form, n=300, b=5, d=9, c=60, seed=0, spread=1.0):
        draw = np.random.default_rng(seed)
        width = form.inner + len(form.gamma) + len(form.from_pair)
        self.form, self.n, self.c = form, n, c
        self.vectors, self.queries = clustered(n, d, b, 0.5, seed)
        self.items, self.contexts = ((spread * draw.normal(size=(rows, width))).astype(np.float32) for rows in (n, b))
        self.table = Quantised.of(self.vectors)
        self.lists = candidates(self.table, self.queries, c, path="plain")
        self.ranks = RankTables.of(form, self.items, Sample(self.contexts, *self.lists))

    def answer(self, speed, path, k=7, gone=None, allowed=None):
        return two_stage(self.table, self.ranks, self.queries, self.contexts, self.c, k, gone, allowed, speed, path)

    def scores(self, positions, scores):
        """(B, C) the form's own scores of lists, on torch; -inf on padding."""
        known = torch.from_numpy(positions >= 0)
        pair = pair_features(torch.from_numpy(scores), known)[..., : len(self.form.gamma)]
        items = torch.from_numpy(self.items[positions])
        found = self.form.score(torch.from_numpy(self.contexts), items, pair)
        return torch.where(known, found, -torch.inf).numpy()


def close(found, want, all_scores):
    """The same lists, but for candidates whose scores are nearer than what the order of additions can change."""
    top = np.abs(np.where(np.isfinite(all_scores), all_scores, 0)).max() + 1e-3
    np.testing.assert_allclose(found[1], want[1], rtol=0, atol=1e-5 * top)
    for row, column in np.argwhere(found[0] != want[0]):
        assert np.abs(want[1][row] - found[1][row, column]).min() <= 1e-5 * top
        assert np.sum(np.abs(want[1][row] - found[1][row, column]) <= 2e-5 * top) > 1 or column == found[0].shape[1] - 1


WIDTHS = ([], [1], [3, 65, 1], [70], [64, 64], [130, 3], [65, 2, 70])


@settings(max_examples=25)
@given(data=st.data())
def test_every_path_gives_the_reference(path, data):
    if path == "plain":
        pytest.skip("plain is the reference")
    form = form_of(data.draw(st.integers(0, 40)), data.draw(st.integers(0, 2)), data.draw(st.sampled_from(WIDTHS)))
    n = data.draw(st.sampled_from([1, 5, 64, 65, 300]))
    case = Case(
        form, n, data.draw(st.integers(1, 13)), data.draw(st.integers(1, 20)), data.draw(st.sampled_from([3, 50]))
    )
    some = st.lists(st.integers(0, n - 1), max_size=n)
    gone = data.draw(st.lists(st.one_of(st.just([*range(n)]), some), min_size=len(case.queries), max_size=13))
    gone = excluded(gone[: len(case.queries)])
    k, speed = data.draw(st.sampled_from([1, 7, 400])), data.draw(st.sampled_from(SPEEDS))
    found, want = (case.answer(speed, one, k, gone) for one in (path, "plain"))
    if speed.quantised and not speed.finish and form.from_pair.numel() and case.ranks.shape[2]:
        for one, other in zip(found, want):  # integers, and floats in one order
            np.testing.assert_array_equal(one, other)
    close(found, want, want[1])
    lengths = n - np.array([len({*row}) for row in np.split(gone.values, gone.offsets[1:-1])])
    assert ((found[0] >= 0).sum(axis=1) == np.minimum(lengths, k)).all()


@pytest.mark.parametrize("p", [0, 1, 2])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_float32_is_the_form_on_torch(path, widths, p):
    case = Case(form_of(6, p, widths, seed=p))
    ids, scores = case.lists
    want = case.scores(ids, scores)
    order = np.argsort(-want, axis=1, kind="stable")[:, :20]
    best = np.take_along_axis(ids, order, 1), np.take_along_axis(want, order, 1)
    close(case.answer(Speed(), path, 20), best, want)
    close(ranked(case.ranks, ids, scores, case.contexts, 20, path=path), best, want)


@pytest.mark.parametrize("speed", SPEEDS[1:], ids=str)
def test_fast_lists_are_nearly_those_of_float32(path, speed):
    """Random weights, the worst there are for the cut: of ten items eight or more are the same."""
    case = Case(form_of(18, 2, [128, 64], size=0.4), n=1_000, b=40, c=60)
    precise, fast = case.answer(Speed(), path, 10)[0], case.answer(speed, path, 10)[0]
    shared = np.mean([len({*one} & {*other}) / 10 for one, other in zip(precise, fast)])
    assert shared > 0.8
    if speed.finish and not speed.cut:
        assert (precise == fast).all(axis=1).mean() > 0.9


@pytest.mark.parametrize("size", [1e-3, 30.0])
def test_levels_that_saturate_and_levels_that_vanish(path, size):
    if path == "plain":
        pytest.skip("plain is the reference")
    case = Case(form_of(5, 2, [70, 9], size=size), spread=size)
    wild = case.contexts * np.float32(1e4)
    for contexts in (case.contexts, wild, 0 * wild):
        found, want = (
            two_stage(case.table, case.ranks, case.queries, contexts, 60, 9, None, None, Speed(quantised=True), one)
            for one in (path, "plain")
        )
        for one, other in zip(found, want):
            np.testing.assert_array_equal(one, other)


def test_equal_scores_come_in_the_order_of_retrieval(path):
    case = Case(form_of(4, 0, [8]))
    case.ranks = RankTables.of(case.form, 0 * case.items, Sample(case.contexts, *case.lists))
    for speed in SPEEDS:
        first = case.lists[0] if speed.rescore else two_stage(
            case.table, None, case.queries, None, 60, 60, speed=speed, path=path
        )[0]  # fmt: skip
        np.testing.assert_array_equal(case.answer(speed, path, 20)[0], first[:, :20])


@pytest.mark.parametrize("speed", SPEEDS, ids=str)
def test_lists_are_whole_whatever_is_asked_for_and_left(path, speed):
    case = Case(form_of(4, 2, [20, 5]), n=90)
    allowed = np.arange(90) % 3 > 0
    gone = excluded([[*range(45)], [*range(90)], [], [0, 1, 1, 2], [89]])
    left = [{i for i in range(90) if allowed[i]} - {*row} for row in np.split(gone.values, gone.offsets[1:-1])]
    for k in (0, 1, 10, 60, 200):
        by_mask = case.answer(speed, path, k, gone, allowed)
        by_bits = case.answer(speed, path, k, gone, case.table.open_to(allowed))
        for one, other in zip(by_mask, by_bits):
            np.testing.assert_array_equal(one, other)
        for row, (ids, scores) in enumerate(zip(*by_mask)):
            count = min(k, len(left[row]))
            assert {*ids[:count]} <= left[row]
            assert len({*ids[:count]}) == count
            assert (ids[count:] == -1).all()
            assert (np.diff(scores[:count]) <= 0).all()
            assert (scores[count:] == -np.inf).all()


def test_scores_that_are_no_numbers_harm_nobody_else(path):
    """A context that overflows gets a list of some items; the others get theirs."""
    case = Case(form_of(4, 2, [20, 5]))
    want = case.answer(Speed(), path, 50)
    for wild in (np.inf, np.nan, np.float32(3e38)):
        for speed in SPEEDS:
            contexts = case.contexts.copy()
            contexts[1] = wild
            with np.errstate(all="ignore"):
                found = two_stage(case.table, case.ranks, case.queries, contexts, 60, 50, speed=speed, path=path)
            assert len({*found[0][1]}) == 50
            if speed == Speed():
                np.testing.assert_array_equal(found[0][[0, 2, 3, 4]], want[0][[0, 2, 3, 4]])


def test_more_queries_than_are_scanned_together(path, monkeypatch):
    case = Case(form_of(4, 2, [20, 5]), b=11)
    gone = excluded([[row] for row in case.lists[0][:, 0]])
    whole = case.answer(Speed(False, 20, True, 10), path, 7, gone)
    monkeypatch.setattr("suisen.recommending.kernels.search.QUERIES", 4)
    parts = case.answer(Speed(False, 20, True, 10), path, 7, gone)
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_array_equal(whole[1], parts[1])


def test_features_are_those_of_the_engine():
    draw = np.random.default_rng(0)
    scores = -np.sort(-draw.normal(3, 5, size=(4, 30)).astype(np.float32), axis=1)
    scores[1] = 2
    counts = np.array([30, 30, 7, 0])
    known = np.arange(30) < counts[:, None]
    want = pair_features(torch.from_numpy(scores), torch.from_numpy(known)).numpy()
    np.testing.assert_allclose(features_of(scores, counts), want, atol=2e-6)


def test_the_cut_is_the_weighted_regression_inside_lists():
    draw = np.random.default_rng(1)
    x, lists = draw.normal(size=(400, 3)), np.repeat([0, 1], 200)
    deep = x @ [1.0, -2, 0.5] + np.where(lists, 50, -7) + 0.1 * draw.normal(size=400)
    scores = deep + draw.normal(size=400)
    weights = np.full(400, 0.1)
    for number in (0, 1):
        weights[200 * number + np.argsort(-scores[lists == number])[:100]] = 1
    columns = np.column_stack([x, lists == 0, lists == 1]) * np.sqrt(weights)[:, None]
    want = np.linalg.lstsq(columns, deep * np.sqrt(weights), rcond=None)[0][:3]
    np.testing.assert_allclose(_ridge(x, deep, lists, scores), want, atol=1e-3)


def test_tables_are_saved_without_pickle_and_mapped(tmp_path, path):
    case = Case(form_of(7, 2, [70, 9]))
    case.ranks.save(tmp_path / "deep")
    loaded = RankTables.load(tmp_path / "deep", case.n)
    assert {file.stem for file in (tmp_path / "deep").iterdir()} == {one.name for one in dataclasses.fields(RankTables)}
    assert loaded.records.ctypes.data % 64 == 0
    want = case.answer(SPEEDS[4], path)
    case.ranks = loaded
    for one, other in zip(case.answer(SPEEDS[4], path), want):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", [one.name for one in dataclasses.fields(RankTables)])
def test_a_file_of_another_ranker_or_none_is_refused(tmp_path, name):
    Case(form_of(7, 2, [70, 9])).ranks.save(tmp_path)
    Case(form_of(6, 1, [150]), n=50).ranks.save(tmp_path / "other")
    if name not in ("gamma", "worth"):  # these have one shape for all
        (tmp_path / "other" / f"{name}.npy").replace(tmp_path / f"{name}.npy")
        with pytest.raises(BundleError, match=r"\.npy holds"):
            RankTables.load(tmp_path, 300)
    (tmp_path / f"{name}.npy").unlink()
    with pytest.raises(BundleError, match=f"{name}.npy cannot be read"):
        RankTables.load(tmp_path, 300)


def test_bad_input_is_refused_by_name(path):
    case = Case(form_of(4, 2, [20, 5]))
    with pytest.raises(InputError, match="form has 3 pair features; the compiled ranker knows 2"):
        RankTables.of(form_of(4, 3, [20]), case.items, Sample(case.contexts, *case.lists))
    with pytest.raises(InputError, match=r"item_rows is float32 of shape \(300, 9\); give float32 with 26 columns"):
        RankTables.of(case.form, case.items[:, :9], Sample(case.contexts, *case.lists))
    with pytest.raises(InputError, match="sample holds no candidate"):
        RankTables.of(case.form, case.items, Sample(case.contexts, case.lists[0] * 0 - 1, case.lists[1]))
    with pytest.raises(InputError, match=r"rows is missing; give float32 of shape \(5, 26\)"):
        two_stage(case.table, case.ranks, case.queries, None, 60, 5, path=path)
    with pytest.raises(InputError, match=r"rows is float32 of shape \(4, 26\)"):
        two_stage(case.table, case.ranks, case.queries, case.contexts[:4], 60, 5, path=path)
    with pytest.raises(InputError, match="k = -1 is negative"):
        case.answer(Speed(), path, -1)
    with pytest.raises(InputError, match=r"positions has shape \(5, 60\), scores \(5, 59\), of 300 items"):
        ranked(case.ranks, case.lists[0], case.lists[1][:, 1:], case.contexts, 5, path=path)
    holes = np.where(np.arange(60) == 3, -1, case.lists[0])
    with pytest.raises(InputError, match="positions has a candidate behind -1"):
        ranked(case.ranks, holes, case.lists[1], case.contexts, 5, path=path)
    with pytest.raises(InputError, match="ranks holds 300 items, table 200; make both of one catalogue"):
        two_stage(Quantised.of(case.vectors[:200]), case.ranks, case.queries, case.contexts, 60, 5, path=path)
    with pytest.raises(InputError, match=r"exclude.offsets must be 6 numbers"):
        case.answer(Speed(), path, gone=Excluded(np.zeros(3, np.int64), np.array([0, 3])))
