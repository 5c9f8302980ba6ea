"""Programs that tests start end with the process that started them, however that ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.services.brokers import until
from tests.services.programs import free_port, listening

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys, time
from pathlib import Path
from tests.services.programs import started
port, log, ends = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "ends"
with started([sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"], port, log) as one:
    if ends:
        one.kill()
        one.start()
    print(one.process.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("ends", ["ends", "stays"])
@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_a_program_is_gone_when_who_started_it_was_killed(tmp_path, sig, ends):
    port = free_port()
    words = [sys.executable, "-c", SCRIPT, str(port), str(tmp_path / "log"), ends]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as starter:
        pid = int(starter.stdout.readline())
        assert listening(port)
        starter.send_signal(sig)
        assert starter.wait(10) == -sig
        began = time.monotonic()
        until(lambda: not Path(f"/proc/{pid}").exists() and not listening(port))
        assert time.monotonic() - began < 10
