"""Files are whole or not there."""

import os

import pytest

from suisen.files import replacing, write_text


def test_a_file_is_replaced_at_the_end_and_its_readers_keep_the_old(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "old")
    with path.open(encoding="utf-8") as reader:
        with replacing(path) as part:
            part.write_text("new", encoding="utf-8")
            assert path.read_text(encoding="utf-8") == "old"
            assert part.suffix == ".txt"
        assert reader.read() == "old"
    assert path.read_text(encoding="utf-8") == "new"
    assert os.listdir(path.parent) == ["a.txt"]


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.csv"
    write_text(path, "old")
    with pytest.raises(OSError, match="full"):
        _half_written(path)
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["a.csv"]


def _half_written(path):
    with replacing(path) as part:
        part.write_text("ha", encoding="utf-8")
        raise OSError("full")
