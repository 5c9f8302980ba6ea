"""Tables by clusters: what a query reads, what it finds, and what falls back to reading all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.errors import BundleError
from suisen.recommending.kernels import Quantised, candidates, partitioned, plain
from suisen.recommending.kernels.cells import clusters
from tests.recommending.kernels.conftest import clustered, excluded


def same(one, other):
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.fixture(scope="module")
def world():
    """Vectors, queries, and a table with cells."""
    vectors, queries = clustered(5_000, 16, 130, 0.25)
    return vectors, queries[100:], partitioned(vectors, queries[:100], 50, least=1_000)


def inside(table, query):
    """(n,) whether a query reads the cell of an item, by a plain sort of float32 products."""
    centres = table.cells.centres
    levels = (centres.centred.astype(np.int64) + 128) @ centres.levels_of(query[None])[0].astype(np.int64)
    order = np.lexsort((np.arange(len(levels)), -levels))
    return np.isin(table.cell_of, order[: table.cells.probes])


def test_items_stand_in_whole_tiles_of_the_cell_with_the_nearest_centre(world):
    vectors, _, table = world
    starts, centres = table.cells.starts, table.cells.centres.vectors
    assert 1 < table.cells.probes < len(centres)
    assert starts[-1] == len(table.tiles)
    distances = ((vectors[:, None] - centres) ** 2).sum(axis=2)
    np.testing.assert_allclose(distances[np.arange(len(vectors)), table.cell_of], distances.min(axis=1), rtol=1e-4)
    assert len({*table.slots}) == len(vectors)
    assert (table.order[table.slots] == np.arange(len(vectors))).all()
    for cell in range(len(centres)):
        slots = np.sort(table.slots[table.cell_of == cell])
        assert (slots == 64 * starts[cell] + np.arange(len(slots))).all()
        assert starts[cell + 1] - starts[cell] == -(-len(slots) // 64)


def test_candidates_are_the_exact_ones_of_the_cells(world, path):
    vectors, queries, table = world
    exact = Quantised.of(vectors)
    for rows in (queries[:1], queries[:8], queries):
        found = candidates(table, rows, 10, path=path)
        for row, query in enumerate(rows):
            near = inside(table, query)
            near = near if near.sum() >= 10 + 32 else None  # too few survivors: all cells are read
            want = candidates(exact, query[None], 10, None, near, path="plain")
            same([part[row] for part in found], [part[0] for part in want])


def test_the_recall_that_was_asked_for_is_reached(world):
    vectors, queries, table = world
    truth, _ = candidates(Quantised.of(vectors), queries, 50)
    found, _ = candidates(table, queries, 50)
    assert np.mean([len({*one} & {*other}) / 50 for one, other in zip(truth, found)]) > 0.9
    assert plain.nearest(table, queries).mean() < 0.5
    strict = partitioned(vectors, queries, 50, 1.0, 1_000)
    if strict.cells is not None:
        assert strict.cells.probes > table.cells.probes


@settings(max_examples=15)
@given(data=st.data())
def test_lists_are_whole_whatever_is_excluded(world, path, data):
    """A query whose cells hold too few reads all."""
    vectors, queries, table = world
    n, queries = len(vectors), queries[: data.draw(st.integers(1, 7))]
    draw = np.random.default_rng(data.draw(st.integers(0, 99)))
    allowed = draw.random(n) < data.draw(st.sampled_from([0.002, 0.05, 1]))
    gone = excluded([draw.integers(0, n, data.draw(st.sampled_from([0, 100, 20_000]))) for _ in queries])
    k = data.draw(st.sampled_from([1, 40, 400]))
    found = candidates(table, queries, k, gone, allowed, path=path)
    same(found, candidates(table, queries, k, gone, allowed, path="plain"))
    for row, ids in enumerate(found[0]):
        left = {*np.flatnonzero(allowed)} - {*gone.values[gone.offsets[row] : gone.offsets[row + 1]]}
        assert {*ids[ids >= 0]} <= left
        assert (ids >= 0).sum() == min(k, len(left))


def test_no_cells_where_they_do_not_pay():
    vectors, queries = clustered(3_000, 8, 20, 5.0)
    assert partitioned(vectors, queries, 10).cells is None
    assert partitioned(vectors, queries[:0], 10, least=100).cells is None
    assert partitioned(vectors, queries, 900, 1.0, least=100).cells is None  # nearly all had to be read


def test_clusters_find_what_lies_apart():
    draw = np.random.default_rng(0)
    centres = 50 * draw.normal(size=(8, 5))
    truth = draw.integers(0, 8, 2_000)
    found, cell = clusters((centres[truth] + draw.normal(size=(2_000, 5))).astype(np.float32), 24)
    assert len(found) == cell.max() + 1 <= 24
    for one in range(len(found)):
        assert len({*truth[cell == one]}) == 1


def test_cells_are_saved_and_mapped(world, tmp_path, path):
    vectors, queries, table = world
    table.save(tmp_path)
    loaded = Quantised.load(tmp_path, vectors)
    assert loaded.cells.probes == table.cells.probes
    same(candidates(loaded, queries, 30, path=path), candidates(table, queries, 30, path=path))
    np.save(tmp_path / "cells" / "probes.npy", np.array([10_000]))
    with pytest.raises(BundleError, match="holds cells that do not fit together; save the table again"):
        Quantised.load(tmp_path, vectors)
    np.save(tmp_path / "cells" / "probes.npy", np.array([3]))
    np.save(tmp_path / "cells" / "starts.npy", table.cells.starts[:-1])
    with pytest.raises(BundleError, match=r"vectors.npy holds float32 .* the table needs float32"):
        Quantised.load(tmp_path, vectors)
