"""``suisen.data.progress``: a place in a file is found again whatever the file is called, and in no other file."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suisen.data.progress import Progress, head_of
from suisen.errors import InputError


@contextmanager
def opened(path):
    file = os.open(path, os.O_RDONLY)
    yield file
    os.close(file)


def offset(progress, path):
    with opened(path) as file:
        return progress.offset(file)


def advance(progress, path, place):
    with opened(path) as file:
        progress.advance(file, place)


def test_a_place_is_kept_over_renames_copies_and_growth(tmp_path):
    one, progress = tmp_path / "a", Progress()
    one.write_bytes(b"first\nsecond\n")
    assert offset(progress, one) == 0
    advance(progress, one, 6)
    advance(progress, one, 13)
    progress.save(tmp_path / "kept")
    one.rename(tmp_path / "b")
    shutil.copy(tmp_path / "b", tmp_path / "c")
    with (tmp_path / "c").open("ab") as file:
        file.write(b"third\n")
    again = Progress.load(tmp_path / "kept")
    assert offset(again, tmp_path / "b") == offset(again, tmp_path / "c") == 13


def test_a_file_that_was_emptied_or_begins_alike_is_another(tmp_path):
    one, two, progress = tmp_path / "a", tmp_path / "b", Progress()
    one.write_bytes(b"first\nsecond\nthird\n")
    two.write_bytes(b"first\nother!\n")
    advance(progress, one, 13)
    assert offset(progress, two) == 0
    advance(progress, two, 13)
    assert (offset(progress, one), offset(progress, two)) == (13, 13)
    advance(progress, one, 19)
    assert (offset(progress, one), offset(progress, two)) == (19, 13)
    one.write_bytes(b"first\n")
    assert offset(progress, one) == 0


def test_what_is_gone_is_forgotten(tmp_path):
    one, progress = tmp_path / "a", Progress()
    one.write_bytes(b"first\n")
    advance(progress, one, 6)
    with opened(one) as file:
        head = head_of(file)
    assert progress.reached(head, 6)
    assert not progress.reached(head, 7)
    progress.keep([head])
    assert offset(progress, one) == 6
    progress.keep([])
    assert offset(progress, one) == 0


def test_a_first_line_has_an_end(tmp_path):
    (tmp_path / "a").write_bytes(b"half")
    (tmp_path / "b").write_bytes(b"x" * 5_000 + b"\nmore\n")
    (tmp_path / "c").write_bytes(b"x" * 5_000 + b"\n")
    heads = []
    for name in "abc":
        with opened(tmp_path / name) as file:
            heads.append(head_of(file))
    assert heads[0] == ""
    assert heads[1] == heads[2] != ""


@given(st.text())
def test_another_file_does_not_say_how_far_was_read(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("any") / "kept"
    path.write_text(text, encoding="utf-8", errors="replace")
    if text.strip() != "{}":
        with pytest.raises(InputError, match="does not say how far was read"):
            Progress.load(path)
