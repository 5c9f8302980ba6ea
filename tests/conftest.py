"""For all tests: one thread (machines are shared), Hypothesis without a deadline (a busy machine is no failure).

In CI (CI is set) Hypothesis draws the same examples every time: what passes once passes again.
"""

import os

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("untimed", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("untimed")
