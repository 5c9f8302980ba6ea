"""``suisen admin`` against a server."""

from __future__ import annotations

import json

import pytest

from suisen.cli.main import cli
from suisen.recommending import bundle
from suisen.serving.server import start_in_thread
from suisen.serving.settings import Settings
from tests.fitted import fitted


def run(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main(["admin", *words])
    out, err = capsys.readouterr()
    return ended.value.code, json.loads(out) if out else None, err


def test_versions_are_swapped_and_items_blocked_from_the_shell(tmp_path, capsys, monkeypatch):
    places = [bundle.save(fitted(name).system, tmp_path / name) for name in ("mf", "ease")]
    server = start_in_thread(places[0], settings=Settings(admin_port=0, admin_key="a" * 30, drain_s=0.0))
    try:
        url = ["--url", server.admin_url]
        assert "no key is given" in run(capsys, "status", *url)[2]
        monkeypatch.setenv("SUISEN_ADMIN_KEY", "a" * 30)
        assert run(capsys, "status", *url)[1]["state"] == "ready"
        assert run(capsys, "switch", *url)[2] == "error: no candidate is loaded; load a bundle first\n"
        assert [one["role"] for one in run(capsys, "load", str(places[1]), *url)[1]["slots"]] == [
            "serving",
            "candidate",
        ]
        assert run(capsys, "switch", *url)[1]["pending"] == []
        assert run(capsys, "rollback", *url)[0] == 0
        assert run(capsys, "unload", "former", *url)[0] == 0
        assert run(capsys, "block", "i001", "i002", *url)[1]["blocked"] == ["i001", "i002"]
        assert run(capsys, "unblock", "i001", *url)[1]["blocked"] == ["i002"]
        (tmp_path / "list.csv").write_text("item_id,status\ni003,blocked\ni004,unavailable\ni005,available\n")
        told = run(capsys, "blocklist", str(tmp_path / "list.csv"), *url)[1]
        assert (told["blocked"], told["unavailable"], told["in_force"]) == (["i003"], ["i004"], 2)
        assert run(capsys, "blocklist", *url)[1]["blocked"] == ["i003"]
        code, _, said = run(capsys, "blocklist", str(tmp_path / "nowhere.txt"), *url)
        assert (code, "nowhere.txt" in said) == (2, True)
        assert run(capsys, "blocklist", *url)[1]["blocked"] == ["i003"]
        code, _, said = run(capsys, "load", str(tmp_path / "absent"), *url)
        assert code == 2
        assert "absent" in said
    finally:
        server.stop()
    assert "gives no answer" in run(capsys, "status", *url)[2]
