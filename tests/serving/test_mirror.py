"""Bundles under a prefix of an object store: the newest is copied, whole, and answers."""

from __future__ import annotations

import time

import pytest

from suisen.errors import InputError
from suisen.serving import mirror
from suisen.serving.mirror import Mirror

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def store():
    """An object store in memory, empty."""
    found = fsspec.filesystem("memory")
    found.store.clear()
    found.pseudo_dirs[:] = [""]
    return found


def put(store, folder, **files):
    """Objects, the manifest last."""
    for name, text in {**files, "manifest.json": folder}.items():
        store.pipe(f"/models/{folder}/{name.replace('__', '/')}", text.encode())


def names(place):
    return sorted(str(one.relative_to(place)) for one in place.rglob("*") if one.is_file())


def test_the_newest_is_copied_once(store, tmp_path):
    one = Mirror("memory://models", tmp_path / "here")
    assert one.look() is None
    put(store, "a", weights="1")
    place = one.look()
    assert names(place) == ["manifest.json", "weights"]
    assert one.look() is None
    put(store, "b", weights="2", index__part="3")
    place = one.look()
    assert (place / "index" / "part").read_text() == "3"
    assert (place / "manifest.json").read_text() == "b"
    put(store, "a", weights="4")  # the same place, written anew
    assert (one.look() / "weights").read_text() == "4"


def test_old_copies_are_removed_and_no_half_of_one_is_seen(store, tmp_path):
    one = Mirror("memory://models", tmp_path)
    for number in range(5):
        put(store, "a", weights=str(number))
        one.look()
    assert [place.name for place in sorted(tmp_path.iterdir())] == ["000004", "000005"]


def test_objects_beside_bundles_are_no_bundles(store, tmp_path):
    store.pipe("/models/readme.txt", b"x")
    store.pipe("/models/ab/other", b"x")
    put(store, "a", weights="1")
    assert names(Mirror("memory://models", tmp_path).look()) == ["manifest.json", "weights"]


def test_an_address_that_nothing_reads_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"watch = 'nothing://x' cannot be read .* give a folder"):
        Mirror("nothing://x", tmp_path)


def test_a_store_that_fails_is_said_once_and_asked_again(store, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(mirror, "EVERY_S", 0.01)
    one = Mirror("memory://models", tmp_path)
    monkeypatch.setattr(one._store, "find", lambda root: 1 / 0)
    one.start()
    time.sleep(0.2)
    monkeypatch.undo()
    put(store, "a", weights="1")
    late = time.monotonic() + 10
    monkeypatch.setattr(mirror, "EVERY_S", 0.01)
    while not list(tmp_path.iterdir()):
        assert time.monotonic() < late
        time.sleep(0.02)
    one.stop()
    assert [record.getMessage() for record in caplog.records].count(
        "memory://models cannot be read: division by zero"
    ) == 1
