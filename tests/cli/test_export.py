"""``suisen export``: what it writes, and what it says of what it cannot."""

from __future__ import annotations

import pytest

from tests.cli.conftest import call
from tests.fitted import fitted


@pytest.fixture
def bundle(tmp_path):
    return fitted("mf").save(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("to", "files"), [("onnx", ["exported.py"]), ("triton", ["mine/config.pbtxt", "mine/1/model.py"])]
)
def test_it_writes_what_was_asked_for_and_says_what_was_compared(to, files, bundle, tmp_path):
    pytest.importorskip("onnxruntime")
    done = call("export", bundle, tmp_path / "out", "--to", to, "--name", "mine")
    assert "100.0% of them are the bundle's" in done.stdout
    assert all((tmp_path / "out" / file).is_file() for file in files)


def test_a_model_without_a_graph_is_one_line(tmp_path):
    pytest.importorskip("onnxruntime")
    place = fitted("ease").save(tmp_path / "bundle")
    done = call("export", place, tmp_path / "out", code=2)
    assert done.stderr == "error: ease cannot be exported: its first stage has no vectors, which sasrec, say, has\n"
    assert not (tmp_path / "out").exists()
