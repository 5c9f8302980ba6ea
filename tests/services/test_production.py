"""docs/production.md: all its blocks, in order, with the real programs."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services.brokers import broker
from tests.services.programs import free_port, listening, program

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PORTS = ("8001", "8002", "8080", "6379")


def script(brokers_port):
    """The blocks as one script, with ports that are free here."""
    text = "\n".join(BLOCK.findall((ROOT / "docs" / "production.md").read_text(encoding="utf-8")))
    for port in PORTS[2:]:
        text = re.sub(rf"\b{port}\b", str(free_port()), text)
    free = (
        one for one in random.sample(range(2_000, 9_500), 500) if not listening(one) and not listening(10_000 + one)
    )
    for port in PORTS[:2]:  # a 1 is put before it for the admin's port
        text = re.sub(rf"\b{port}\b", str(next(free)), text)
    return text.replace("kafka.internal:9092", f"127.0.0.1:{brokers_port}")


@pytest.mark.slow
def test_the_guide_runs_from_its_first_line_to_its_last(tmp_path):
    for name in ("redis-server", "haproxy", "promtool"):
        program(name)
    one = broker(tmp_path / "broker").start()
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name, words in {"suisen": "-m suisen.cli.main", "python": ""}.items():
        (bin_folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        (bin_folder / name).chmod(0o755)
    whole = f"set -euo pipefail\ntrap 'kill -9 $(jobs -p) 2>/dev/null' EXIT\n{script(one.port)}\necho THE END\n"
    env = {
        **os.environ, "PATH": f"{bin_folder}:/usr/sbin:{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT / "src"),
    }  # fmt: skip
    try:
        done = subprocess.run(
            ["bash", "-c", whole], cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=400
        )
    finally:
        one.kill()
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-4000:]}"
    assert done.stdout.endswith("THE END\n")
    assert "by item-knn-" in done.stdout
    assert "by ease-" in done.stdout
