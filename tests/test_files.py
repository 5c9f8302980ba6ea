"""Files are whole or not there."""

import os
import stat

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


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002])
def test_a_file_has_the_mode_of_the_umask_whatever_its_writer_wants(tmp_path, umask):
    path, before = tmp_path / "a.bin", os.umask(umask)
    try:
        for _ in range(2):
            with replacing(path) as part:
                part.write_bytes(b"x")
                part.chmod(0o600)
            assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
            path.chmod(0o400)  # of the old file nothing is taken over
    finally:
        os.umask(before)
