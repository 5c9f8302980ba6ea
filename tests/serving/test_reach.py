"""An address that other machines reach needs a key, or a word."""

from __future__ import annotations

import socket

import pytest

from suisen.errors import InputError
from suisen.serving.server import start_in_thread
from suisen.serving.settings import Settings
from suisen.serving.workers import serve_workers
from tests.cli.conftest import call

EVERY = ["0.0.0.0", "::"]
KEY = "a-key-of-more-than-20-signs"


@pytest.mark.parametrize("host", EVERY)
def test_every_address_is_refused_without_a_key(recommender, host):
    with pytest.raises(InputError, match=r"no key is asked for: give api_keys=, .* or say insecure=True") as error:
        start_in_thread(recommender.system, host=host)
    assert f"host = {host!r}" in str(error.value)


def test_so_it_is_with_several_workers_and_on_the_command_line(tmp_path, recommender):
    recommender.save(tmp_path / "bundle")
    with pytest.raises(InputError, match="no key is asked for"):
        serve_workers(tmp_path / "bundle", 2, host="0.0.0.0", port=0)
    said = call("serve", tmp_path / "bundle", "--host", "0.0.0.0", "--port", "0", code=2).output
    assert "give --api-keys, or --api-key from the environment (SUISEN_API_KEY)" in said
    assert "or say --insecure true" in said


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_loopback_needs_none(recommender, host):
    start_in_thread(recommender.system, host=host).stop()


@pytest.mark.parametrize("options", [{"insecure": True}, {"api_key": KEY}])
def test_with_a_key_or_a_word_it_is_served(recommender, options):
    running = start_in_thread(recommender.system, host="0.0.0.0", settings=Settings(**options))
    with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), timeout=10) as plain:
        plain.sendall(b"GET /v1/recommend/7?k=1 HTTP/1.1\r\nconnection: close\r\n\r\n")
        status = plain.makefile("rb").readline()
    running.stop()
    assert status.split()[1] == (b"401" if "api_key" in options else b"200")


def test_a_key_on_the_command_line_is_warned_of(tmp_path, monkeypatch):
    said = call("serve", tmp_path / "none", "--api-key", KEY, code=2).output
    assert "every user of this machine can read --api-key; set SUISEN_API_KEY" in said
    monkeypatch.setenv("SUISEN_API_KEY", "short")
    said = call("serve", tmp_path / "none", code=2).output
    assert "warning" not in said
