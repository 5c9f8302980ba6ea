"""The scripts in examples/: from their files to served lists, which show what was planted."""

import importlib.util
import json
import shlex
import urllib.request
from pathlib import Path

import polars as pl
import pytest

from suisen.serving.server import running
from tests.cli.conftest import call

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def script(name):
    """The module of an example."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shown(name):
    """The commands of an example in the README: its script, training, lists."""
    block = README.partition(f"python examples/{name}.py")[2].partition("\n\n")[0]
    return [line.strip() for line in f"python examples/{name}.py{block}".splitlines()]


def followed(name, seed=0):
    """(folder, run): what the README's commands make in the working folder; they print lists, too."""
    made, train, recommend = shown(name)
    folder = Path(made.split()[-1])
    script(name).write(folder, seed=seed)
    call(*shlex.split(train)[1:], "--threads", "1", "--quiet")
    assert call(*shlex.split(recommend)[1:]).stdout
    return folder, Path(shlex.split(train)[-1])


def served(run, users, k, **query):
    """User → the items that the server answers with."""
    lists = {}
    with running(run) as server:
        for at in range(0, len(users), 50):
            body = json.dumps({"queries": [{"user_id": user} for user in users[at : at + 50]], "k": k, **query})
            request = urllib.request.Request(f"{server.url}/v1/recommend", body.encode())
            request.add_header("content-type", "application/json")
            with urllib.request.urlopen(request) as answer:
                answers = json.load(answer)["answers"]
            named = zip(users[at : at + 50], answers, strict=True)
            lists |= {user: [item["item_id"] for item in each["items"]] for user, each in named}
    return lists


def wanted(folder, user, item):
    """User → the items that were planted for them."""
    table = pl.read_csv(folder / "expected.csv").group_by(user, maintain_order=True).agg(item)
    return {name: set(items) for name, items in table.iter_rows()}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_shop_offers_the_accessory_of_what_was_bought_last(seed):
    shop, run = followed("shop", seed)
    planted = wanted(shop, "customer_id", "expected")
    lists = served(run, list(planted), k=3)
    assert sum(bool(planted[user] & set(lists[user])) for user in planted) / len(planted) >= 0.9
    said = call("data", "inspect", shop / "orders.csv", "--session", "session").stdout
    assert "guest sessions" in said
    assert "repeat an earlier one" in said
    assert "1 Jan 2024 to" in " ".join(said.split())
    assert "Case for" in call("recommend", run, "--user", "c0001").stdout


@pytest.mark.parametrize("seed", [0, 1])
def test_plays_of_the_own_albums_come_again(seed):
    folder, run = followed("plays", seed)
    planted = wanted(folder, "user", "track_id")
    lists = served(run, list(planted), k=5)
    own = [set(lists[user]) <= planted[user] for user in planted]
    assert sum(own) / len(own) >= 0.9
    facts = json.loads((run / "metrics.json").read_text())["data"]
    assert facts["repeats"] > 0.3 * facts["events"]


@pytest.mark.parametrize("seed", [0, 1])
def test_enrolments_complete_the_programme(seed):
    school, run = followed("enrolments", seed)
    planted = wanted(school, "student", "course")
    lists = served(run, list(planted), k=3)
    found = [set(lists[user]) <= planted[user] for user in planted]
    assert sum(found) / len(found) >= 0.9


@pytest.mark.parametrize("name", ["shop", "plays", "enrolments"])
def test_the_same_seed_writes_the_same_files_and_the_script_shows_the_same_commands(name):
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        script(name).write(Path(folder), seed=seed)
    files = sorted(path.name for path in Path("a").iterdir())
    assert all(Path("a", file).read_bytes() == Path("b", file).read_bytes() for file in files)
    assert any(Path("a", file).read_bytes() != Path("c", file).read_bytes() for file in files)
    told = " ".join(script(name).__doc__.replace("\\\n", " ").split())
    assert all(line in told for line in shown(name))
    assert all(file in told for file in files)
