from __future__ import annotations

import math
from pathlib import Path

import pytest

from suisen.errors import InputError
from suisen.serving.settings import Settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deadline_s": 0}, "deadline_s = 0 must be a number above 0"),
        ({"deadline_s": math.nan}, "deadline_s = nan must be a number above 0"),
        ({"max_queries": -1}, "max_queries = -1 must be a number above 0"),
        ({"queries_per_batch": True}, "queries_per_batch = True must be a number above 0"),
        ({"drain_s": -0.5}, r"drain_s = -0\.5 must be a number at least 0"),
    ],
)
def test_bounds(options, message):
    with pytest.raises(InputError, match=message):
        Settings(**options)


def test_the_folder_of_the_log_may_be_text():
    assert Settings(log_dir="logs").log_dir == Path("logs")


def test_no_wait_for_balancers_is_allowed():
    assert Settings(drain_s=0).drain_s == 0
