"""Every command's help has an example, and its first one runs."""

import json
import re
import shlex
import shutil
import urllib.request
from pathlib import Path

import click
import numpy as np
import polars as pl
import pytest

from suisen.cli import demo
from suisen.cli.flags import FIRST
from suisen.cli.main import cli
from suisen.cli.train import FIRST as TEN
from suisen.serving.server import running
from tests.cli.conftest import call
from tests.cli.test_experiment import log, written

MORE = {
    "demo": ["--data-dir", "ml-100k", "--epochs", "2", "--threads", "1", "--quiet"],
    "data fetch": ["--data-dir", "ml-100k"],
    "tune": ["--trials", "2", "--epochs", "1", "--threads", "1", "--quiet"],
    "train": ["--threads", "1"],
    "experiment demo": ["--users", "300"],
    "experiment simulate": ["--repeat", "10", "--units", "200", "--users", "300"],
}
"""Flags behind an example that make it small."""
BEFORE = {"bundle sign": "bundle keygen", "experiment report": "experiment analyze"}
"""Whose example makes the files of another."""


def commands(group, words=()):
    """(words, command) of every command, in groups too."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield " ".join([*words, name]), command
            yield from commands(command, (*words, name))
        else:
            yield " ".join([*words, name]), command


ALL = dict(commands(cli))
RUN = [name for name, command in ALL.items() if not isinstance(command, click.Group)]


def examples(name):
    """The lines of a help that call its command, without the remarks behind them."""
    lines = (line.strip() for line in ALL[name].help.splitlines())
    return [re.split(r"\s{3,}", line)[0] for line in lines if line.startswith(f"suisen {name}")]


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_100k):
    """The files and runs that examples name."""
    folder = tmp_path_factory.mktemp("help")
    rng = np.random.default_rng(0)
    users, items = [*range(1, 30), 196, 4711], [*range(1, 20), 50, 181]
    rows = [(int(user), int(item), n) for user in users for n, item in enumerate(rng.permutation(items)[:9])]
    my = pl.DataFrame(rows, schema=["uid", "sku", "ts"], orient="row").with_columns(pl.col("ts") + 1_600_000_000)
    my.write_csv(folder / "my.csv")
    pl.DataFrame({"sku": items, "name": [f"Thing {item}" for item in items]}).write_csv(folder / "items.csv")
    written(folder, name="ranker.toml")
    exposures, events = log(14)
    exposures.write_csv(folder / "exposures.csv")
    events.write_parquet(folder / "events.parquet")
    events.write_parquet(folder / "april.parquet")
    exposures.select("user").write_csv(folder / "users.csv")
    logged = {"reward": [0, 1] * 50, "propensity": [0.5] * 100, "new_policy": [0.4] * 100, "user": [*range(50)] * 2}
    pl.DataFrame(logged).write_parquet(folder / "log.parquet")
    points = {"points_a": [0, 1] * 20, "points_b": [1, 1] * 20, "user": range(40)}
    pl.DataFrame(points).write_csv(folder / "lists.csv")
    shutil.copytree(tiny_100k, folder / "ml-100k")
    data = ["--events", folder / "my.csv", "--user", "uid", "--item", "sku", "--time", "ts", "--threads", "1"]
    more = ["--item-features", folder / "items.csv", "--titles", "name", "--quiet"]
    call("train", *data, *more, "--retriever", "item-knn", "--out", folder / "runs" / "demo")
    call("train", *data, "--quiet", "--retriever", "mf", "--epochs", "1", "--out", folder / "runs" / "tower")
    (folder / "runs" / "demo" / "events").mkdir()
    event = {"user_id": "196", "item_id": "50", "event": "click", "time": "2026-12-01T00:00:00Z", "event_id": "a"}
    (folder / "runs" / "demo" / "events" / "events.jsonl").write_text(f"{json.dumps(event)}\n")
    for run in "abc":
        shutil.copytree(folder / "runs" / "demo", folder / "runs" / run)
    return folder


@pytest.fixture
def world(made, tmp_path, monkeypatch):
    """A copy of them, in which a command is run."""
    shutil.copytree(made, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    monkeypatch.setattr(demo, "RETRIEVER", {"name": "ease", "l2": 1.0})
    monkeypatch.setattr(demo, "RANKER", {"name": "deepfm", "dim": 4, "hidden": [8]})
    return tmp_path / "world"


def run(name):
    """The first example, made small."""
    words = [*shlex.split(examples(name)[0])[1:], *MORE.get(name, [])]
    out = words[words.index("--out") + 1] if "--out" in words else ""
    if name in ("train", "tune") and out:
        shutil.rmtree(out, ignore_errors=True)
    return call(*words)


@pytest.mark.parametrize("name", ALL)
def test_every_help_has_an_example(name):
    group = isinstance(ALL[name], click.Group)
    found = [line for other in ALL if other.startswith(name) for line in examples(other)] if group else examples(name)
    assert found, f"suisen {name} --help shows no example"
    shown = " ".join(call(*name.split(), "--help").stdout.split())
    assert group or all(" ".join(line.split()) in shown for line in found)


@pytest.mark.parametrize("name", [name for name in RUN if name != "serve" and not name.startswith("admin")])
def test_the_first_example_runs(name, world):
    if name in BEFORE:
        run(BEFORE[name])
    assert run(name).output


def test_the_example_of_serve_starts_as_many_workers_as_it_says(world, monkeypatch):
    told = {}
    monkeypatch.setattr("suisen.serving.workers.serve_workers", lambda *given, **more: told.update(more, given=given))
    run("serve")
    assert told["given"][1] == 2
    assert told["port"] == 8000


def test_every_request_that_the_help_of_serve_shows_is_answered(made):
    lines = [line.strip() for line in ALL["serve"].help.splitlines() if line.strip().startswith("curl ")]
    assert sum("-d" in shlex.split(line) for line in lines) == 2
    with running(made / "runs" / "demo") as server:
        for line in lines:
            said = answer(line, server.url)
            assert said.get("items") or said["answers"][0]["items"], line


def answer(line, url):
    """What a server says to a line of curl: its URL, -H and -d alone, as curl sends them."""
    words = shlex.split(line)
    headers = {"content-type": "application/x-www-form-urlencoded"} if "-d" in words else {}
    headers |= dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")
    body = words[words.index("-d") + 1].encode() if "-d" in words else None
    request = urllib.request.Request(words[1].replace("localhost:8000", url), body, headers)
    with urllib.request.urlopen(request) as said:
        return json.load(said)


def test_the_readmes_commands_for_own_data_run_one_after_another(world):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## Your own data")[2].partition("\n### ")[0]
    lines = [re.split(r"\s{3,}", line.strip())[0] for line in section.splitlines() if line.startswith("    suisen ")]
    names = [line.split()[1] for line in lines]
    assert names == ["data", "train", "recommend", "serve", "train", "compare", "tune"]
    for name, line in zip(names, lines, strict=True):
        if name != "serve":
            small = ["--epochs", "1", "--ranker.dim", "4"] if "--ranker" in line else MORE.get(name, [])
            assert call(*shlex.split(line)[1:], *small).output


# -- what the help of train and the shell say --------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), ("--retriever", "sasrec")])
def test_train_shows_the_ten_options_that_matter_before_all_others(words):
    said = call("train", *words, "--help").stdout
    flags = re.findall(r"^  (?:-\w, )?(--[a-z.-]+)", said.partition(f"{FIRST}:")[2], re.MULTILINE)
    assert tuple(flags[:10]) == TEN
    assert len(flags) == len(set(flags)) > 40


def test_the_help_mentions_completion():
    said = call("--help").stdout
    assert all(f"_SUISEN_COMPLETE={shell}_source" in said for shell in ("bash", "zsh", "fish"))


@pytest.mark.parametrize(
    ("words", "last", "found"),
    [
        (["tr"], 1, {"train"}),
        (["data", "ins"], 2, {"inspect"}),
        (["train", "--retriever", "sas"], 3, {"sasrec"}),
        (["train", "--retriever", "sasrec", "--retriever.hea"], 4, {"--retriever.heads"}),
        (["train", "--item-f"], 2, {"--item-features"}),
    ],
)
def test_the_shell_completes(words, last, found):
    from click.testing import CliRunner

    asked = {"_SUISEN_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(["suisen", *words]), "COMP_CWORD": str(last)}
    said = CliRunner().invoke(cli, [], env=asked, prog_name="suisen").stdout
    assert {line.partition(",")[2] for line in said.split()} == found
