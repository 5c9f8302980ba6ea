"""What answers loads nothing of what learns: a server starts without trainer, evaluation, tuning, pictures."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

LEARNING = {"pipeline", "training", "evaluation", "runs", "pages", "experiments", "cli"}
"""Rooms of the package that a server does not enter."""
LIBRARIES = {"matplotlib", "optuna", "jinja2", "pandas", "pyarrow", "tensorboard", "mlflow", "rich"}


@pytest.mark.parametrize(
    ("module", "libraries"),
    [("suisen.serving.app", LIBRARIES | {"click", "uvicorn"}), ("suisen.serving.server", LIBRARIES)],
)
def test_a_server_loads_nothing_that_learns(module, libraries):
    """uvicorn itself imports click, so the server's process has it; our command line it has not."""
    code = f"import {module}, json, sys; print(json.dumps(list(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = json.loads(out.stdout)
    rooms = {name.split(".")[1] for name in loaded if name.startswith("suisen.")}
    assert {"serving", "recommending", "models"} <= rooms
    assert not rooms & LEARNING
    assert not {name.partition(".")[0] for name in loaded} & libraries
