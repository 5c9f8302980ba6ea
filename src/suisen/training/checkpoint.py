"""Checkpoints: trees of tensors and plain values in one safetensors file, the plain values as JSON in its header.

Loading runs no code: there is no pickle.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from suisen.errors import InputError
from suisen.files import replacing

TENSOR = "__tensor__"
"""Key of a dict that stands in the JSON for a tensor; its value is the tensor's name in the file."""


def save_tree(path: Path, tree: Any) -> None:
    """Writes a tree of dicts, lists, plain values and tensors; tuples come back as lists.

    Nobody reads half of one (``files.replacing``).
    """
    tensors: dict[str, Tensor] = {}
    plain = _strip(tree, tensors)
    with replacing(path) as part:
        save_file(tensors, part, metadata={"tree": json.dumps(plain)})


def load_tree(path: Path) -> Any:
    """The tree that ``save_tree`` wrote.  Raises InputError where the file is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return _fill(json.loads((file.metadata() or {})["tree"]), tensors)
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise InputError(f"checkpoint {path} is damaged ({error}); delete it and start the run again") from None


def _strip(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """The tree in JSON's types; its tensors move to ``tensors`` under a name each."""
    if isinstance(tree, Tensor):
        name = str(len(tensors))
        tensors[name] = tree.detach().cpu().contiguous().clone()
        return {TENSOR: name}
    if isinstance(tree, dict):  # keys of an optimiser's state are integers: keep them as such
        return {"__dict__": [[key, _strip(value, tensors)] for key, value in tree.items()]}
    if isinstance(tree, (list, tuple)):
        return [_strip(value, tensors) for value in tree]
    return tree


def _fill(plain: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of ``_strip``."""
    if isinstance(plain, dict):
        if TENSOR in plain:
            return tensors[plain[TENSOR]]
        return {key: _fill(value, tensors) for key, value in plain["__dict__"]}
    if isinstance(plain, list):
        return [_fill(value, tensors) for value in plain]
    return plain


def weights_of(module: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a network by name, those that are not persistent included.

    Left out is the item table that ``Net.bind`` gives a network: it holds data, not weights.
    """
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: value.detach() for name, value in named if "items" not in name.split(".")[:-1]}


def copy_weights(module: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    """Copies values of ``weights_of`` into the module, in place and on its device.

    Raises InputError where names or shapes are those of another network.
    """
    current = weights_of(module)
    for name in current.keys() | weights.keys():
        here = tuple(current[name].shape) if name in current else None
        there = tuple(weights[name].shape) if name in weights else None
        if here != there:
            raise InputError(f"weight {name!r} has shape {here} here and {there} in what was saved: another network")
    for name, value in weights.items():
        current[name].copy_(value)
