"""The checkpoint file: what goes in comes out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from suisen.data.batch import Features
from suisen.errors import InputError
from suisen.models.contract import ItemTable, Net
from suisen.training.checkpoint import copy_weights, load_tree, save_tree, weights_of

TENSORS = st.builds(
    lambda values, kind: torch.tensor(values).to(kind),
    st.lists(st.integers(-100, 100), max_size=4),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]),
)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
KEYS = st.text("ab/_", max_size=4) | st.integers(0, 9) | st.sampled_from(["__dict__", "__tensor__"])
TREES = st.recursive(
    PLAIN | TENSORS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


def alike(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(value, b[key]) for key, value in a.items())
    if isinstance(a, list):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and a == b


@given(tree=TREES)
def test_round_trip(tree, tmp_path_factory):
    path = tmp_path_factory.mktemp("tree") / "t.safetensors"
    save_tree(path, tree)
    assert alike(tree, load_tree(path))
    assert [file.name for file in path.parent.iterdir()] == ["t.safetensors"]


def test_tensors_may_be_views_of_one_another(tmp_path):
    base = torch.arange(6.0).view(2, 3)
    save_tree(tmp_path / "t", {"a": base, "b": base.T, "c": base[1], "d": (1, base)})
    tree = load_tree(tmp_path / "t")
    assert torch.equal(tree["b"], base.T)
    assert torch.equal(tree["c"], base[1])
    assert tree["d"][0] == 1  # tuples come back as lists
    assert isinstance(tree["d"], list)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"checkpoint .*nothing is damaged"):
        load_tree(tmp_path / "nothing")


def test_a_foreign_safetensors_file_is_named(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "x")
    with pytest.raises(InputError, match=r"checkpoint .*x is damaged \('tree'\)"):
        load_tree(tmp_path / "x")


class Tree(Net):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.inner = nn.Linear(2, 2), Net()
        self.register_buffer("mean", torch.ones(3))
        self.register_buffer("fleeting", torch.ones(1), persistent=False)


def test_weights_are_all_but_the_item_table():
    net = Tree()
    net.bind(ItemTable(Features.none(4), torch.ones(4, dtype=torch.bool)))
    assert set(weights_of(net)) == {"layer.weight", "layer.bias", "mean", "fleeting"}


def test_weights_are_put_back_in_place():
    one, other = Tree(), Tree()
    pointer = other.layer.weight.data_ptr()
    copy_weights(other, {name: value.clone() for name, value in weights_of(one).items()})
    assert torch.equal(one.layer.weight, other.layer.weight)
    assert other.layer.weight.data_ptr() == pointer
    with pytest.raises(InputError, match=r"weight 'mean' has shape \(3,\) here and None in what was saved"):
        copy_weights(other, {name: value for name, value in weights_of(one).items() if name != "mean"})
    with pytest.raises(InputError, match=r"weight 'more' has shape None here and \(1,\) in what was saved"):
        copy_weights(other, {**weights_of(one), "more": torch.zeros(1)})


def test_folders_are_made_on_the_way(tmp_path):
    path = tmp_path / "runs" / "first" / "checkpoint"
    save_tree(path, {"epoch": 3})
    assert load_tree(path) == {"epoch": 3}
