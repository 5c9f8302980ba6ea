from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest

from suisen.errors import InputError
from suisen.models import MODELS
from suisen.runs.settings import Setting, attribute_docs, convert, plain, settings_of, values_of


@dataclass(frozen=True)
class Toy:
    """A toy."""

    size: int = 3
    """How large
    it is."""
    share: float | None = None
    """A share."""
    names: tuple[str, ...] = ("a", "b")
    until: float | str = 0.1


def test_a_plain_class_gives_name_type_default_and_docstring():
    size, share, names, until = settings_of(Toy, "toy", "--toy.")
    assert (size.flag, size.name, size.default, size.metavar) == ("--toy.size", "toy.size", 3, "INT")
    assert size.doc == "How large it is."
    assert share.metavar == "NUMBER|none"
    assert names.several
    assert names.metavar == "TEXT,…"
    assert until.read("0.2") == 0.2
    assert until.read("7d") == "7d"


def test_help_has_docstring_bounds_and_default():
    by_key = {s.key: s for s in settings_of(MODELS["sasrec"], "retriever", "--retriever.")}
    assert by_key["dim"].help == "Length of an item vector and of the states. [≥ 1, ≤ 4096; default: 64]"
    assert by_key["learning_rate"].flag == "--retriever.learning-rate"
    assert by_key["batch_by_length"].help.endswith("[default: false]")


@pytest.mark.parametrize("name", MODELS)
def test_every_hyper_parameter_has_a_docstring_and_survives_a_file(name):
    settings = settings_of(MODELS[name], "retriever", "--retriever.")
    assert [s.key for s in settings if not s.doc] == []
    made = MODELS[name]()
    again = {s.key: s.read(values_of(made, settings)[s.key]) for s in settings if s.key in values_of(made, settings)}
    assert MODELS[name](**again) == made


def test_docstrings_are_those_under_the_fields():
    assert attribute_docs(MODELS["ease"])["l2"]


@pytest.mark.parametrize(
    ("value", "kind", "wanted"),
    [
        ("64", int, 64),
        (64.0, int, 64),
        ("1e-3", float, 1e-3),
        (2, float, 2.0),
        ("true", bool, True),
        ("No", bool, False),
        ("none", int | None, None),
        (None, int | None, None),
        ("3", int | None, 3),
        ("3", float | str, 3.0),
        ("128,64", tuple[int, ...], (128, 64)),
        ([128, "64"], tuple[Annotated[int, 1], ...], (128, 64)),
        ("a, b", Sequence[str], ("a", "b")),
        (["a,b", "c"], Sequence[str], ("a", "b", "c")),
        ("age=numeric", Mapping[str, str], {"age": "numeric"}),
        (["a=1,b=2"], Mapping[str, float], {"a": 1.0, "b": 2.0}),
        ({"a": "1"}, Mapping[str, float], {"a": 1.0}),
        ("x", Literal["x", "y"], "x"),
        (7, str, "7"),
        ("p", Path | None, Path("p")),
    ],
)
def test_values_become_what_the_class_wants(value, kind, wanted):
    got = convert("f", value, kind)
    assert got == wanted
    assert type(got) is type(wanted)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("x", int, "f = 'x' must be a whole number"),
        (1.5, int, "f = 1.5 must be a whole number"),
        (True, int, "must be a number"),
        ("x", float, "must be a number"),
        ("maybe", bool, "must be true or false"),
        ("z", Literal["x"], "f = 'z' is unknown"),
        ("age", Mapping[str, str], "names no value; write name=value"),
        ("1,x", tuple[int, ...], "f = 'x' must be a whole"),
    ],
)
def test_what_does_not_fit_is_named(value, kind, message):
    with pytest.raises(InputError, match=message):
        convert("f", value, kind)


def test_none_is_written_only_where_it_is_not_the_default():
    settings = [Setting("s", "a", int | None, None), Setting("s", "b", int | None, 3)]

    @dataclass
    class Both:
        a: int | None = None
        b: int | None = None

    assert values_of(Both(), settings) == {"b": "none"}


def test_plain_data_are_plain():
    assert plain({"a": (1, None), "b": Path("x")}) == {"a": [1, None], "b": "x"}
