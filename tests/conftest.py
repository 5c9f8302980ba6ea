"""For all tests: one thread (machines are shared), Hypothesis without a deadline (a busy machine is no failure).

In CI (CI is set) Hypothesis draws the same examples every time: what passes once passes again.
"""

import gc
import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("untimed", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("untimed")
OPEN, MANY = Path("/proc/self/fd"), 60


@pytest.fixture(scope="module", autouse=True)
def few_open_files():
    """Each table of a bundle that was mapped holds a file open until the collector finds the bundle, which errors and
    their frames keep in circles: after some files of tests there were more than select() takes (1,024).
    """
    yield
    if OPEN.exists() and len(os.listdir(OPEN)) > MANY:
        gc.collect()
