"""Networks as ONNX graphs: a retriever's query tower, and what a ranker does per context and per pair.

Inputs of a query or context graph are contexts as tensors, whose names ``tensors_of`` gives; a graph has those alone
that it reads.  B, the length of histories and that of lists of codes are free.  Item vectors and item states are no
part of any graph: they are computed once.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from suisen.data.batch import Contexts, Features, Schema
from suisen.data.ragged import Ragged
from suisen.errors import InputError
from suisen.models.contract import Net, Ranker, Retriever
from suisen.recommending.exporting.boxes import Boxed

ROWS, WIDTH, CANDIDATES = 3, 5, 7
"""Sizes at which graphs are traced; all differ, so that none is taken for another."""
Shape = dict[int, Any]


class Graph(NamedTuple):
    """A graph that was written."""

    inputs: list[str]
    """What it reads."""
    history: int | None
    """How many of the newest items of a history it reads at most; None: all."""


def tensors_of(contexts: Contexts) -> dict[str, Tensor]:
    """B contexts as tensors by the names of graphs' inputs.

    ``user`` and ``time`` (B,); ``history`` and ``history_time`` (B, L), oldest first, 0 behind; for ``user`` and
    ``context`` features ``…_categorical`` (B, fields), ``…_numeric`` (B, fields) and ``…_multi_0``, ``…_multi_1``, …
    (B, L) codes, 0 behind.  Kinds of which the schema has no field are left out.
    """
    times = contexts.history.with_values(contexts.history_time)
    found = {"user": contexts.user, "time": contexts.time, "history": _box(contexts.history)}
    found["history_time"] = _box(times)
    for owner, features in (("user", contexts.user_features), ("context", contexts.context_features)):
        found |= {f"{owner}_categorical": features.categorical, f"{owner}_numeric": features.numeric}
        found |= {f"{owner}_multi_{place}": _box(bag) for place, bag in enumerate(features.multi)}
    return {name: tensor for name, tensor in found.items() if tensor.dim() == 1 or tensor.shape[1]}


def _box(rows: Ragged) -> Tensor:
    """(B, L) with L at least 1."""
    return rows.padded(max(1, int(rows.lengths.max()) if len(rows) else 0))


def _contexts(named: Mapping[str, Tensor], most: int | None) -> Contexts:
    """The contexts of such tensors, their rows boxed."""
    user = named["user"]

    def features(owner: str) -> Features:
        none = user.new_zeros((user.shape[0], 0))
        multi = [Boxed.of_box(box) for name, box in named.items() if name.startswith(f"{owner}_multi_")]
        codes, numbers = named.get(f"{owner}_categorical", none), named.get(f"{owner}_numeric", none.float())
        return Features(codes, numbers, tuple(multi))

    history = Boxed.of_box(named["history"], most=most)
    times = named["history_time"].reshape(-1)
    return Contexts(user, features("user"), features("context"), named["time"], history, times)


def _example(schema: Schema, width: int) -> dict[str, Tensor]:
    """Tensors of some contexts: of their numbers nothing depends on."""
    whole = torch.ones((ROWS, width), dtype=torch.int64)
    found = {"time": whole[:, 0], "history_time": whole}
    for owner, fields in (("user", schema.user), ("context", schema.context)):
        kinds = [field.kind for field in fields]
        if "categorical" in kinds:
            found[f"{owner}_categorical"] = torch.zeros((ROWS, kinds.count("categorical")), dtype=torch.int64)
        if "numeric" in kinds:
            found[f"{owner}_numeric"] = torch.zeros((ROWS, kinds.count("numeric")))
        for place in range(kinds.count("multi")):
            found[f"{owner}_multi_{place}"] = torch.zeros((ROWS, WIDTH), dtype=torch.int64)
    found |= {"history": whole, "user": whole[:, 0]}
    return {name: tensor.clone() for name, tensor in found.items()}


class _OfContexts(nn.Module):
    """What a network makes of contexts, as a module over their tensors."""

    def __init__(self, net: Net, make: Callable[[Contexts], Tensor], names: list[str], most: int | None) -> None:
        super().__init__()
        self.net, self.make, self.names, self.most = net, make, names, most

    def forward(self, *tensors: Tensor) -> Tensor:
        """(B, d)."""
        return self.make(_contexts(dict(zip(self.names, tensors, strict=True)), self.most)).float()


class _Combine(nn.Module):
    """``Ranker.combine`` as a module."""

    def __init__(self, net: Ranker) -> None:
        super().__init__()
        self.net = net

    def forward(self, context: Tensor, item: Tensor, pair: Tensor) -> Tensor:
        """(B, C) of (B, t), (B, C, s) and (B, C, p)."""
        return self.net.combine(context, item, pair).float()


def check(net: Net, name: str) -> None:
    """Raises InputError naming a network that cannot be a graph, and why."""
    for part in net.modules():
        if isinstance(part, Net) and part.no_graph:
            raise InputError(f"{name} cannot be exported: {part.no_graph}")


def write_query(net: Retriever, schema: Schema, path: Path, name: str) -> Graph:
    """Writes ``query_vectors``: contexts in, ``query`` (B, d) out."""
    return _write_contexts(net, net.query_vectors, schema, "query", path, name)


def write_context(net: Ranker, schema: Schema, path: Path, name: str) -> Graph:
    """Writes ``context_state``: contexts in, ``state`` (B, t) out."""
    return _write_contexts(net, net.context_state, schema, "state", path, name)


def write_combine(net: Ranker, context: int, item: int, pair: int, path: Path, name: str) -> Graph:
    """Writes ``combine``: ``context`` (B, t), ``item`` (B, C, s) and ``pair`` (B, C, p) in, ``score`` (B, C) out."""
    rows, places = torch.export.Dim("batch"), torch.export.Dim("candidates")
    named = {
        "context": torch.zeros((ROWS, context)),
        "item": torch.zeros((ROWS, CANDIDATES, item)),
        "pair": torch.zeros((ROWS, CANDIDATES, pair)),
    }
    shapes: list[Shape] = [{0: rows}, {0: rows, 1: places}, {0: rows, 1: places}]
    return Graph(_write(_Combine(net), named, shapes, "score", path, name), None)


def _write_contexts(
    net: Net, make: Callable[[Contexts], Tensor], schema: Schema, output: str, path: Path, name: str
) -> Graph:
    most = _most_read(make, schema)
    width = WIDTH if most is None else min(most, WIDTH)
    named = _example(schema, width)
    rows, items = torch.export.Dim("batch"), torch.export.Dim("items")
    shapes: list[Shape] = []
    for each in named:
        shapes.append({0: rows})
        if each.startswith("history") and width == WIDTH:
            shapes[-1][1] = items
        elif "_multi_" in each:
            shapes[-1][1] = torch.export.Dim(each)
    inputs = _write(_OfContexts(net, make, list(named), most), named, shapes, output, path, name)
    return Graph(inputs, most)


@torch.no_grad()
def _most_read(make: Callable[[Contexts], Tensor], schema: Schema) -> int | None:
    """How many of a history's newest items are read at most; None: all are, or none."""
    contexts = _contexts(_example(schema, WIDTH), None)
    history = contexts.history
    make(contexts)
    assert isinstance(history, Boxed)  # noqa: S101 - _contexts made it
    return max(history.asked, default=None)


@contextmanager
def _silent() -> Iterator[None]:
    """Without what torch's exporter says of its own internals."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _write(
    graph: nn.Module, named: dict[str, Tensor], shapes: list[Shape], output: str, path: Path, name: str
) -> list[str]:
    """Writes a graph, its weights beside it (``….onnx.data``); returns the inputs that it reads."""
    free = (tuple(shapes),) if isinstance(graph, _OfContexts) else tuple(shapes)
    try:
        with torch.no_grad(), _silent():
            program: Any = torch.onnx.export(
                graph.eval(),
                tuple(named.values()),
                input_names=list(named),
                output_names=[output],
                dynamic_shapes=free,
                verbose=False,
            )
    except Exception as error:  # whatever a tracer or a converter raises: the model is at fault, not the caller
        lines = [line for line in str(error.__cause__ or error).strip().splitlines() if line.strip()]
        why = lines[0].strip() if lines else type(error).__name__
        raise InputError(f"{name} cannot be exported: ONNX has no form of it ({why})") from error
    inner = program.model.graph
    _size_by_what_is_read(inner)
    for value in [value for value in inner.inputs if not value.uses()]:
        inner.inputs.remove(value)
    for each in [each for each, value in inner.initializers.items() if not value.uses()]:
        del inner.initializers[each]  # an item tower, say, which no query passes
    program.save(str(path), external_data=True)
    return [value.name for value in inner.inputs]


def _size_by_what_is_read(graph: Any) -> None:
    """B and L are read off inputs that something is computed from: another one would be asked for its shape alone."""
    read = [value for value in graph.inputs if any(use.node.op_type != "Shape" for use in value.uses())]
    others = [value for value in graph.inputs if value not in read]
    for value in others:
        for node, _ in list(value.uses()):
            axis = node.attributes["start"].as_int()
            same = [
                one for one in (*read, others[-1]) if len(one.shape) > axis and one.shape[axis] == value.shape[axis]
            ]
            if same:
                node.replace_input_with(0, same[0])


__all__ = ["Graph", "check", "tensors_of", "write_combine", "write_context", "write_query"]
