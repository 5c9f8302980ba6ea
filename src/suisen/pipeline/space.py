"""The search space of tuning, read from the annotations of the hyper-parameters, in the words of Optuna."""

import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Union, get_args, get_origin

from suisen.errors import InputError, unknown
from suisen.models import name_of
from suisen.models.contract import Model
from suisen.parameters import Search, searches_of

DIGITS = 4
"""Significant digits of a drawn number: what is written to a file is what was tried."""


@dataclass(frozen=True)
class Knob:
    """One hyper-parameter that is searched."""

    section: str
    """retriever or ranker; retriever.ease, … of several sources."""
    key: str
    hint: Any
    """Its type."""
    search: Search

    @property
    def name(self) -> str:
        """As files and flags spell it."""
        return f"{self.section}.{self.key}"

    @property
    def whole(self) -> bool:
        """Whether a range holds whole numbers alone."""
        allowed = get_args(self.hint) if get_origin(self.hint) in (Union, types.UnionType) else (self.hint,)
        return int in allowed and float not in allowed

    @property
    def labels(self) -> dict[Any, Any]:
        """What Optuna stores → choice: plain values stand for themselves, lists for their text."""
        plain = (bool, int, float, str, type(None))
        return {each if isinstance(each, plain) else _listed(each): each for each in self.search.choices}

    def distribution(self) -> Any:
        """The same for Optuna."""
        from optuna import distributions as known

        search = self.search
        if search.choices:
            return known.CategoricalDistribution(list(self.labels))
        if self.whole:
            return known.IntDistribution(int(search.low), int(search.high), log=search.log)
        return known.FloatDistribution(float(search.low), float(search.high), log=search.log)

    def value(self, drawn: Any) -> Any:
        """The hyper-parameter that a drawn value means."""
        if self.search.choices:
            return self.labels[drawn]
        if self.whole:
            return int(drawn)
        return min(max(float(f"{drawn:.{DIGITS}g}"), self.search.low), self.search.high)

    def drawn(self, value: Any) -> Any:
        """The other way round."""
        return _listed(value) if self.search.choices and isinstance(value, list | tuple) else value


def _listed(value: Sequence[Any]) -> str:
    return ", ".join(map(str, value))


def space_of(models: Mapping[str, Model | None], stages: Iterable[str], fixed: Iterable[str] = ()) -> list[Knob]:
    """The knobs of the stages that are tuned.

    ``models``: section → model; ``fixed``: names of parameters, like ``retriever.dim``, that keep their value.  Raises
    InputError for a fixed name that does not exist and where nothing is left to search.
    """
    held, knobs, names = set(fixed), [], []
    for name in held:
        _check_fixed(name, models)
    for section in stages:
        model = models[section]
        if model is None:
            raise InputError(f"stage = {section!r}, but no {section} is named; pass --{section} NAME")
        names.append(name_of(model))
        known = searches_of(type(model))
        knobs += [Knob(section, key, hint, search) for key, (hint, search) in known.items()]
    left = [knob for knob in knobs if knob.name not in held]
    if not knobs:
        raise InputError(f"{' + '.join(names)} has nothing to search; train it, or tune another model")
    if not left:
        every = ", ".join(knob.name for knob in knobs)
        raise InputError(f"every parameter that {' + '.join(names)} could search is fixed ({every}); leave one open")
    return left


def _check_fixed(name: str, models: Mapping[str, Model | None]) -> None:
    section, _, key = name.rpartition(".")
    model: Any = models.get(section)
    known = [] if model is None else [f"{section}.{field.name}" for field in fields(model)]
    if not key or name not in known:
        raise unknown("fixed", name, known)


def start_of(models: Mapping[str, Model | None], knobs: Iterable[Knob]) -> dict[str, Any]:
    """Knob → the value that the model has now, as Optuna stores it; values outside of the space are left out."""
    values = ((knob, getattr(models[knob.section], knob.key)) for knob in knobs)
    return {knob.name: knob.drawn(value) for knob, value in values if value in knob.search}


def with_values(model: Model | None, section: str, values: Mapping[str, Any]) -> Any:
    """The model with the values of its section, validated."""
    if model is None:
        return None
    mine = {name.rpartition(".")[2]: value for name, value in values.items() if name.rpartition(".")[0] == section}
    return replace(model, **mine)  # type: ignore[type-var]
