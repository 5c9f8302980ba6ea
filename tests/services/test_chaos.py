"""The attack of ``make chaos``, for a minute; and that its judge sees what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from tests.services.chaos import judge
from tests.services.chaos.traffic import Act, Outcome, Told
from tests.services.chaos.world import Asked


class Known:
    """A version whose list of every query is its user's and its events' names."""

    def learn(self, asked):
        pass

    def agrees(self, asked, items):
        return (asked.user, *asked.events) == tuple(items)


def test_the_judge_tells_right_wrong_and_degraded_lists_apart():
    one = Asked("u", ("a", "b"))
    told = Told([
        Outcome("acting", 0.0, one, 200, version="v", items=("u", "a", "b")),
        Outcome("acting", 0.0, one, 200, version="v", items=("u", "a"), degraded=("users",)),
        Outcome("acting", 0.0, one, 200, version="v", items=("u", "a")),
        Outcome("acting", 0.0, one, 200, version="v", items=("u", "b"), degraded=("users",)),
        Outcome("acting", 0.0, one, 200, version="other", items=("u", "a", "b")),
    ])  # fmt: skip
    found = judge.lists(told, {"v": Known()})
    assert (found["equal to the offline list"], found["degraded and by its rule"], found["wrong"]) == (1, 1, 3)


def test_the_judge_finds_events_that_are_missing_doubled_or_kept_though_refused():
    acts = [Act("u", "i", name, "", status) for name, status in (("a", 202), ("b", 202), ("c", 503), ("d", 503))]
    found = judge.events(acts, Counter({"a": 2, "c": 1}))
    assert found == {
        "acknowledged": 2, "missing": 1, "written more than once": 1, "refused": 2, "refused and written": 1,
    }  # fmt: skip


def test_the_judge_finds_a_process_that_grows():
    flat = [(float(second), 200 << 20) for second in range(200)]
    growing = [(float(second), (200 + second) << 20) for second in range(200)]
    young = growing[:50]
    found = judge.memory({1: flat, 2: growing, 3: young})
    assert found["processes judged"] == 2
    assert [line.split(":")[0] for line in found["grown"]] == ["process 2"]


@pytest.mark.skipif(
    "SUISEN_CHAOS" not in os.environ, reason="THE ATTACK IS NOT RUN: SUISEN_CHAOS=60 runs a minute of it"
)
def test_a_minute_of_everything(tmp_path):
    words = [
        sys.executable,
        "-m",
        "tests.services.chaos",
        "--seconds",
        os.environ["SUISEN_CHAOS"],
        "--folder",
        str(tmp_path),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert json.loads((tmp_path / "record.json").read_text())["unfinished"] == 0
