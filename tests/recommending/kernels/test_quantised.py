import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from suisen.errors import BundleError, InputError
from suisen.recommending.kernels import Quantised, candidates
from tests.recommending.kernels.conftest import levels_by_definition, query_levels_by_definition

numbers = st.floats(-(2.0**49), 2.0**49, width=32)


def levels_of(table):
    """(n, d) levels by position, read from the tiles one by one."""
    n, d = table.vectors.shape
    out = np.zeros((n, d), dtype=np.int64)
    for i, j in np.ndindex(n, d):
        tile, place = divmod(int(table.slots[i]), 64)
        out[i, j] = table.tiles[tile, j // 4, place, j % 4]
    return out


@given(st.data())
def test_levels_and_steps_are_their_definition(data):
    shape = (data.draw(st.integers(1, 70)), data.draw(st.integers(1, 9)))
    vectors = data.draw(arrays(np.float32, shape, elements=numbers))
    queries = data.draw(arrays(np.float32, (3, shape[1]), elements=numbers))
    table = Quantised.of(vectors)
    levels, step = levels_by_definition(vectors)
    np.testing.assert_array_equal(levels_of(table), levels)
    np.testing.assert_array_equal(table.scale, step)
    asked = table.levels_of(queries)
    np.testing.assert_array_equal(asked[:, : shape[1]], query_levels_by_definition(queries, step))
    assert not asked[:, shape[1] :].any()
    wide = vectors.astype(np.float64)
    error = np.abs(wide.min(axis=0) + step * levels - wide)
    assert (error <= step / 2 * (1 + 1e-6) + 1e-12).all()


def test_a_table_worked_out_by_hand():
    table = Quantised.of(np.array([[0, 5, -1], [255, 5, 1], [100.4, 5, 0]], dtype=np.float32))
    assert levels_of(table).tolist() == [[0, 0, 0], [255, 0, 255], [100, 0, 128]]  # 127.5 rounds to the even level
    assert table.scale.tolist() == [1, 0, 2 / 255]
    # Stretched: 1·1, 9·0, 127.5·2/255 = 1; so both are the largest.  Then 1·1 against 255·2/255 = 2: a half of 127.
    queries = np.array([[1, 9, 127.5], [-1, 0, 255], [0, 7, 0]], dtype=np.float32)
    assert table.levels_of(queries).tolist() == [[127, 0, 127, 0], [-64, 0, 127, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("n", [1, 63, 64, 65, 200])
def test_tiles_are_aligned_padded_and_every_slot_has_its_position(n):
    table = Quantised.of(np.random.default_rng(n).normal(size=(n, 5)).astype(np.float32))
    assert table.tiles.shape == (-(-n // 64), 2, 64, 4)
    assert table.tiles.ctypes.data % 64 == 0
    assert sorted(table.order[:n]) == list(range(n))
    assert not table.order[n:].any()
    assert len(table.order) == 64 * (len(table.tiles) + 1)
    assert (table.order[table.slots] == np.arange(n)).all()
    behind = table.tiles.transpose(0, 2, 1, 3).reshape(-1, 8)
    assert not behind[n:].any()
    assert not behind[:, 5:].any()
    bits = np.unpackbits(table.open_to(None).view(np.uint8), bitorder="little")
    assert bits.tolist() == [1] * n + [0] * (len(bits) - n)


def test_chunks_change_nothing(monkeypatch):
    vectors = np.random.default_rng(0).normal(size=(500, 7)).astype(np.float32)
    whole = Quantised.of(vectors).tiles
    monkeypatch.setattr("suisen.recommending.kernels.quantised.TILES_PER_CHUNK", 3)
    np.testing.assert_array_equal(Quantised.of(vectors).tiles, whole)


def test_centred_levels_stand_at_their_positions():
    vectors = np.random.default_rng(1).normal(size=(100, 6)).astype(np.float32)
    table = Quantised.of(vectors)
    np.testing.assert_array_equal(table.centred[:, :6], levels_of(table) - 128)


def test_a_contiguous_array_is_shared_and_any_other_copied():
    whole = np.random.default_rng(2).normal(size=(40, 12)).astype(np.float32)
    assert Quantised.of(whole).vectors is whole
    for view in (whole[::2], whole[:, ::3], np.asfortranarray(whole), whole[::-1, ::-1]):
        table = Quantised.of(view)
        assert table.vectors.flags.c_contiguous
        np.testing.assert_array_equal(levels_of(table), levels_by_definition(view)[0])


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (np.zeros((2, 3)), "vectors is float64"),
        (np.zeros(3, dtype=np.float32), r"vectors has shape \(3,\)"),
        (np.zeros((0, 3), dtype=np.float32), "at least one row"),
        (np.array([[0], [np.nan]], dtype=np.float32), r"vectors\[1\] holds NaN, infinity"),
        (np.array([[-np.inf], [0]], dtype=np.float32), r"vectors\[0\] holds NaN, infinity"),
        (np.zeros((2, 1025), dtype=np.float32), "vectors has 1025 dimensions; an int8 table holds at most 1024"),
    ],
)
def test_what_no_table_can_hold_is_refused(vectors, said):
    with pytest.raises(InputError, match=said):
        Quantised.of(vectors)


def test_a_table_is_saved_without_pickle_and_mapped(tmp_path, path):
    draw = np.random.default_rng(3)
    vectors, queries = (draw.normal(size=(n, 10)).astype(np.float32) for n in (300, 8))
    table = Quantised.of(vectors)
    table.save(tmp_path / "deep" / "table")
    assert {file.name for file in (tmp_path / "deep" / "table").iterdir()} == {
        "tiles.npy", "low.npy", "scale.npy", "order.npy", "slots.npy", "fine.npy",
    }  # fmt: skip
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    loaded = Quantised.load(tmp_path / "deep" / "table", mapped)
    assert loaded.tiles.ctypes.data % 64 == 0
    for one, other in zip(candidates(table, queries, 20, path=path), candidates(loaded, queries, 20, path=path)):
        np.testing.assert_array_equal(one, other)


def test_a_file_of_another_table_or_none_is_refused(tmp_path):
    vectors = np.random.default_rng(4).normal(size=(100, 4)).astype(np.float32)
    Quantised.of(vectors).save(tmp_path)
    with pytest.raises(BundleError, match=r"tiles.npy holds uint8 .* the table needs uint8 \(2, 2, 64, 4\)"):
        Quantised.load(tmp_path, np.zeros((100, 5), dtype=np.float32))
    with pytest.raises(BundleError, match=r"slots.npy holds .* the table needs int32 \(101,\)"):
        Quantised.load(tmp_path, np.zeros((101, 4), dtype=np.float32))
    (tmp_path / "order.npy").write_bytes((tmp_path / "order.npy").read_bytes()[:200])
    with pytest.raises(BundleError, match=r"order.npy cannot be read .* save the table again"):
        Quantised.load(tmp_path, vectors)
    (tmp_path / "order.npy").unlink()
    with pytest.raises(BundleError, match=r"order.npy cannot be read"):
        Quantised.load(tmp_path, vectors)
