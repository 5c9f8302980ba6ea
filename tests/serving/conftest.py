from __future__ import annotations

from functools import partial

import pytest

from suisen.data.dataset import Dataset
from suisen.data.synthetic import World
from suisen.models import EASE
from suisen.pipeline.recommender import Recommender
from suisen.serving.settings import Settings
from tests.serving.sockets import Served

PATIENT = 60.0
"""Seconds: a busy machine must not turn an answer into a 503."""


@pytest.fixture(scope="session")
def recommender():
    """EASE over a small world with integer ids, features of users and items, and titles."""
    return Recommender(EASE()).fit(Dataset.of(World(users=60, items=40).generate().log))


@pytest.fixture(scope="module", params=["fast", "asgi"])
def served(request):
    """Serves an app over a real socket, through each front in turn; called as ``client.Client`` is."""
    return partial(Served, request.param)


@pytest.fixture(scope="module")
def client(served, recommender, tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    with served(lambda: recommender.system, Settings(deadline_s=PATIENT, log_dir=folder, impressions=True)) as made:
        yield made
