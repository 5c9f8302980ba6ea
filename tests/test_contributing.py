"""The toy retriever of CONTRIBUTING.md: one file's worth of code and one line in the list, through the whole house."""

from __future__ import annotations

import doctest
import importlib
import sys
from pathlib import Path

import pytest

import suisen as su
from suisen import models
from suisen.recommending import bundle, parity
from tests.helpers import make_data

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"


@pytest.fixture
def recent(monkeypatch, tmp_path):
    """The file of the page, imported and added to the list as the page says."""
    sources = [example.source for example in doctest.DocTestParser().get_examples(PAGE.read_text(encoding="utf-8"))]
    model = sources[: next(i for i, source in enumerate(sources) if source.startswith("import polars"))]
    (tmp_path / "recent_model.py").write_text("\n".join(model), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    made = importlib.import_module("recent_model").Recent
    monkeypatch.setitem(models.RETRIEVERS, "recent", made)
    monkeypatch.setitem(models.MODELS, "recent", made)
    yield made
    del sys.modules["recent_model"]


def test_a_model_of_one_file_and_one_line_is_trained_saved_and_served(recent, tmp_path):
    rows = [(user, item) for user in "abcdef" for item in ("xyz" if user < "d" else "zwv")]
    users, items = zip(*rows, strict=True)
    data = make_data(user=users, item=items, time=range(len(rows)))
    made = su.Recommender(recent(half_life=3.0)).fit(data)
    made.save(tmp_path / "bundle")
    loaded = su.load(tmp_path / "bundle")
    parity.check(loaded.system, bundle.fixture(tmp_path / "bundle"))
    assert loaded.name == "recent"
    asked = {"users": ["a", "f"], "k": 2, "at": 10**9}
    assert loaded.recommend(**asked).equals(made.recommend(**asked))
    assert made.recommend(users=["a"], k=1)["item_id"].to_list() == ["v"]  # taken last, and not by a


def test_its_mistakes_are_named(recent):
    with pytest.raises(su.InputError, match=r"Recent: half_life = -1 should be greater than 0"):
        recent(half_life=-1)


def test_an_experiments_test_of_one_file_and_one_line_passes_the_contract_suite(monkeypatch, tmp_path):
    from suisen.experiments.statistical_tests import TESTS
    from tests.experiments.statistical_tests import test_contract as suite

    section = PAGE.read_text(encoding="utf-8").split("## Add an experiment's test")[1].split("\n## ")[0]
    sources = [example.source for example in doctest.DocTestParser().get_examples(section)]
    file = sources[: next(i for i, source in enumerate(sources) if "import TESTS" in source)]
    (tmp_path / "brunner_munzel.py").write_text("\n".join(file), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    made = importlib.import_module("brunner_munzel").BrunnerMunzel()
    monkeypatch.setitem(TESTS, made.name, made)
    cases = 0
    for name, case in vars(suite).items():
        parameters = case.__code__.co_varnames[: case.__code__.co_argcount] if name.startswith("test_") else ()
        if parameters[:1] == ("test",):
            for lift in (0.0, 0.3) if "lift" in parameters else (None,):
                case(made) if lift is None else case(made, lift)
                cases += 1
    assert cases > 10
    del sys.modules["brunner_munzel"]
