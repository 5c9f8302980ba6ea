"""Search spaces beside the hyper-parameters: what is written, what is read, and that every model's are sound."""

import inspect
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Literal

import pytest
from pydantic import Field

from suisen.errors import InputError
from suisen.models import MODELS
from suisen.parameters import Search, keywords_of, parameters, searches_of


@parameters
class Toy:
    """Hyper-parameters of nothing."""

    dim: Annotated[int, Field(ge=1), Search(choices=(8, 16))] = 8
    hidden: Annotated[tuple[int, ...], Search(choices=((8,), (16, 8)))] = Field((8,), min_length=1)
    rate: Annotated[float | None, Search(1e-4, 1e-2, log=True)] = 1e-3
    loss: Literal["a", "b"] = "a"


def test_annotations_are_read_with_their_types():
    assert searches_of(Toy) == {
        "dim": (int, Search(choices=(8, 16))),
        "hidden": (tuple[int, ...], Search(choices=((8,), (16, 8)))),
        "rate": (float | None, Search(1e-4, 1e-2, log=True)),
    }
    assert Toy(hidden=(3,)).hidden == (3,)


@pytest.mark.parametrize(
    ("search", "inside", "outside", "said"),
    [
        (Search(0, 0.5), (0, 0.25, 0.5), (-0.1, 0.6), "0 … 0.5"),
        (Search(1e-4, 1e-2, log=True), (1e-4,), (0,), "0.0001 … 0.01, log"),
        (Search(choices=(1, 2)), (1, 2), (1.5,), "1 | 2"),
        (Search(choices=((8,), (16, 8))), ((16, 8),), ((16,), 8), "8 | 16, 8"),
    ],
)
def test_what_a_space_holds(search, inside, outside, said):
    assert all(value in search for value in inside)
    assert not any(value in search for value in outside)
    assert str(search) == said


def test_an_empty_space_is_refused():
    with pytest.raises(InputError, match="low must be below high, or give choices"):
        Search(1, 1)
    with pytest.raises(InputError, match="a logarithmic range must begin above 0"):
        Search(0, 1, log=True)


@pytest.mark.parametrize("name", MODELS)
def test_every_models_space_holds_its_default_and_only_what_the_model_takes(name):
    model = MODELS[name]()
    found = searches_of(type(model))
    assert bool(found) == (name != "popularity"), "nothing to tune"
    for key, (_, search) in found.items():
        assert getattr(model, key) in search, f"{name}.{key} = {getattr(model, key)!r} is outside of {search}"
        for value in search.choices or (search.low, search.high):
            assert getattr(MODELS[name](**{key: value}), key) == value


@dataclass(frozen=True)
class Wanted:
    """Options with one positional field."""

    users: tuple = ()
    k: int = 10
    _: KW_ONLY
    history: tuple | None = None


class Asked:
    @keywords_of(Wanted)
    def recommend(self, wanted: Wanted) -> Wanted:
        """The best items."""
        return wanted

    @classmethod
    @keywords_of(Wanted)
    def of(cls, events: str, wanted: Wanted) -> tuple:
        return cls, events, wanted


def test_fields_become_the_parameters_of_the_method():
    assert Asked().recommend(("u",), 3, history=("i",)) == Wanted(("u",), 3, history=("i",))
    assert Asked().recommend(k=2) == Wanted(k=2)
    assert Asked.of("log", k=4) == (Asked, "log", Wanted(k=4))
    assert Asked.of(events="log", users=("u",)) == (Asked, "log", Wanted(("u",)))


def test_the_signature_names_them_with_types_and_defaults():
    shown = inspect.signature(Asked().recommend)
    assert list(shown.parameters) == ["users", "k", "history"]
    assert shown.parameters["k"].default == 10
    assert list(inspect.signature(Asked.of).parameters) == ["events", "users", "k", "history"]
    assert Asked.recommend.__doc__ == "The best items."


def test_a_keyword_that_does_not_exist_is_refused_by_name():
    with pytest.raises(InputError, match="option = 'histroy' is unknown; did you mean 'history'"):
        Asked().recommend(histroy=())
    with pytest.raises(TypeError):
        Asked().recommend((), 3, None)
