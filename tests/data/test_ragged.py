import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from suisen.data.ragged import Ragged, concat, largest, offsets_of, side_by_side, spans

lists = st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=6)


@given(lists)
def test_of_and_tolist_are_inverse(rows):
    ragged = Ragged.of(rows)
    assert ragged.tolist() == rows
    assert len(ragged) == len(rows)
    assert ragged.lengths.tolist() == [len(row) for row in rows]
    assert ragged.rows().tolist() == [i for i, row in enumerate(rows) for _ in row]


@given(lists, st.integers(0, 6))
def test_cuts_are_those_of_lists(rows, most):
    ragged = Ragged.of(rows)
    assert ragged.last(most).tolist() == [row[max(0, len(row) - most) :] for row in rows]
    assert ragged.drop_last(most).tolist() == [row[: max(0, len(row) - most)] for row in rows]


@given(lists.filter(len), st.data())
def test_take_and_keep_are_those_of_lists(rows, data):
    ragged = Ragged.of(rows)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6))
    assert ragged.take(torch.tensor(chosen, dtype=torch.int64)).tolist() == [rows[i] for i in chosen]
    assert ragged.keep(ragged.values % 2 == 0).tolist() == [[v for v in row if v % 2 == 0] for row in rows]


@given(lists, st.integers(0, 2))
def test_padded_is_the_double_loop(rows, extra):
    width = max((len(row) for row in rows), default=0) + extra
    padded = Ragged.of(rows).padded(width, fill=-1)
    assert padded.tolist() == [row + [-1] * (width - len(row)) for row in rows]
    assert Ragged.of(rows).mask(width).tolist() == [[j < len(row) for j in range(width)] for row in rows]


@given(st.lists(st.tuples(*[st.lists(st.integers(0, 9), max_size=4)] * 2), max_size=6))
def test_side_by_side_adds_lists(pairs):
    joined = side_by_side(Ragged.of([one for one, _ in pairs]), Ragged.of([two for _, two in pairs]))
    assert joined.tolist() == [one + two for one, two in pairs]


def test_padded_is_as_wide_as_the_longest_row():
    assert Ragged.of([[1], [2, 3]]).padded().tolist() == [[1, 0], [2, 3]]
    assert Ragged.of([]).padded().shape == (0, 0)


def test_weights_go_with_their_values():
    ragged = Ragged(torch.tensor([1, 2, 3]), torch.tensor([0, 2, 3]), torch.tensor([0.1, 0.2, 0.3]))
    assert ragged.take(torch.tensor([1, 0])).weights.tolist() == pytest.approx([0.3, 0.1, 0.2])
    assert ragged.last(1).weights.tolist() == pytest.approx([0.2, 0.3])
    assert ragged.keep(ragged.values > 1).weights.tolist() == pytest.approx([0.2, 0.3])
    assert ragged.with_values(torch.tensor([7, 8, 9])).weights is None


@given(lists, lists)
def test_concat_is_that_of_lists(a, b):
    assert concat([Ragged.of(a), Ragged.of(b)]).tolist() == a + b


def test_concat_gives_weight_one_to_what_has_none():
    weighted = Ragged(torch.tensor([5]), torch.tensor([0, 1]), torch.tensor([0.5]))
    assert concat([Ragged.of([[1]]), weighted]).weights.tolist() == [1.0, 0.5]


def test_empty_rows_and_devices():
    empty = Ragged.empty(3, torch.float32)
    assert empty.tolist() == [[], [], []]
    assert empty.values.dtype == torch.float32
    assert empty.to(torch.device("cpu")).tolist() == [[], [], []]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 4)), max_size=6))
def test_spans_are_ranges(pairs):
    starts, lengths = (torch.tensor([p[i] for p in pairs], dtype=torch.int64) for i in (0, 1))
    assert spans(starts, lengths).tolist() == [s + i for s, n in pairs for i in range(n)]
    assert offsets_of(lengths).diff().tolist() == lengths.tolist()


# -- rows as sets ------------------------------------------------------------------------------------------------------

pairs_of_lists = st.lists(st.tuples(*[st.lists(st.integers(0, 6), max_size=5)] * 2), max_size=6)


@given(pairs_of_lists)
def test_differences_are_those_of_sets(pairs):
    """Values that only one side holds, or none, are among them: the sides' largest values differ."""
    left, right = (Ragged.of([pair[i] for pair in pairs]) for i in (0, 1))
    assert left.isin(right).tolist() == [value in b for a, b in pairs for value in a]
    assert left.minus(right).tolist() == [[value for value in a if value not in b] for a, b in pairs]


@given(lists)
def test_unique_is_sorted_sets_and_distinct_keeps_the_order(rows):
    ragged = Ragged.of(rows)
    assert ragged.unique().tolist() == [sorted(set(row)) for row in rows]
    assert ragged.distinct().tolist() == [list(dict.fromkeys(row)) for row in rows]


@given(lists, st.integers(1, 5))
def test_keys_and_of_keys_are_inverse(rows, more):
    ragged = Ragged.of([sorted(row) for row in rows])
    size = largest(ragged.values) + more
    keys = ragged.keys(size)
    assert keys.tolist() == [i * size + value for i, row in enumerate(rows) for value in sorted(row)]
    assert Ragged.of_keys(keys, size, len(rows)).tolist() == ragged.tolist()


@given(lists.filter(len), st.data())
def test_holds_is_in(rows, data):
    ragged = Ragged.of(rows)
    ids = data.draw(st.lists(st.lists(st.integers(0, 12), min_size=3, max_size=3), min_size=1, max_size=4))
    named = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=len(ids), max_size=len(ids)))
    found = ragged.holds(torch.tensor(ids), torch.tensor(named)[:, None])
    assert found.tolist() == [[value in rows[i] for value in row] for i, row in zip(named, ids, strict=True)]
    own = torch.tensor(ids[:1]).expand(len(rows), -1)
    assert ragged.holds(own).tolist() == [[value in row for value in ids[0]] for row in rows]
    assert ragged.holds(own[:, :0]).shape == (len(rows), 0)


@given(lists)
def test_places_count_in_each_row(rows):
    assert Ragged.of(rows).places().tolist() == [place for row in rows for place in range(len(row))]


def test_sets_leave_weights_behind_or_with_their_values():
    ragged = Ragged(torch.tensor([3, 1, 3]), torch.tensor([0, 2, 3]), torch.tensor([0.1, 0.2, 0.3]))
    assert ragged.unique().weights is None
    assert ragged.minus(Ragged.of([[3], []])).weights.tolist() == pytest.approx([0.2, 0.3])
    assert ragged.distinct().weights.tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_rows_of_nothing_hold_nothing():
    nothing = Ragged.empty(2)
    assert nothing.holds(torch.tensor([[0, 1], [2, 3]])).tolist() == [[False, False]] * 2
    assert Ragged.of([[1], []]).minus(nothing).tolist() == [[1], []]
    assert (nothing.unique().tolist(), nothing.distinct().tolist(), largest(nothing.values)) == ([[], []], [[], []], -1)


def test_a_few_rows_cost_the_same_among_many(monkeypatch):
    """``take`` looks at the rows it is given alone: no array of all lengths is made."""
    monkeypatch.setattr(Ragged, "lengths", None)
    assert Ragged.of([[1], [], [2, 3]]).take(torch.tensor([2, 1, 2])).tolist() == [[2, 3], [], [2, 3]]
