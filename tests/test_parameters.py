"""Search spaces beside the hyper-parameters: what is written, what is read, and that every model's are sound."""

import inspect
from dataclasses import KW_ONLY, asdict, dataclass, fields, replace
from typing import Annotated, Literal

import pytest
from pydantic import Field, TypeAdapter

from suisen.errors import InputError
from suisen.models import MODELS
from suisen.parameters import After, Search, keywords_of, parameters, searches_of
from suisen.runs.settings import settings_of


@parameters
class Toy:
    """Hyper-parameters of nothing."""

    dim: Annotated[int, Field(ge=1), Search(choices=(8, 16))] = 8
    hidden: Annotated[tuple[int, ...], Search(choices=((8,), (16, 8)))] = Field((8,), min_length=1)
    rate: Annotated[float | None, Search(1e-4, 1e-2, log=True)] = 1e-3
    loss: Literal["a", "b"] = "a"


@parameters
class Parent:
    """Shared by two."""

    dim: Annotated[int, Field(ge=1), Search(choices=(8, 16))] = 8
    """Length."""
    rate: Annotated[float, Field(gt=0)] = 0.1
    """Step."""
    epochs: Annotated[int, Field(ge=1)] = 3
    """Passes."""


@parameters
class Child(Parent):
    """Moves a default and adds four fields."""

    rate: Annotated[float, Field(gt=0), Search(0.1, 1.0)] = 0.2
    hidden: Annotated[tuple[int, ...], Search(choices=((8,), (4,))), After("dim")] = (8,)
    """Widths."""
    deep: bool = True
    """Whether."""
    first: Annotated[int, After("")] = 0
    """First."""


@parameters
class Grandchild(Child):
    """Moves another and says it in other words; one field more, at the end."""

    dim: Annotated[int, Field(ge=2)] = 4
    """Length, of the other kind."""
    last: int = 9
    """Last."""


CHILD = ("first", "dim", "hidden", "deep", "rate", "epochs")


@pytest.mark.parametrize(("cls", "order"), [(Parent, ("dim", "rate", "epochs")), (Child, CHILD),
                                            (Grandchild, (*CHILD, "last"))])  # fmt: skip
def test_fields_stand_where_they_are_said_to(cls, order):
    made = cls()
    assert tuple(field.name for field in fields(cls)) == order
    assert tuple(asdict(made)) == order
    assert repr(made) == f"{cls.__name__}({', '.join(f'{name}={getattr(made, name)!r}' for name in order)})"
    assert [setting.key for setting in settings_of(cls, "toy", "--toy.")] == list(order)
    assert list(searches_of(cls)) == [name for name in order if name in searches_of(cls)]
    assert replace(made, epochs=7).epochs == 7


def test_inherited_fields_keep_their_descriptions_wherever_they_are_read():
    for cls, dim in ((Parent, "Length."), (Child, "Length."), (Grandchild, "Length, of the other kind.")):
        said = {setting.key: setting.doc for setting in settings_of(cls, "toy", "--toy.")}
        assert (said["dim"], said["rate"], said["epochs"]) == (dim, "Step.", "Passes.")
        read = {name: facts["description"] for name, facts in TypeAdapter(cls).json_schema()["properties"].items()}
        assert read == said


def test_a_moved_default_brings_its_own_bounds_and_search():
    assert (Parent().rate, Child().rate, Grandchild().rate) == (0.1, 0.2, 0.2)
    assert set(searches_of(Child)) == {"dim", "hidden", "rate"}
    assert set(searches_of(Grandchild)) == {"hidden", "rate"}
    with pytest.raises(InputError, match="Grandchild: dim = 1 should be greater than or equal to 2"):
        Grandchild(dim=1)
    assert Child(dim=1).dim == 1


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
        default = getattr(model, key)  # None: a rule over the data sets it
        assert default is None or default in search, f"{name}.{key} = {default!r} is outside of {search}"
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
