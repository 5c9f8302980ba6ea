"""A server answers from what was verified, whatever is done to the bundle's files afterwards."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import stat
import subprocess
import sys
import urllib.request

import pytest

from suisen.errors import BundleError
from suisen.recommending import bundle, held, manifest, signing
from suisen.recommending.held import hold, private_folder
from suisen.serving.server import running, start_in_thread
from suisen.serving.settings import Settings
from tests.fitted import fitted


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return fitted("two-tower + deepfm").save(tmp_path_factory.mktemp("saved") / "bundle")


@pytest.fixture
def place(saved, tmp_path):
    """A copy that may be changed."""
    return shutil.copytree(saved, tmp_path / "bundle")


ONE = {"queries": [{"user_id": "u0001"}]}


def said(url, message):
    """The answer, over a new connection."""
    body = json.dumps(message).encode()
    request = urllib.request.Request(f"{url}/v1/recommend", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def files_of(place):
    return sorted(path for path in place.rglob("*") if path.is_file())


def held_by(where):
    """The folder with the copy; the server keeps others there, too."""
    (copy,) = where.glob("suisen-held-*/bundle")
    assert (copy / "manifest.json").is_file()
    return copy.parent


def overwritten(path):
    """Every byte another, in the place where the old ones lie."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        for at in range(0, len(view), 7):
            view[at] ^= 0xFF


CHANGES = {
    "edited": overwritten,
    "cut short": lambda path: os.truncate(path, 0),
    "removed": lambda path: path.unlink(),
    "replaced": lambda path: (path.unlink(), path.write_bytes(b"other"))[0],
}


@pytest.mark.parametrize("how", CHANGES)
def test_what_happens_to_the_files_changes_no_answer(place, how):
    users = [f"u{number:04}" for number in range(1, 30)]
    with running(place) as server:
        ask = {"queries": [{"user_id": user} for user in users], "k": 10}
        before = said(server.url, ask)
        for path in files_of(place):
            CHANGES[how](path)
        for precise in (False, True):
            got = said(server.url, {**ask, "precise": precise})
            assert got["version"] == before["version"]
            if not precise:
                assert got["answers"] == before["answers"]
        new = {"queries": [{"history": ["i001", "i002"]}], "k": 80}
        assert said(server.url, new)["answers"]


def test_the_copy_is_private_whole_and_gone_at_the_end(place, tmp_path):
    settings = Settings(private_dir=tmp_path / "own")
    server = start_in_thread(place, settings=settings)
    folder = held_by(tmp_path / "own")
    try:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        copy = folder / "bundle"
        names = sorted(path.relative_to(copy) for path in files_of(copy))
        assert names == sorted(path.relative_to(place) for path in files_of(place))
        for path in files_of(place):
            own = copy / path.relative_to(place)
            assert own.read_bytes() == path.read_bytes()
            assert not own.samefile(path)
            assert stat.S_IMODE(own.stat().st_mode) == 0o400
    finally:
        server.stop()
    assert not list((tmp_path / "own").iterdir())


def test_only_what_is_listed_is_copied(place, tmp_path):
    (place / "notes.txt").write_text("mine")
    (place / "plan" / "more.npy").write_bytes(b"x") if (place / "plan").exists() else None
    own = hold(place, tmp_path / "own")
    assert not (own / "notes.txt").exists()
    assert not (own / "plan" / "more.npy").exists()
    assert bundle.load(own, held=True).version == bundle.load(own).version


def test_the_version_is_that_of_the_bundle_as_it_was_saved(place, tmp_path):
    assert bundle.load(hold(place, tmp_path / "own"), held=True).version == bundle.load(place).version


@pytest.mark.parametrize("file", ["parity.json", "items.arrow", "index/vectors.npy", "manifest.json"])
def test_what_is_not_as_the_manifest_says_is_never_served(place, tmp_path, file):
    overwritten(place / file)
    with pytest.raises(BundleError, match=f"{place / file} is damaged"):
        hold(place, tmp_path / "own")
    assert not (tmp_path / "own").exists()
    with pytest.raises(BundleError, match="is damaged"):
        start_in_thread(place, settings=Settings(private_dir=tmp_path / "private"))
    assert not list((tmp_path / "private").iterdir())


def test_a_file_that_changes_while_it_is_copied_is_noticed(place, tmp_path, monkeypatch):
    """What is hashed is what was written, not what the source says a moment later."""
    monkeypatch.setattr(held, "_cloned", lambda given, own: False)
    copied = held._copied

    def late(source, target):
        if source.name == "items.arrow":
            overwritten(source)
        return copied(source, target)

    monkeypatch.setattr(held, "_copied", late)
    with pytest.raises(BundleError, match=r"items.arrow is damaged"):
        hold(place, tmp_path / "own")


def test_a_file_that_changes_once_it_was_copied_is_no_matter(place, tmp_path, monkeypatch):
    version, copied = bundle.load(place).version, held._copied

    def early(source, target):
        digest = copied(source, target)
        overwritten(source)
        return digest

    monkeypatch.setattr(held, "_copied", early)
    assert bundle.load(hold(place, tmp_path / "own")).version == version


def test_a_clone_is_hashed_where_it_lies(place, tmp_path, monkeypatch):
    def cloned(given, own):
        own.write(given.read()[:-1] + b"!")
        own.flush()
        own.seek(0)
        return True

    monkeypatch.setattr(held, "_cloned", cloned)
    with pytest.raises(BundleError, match="is damaged"):
        hold(place, tmp_path / "own")


def test_a_bundle_that_is_replaced_meanwhile_is_copied_again(place, tmp_path, monkeypatch):
    read, calls = manifest.read, []

    def slow(where):
        said = read(where)
        calls.append(where)
        if len(calls) == 1:
            fitted("ease").save(place)
        return said

    monkeypatch.setattr(manifest, "read", slow)
    own = hold(place, tmp_path / "own")
    monkeypatch.undo()
    assert bundle.load(own, held=True).name == "ease"


def test_no_file_leads_out_of_the_bundle(place, tmp_path):
    (tmp_path / "secret").write_bytes((place / "items.arrow").read_bytes())
    (place / "items.arrow").unlink()
    (place / "items.arrow").symlink_to(tmp_path / "secret")
    with pytest.raises(BundleError, match="leads out of the bundle"):
        hold(place, tmp_path / "own")


def test_without_room_it_says_where_and_how_much(place, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(BundleError, match=r"has no room for the server's own copy, [\d,]+ bytes,.*--private-dir"):
        hold(place, tmp_path / "own")
    monkeypatch.undo()

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(held, "_copied", full)
    with pytest.raises(BundleError, match=r"has no room for the server's own copy of the bundle; give --private-dir"):
        hold(place, tmp_path / "own")
    assert not (tmp_path / "own").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="cannot take the server's own copy"), private_folder(tmp_path / "file"):
        pass


HOLD = """
import sys, time
from pathlib import Path
from suisen.recommending.held import hold, private_folder
with private_folder(Path(sys.argv[2])) as folder:
    hold(Path(sys.argv[1]), folder / "bundle")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_what_a_killed_server_leaves_is_swept_and_what_others_use_is_not(place, tmp_path):
    own = tmp_path / "own"
    process = subprocess.Popen([sys.executable, "-c", HOLD, place, own], stdout=subprocess.PIPE, text=True)
    folder = held.Path(process.stdout.readline().strip())
    (own / "suisen-held-somebody").write_text("no folder")
    with private_folder(own):
        assert (folder / "bundle" / "manifest.json").is_file()
    process.kill()
    process.wait()
    process.stdout.close()
    assert folder.is_dir()
    with private_folder(own) as mine:
        assert not folder.exists()
        assert mine.is_dir()
    assert [path.name for path in own.iterdir()] == ["suisen-held-somebody"]


def test_a_folder_that_is_being_made_is_left_alone(tmp_path):
    (tmp_path / "suisen-held-new").mkdir()
    with private_folder(tmp_path):
        assert (tmp_path / "suisen-held-new").is_dir()


def test_a_folder_that_was_swept_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    locked, calls = held._locked, []

    def late(file):
        calls.append(file.name)
        if len(calls) == 1:
            shutil.rmtree(held.Path(file.name).parent)
        return locked(file)

    monkeypatch.setattr(held, "_locked", late)
    with private_folder(tmp_path) as folder:
        assert len(calls) == 2
        assert (folder / ".lock").exists()


def test_only_signed_bundles_are_served_where_keys_are_trusted(place, tmp_path):
    key = tmp_path / "key"
    public, _ = signing.make_key(key)
    settings = Settings(trusted_keys=public)
    with pytest.raises(BundleError, match=f"{place} is not signed"):
        start_in_thread(place, settings=settings)
    signing.sign(place, key)
    with running(place, settings) as server:
        (place / "manifest.sig").unlink()  # what is served was signed
        assert said(server.url, ONE)["answers"]
    other, _ = signing.make_key(tmp_path / "other")
    signing.sign(place, key)
    with pytest.raises(BundleError, match="which is not trusted"):
        start_in_thread(place, settings=Settings(trusted_keys=other))


@pytest.mark.skipif(sys.platform != "linux", reason="workers need Linux")
def test_workers_share_one_copy_and_the_source_may_go(place, tmp_path):
    public, _ = signing.make_key(tmp_path / "key")
    signing.sign(place, tmp_path / "key")
    own = tmp_path / "own"
    words = [sys.executable, "-m", "suisen.cli.main", "serve", str(place), "--workers", "2", "--port", "0"]
    words += [
        "--private-dir",
        str(own),
        "--trusted-keys",
        str(public),
        "--drain-s",
        "0",
        "--log-dir",
        str(tmp_path / "log"),
    ]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        line = ""
        while "ready on" not in line:
            line = process.stderr.readline()
            assert line, "it did not start"
        url = line.split("ready on ")[1].split()[0]
        assert held_by(own).is_dir()
        before = said(url, ONE)["answers"]
        for path in files_of(place):
            os.truncate(path, 0)
        assert all(said(url, ONE)["answers"] == before for _ in range(10))
        assert process.poll() is None
        process.terminate()
        process.wait(20)
        assert not list(own.iterdir())
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
