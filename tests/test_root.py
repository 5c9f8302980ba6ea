"""``import suisen`` is cheap, and everything it promises is there."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import suisen

HEAVY = ["torch", "faiss", "matplotlib", "rich", "click", "uvicorn", "msgspec", "polars", "numpy", "scipy", "pydantic"]


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after the statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(json.loads(out.stdout))


def test_the_root_loads_nothing_heavy():
    assert not loaded_by("import suisen; dir(suisen); suisen.__version__") & set(HEAVY)


def test_recommending_loads_no_picture_server_or_command_line():
    loaded = loaded_by("import suisen; suisen.Recommender; suisen.EASE; suisen.Dataset; suisen.evaluate")
    assert {"torch", "polars"} <= loaded
    assert not loaded & {"faiss", "matplotlib", "rich", "click", "uvicorn", "msgspec"}


def test_every_promised_name_is_there():
    assert len(suisen.__all__) == len(set(suisen.__all__)) <= 64
    for name in suisen.__all__:
        assert getattr(suisen, name) is not None
    assert set(suisen.__all__) == set(dir(suisen))
    names: dict = {}
    exec("from suisen import *", names)
    assert set(suisen.__all__) <= set(names)


def test_names_are_those_of_their_homes():
    from suisen.data.dataset import Dataset
    from suisen.models import EASE
    from suisen.pipeline import Recommender

    assert (suisen.Dataset, suisen.EASE, suisen.Recommender) == (Dataset, EASE, Recommender)
    with pytest.raises(AttributeError, match="No suisen attribute Recomender"):
        _ = suisen.Recomender


def test_data_by_name_must_be_known():
    with pytest.raises(suisen.InputError, match="ml-100"):
        suisen.load_data("ml-100")
