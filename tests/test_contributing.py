"""The examples of CONTRIBUTING.md: each is one file and one line in a registry, through the whole house."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

import suisen as su
from suisen import models
from suisen.evaluation import METRICS
from suisen.pages.report import outcome
from suisen.pipeline.tuning import TuneSettings, tune
from suisen.recommending import bundle, parity
from suisen.retrieval import INDEXES
from suisen.runs import config
from tests.helpers import make_data

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"


def example(heading: str, start_of_use: str) -> str:
    """The code of a section's example, up to the statement that begins to use it."""
    section = PAGE.read_text(encoding="utf-8").split(f"{heading}\n")[1].split("\n## ")[0]
    sources = [each.source for each in doctest.DocTestParser().get_examples(section)]
    return "\n".join(sources[: next(i for i, source in enumerate(sources) if source.startswith(start_of_use))])


@pytest.fixture
def pairwise(monkeypatch, tmp_path):
    """The retriever's file, imported and added to the list as the page says."""
    (tmp_path / "pairwise_mf.py").write_text(example("### A retriever", "import suisen as su"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    made = importlib.import_module("pairwise_mf").PairwiseMF
    monkeypatch.setitem(models.RETRIEVERS, "pairwise-mf", made)
    monkeypatch.setitem(models.MODELS, "pairwise-mf", made)
    yield made
    del sys.modules["pairwise_mf"]


def test_a_model_of_one_file_and_one_line_is_trained_saved_and_served(pairwise, tmp_path):
    rows = [(user, item) for user in "abcdef" for item in ("xyz" if user < "d" else "zwv")]
    users, items = zip(*rows, strict=True)
    data = make_data(user=users, item=items, time=range(len(rows)))
    made = su.Recommender(pairwise(dim=4, learning_rate=0.05)).fit(data)
    made.save(tmp_path / "bundle")
    loaded = su.load(tmp_path / "bundle")
    parity.check(loaded.system, bundle.fixture(tmp_path / "bundle"))
    assert loaded.name == "pairwise-mf"
    asked = {"users": ["a", "f"], "k": 2, "at": 10**9}
    assert loaded.recommend(**asked).equals(made.recommend(**asked))
    assert set(made.recommend(users=["a"], k=2)["item_id"]) == {"w", "v"}  # what a has not taken


def test_its_mistakes_are_named(pairwise):
    with pytest.raises(su.InputError, match=r"PairwiseMF: l2 = -1 should be greater than or equal to 0"):
        pairwise(l2=-1)


def test_an_endpoint_of_one_file_and_its_line_is_served_and_passes_the_contract_suite(monkeypatch, tmp_path):
    from suisen.data.synthetic import World
    from suisen.serving.endpoints import ENDPOINTS
    from suisen.serving.settings import Settings
    from tests.serving import test_contract as suite
    from tests.serving.client import Client

    endpoint = pasted("Add an endpoint", "item_endpoint", monkeypatch, tmp_path).ENDPOINT
    recommender = su.Recommender(su.EASE()).fit(su.Dataset.of(World(users=60, items=40).generate().log))
    with Client(lambda: recommender.system, Settings(deadline_s=60), endpoints=[*ENDPOINTS, endpoint]) as client:
        answer = client.get("/v1/items/7")
        assert answer.status == 200
        assert answer.json["title"].startswith("Item 7 ")
        assert answer.json["events"] > 0
        assert client.get("/v1/items/none").json["code"] == "unknown_item"
        assert "/v1/items/{item}" in client.get("/openapi.json").json["paths"]
        things = {"client": client, "served": Client, "endpoint": endpoint, "recommender": recommender}
        checks = [check for name, check in vars(suite).items() if name.startswith("test_")]
        needs = {check: check.__code__.co_varnames[: check.__code__.co_argcount] for check in checks}
        cases = [check for check in checks if "endpoint" in needs[check]]
        for check in cases:
            check(*(things[name] for name in needs[check]))
    assert len(cases) >= 10


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
            known = {"lift": (0.0, 0.3), "alternative": ("two-sided", "greater", "less")}
            asked = [name for name in parameters if name in known]
            for values in product(*(known[name] for name in asked)):
                case(made, **dict(zip(asked, values)))
                cases += 1
    assert cases > 10
    del sys.modules["brunner_munzel"]


def pasted(heading, name, monkeypatch, tmp_path):
    """The first code block of a section as a module of its own."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1]
    block = section.split("```python\n")[1].split("```")[0]
    sources = [example.source for example in doctest.DocTestParser().get_examples(block)]
    (tmp_path / f"{name}.py").write_text("\n".join(sources), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module(name)


def groups():
    """Two groups of users with items of their own; the last of three is what the first two ask for."""
    rows = [(user, "abcdwxyz"[user % 2 * 4 + (user + step) % 4]) for user in range(10) for step in range(3)]
    users, items = zip(*rows, strict=True)
    return make_data(user=users, item=items, time=range(len(rows)))


@pytest.fixture
def metrics(monkeypatch, tmp_path):
    """The file of the page, and the two lines in METRICS."""
    made = pasted("Add a metric", "toy_metrics", monkeypatch, tmp_path)
    for metric in (made.RBP, made.TAIL):
        monkeypatch.setitem(METRICS, metric.name, metric)
    return {metric.name: metric for metric in (made.RBP, made.TAIL)}


def test_metrics_of_one_file_and_a_line_each_are_measured_compared_tuned_on_and_reported(metrics):
    split = groups().split(su.LeaveLast(test=1, valid=1))
    made = su.Recommender(su.ItemKNN()).fit(split.train)
    names = ["rbp@3", "tail@3"]
    report = su.evaluate(made, split.test, metrics=names)
    assert all(value == pytest.approx(0.2 * 0.8**2) or value == 0 for value in report.values["rbp@3"].tolist())
    popular = su.evaluate(su.Recommender(su.Popularity()).fit(split.train), split.test, metrics=names)
    rows = [row._replace(p_holm=0.001, difference=0.1) for row in su.compare(popular, report).rows]
    assert [(row.metric, outcome(row)) for row in rows] == [("rbp@3", "better"), ("tail@3", "higher")]
    found = tune(su.Recommender(su.EASE()), split.train, split.valid, TuneSettings(metric="rbp@3", trials=2, startup=1))
    assert (found.metric, found.finished) == ("rbp@3", 2)
    with pytest.raises(su.InputError, match=r"'tail@3' cannot be tuned on; use one of .*rbp@10"):
        TuneSettings(metric="tail@3")
    with pytest.raises(su.InputError, match=r"did you mean 'rbp@10'"):
        su.evaluate(made, split.test, metrics=["rpb@10"])


def contract_suite(path, registered, chosen, folder):
    """How many tests of a contract suite pass, of those that take what the page's line puts into the registry."""
    (folder / "page_line.py").write_text(registered, encoding="utf-8")
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    flags = ["-q", "-o", "addopts=", "-p", "page_line", "-p", "no:cacheprovider", "-k", chosen]
    run = [sys.executable, "-c", code, path, *flags]
    done = subprocess.run(run, cwd=PAGE.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return int(re.search(r"(\d+) passed", done.stdout)[1])


def test_the_contract_suite_takes_metrics_from_the_registry(metrics, tmp_path):
    line = "from suisen.evaluation import METRICS\nfrom toy_metrics import *\nMETRICS.update(rbp=RBP, tail=TAIL)\n"
    assert contract_suite("tests/evaluation/test_metric_contract.py", line, "rbp or tail", tmp_path) > 10


@pytest.fixture
def reduced(monkeypatch, tmp_path):
    """The file of the page, and the one word in INDEXES."""
    made = pasted("Add an index", "toy_index", monkeypatch, tmp_path).Reduced
    monkeypatch.setitem(INDEXES, made.name, made)
    return made


def test_an_index_of_one_file_and_one_word_is_built_saved_and_loaded(reduced, tmp_path):
    made = su.Recommender(su.IALS(dim=4, epochs=2), index=reduced(dim=3)).fit(groups())
    assert 0.5 < made.system.index_recall <= 1
    loaded = su.load(made.save(tmp_path / "bundle"))
    assert loaded.engine.index.description == {"name": "reduced", "n": 8, "d": 4, "dim": 3, "refine": 8}
    assert loaded.recommend(users=[0, 1], k=3).equals(made.recommend(users=[0, 1], k=3))
    assert config.CHOICES["index"]["reduced"] is reduced  # so that [index] name = "reduced" and --index reduced mean it


def test_an_index_that_is_not_in_the_registry_is_refused(reduced, monkeypatch):
    monkeypatch.delitem(INDEXES, "reduced")
    with pytest.raises(su.InputError, match=r"Reduced\(dim=8, refine=8\) is not the settings of an index"):
        su.Recommender(su.IALS(dim=4, epochs=2), index=reduced()).fit(groups())


def test_the_contract_suite_takes_indexes_from_the_registry(reduced, tmp_path):
    line = "from suisen.retrieval import INDEXES\nfrom toy_index import Reduced\nINDEXES['reduced'] = Reduced\n"
    assert contract_suite("tests/retrieval/test_contract.py", line, "reduced", tmp_path) > 20


def section_file(title: str, until: str, path: Path) -> Path:
    """The file of a section of the page: its examples in front of the one that holds ``until``."""
    section = PAGE.read_text(encoding="utf-8").split(f"## {title}\n")[1].split("\n## ")[0]
    sources = [example.source for example in doctest.DocTestParser().get_examples(section)]
    file = sources[: next(i for i, source in enumerate(sources) if until in source)]
    path.write_text("\n".join(file), encoding="utf-8")
    return path


def imported(name: str, path: Path, monkeypatch):
    """The file as the module of this name, as if it lay in the house."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def passes(suite, tmp_path, **given) -> int:
    """Runs the tests of a contract suite that take what is ``given``; how many there were."""
    done = 0
    for name, test in vars(suite).items():
        wanted = inspect.signature(test).parameters if name.startswith("test_") else {}
        if not set(given) & set(wanted):
            continue
        with pytest.MonkeyPatch.context() as patch:
            (tmp_path / name).mkdir()
            everything = {**given, "monkeypatch": patch, "tmp_path": tmp_path / name}
            test(**{key: everything[key] for key in wanted})
        done += 1
    return done


def test_a_data_source_of_one_file_and_one_line_passes_the_contract_suite(monkeypatch, tmp_path):
    from suisen.data.sources import SOURCES
    from tests.data import test_source_contract as suite

    path = section_file("Add a data source", "import tempfile", tmp_path / "shop.py")
    source = imported("suisen.data.sources.shop", path, monkeypatch).SHOP
    monkeypatch.setitem(SOURCES, "shop", source)
    assert passes(suite, tmp_path, source=source, layout=source.layouts[0]) == 7
    chosen = config.resolve({"data": {"name": "shop", "data_dir": str(tmp_path / "gone")}}, models=False)
    with pytest.raises(su.InputError, match=r"shop is not in .*get https://data\.example\.org/shop\.zip and pass"):
        chosen.read()


def test_a_split_rule_of_one_file_and_one_line_passes_the_contract_suite(monkeypatch, tmp_path):
    from suisen.data.splits import SPLITS
    from tests.data import test_split_contract as suite

    path = section_file("Add a split rule", "import SPLITS", tmp_path / "last_share.py")
    rule = imported("suisen.data.last_share", path, monkeypatch).LastShare
    monkeypatch.setitem(SPLITS, "last-share", rule)
    assert passes(suite, tmp_path, rule=rule, of=su.Dataset.of) == 11
    raw = {"data": {"name": "ml-100k"}, "split": {"name": "last-share", "test": "0.3"}}
    assert config.resolve(raw, models=False).split == rule(test=0.3)
