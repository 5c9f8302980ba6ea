"""One suite over every index of ``INDEXES``; what it promises, it promises for all."""

import json
import os
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest

from suisen.errors import BundleError, InputError
from suisen.retrieval import INDEXES, Exact, Excluded, create_index, measured_recall, open_index, search_among
from tests.retrieval.conftest import IDS, SETTINGS, D, N, clustered, excluded, read_only, slow_search

RECALL = 0.95
"""Stated for the approximate indexes with their defaults on clustered data of this size."""


def settings_of(index):
    return INDEXES[index.description["name"]]


def valid(index, queries, ids, scores, wanted):
    """Distinct positions, wanted[i] of them in row i, then -1; true scores, descending; -inf beside none."""
    for row in range(len(queries)):
        found = ids[row, : wanted[row]]
        assert (found >= 0).all()
        assert len(set(found.tolist())) == wanted[row]
        assert (ids[row, wanted[row] :] == -1).all()
        assert np.isneginf(scores[row, wanted[row] :]).all()
        np.testing.assert_allclose(
            scores[row, : wanted[row]], index.vectors[found] @ queries[row], rtol=1e-4, atol=1e-5
        )
        assert (np.diff(scores[row, : wanted[row]]) <= 0).all()


def test_finds_the_largest_inner_products(index, data):
    vectors, queries = data
    ids, scores = index.search(queries, 50)
    assert ids.dtype == np.int64
    assert scores.dtype == np.float32
    valid(index, queries, ids, scores, [50] * len(queries))
    if settings_of(index).exact:
        slow_ids, slow_scores = slow_search(vectors, queries[:3], 50)
        np.testing.assert_array_equal(ids[:3], slow_ids)
        np.testing.assert_allclose(scores[:3], slow_scores, rtol=1e-5, atol=1e-5)
        assert measured_recall(index, vectors, queries, 50) == 1.0
    else:
        assert measured_recall(index, vectors, queries, 50) >= RECALL


def test_one_by_one_equals_the_batch(index, data):
    _, queries = data
    ids, scores = index.search(queries, 20)
    for row, query in enumerate(queries):
        one_ids, one_scores = index.search(query[None], 20)
        np.testing.assert_array_equal(one_ids[0], ids[row])
        np.testing.assert_allclose(one_scores[0], scores[row], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [0, 1, N, N + 7])
def test_any_k_gives_min_of_k_and_n(index, data, k):
    _, queries = data
    ids, scores = index.search(queries[:3], k)
    assert ids.shape == scores.shape == (3, k)
    valid(index, queries[:3], ids, scores, [min(k, N)] * 3)


def test_no_query_gives_no_answer(index):
    ids, scores = index.search(np.zeros((0, D), dtype=np.float32), 5)
    assert ids.shape == scores.shape == (0, 5)
    ids, _ = index.search(np.zeros((0, D), dtype=np.float32), 5, excluded([]), np.zeros(N, dtype=bool))
    assert ids.shape == (0, 5)


@pytest.mark.parametrize("n_gone", [1, 300, 2_000])
def test_excluding_the_nearest_still_gives_k(index, data, n_gone):
    vectors, queries = data
    nearest = np.argsort(-(queries @ vectors.T), axis=1)[:, :n_gone]
    ids, scores = index.search(queries, 100, excluded(nearest))
    valid(index, queries, ids, scores, [100] * len(queries))
    for row in range(len(queries)):
        assert not set(ids[row].tolist()) & set(nearest[row].tolist())
    exact = create_index(Exact())
    exact.build(vectors)
    truth, _ = exact.search(queries, 100, excluded(nearest))
    found = np.mean([len(set(a) & set(b)) / 100 for a, b in zip(ids.tolist(), truth.tolist(), strict=True)])
    assert found >= (1.0 if settings_of(index).exact else 0.85)


def test_each_query_has_its_own_exclusions(index, data):
    vectors, queries = data
    order = np.argsort(-(queries[:4] @ vectors.T), axis=1)
    rows = [[], order[1, :1].tolist() * 5, list(range(N)), list(range(N - 3))]  # repeats count once
    ids, scores = index.search(queries[:4], 10, excluded(rows))
    valid(index, queries[:4], ids, scores, [10, 10, 0, 3])
    assert order[1, 0] not in ids[1]
    assert sorted(ids[3, :3].tolist()) == [N - 3, N - 2, N - 1]


@pytest.mark.parametrize("n_allowed", [0, 5, 500, N - 100])
def test_only_allowed_positions_are_found(index, data, n_allowed):
    _, queries = data
    draw = np.random.default_rng(n_allowed)
    allowed = np.zeros(N, dtype=bool)
    allowed[draw.permutation(N)[:n_allowed]] = True
    gone = [[*draw.permutation(np.flatnonzero(allowed))[:3].tolist(), 0, 1] for _ in queries]
    ids, scores = index.search(queries, 20, excluded(gone), allowed)
    wanted = [min(20, int(allowed.sum() - len({g for g in row if allowed[g]}))) for row in gone]
    valid(index, queries, ids, scores, wanted)
    for row in range(len(queries)):
        found = ids[row][ids[row] >= 0]
        assert allowed[found].all()
        assert not set(found.tolist()) & set(gone[row])


def test_arrays_of_the_caller_are_neither_changed_nor_kept(index, data):
    vectors, queries = clustered(seed=3)
    ours = create_index(settings_of(index)())
    given = vectors.copy()
    ours.build(given)
    given[:] = 0  # the index has its own copy
    gone, allowed = read_only(np.array([3, 3, 1])), read_only(np.ones(N, dtype=bool))
    offsets = read_only(np.array([0, *[3] * len(queries)]))
    before = queries.copy()
    first = ours.search(read_only(queries), 10, Excluded(gone, offsets), allowed)
    again = ours.search(queries, 10, Excluded(gone, offsets), allowed)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(queries, before)
    assert (first[1][:, 0] > 0).all()


def test_save_and_load_answer_the_same(index, data, tmp_path):
    _, queries = data
    index.save(tmp_path / "index")
    description = json.loads(json.dumps(index.description))
    loaded = open_index(description, tmp_path / "index")
    loaded.save(tmp_path / "index")  # over the files that it has mapped
    again = open_index(description, tmp_path / "index")
    nearest = index.search(queries, 40)[0]
    for other in (loaded, again):
        assert other.description == description
        np.testing.assert_array_equal(other.vectors, index.vectors)
        for arguments in ((30,), (30, excluded(nearest)), (N,)):
            for mine, theirs in zip(index.search(queries, *arguments), other.search(queries, *arguments), strict=True):
                np.testing.assert_array_equal(mine, theirs)


def files_of(index, folder):
    index.save(folder)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("damage", ["empty", "truncated", "last byte", "garbage", "missing"])
def test_a_damaged_file_is_named(index, tmp_path, damage):
    for path in files_of(index, tmp_path):
        whole = path.read_bytes()
        broken = {
            "empty": b"",
            "truncated": whole[: len(whole) // 2],
            "last byte": whole[:-1],
            "garbage": b"\x93nonsense" * 50,
            "missing": None,
        }[damage]
        path.unlink()
        if broken is not None:
            path.write_bytes(broken)
        with pytest.raises(BundleError, match=rf"{path.name}.*save the bundle again|{path.name} holds"):
            open_index(index.description, tmp_path)
        path.write_bytes(whole)
    open_index(index.description, tmp_path)


def test_files_of_another_index_are_refused(index, tmp_path):
    index.save(tmp_path)
    for change in ({"n": N - 1}, {"d": D + 1}):
        with pytest.raises(BundleError, match="the description says"):
            open_index({**index.description, **change}, tmp_path)


def test_an_index_rebuilds(index):
    ours = create_index(settings_of(index)())
    vectors, queries = clustered(n=2_000)
    ours.build(vectors)
    ours.build(vectors[:1_200])
    assert ours.description["n"] == 1_200
    assert ours.search(queries, 10)[0].max() < 1_200


@pytest.mark.parametrize("settings", SETTINGS, ids=IDS)
def test_what_cannot_be_built_is_refused(settings):
    index = create_index(settings)
    with pytest.raises(InputError, match=r"index is empty; call build"):
        index.search(np.zeros((1, D), dtype=np.float32), 1)
    with pytest.raises(InputError, match=r"vectors is float64; indexes hold float32: convert"):
        index.build(np.zeros((5, 3)))
    with pytest.raises(InputError, match=r"vectors has shape \(0, 3\); an index needs at least one row"):
        index.build(np.zeros((0, 3), dtype=np.float32))
    with pytest.raises(InputError, match=r"vectors has shape \(3,\); give a matrix"):
        index.build(np.zeros(3, dtype=np.float32))
    spoilt = np.zeros((5, 3), dtype=np.float32)
    for bad in (np.nan, np.inf, -np.inf, 1e20):
        spoilt[2, 1] = bad
        with pytest.raises(InputError, match=r"vectors\[2\] holds NaN, infinity or a number beyond"):
            index.build(spoilt)


def test_what_cannot_be_asked_is_refused(index, data):
    queries = data[1][:2]
    with pytest.raises(InputError, match=rf"queries has {D + 1} dimensions, the index {D}; use the model"):
        index.search(np.zeros((1, D + 1), dtype=np.float32), 1)
    with pytest.raises(InputError, match=r"queries is float64"):
        index.search(queries.astype(np.float64), 1)
    with pytest.raises(InputError, match=r"queries\[1\] holds NaN"):
        index.search(np.where([[False], [True]], np.float32(np.nan), queries), 1)
    with pytest.raises(InputError, match=r"k = -1 is negative; give 0 or more"):
        index.search(queries, -1)
    with pytest.raises(InputError, match=rf"exclude.values\[1\] = {N} is not a position; positions are 0 to {N - 1}"):
        index.search(queries, 1, excluded([[0], [N]]))
    with pytest.raises(InputError, match=r"exclude.offsets must be 3 numbers \(queries \+ 1\) rising from 0 to 1"):
        index.search(queries, 1, excluded([[0]]))
    with pytest.raises(InputError, match=rf"allowed is int64 of shape \(2,\); give bool of shape \({N},\)"):
        index.search(queries, 1, allowed=np.zeros(2, dtype=np.int64))


def test_settings_are_those_of_the_registry(index):
    settings = settings_of(index)()
    assert INDEXES[settings.name] is type(settings)
    assert set(index.description) == {"name", "n", "d", *(field.name for field in fields(settings))}


@pytest.mark.parametrize("index", [object(), Exact, None, "exact"])
def test_what_is_no_settings_of_an_index_is_refused(index):
    with pytest.raises(InputError, match=r"is not the settings of an index; give one of Exact\(\), .*HNSW\(\)"):
        create_index(index)


def test_a_description_of_before_is_read(tmp_path):
    made = create_index(Exact())
    made.build(np.ones((2, 3), dtype=np.float32))
    made.save(tmp_path)
    assert open_index({"kind": "exact", "n": 2, "d": 3}, tmp_path).description == made.description


def test_unknown_names_and_incomplete_descriptions(tmp_path):
    with pytest.raises(InputError, match=r"index = 'hnws' is unknown; did you mean 'hnsw'\?"):
        open_index({"name": "hnws", "n": 1, "d": 1}, tmp_path)
    with pytest.raises(BundleError, match=r"lacks 'd'; save the bundle again"):
        open_index({"name": "hnsw", "n": 1}, tmp_path)


def test_importing_the_room_does_not_load_faiss():
    code = "import sys, suisen.retrieval as r; r.create_index(r.HNSW()); sys.exit('faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False).returncode == 0


@pytest.mark.parametrize("n_among", [0, 1, 40, N // 4, N - 1, N])
def test_search_among_positions_is_the_search_with_their_mask(index, data, n_among):
    """Every index is exact among a few.  Scores of equal calls differ in their last bit, with the arrays' alignment."""
    _, queries = data
    positions = np.sort(np.random.default_rng(n_among).permutation(N)[:n_among])
    gone = [[*positions[:3].tolist(), 0, 1] for _ in queries]
    searched = index
    if n_among < N // 4:
        searched = create_index(Exact())
        searched.build(index.vectors)
    ids, scores = search_among(index, queries, 20, excluded(gone), positions)
    mask = None if n_among == N else np.isin(np.arange(N), positions)
    _, wanted = searched.search(queries, 20, excluded(gone), mask)
    np.testing.assert_allclose(scores, wanted, rtol=1e-5)
    left = min(20, len(set(positions.tolist()) - set(gone[0])))
    valid(index, queries, ids, scores, [left] * len(queries))
    assert set(ids.reshape(-1).tolist()) <= {*positions.tolist(), -1} - set(gone[0])


def test_among_a_few_the_whole_index_is_not_looked_through(index, data, monkeypatch):
    """Neither a mask of its length is made nor is it searched: its vectors at the positions are scored."""
    monkeypatch.setattr(type(index), "search", None)
    ids, _ = search_among(index, data[1], 5, excluded([[7]] * len(data[1])), np.array([3, 7, 900]))
    assert {*ids.reshape(-1).tolist()} == {3, 900, -1}
