"""Everything a caller can get wrong: one line, exit code 2, the field and the mend named, no traceback."""

import json
import shutil
import socket
import subprocess
import sys

import pytest

from suisen.cli.main import COMMANDS
from tests.cli.conftest import call, refused

TRAIN = ["--user", "u", "--item", "i", "--time", "t", "--retriever", "popularity", "--threads", "1", "--quiet"]


def trained_on(tmp_path, text, *words):
    """What is said of a log with this text."""
    (tmp_path / "log.csv").write_text(text, encoding="utf-8")
    return refused("train", "--events", tmp_path / "log.csv", *TRAIN, "--out", tmp_path / "run", *words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u,sku,t\na,x,1\n", "item = 'i' is no column of log.csv; columns: u, sku, t"),
        ("u,items,t\na,x,1\n", "item = 'i' is no column of log.csv; "),
        ("u,i,t\n", "log.csv has a header and no rows; give at least one event"),
        ("", "log.csv"),
        ("u,i,t\na,x,1\nb,y,2\n", "only one event a user: LeaveLast(test=1, valid=1) needs 3"),
        ("u,i,t\na,x,NaN\na,y,2\na,z,3\n", "log.csv: 1 bad row, at line 2: t"),
        ("u,i,t\na,x,1\na,y,-2\na,z,3\n", "log.csv: 1 bad row, at line 3: t"),
        ("u,i,t\n,x,1\na,y,2\na,z,3\n", "log.csv: 1 bad row, at line 2: u is missing"),
    ],
)
def test_a_bad_log_is_refused(tmp_path, text, message):
    line = trained_on(tmp_path, text)
    assert message in line
    if "bad row" in message:
        assert "--bad-rows drop" in line


def test_bad_data_leave_no_folder_behind(tmp_path):
    trained_on(tmp_path, "u,i,t\n")
    assert not (tmp_path / "run").exists()


def test_bad_rows_are_dropped_on_request_and_counted(tmp_path):
    text = "u,i,t\na,x,NaN\n" + "".join(f"{user},{item},{n}\n" for user in "abc" for n, item in enumerate("vwxyz"))
    (tmp_path / "log.csv").write_text(text)
    words = [word for word in TRAIN if word != "--quiet"]
    said = call(
        "train", "--events", tmp_path / "log.csv", *words, "--bad-rows", "drop", "--out", tmp_path / "run"
    ).stdout
    assert "log.csv: 1 bad row dropped: " in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "command = 'trian' is unknown; did you mean 'train'"),
        (["train", "--retreiver", "ease"], "option = '--retreiver' is unknown; did you mean '--retriever'"),
        (["train", "--retriever", "ease", "--retriever.l3", "1"], "did you mean '--retriever.l2'"),
        (["train", "--retriever", "eese"], "retriever = 'eese' is unknown; did you mean 'ease'"),
        (["train", "--ranker.dim", "3"], "--ranker.dim needs --ranker NAME; one of mlp, neumf, "),
        (["train", "--data", "ml-100k"], "no model is named; pass --retriever"),
        (["train", "--retriever", "ease"], "neither --data nor --events is given"),
        (["train", "--config", "none.toml"], "none.toml does not exist; give a TOML file"),
        (["train", "--events", "none.csv", "--retriever", "ease", "--out", "{tmp}/r"], "none.csv"),
        (
            ["train", "--events", "x", "--retriever", "mf", "--retriever.dim", "0"],
            "--retriever.dim = 0 should be greater",
        ),
        (["train", "--events", "x", "--retriever", "mf", "--device", "tpu"], "device = 'tpu' is unknown"),
        (["train", "--events", "x", "--retriever", "mf", "--patience", "0"], "patience = 0 must be at least 1"),
        (["train", "--events", "x", "--retriever", "mf", "--metrics", "ncdg@10"], "did you mean 'ndcg@10'"),
        (["train", "--events", "x", "--retriever", "mf", "--candidates", "0"], "candidates = 0 must be at least 1"),
        (["train", "--events", "x", "--retriever", "mf", "--threads", "-1"], "threads = -1 must be 0"),
        (["train", "--events", "x", "--retriever", "mf", "--encoding", "utf-9"], "did you mean 'utf-8'"),
        (["evaluate", "{tmp}/none"], "holds no bundle"),
        (["serve", "{tmp}/none"], "holds no bundle"),
        (["serve", "{tmp}", "--deadline-s", "x"], "--deadline-s = 'x' must be a number"),
        (["recommend", "{tmp}", "--user", "1", "-k", "x"], "'x' is not a valid integer"),
    ],
)
def test_mistakes_are_one_line(tmp_path, words, message):
    assert message in refused(*(word.replace("{tmp}", str(tmp_path)) for word in words))


def test_a_file_in_the_place_of_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file; give a folder" in trained_on(tmp_path, "u,i,t\n", "--out", tmp_path / "file")


# -- bundles -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(run_folder, tmp_path):
    return shutil.copytree(run_folder / "bundle", tmp_path / "bundle")


def test_a_truncated_bundle_names_the_file(bundle):
    file = bundle / "ranker.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    assert "ranker.safetensors is damaged" in refused("recommend", bundle, "--user", "x")
    file.unlink()
    assert "ranker.safetensors is missing" in refused("recommend", bundle, "--user", "x")


def test_a_damaged_manifest_is_named(bundle):
    (bundle / "manifest.json").write_text('{"format": 1')
    assert "manifest.json is damaged" in refused("evaluate", bundle)


def test_a_newer_format_is_named(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    assert "format = 99 is newer than" in refused("serve", bundle)


def test_a_port_in_use_is_named(run_folder):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"port = {port} is in use" in refused("serve", run_folder, "--port", port)


# -- the process -------------------------------------------------------------------------------------------------------


def shell(*words):
    command = [sys.executable, "-X", "importtime", "-m", "suisen.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_process_exits_with_2_and_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "suisen.cli.main", "trian"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "error: command = 'trian' is unknown; did you mean 'train'?\n"
    assert done.stdout == ""


def test_help_imports_nothing_heavy_and_names_every_command():
    done = shell("--help")
    assert done.returncode == 0
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert imported.isdisjoint({"torch", "polars", "faiss", "matplotlib", "uvicorn", "pydantic", "rich"})


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name):
    assert f"suisen {name}" in call(name, "--help").stdout.partition("\n")[2]


def test_no_command_shows_the_help():
    assert "Commands" in call().stdout
