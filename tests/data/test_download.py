"""Fetching, against a server on this machine that can cut connections, ignore ranges and lie about checksums."""

import hashlib
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from suisen.data.sources import download
from suisen.data.sources.download import Unreachable, WebFile, WheelFile, home
from suisen.errors import InputError

BODY = bytes(range(256)) * 4_000
WHEEL = WheelFile("recbole==1.2.1", hashlib.sha256(b"wheel").hexdigest())


def web_file(port, name="ml-1m"):
    """As GroupLens has them: the MD5 beside the file."""
    url = f"http://127.0.0.1:{port}/{name}.zip"
    return WebFile(url, f"{url}.md5", "GroupLens")


def on_it(server, name="ml-1m"):
    return web_file(server.server_port, name)


class Server(ThreadingHTTPServer):
    """Serves ``files``; ``cut`` bytes of a body are sent at most; ``ranges`` tells whether it resumes."""

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.ranges, self.seen = files, None, True, []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.seen.append((self.path, asked))
        body = self.server.files.get(self.path.lstrip("/"))
        if body == b"hang up":
            return None
        if body is None:
            return self.send_error(404)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.ranges else 0
        if start >= len(body) and start:
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start:][: self.server.cut] if self.path.endswith(".zip") else body)
        return None

    def log_message(self, *args):
        """Silent."""


@pytest.fixture
def server(monkeypatch):
    md5 = hashlib.md5(BODY).hexdigest()
    with Server({"ml-1m.zip": BODY, "ml-1m.zip.md5": f"MD5 (ml-1m.zip) = {md5}\n".encode()}) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield server
        server.shutdown()
        thread.join()


def zip_ranges(server):
    return [asked for path, asked in server.seen if path.endswith(".zip")]


def test_fetches_and_verifies(server, tmp_path):
    path = on_it(server).fetch(tmp_path / "cache")
    assert path == tmp_path / "cache" / "ml-1m.zip"
    assert path.read_bytes() == BODY
    assert [file.name for file in path.parent.iterdir()] == ["ml-1m.zip"]


def test_goes_on_after_a_cut(server, tmp_path):
    server.cut = 300_000
    with pytest.raises(Unreachable, match=r"after 300,000 of 1,024,000 bytes; the next call goes on there"):
        on_it(server).fetch(tmp_path)
    assert not (tmp_path / "ml-1m.zip").exists()
    server.cut = None
    assert on_it(server).fetch(tmp_path).read_bytes() == BODY
    assert zip_ranges(server) == [None, "bytes=300000-"]


def test_begins_anew_where_the_server_does_not_resume(server, tmp_path):
    (tmp_path / "ml-1m.zip.part").write_bytes(b"something else")
    server.ranges = False
    assert on_it(server).fetch(tmp_path).read_bytes() == BODY


def test_a_part_that_is_whole_is_only_verified(server, tmp_path):
    (tmp_path / "ml-1m.zip.part").write_bytes(BODY)
    assert on_it(server).fetch(tmp_path).read_bytes() == BODY
    assert zip_ranges(server) == [f"bytes={len(BODY)}-"]


def test_a_wrong_checksum_is_refused_and_the_file_removed(server, tmp_path):
    server.files["ml-1m.zip.md5"] = b"0" * 32
    with pytest.raises(InputError, match=r"ml-1m\.zip: MD5 is [0-9a-f]{32} and GroupLens publishes 0{32}"):
        on_it(server).fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_checksum_may_be_written_down(server, tmp_path):
    url = on_it(server).url
    sha256 = hashlib.sha256(BODY).hexdigest()
    file = WebFile(url, f"sha256:{sha256}", "the university")
    assert file.fetch(tmp_path).read_bytes() == BODY
    assert file.said == "fetched from the university, SHA-256 verified"
    assert [path for path, _ in server.seen] == ["/ml-1m.zip"]
    with pytest.raises(InputError, match=f"SHA-256 is {sha256} and the university publishes 00; the file was removed"):
        WebFile(url, "sha256:00", "the university").fetch(tmp_path / "other")


def test_a_checksum_file_without_a_checksum(server, tmp_path):
    server.files["ml-1m.zip.md5"] = b"moved"
    with pytest.raises(Unreachable, match="holds no MD5 checksum"):
        on_it(server).fetch(tmp_path)


def test_a_file_that_the_server_lacks(server, tmp_path):
    with pytest.raises(Unreachable, match=r"ml-9m\.zip\.md5 answers 404"):
        on_it(server, "ml-9m").fetch(tmp_path)


def test_a_server_that_hangs_up(server, tmp_path):
    server.files["ml-1m.zip"] = b"hang up"
    with pytest.raises(Unreachable, match=r"ml-1m\.zip cannot be reached"):
        on_it(server).fetch(tmp_path)


def test_a_server_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr(download.urllib.request, "getproxies", dict)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1 cannot be reached"):
        web_file(9).fetch(tmp_path)


def test_a_silent_name_server_is_given_up(monkeypatch, tmp_path):
    release = threading.Event()

    def never(*_, **__):
        release.wait()
        raise OSError("given up")

    monkeypatch.setattr(download.socket, "create_connection", never)
    monkeypatch.setattr(download, "CONNECT_SECONDS", 0.05)
    monkeypatch.setattr(download.urllib.request, "getproxies", dict)
    with pytest.raises(Unreachable, match=r"cannot be reached \(no answer\)"):
        web_file(9).fetch(tmp_path)
    release.set()


def test_home(monkeypatch, tmp_path):
    monkeypatch.delenv("SUISEN_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert home() == tmp_path / "suisen"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path / ".local" / "share" / "suisen"
    monkeypatch.setenv("SUISEN_HOME", "~/own")
    assert home() == tmp_path / "own"


def pip_that_writes(monkeypatch, data, code=0):
    """In place of pip: leaves a wheel of these bytes where it was asked to."""
    asked = []

    def run(words, **_):
        asked.append(words)
        if data is not None:
            folder = words[words.index("--dest") + 1]
            (Path(folder) / WHEEL.file).write_bytes(data)
        return subprocess.CompletedProcess(words, code, "", "WARNING: x\nERROR: no such version\n" if code else "")

    monkeypatch.setattr(download.subprocess, "run", run)
    return asked


def test_the_wheel_is_verified_and_kept(monkeypatch, tmp_path):
    asked = pip_that_writes(monkeypatch, b"wheel")
    path = WHEEL.fetch(tmp_path / "cache")
    assert path.read_bytes() == b"wheel"
    assert [file.name for file in path.parent.iterdir()] == [WHEEL.file]
    assert asked[0][1:5] == ["-m", "pip", "download", "--no-deps"]
    assert asked[0][-1] == "recbole==1.2.1"


def test_another_wheel_is_refused(monkeypatch, tmp_path):
    pip_that_writes(monkeypatch, b"other")
    with pytest.raises(InputError, match=f"SHA-256 is .* and should be {WHEEL.sha256}"):
        WHEEL.fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "x.whl").write_bytes(b"other")
    with pytest.raises(InputError, match=r"x\.whl: SHA-256 is"):
        WHEEL.verify(tmp_path / "x.whl")


def test_pip_that_fails(monkeypatch, tmp_path):
    pip_that_writes(monkeypatch, None, code=1)
    with pytest.raises(Unreachable, match=r"pip download recbole==1\.2\.1 failed \(ERROR: no such version\)"):
        WHEEL.fetch(tmp_path)
    monkeypatch.setattr(download.subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError("python")))
    with pytest.raises(Unreachable, match="did not end"):
        WHEEL.fetch(tmp_path)
