from __future__ import annotations

import math
from pathlib import Path

import pytest

from suisen.errors import InputError
from suisen.serving.settings import Settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deadline_s": 0}, "Settings: deadline_s = 0 should be greater than 0"),
        ({"deadline_s": math.nan}, "Settings: deadline_s = nan should be a finite number"),
        ({"max_queries": -1}, "Settings: max_queries = -1 should be greater than 0"),
        ({"queries_per_batch": True}, "Settings: queries_per_batch = True should be a valid integer"),
        ({"queries_per_turn": 0}, "Settings: queries_per_turn = 0 should be greater than 0"),
        ({"front": "slow"}, "Settings: front = 'slow' should be 'fast' or 'asgi'"),
        ({"max_header_bytes": 0}, "Settings: max_header_bytes = 0 should be greater than 0"),
        ({"header_s": 0.0}, r"Settings: header_s = 0\.0 should be greater than 0"),
        ({"max_connections": 0}, "Settings: max_connections = 0 should be greater than 0"),
        ({"drain_s": -0.5}, r"Settings: drain_s = -0\.5 should be greater than or equal to 0"),
    ],
)
def test_bounds(options, message):
    with pytest.raises(InputError, match=message):
        Settings(**options)


def test_the_folder_of_the_log_may_be_text():
    assert Settings(log_dir="logs").log_dir == Path("logs")


def test_no_wait_for_balancers_is_allowed():
    assert Settings(drain_s=0).drain_s == 0
