"""What the causal models share: states of the real places, computed in groups of like length."""

import pytest
import torch

from suisen.data.ragged import Ragged
from suisen.models.sequences import flat_states, newest, next_items, positions


def doubled(rows: Ragged) -> torch.Tensor:
    assert rows.values.numel(), "a network is never asked about nothing but padding"
    return rows.padded().float().unsqueeze(-1) * torch.tensor([1.0, 2.0])


@pytest.mark.parametrize("groups", [1, 2, 3, 9])
def test_groups_without_a_place_are_passed_over(groups):
    found = positions(doubled, Ragged.of([[7], [1, 2, 3], [5], [4, 6]]), groups)
    assert sorted(found.targets.tolist()) == [2, 3, 6]
    read = found.inputs.values.float()
    assert torch.equal(found.hidden, torch.stack([read, 2 * read], 1))


def test_states_become_float32():
    half = lambda rows: doubled(rows).bfloat16()  # noqa: E731
    rows = Ragged.of([[3], [1, 2]])
    assert flat_states(half, rows).dtype == torch.float32
    assert newest(half, rows, 2).dtype == torch.float32


def test_every_read_place_stands_before_its_target():
    read, targets = next_items(Ragged.of([[1, 2, 3], [], [9], [4, 5]]))
    assert read.values.tolist() == [1, 2, 4]
    assert read.lengths.tolist() == [2, 0, 0, 1]
    assert targets.tolist() == [2, 3, 5]


def test_rows_keep_their_order():
    rows = Ragged.of([[3], [1, 2], [4, 5, 6]])
    assert torch.equal(flat_states(doubled, rows, 2)[:, 0], rows.values.float())
