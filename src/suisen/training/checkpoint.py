"""One file for all that a run needs to go on: safetensors, the plain values as JSON in its header.  No pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from suisen.errors import InputError

TENSOR = "__tensor__"


def save_tree(path: Path, tree: Any) -> None:
    """Writes nested dicts, lists (tuples come back as lists), plain values and tensors, aside and then renamed: nobody
    reads half a file.
    """
    tensors: dict[str, Tensor] = {}
    plain = _strip(tree, tensors)
    aside = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, aside, metadata={"tree": json.dumps(plain)})
    os.replace(aside, path)


def load_tree(path: Path) -> Any:
    """The inverse of ``save_tree``.  Raises InputError on a damaged file, naming it."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return _fill(json.loads((file.metadata() or {})["tree"]), tensors)
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise InputError(f"checkpoint {path} is damaged ({error}); delete it and start the run again") from None


def _strip(tree: Any, tensors: dict[str, Tensor]) -> Any:
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
    if isinstance(plain, dict):
        if TENSOR in plain:
            return tensors[plain[TENSOR]]
        return {key: _fill(value, tensors) for key, value in plain["__dict__"]}
    if isinstance(plain, list):
        return [_fill(value, tensors) for value in plain]
    return plain


def weights_of(module: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, persistent or not, of a network, without the item table that the house binds to it."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: value.detach() for name, value in named if "items" not in name.split(".")[:-1]}


def copy_weights(module: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    """Puts saved values in place, on the module's device.  Raises InputError where they are of another network."""
    current = weights_of(module)
    for name in current.keys() | weights.keys():
        here, there = (tuple(w[name].shape) if name in w else None for w in (current, weights))
        if here != there:
            raise InputError(f"weight {name!r} has shape {here} here and {there} in what was saved: another network")
    for name, value in weights.items():
        current[name].copy_(value)
