"""The library alone learns, evaluates, saves and recommends; each feature beyond that names the extra that it needs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "suisen"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
FEATURES = [name for name in EXTRAS if name not in ("all", "dev")]
DISTRIBUTIONS = {"faiss": "faiss-cpu", "mlflow": "mlflow-skinny", "opentelemetry": "opentelemetry-sdk"}
"""Of packages that are imported under another name."""
BLOCK = """
import sys

class Without:
    '''A finder for which the packages of the extras are not installed.'''
    def __init__(self, finder): self._finder = finder
    def __getattr__(self, name): return getattr(self._finder, name)
    def find_spec(self, name, *more):
        return None if name.partition(".")[0] in BLOCKED else self._finder.find_spec(name, *more)

BLOCKED = {blocked!r}
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def names(requirements):
    """The distributions of some requirements."""
    return {re.match(r"[\w-]+", requirement).group() for requirement in requirements}


def package(distribution):
    """What is imported of it."""
    by_distribution = {value: key for key, value in DISTRIBUTIONS.items()}
    return by_distribution.get(distribution, distribution.replace("-", "_"))


OPTIONAL = sorted({package(name) for extra in FEATURES for name in names(EXTRAS[extra])})


def without(*packages, code="", args=(), folder=None):
    """A fresh interpreter in which the packages are not installed, after it ran the code."""
    program = BLOCK.replace("{blocked!r}", repr(set(packages))) + code
    words = [sys.executable, "-c", program, *map(str, args)]
    return subprocess.run(words, check=False, capture_output=True, text=True, cwd=folder, timeout=300)


def command(*words, packages=OPTIONAL, folder=None):
    """A command line without the packages."""
    return without(*packages, code="from suisen.cli.main import main; main()", args=words, folder=folder)


def calls_of(name):
    """(file, arguments) of every call of a function in the source whose arguments are all text."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
            if called and all(isinstance(each, ast.Constant) for each in node.args):
                yield path, [each.value for each in node.args]


# -- what is declared -------------------------------------------------------------------------------------------------


def test_an_extra_that_an_error_names_brings_the_package_that_is_missing():
    named = {(extra, name) for _, (name, extra) in calls_of("missing_extra")}
    named |= {(extra, name) for _, (extra, *packages) in calls_of("need_extra") for name in packages}
    assert {extra for extra, _ in named} == set(FEATURES)
    for extra, name in named:
        brings = DISTRIBUTIONS.get(name, name).replace("_", "-")
        assert brings in names(EXTRAS[extra]), f"{extra} does not bring {name}"


def test_all_brings_every_extra_and_dev_brings_all():
    (everything,) = EXTRAS["all"]
    assert everything == f"suisen[{','.join(FEATURES)}]"
    assert "suisen[all]" in EXTRAS["dev"]


def compiled():
    """The files of compiled code, which the other kernels import inside functions alone."""
    folder = SOURCE / "recommending" / "kernels"
    files = {folder / f"{name}.py" for name in ("cache", "emitter", "lists", "network", "ranking", "scan")}
    for path in set(folder.glob("*.py")) - files:
        tops = [node.module or "" for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)]
        assert not {folder / f"{name.rpartition('.')[2]}.py" for name in tops} & files, path
    return files


def test_every_package_is_declared_where_it_is_used():
    """Imports at the top of a file: the library's own, or in ``serving`` and ``client`` their extra's.  Nothing is
    declared in vain.
    """
    core, imported = {package(name) for name in names(PROJECT["dependencies"])}, set()
    room = {extra: {package(name) for name in names(EXTRAS[extra])} for extra in ("serve", "client")}
    kernels = compiled()
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tops_of_file = set(map(id, tree.body))
        for node in ast.walk(tree):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else found
            tops = {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"suisen"}
            imported |= tops
            if id(node) in tops_of_file:
                allowed = core | (room["serve"] if "serving" in path.parts else set())
                allowed |= room["client"] if "client" in path.parts else set()
                allowed |= {"numba", "llvmlite"} if path in kernels else set()  # imported when asked for
                assert tops <= allowed, f"{path}: {tops - allowed}"
    assert core <= imported
    assert imported <= core | set(OPTIONAL) | {"llvmlite"}  # numba's own


def test_the_readme_installs_extras_that_there_are():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for extras in re.findall(r"suisen\[([\w,]+)\]", text):
        assert set(extras.split(",")) <= set(EXTRAS)
    section = text.partition("## Install")[2].partition("\n## ")[0]
    assert all(extra in section for extra in FEATURES)


# -- without any of them -----------------------------------------------------------------------------------------------

LEARN = """
import suisen as su
data = su.Dataset.of(su.World(users=60, items=40).generate().log)
split = data.split(su.LeaveLast(test=1, valid=1))
rec = su.Recommender(su.EASE(), ranker=su.FM(epochs=1), candidates=20).fit(split.train, split.valid)
report = su.evaluate(rec, split.test, metrics=["ndcg@10"])
assert 0 < report["ndcg@10"].value < 1
rec.save("bundle")
loaded = su.load("bundle")
assert loaded.recommend(users=[7], k=3).equals(rec.recommend(users=[7], k=3))
assert loaded.similar_items([7], k=3).height == 3
print("done")
"""


def test_learning_evaluating_saving_and_recommending_need_no_extra(tmp_path):
    done = without(*OPTIONAL, code=LEARN, folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


FEATURE = {
    "import suisen.serving.server": "serve",
    "import suisen.serving.app": "serve",
    "from suisen.pages.render import render; render('report.html', {}, {})": "report",
    "from suisen.pipeline.tuning import need_optuna; need_optuna()": "tune",
    "import suisen as su; su.LambdaMART().build(su.data.batch.Schema(2, 2))": "gbdt",
    "from suisen.training.callbacks import TensorBoard; TensorBoard('x')": "tensorboard",
    "from suisen.training.callbacks import MLflow; MLflow()": "mlflow",
    "from suisen.data.kafka import kafka_library; kafka_library()": "kafka",
    "from suisen.recommending.signing import _ed25519; _ed25519()": "signing",
    "import suisen.client": "client",
    "from suisen.recommending.exporting import export; export(None, None)": "export",
}
"""Code of each extra."""
BESIDE = {
    "from suisen.serving.stores.redis import RedisUsers; RedisUsers('redis://localhost', 1.0)": "redis",
    "from suisen.serving.tracing import Tracing; Tracing()": "otel",
    "from pathlib import Path; from suisen.serving.mirror import Mirror; Mirror('s3://a', Path('b'))": "remote",
}
"""Code of extras beside the server's."""
TRY = """
from suisen.errors import MissingExtra
for code in {codes!r}:
    try:
        exec(code)
    except MissingExtra as error:
        print(error)
    else:
        print("it works")
"""


def test_each_feature_names_its_extra():
    servers = {package(name) for name in names(EXTRAS["serve"])}
    for features, missing in ((FEATURE, set(OPTIONAL)), (BESIDE, set(OPTIONAL) - servers)):
        done = without(*missing, code=TRY.replace("{codes!r}", repr(list(features))))
        assert done.returncode == 0, done.stderr
        for code, extra, said in zip(features, features.values(), done.stdout.splitlines(), strict=True):
            assert re.fullmatch(rf"\S+ is not installed; run: pip install 'suisen\[{extra}\]'", said), code
    assert {*FEATURE.values(), *BESIDE.values(), "pandas"} == set(FEATURES)


def test_pandas_tables_need_pyarrow():
    code = """
import pandas as pd, suisen as su
su.Dataset.from_frame(pd.DataFrame({"user": ["a"], "item": ["b"]}), user="user", item="item")
"""
    done = without("pyarrow", code=code)
    assert "MissingExtra: pyarrow is not installed; run: pip install 'suisen[pandas]'" in done.stderr


@pytest.mark.parametrize("words", [["serve", "nowhere"], ["demo"]])
def test_commands_that_serve_say_so_in_one_line_before_they_begin(words, tmp_path):
    done = command(*words, packages=["uvicorn"], folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: uvicorn is not installed; run: pip install 'suisen[serve]'\n"
    assert not list(tmp_path.iterdir())


def test_a_run_without_the_report_is_whole_and_says_that_the_page_was_not_written(tmp_path):
    (tmp_path / "log.csv").write_text("u,i,t\n" + "".join(f"{n % 7},{n % 5},{n}\n" for n in range(60)))
    words = ["train", "--events", "log.csv", "--user", "u", "--item", "i", "--time", "t", "--out", "run"]
    done = command(*words, "--retriever", "popularity", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "report.html was not written: jinja2 is not installed; run: pip install 'suisen[report]'" in done.stdout
    assert (tmp_path / "run" / "metrics.json").is_file()
    assert (tmp_path / "run" / "bundle" / "manifest.json").is_file()
    assert not list((tmp_path / "run").glob("*report*"))
    again = command("recommend", "run", "--user", "3", "-k", "2", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    tuned = command("tune", *words[1:-1], "tuned", "--retriever", "ease", "--trials", "1", folder=tmp_path)
    assert (tuned.returncode, tuned.stderr) == (2, "error: optuna is not installed; run: pip install 'suisen[tune]'\n")
