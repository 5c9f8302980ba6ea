"""From annotations to Optuna and back."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from suisen.errors import InputError
from suisen.models import EASE, MF, DeepFM, Popularity
from suisen.parameters import Search
from suisen.pipeline.space import Knob, space_of, start_of, with_values

MODELS = {"retriever": MF(dim=64), "ranker": DeepFM(dim=7)}


def knob(name, models=MODELS):
    return next(each for each in space_of(models, ("retriever", "ranker")) if each.name == name)


def test_knobs_are_those_of_the_stages_less_the_fixed():
    names = [each.name for each in space_of(MODELS, ("retriever",), ["retriever.dim", "ranker.dim", "retriever.init"])]
    assert names == ["retriever.negatives", "retriever.popularity_power", "retriever.l2", "retriever.learning_rate"]
    assert {each.section for each in space_of(MODELS, ("retriever", "ranker"))} == {"retriever", "ranker"}


def test_distributions_are_of_the_parameters_kind():
    assert knob("retriever.dim").distribution() == CategoricalDistribution([32, 64, 128, 256])
    assert knob("retriever.negatives").distribution() == IntDistribution(2, 16)
    assert knob("retriever.l2").distribution() == FloatDistribution(1e-6, 1e-2, log=True)
    assert knob("ranker.hidden").distribution().choices[1] == "128, 64"
    optional = Knob("retriever", "n", int | None, Search(1, 8, log=True))
    assert optional.distribution() == IntDistribution(1, 8, log=True)


def test_lists_are_stored_as_text_and_read_back():
    hidden = knob("ranker.hidden")
    for choice in hidden.search.choices:
        assert hidden.value(hidden.drawn(choice)) == choice
    assert knob("retriever.dim").value(128) == 128


@given(st.floats(1e-6, 1e-2))
def test_numbers_are_rounded_inside_their_range(drawn):
    value = knob("retriever.l2").value(drawn)
    assert 1e-6 <= value <= 1e-2
    assert value == pytest.approx(drawn, rel=1e-3)
    assert float(f"{value:.4g}") == value


def test_the_start_is_what_the_models_have_as_far_as_the_space_holds_it():
    start = start_of(MODELS, space_of(MODELS, ("retriever", "ranker")))
    assert start["retriever.dim"] == 64
    assert start["ranker.hidden"] == "128, 64"
    assert "ranker.dim" not in start


def test_values_go_to_their_own_section():
    values = {"retriever.dim": 32, "ranker.dim": 16, "retriever.negatives": 3}
    assert with_values(MODELS["retriever"], "retriever", values) == MF(dim=32, negatives=3)
    assert with_values(MODELS["ranker"], "ranker", values) == replace(MODELS["ranker"], dim=16)
    assert with_values(None, "ranker", values) is None


@pytest.mark.parametrize(
    ("models", "stages", "fixed", "message"),
    [
        ({"retriever": Popularity()}, ("retriever",), (), "popularity has nothing to search"),
        ({"retriever": EASE(), "ranker": None}, ("ranker",), (), "no ranker is named; pass --ranker NAME"),
        ({"retriever": EASE()}, ("retriever",), ("retriever.l2",), r"is fixed \(retriever.l2\); leave one open"),
        ({"retriever": EASE()}, ("retriever",), ("retriever.l3",), "did you mean 'retriever.l2'"),
        ({"retriever": EASE()}, ("retriever",), ("l2",), "fixed = 'l2' is unknown"),
    ],
)
def test_what_cannot_be_searched_is_refused(models, stages, fixed, message):
    with pytest.raises(InputError, match=message):
        space_of(models, stages, fixed)
