"""Every hyper-parameter of every model does something: another value changes the network, its loss, or its phases.

A model added to the registry is tested by itself.  Values come from the field's annotation: other choices of a Literal,
the other bool, the numbers beside the one at hand and the end of the bounds.  Each must change what can be observed:
first weights and their shapes, what ``prepare`` learns, batches, the loss of the first batch in training, optimisers,
epochs.  ``WITH`` says what a field needs beside it to mean anything.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields, is_dataclass, replace
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from suisen.errors import InputError
from suisen.models import MODELS, model_of
from tests.fitted import small_split
from tests.models.toys import bound

SMALL: dict[str, Any] = {
    "dim": 8, "gmf_dim": 4, "mlp_dim": 4, "hidden": (6, 5), "batch_size": 16, "history": 4, "recent": 2, "length": 6,
    "hide_ids": 0.2, "dropout": 0.3, "l2": 0.1, "gmf_l2": 0.1, "mlp_l2": 0.1, "neighbours": 7, "rank": 2, "epochs": 3,
    "groups": 2, "last": 0.5, "min_leaf": 40, "truncation": 2, "trees": 3,
}  # fmt: skip
"""Of the fields of these names, in every model: small, and inside of what the small data can tell apart."""
WITH: dict[str, dict[str, dict[str, Any]]] = {
    "two-tower": {
        "negatives": {"loss": "mixed"}, "hard_pool": {"hard": 3, "hard_pool": 6}, "margin": {"loss": "triplet"},
    },
    "gru4rec": {
        "negatives": {"loss": "sampled"}, "power": {"loss": "sampled"}, "penalty": {"loss": "bpr-max"},
    },
    "sasrec": {
        "negatives": {"loss": "gbce"}, "negatives_per": {"loss": "gbce", "negatives": 5}, "power": {"loss": "sampled"},
        "calibration": {"loss": "gbce", "negatives": 5},
    },
    "lightgcn": {"negatives": {"loss": "bpr"}},
    "wide-deep": {"buckets": {"crosses": (("user", "item"),), "buckets": 64}},
}  # fmt: skip
"""Model → field → the values of other fields under which it is read."""
VALUES: dict[tuple[str, str], tuple[Any, ...]] = {
    ("sasrec", "heads"): (2, 8),  # must divide dim
    ("ials", "unobserved"): (0.1, 1.0),
    ("lightgcn", "negatives"): (1, 2, 5),
    ("bert4rec", "heads"): (2, 8),
    ("wide-deep", "crosses"): ((("user", "item"),), (("user", "item"), ("history", "item"))),  # names of fields
}
"""What cannot be derived from an annotation."""
SAME: dict[tuple[str, str, Any], str] = {
    ("sasrec", "negatives_per", "sequence"): "what auto means for gbce",
    ("lightgcn", "negatives", 1): "what none means for bpr",
}
"""(model, field, value) → why it cannot be told from the value at hand.  Held: they must really be the same."""
DROPS: dict[str, Any] = {
    "two-tower": lambda model: 2 * len(model.hidden),  # behind each hidden layer of either tower
    "gru4rec": lambda model: 2 + model.layers - 1,  # what is read, the states, and between the layers
    "sasrec": lambda model: 1 + 4 * model.blocks,  # the input; attention's weights and output, both layers behind it
    "bert4rec": lambda model: 1 + 4 * model.blocks,
    "mlp": lambda model: len(model.hidden),
    "neumf": lambda model: len(model.hidden),
    "deepfm": lambda model: len(model.hidden),
    "din": lambda model: len(model.hidden),
    "wide-deep": lambda model: len(model.hidden),
    "dnn": lambda model: len(model.hidden),
    "dcn-v2": lambda model: len(model.hidden),
}
"""How many layers of a model with ``dropout`` drop something in one pass over a batch: as its paper says."""
HIDDEN = 3
"""What ``hide_ids`` hides, drawn apart: users, user features, items."""


# -- values ------------------------------------------------------------------------------------------------------------


def base(name: str, **hyper: Any) -> Any:
    """The model with small values."""
    cls = MODELS[name]
    small = {field.name: SMALL[field.name] for field in fields(cls) if field.name in SMALL}
    return model_of(name, **{**small, **hyper})


def others(name: str, field: str, value: Any) -> tuple[Any, ...]:
    """Values of a field beside the one at hand."""
    if (name, field) in VALUES:
        return VALUES[name, field]
    return derived(get_type_hints(MODELS[name], include_extras=True)[field], value, {})


def derived(hint: Any, value: Any, bounds: dict[str, float]) -> tuple[Any, ...]:
    """From the annotation alone."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return derived(args[0], value, limits(args[1:]))
    if origin in (Union, UnionType):
        inner = next(each for each in args if each is not NoneType)
        return (*derived(inner, value, bounds), *([] if value is None else [None]))
    if origin is Literal:
        return tuple(each for each in args if each != value)
    if origin is tuple:
        return ((7,), (7, 5), (6, 5, 4)) if value != (7,) else ((6,), (7, 5))
    if hint is bool:
        return (not value,)
    return numbers(hint, value, bounds)


def limits(notes: tuple[Any, ...]) -> dict[str, float]:
    """ge, gt, le and lt of Pydantic's ``Field``."""
    found = [part for note in notes for part in (note, *getattr(note, "metadata", ()))]
    return {word: getattr(each, word) for each in found for word in ("ge", "gt", "le", "lt") if hasattr(each, word)}


def numbers(kind: Any, value: Any, bounds: dict[str, float]) -> tuple[Any, ...]:
    """The lower end where it belongs to the range, and neighbours."""
    steps = [value - 1, value + 1, value + 2] if kind is int else [value * 0.5, value * 1.5, value + 0.25]
    wanted = [*([kind(bounds["ge"])] if "ge" in bounds else []), *steps]
    allowed = [
        each
        for each in dict.fromkeys(wanted)
        if each != value
        and each >= bounds.get("ge", -1e9)
        and each > bounds.get("gt", -1e9)
        and each <= bounds.get("le", 1e9)
        and each < bounds.get("lt", 1e9)
    ]
    return tuple(allowed)


def cases() -> list[Any]:
    found = []
    for name, cls in MODELS.items():
        for field in fields(cls):
            beside = WITH.get(name, {}).get(field.name, {})
            at_hand = getattr(base(name, **beside), field.name)
            for value in others(name, field.name, at_hand):
                found.append(pytest.param(name, field.name, value, id=f"{name}-{field.name}-{value}"))
    return found


# -- what can be observed ----------------------------------------------------------------------------------------------


def digest(thing: Any) -> Any:
    """The same for the same numbers."""
    if isinstance(thing, Tensor):
        return (str(thing.dtype), tuple(thing.shape), hashlib.sha256(thing.detach().numpy().tobytes()).hexdigest())
    if is_dataclass(thing) and not isinstance(thing, type):
        return tuple(digest(getattr(thing, field.name)) for field in fields(thing))
    if isinstance(thing, dict):
        return {key: digest(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return tuple(digest(each) for each in thing)
    return repr(thing)


def state(net: torch.nn.Module) -> Any:
    """Weights, and buffers that no file holds."""
    return digest({**dict(net.named_parameters()), **dict(net.named_buffers())})


@torch.no_grad()
def spread(net: torch.nn.Module) -> None:
    """Weights so large that every part tells in the loss: the first ones are mostly close to 0."""
    rng = torch.Generator().manual_seed(3)
    for weight in net.parameters():
        weight.copy_(torch.randn(weight.shape, generator=rng) * 0.5)


def opened(view: Any, net: Any, data: Any) -> list[Any]:
    """The first two batches of an epoch."""
    net.eval()
    epochs = view.open(data)
    epochs.refresh(net)
    batches = epochs.batches(torch.Generator().manual_seed(0))
    return [batch for batch, _ in zip(batches, range(2), strict=False)]


def observed(model: Any) -> dict[str, Any]:
    """All of a model that training would meet."""
    data = small_split().train
    torch.manual_seed(0)
    net = bound(model.build(data.schema), data)
    seen: dict[str, Any] = {"first weights": state(net)}
    net.prepare(data)
    seen["prepared"] = state(net)
    for number, phase in enumerate(model.phases(net)):
        spread(net)
        if phase.before is not None:
            phase.before()
        optimisers = phase.optimisers(phase.module)
        groups = [{k: v for k, v in each.items() if k != "params"} for one in optimisers for each in one.param_groups]
        batches = opened(phase.view or model.view, phase.module, data)
        torch.manual_seed(1)
        loss = phase.module.train()(batches[0])
        seen |= {
            f"phase {number}: {what}": value
            for what, value in {
                "begins with": state(phase.module) if phase.before else None,
                "optimisers": [type(one).__name__ for one in optimisers], "settings": groups, "epochs": phase.epochs,
                "batches": digest(batches), "loss": digest(loss), "behind the loss": state(net),
            }.items()
        }  # fmt: skip
    return seen


@cache
def observed_with(name: str, beside: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    return observed(base(name, **dict(beside)))


# -- the tests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "field", "value"), cases())
def test_every_hyper_parameter_changes_the_network_the_loss_or_the_phases(name, field, value):
    beside = WITH.get(name, {}).get(field, {})
    before = observed_with(name, tuple(beside.items()))
    after = observed(base(name, **{**beside, field: value}))
    changed = {what for what in before.keys() | after.keys() if before.get(what) != after.get(what)}
    reason = SAME.get((name, field, value))
    assert bool(changed) == (reason is None), f"{name}: {field} = {value!r} changes nothing that training meets"


def test_observing_twice_sees_the_same():
    for name in MODELS:
        assert observed(base(name)) == observed(base(name)), name


def test_every_field_is_tried():
    tried = {(case.values[0], case.values[1]) for case in cases()}
    assert tried == {(name, field.name) for name, cls in MODELS.items() for field in fields(cls)}


def test_the_tables_name_what_there_is():
    known = {(name, field.name) for name, cls in MODELS.items() for field in fields(cls)}
    assert {(name, field) for name, needs in WITH.items() for field in needs} <= known
    assert VALUES.keys() <= known
    assert {(name, field) for name, field, _ in SAME} <= known
    assert SMALL.keys() <= {field for _, field in known}


class Draws(TorchDispatchMode):
    """Counts the random tensors that are drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ in ("random_", "bernoulli_", "native_dropout", "rand", "randint")
        return func(*args, **(kwargs or {}))


def draws(model: Any) -> int:
    """How often one training pass over a batch draws, in the last phase."""
    data = small_split().train
    torch.manual_seed(0)
    net = bound(model.build(data.schema), data)
    net.prepare(data)
    module = model.phases(net)[-1].module
    batch = opened(model.view, module, data)[0]
    with Draws() as counted:
        module.train()(batch)
    return counted.count


@pytest.mark.parametrize("name", [name for name, cls in MODELS.items() if hasattr(cls, "hide_ids")])
def test_ids_are_hidden_on_both_sides(name):
    assert draws(base(name)) - draws(base(name, hide_ids=0.0)) == HIDDEN


@pytest.mark.parametrize("name", [name for name, cls in MODELS.items() if hasattr(cls, "dropout")])
def test_dropout_reaches_every_layer_it_should(name):
    model = base(name, **{"groups": 1} if hasattr(MODELS[name], "groups") else {})
    for one in (model, replace(model, **{"layers": 2} if hasattr(model, "layers") else {})):
        assert draws(one) - draws(replace(one, dropout=0.0)) == DROPS[name](one)


WIDTHS = [(name, field.name) for name in MODELS for field in fields(model_of(name)) if field.name.endswith("dim")]


@pytest.mark.parametrize(("name", "field"), WIDTHS)
def test_vectors_have_a_length(name, field):
    with pytest.raises(InputError, match=rf"{field} = 0 should be greater than or equal to 1"):
        replace(model_of(name), **{field: 0})
