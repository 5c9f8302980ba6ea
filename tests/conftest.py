"""For all tests: one thread (the machine is shared), Hypothesis without a deadline (a busy machine is no failure)."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
