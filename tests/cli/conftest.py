"""A small log with two planted groups of taste, a run trained on it once, and a runner of commands."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from click.testing import CliRunner

from suisen.cli.main import cli

USERS, ITEMS, TAKEN = 40, 24, 12


def taste_rows(seed=0):
    """(ts, uid, sku): users of even number take items of group A alone, the others of group B."""
    rng = np.random.default_rng(seed)
    rows, time = [], 1_600_000_000
    for taken in range(TAKEN):
        for user in range(USERS):
            group = "A" if user % 2 == 0 else "B"
            order = np.random.default_rng([seed, user]).permutation(ITEMS)
            time += int(rng.integers(1, 60))
            rows.append((time, f'user "{user}", é', f"{group}-{order[taken]}"))
    return rows


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """my.csv with columns of other names, and items.csv with titles that are not ASCII."""
    folder = tmp_path_factory.mktemp("shop")
    with (folder / "my.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("ts", "uid", "sku"), *taste_rows()])
    with (folder / "items.csv").open("w", newline="", encoding="utf-8") as file:
        items = [(f"{g}-{i}", f"映画, “{g}” № {i}", g) for g in "AB" for i in range(ITEMS)]
        csv.writer(file).writerows([("sku", "name", "shelf"), *items])
    return folder


def data_flags(folder):
    """The flags that name the shop's columns."""
    return ["--events", str(folder / "my.csv"), "--user", "uid", "--item", "sku", "--time", "ts",
            "--item-features", str(folder / "items.csv"), "--titles", "name", "--threads", "1"]  # fmt: skip


def call(*words, code=0):
    """Runs a command in this process; the exit code is asserted."""
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == code, f"{result.output}\n{result.exc_info}"
    return result


def refused(*words):
    """The one line on the error stream of a command that exits with 2."""
    result = call(*words, code=2)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: "), lines
    assert "Traceback" not in result.output
    return lines[0]


@pytest.fixture(scope="session")
def run_folder(shop, tmp_path_factory):
    """A finished two-stage run on the shop's log."""
    out = tmp_path_factory.mktemp("runs") / "a"
    call("train", *data_flags(shop), "--retriever", "ease", "--retriever.l2", "1", "--ranker", "deepfm",
         "--ranker.hidden", "8", "--ranker.dim", "4", "--epochs", "2", "--out", out, "--quiet")  # fmt: skip
    return out


@pytest.fixture(scope="session")
def tiny_100k(tmp_path_factory):
    """The official layout of MovieLens-100K with 60 users and 40 films."""
    folder, rng = tmp_path_factory.mktemp("ml-100k"), np.random.default_rng(0)
    users = [*range(1, 60), 196]
    lines = [
        f"{user}\t{item}\t{rng.integers(1, 6)}\t{880_000_000 + 100 * n + user % 7}"
        for user in users
        for n, item in enumerate(rng.permutation(range(1 + 20 * (user % 2), 21 + 20 * (user % 2)))[:12])
    ]
    (folder / "u.data").write_text("\n".join(lines) + "\n")
    (folder / "u.user").write_text("".join(f"{u}|{20 + u % 50}|{'MF'[u % 2]}|writer|{u:05d}\n" for u in users))
    flags = "|".join("1" if n in (5, 8) else "0" for n in range(19))
    films = [f"{i}|Film n\xba {i} (19{50 + i})|01-Jan-1995||http://x/{i}|{flags}\n" for i in range(1, 41)]
    (folder / "u.item").write_bytes("".join(films).encode("latin-1"))
    return folder
