"""A real tritonserver: the one that the wheel ``nvidia-pytriton`` carries, in an environment of its own (NumPy < 2).

``tools/services.sh`` makes that environment in ``.triton``; ``SUISEN_TRITON`` names another one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.services.programs import Program, free_port

ROOT = Path(__file__).resolve().parents[2]
ASK = """
import sys, sysconfig, pytriton, onnxruntime
print(sys.version_info.minor, sysconfig.get_config_var("LIBDIR"), sysconfig.get_paths()["purelib"])
"""


def environment() -> Path:
    """The interpreter of the environment; the test is skipped where there is none."""
    folder = Path(os.environ.get("SUISEN_TRITON", ROOT / ".triton"))
    python = folder / "bin" / "python"
    if sys.platform != "linux" or not python.exists():
        pytest.skip(f"TRITONSERVER IS NOT INSTALLED in {folder}: nothing is shown about it; make services")
    return python


def _backend(pytriton: Path, minor: str, folder: Path) -> Path:
    """A folder of backends with the python backend and the stub of this interpreter."""
    server = pytriton / "tritonserver"
    backend = folder / "backends" / "python"
    backend.mkdir(parents=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        (found,) = server.glob(f"backends/python/{name}")
        shutil.copy2(found, backend)
    stubs = list(server.glob(f"python_backend_stubs/3.{minor}/triton_python_backend_stub"))
    if not stubs:
        pytest.skip(f"TRITONSERVER HAS NO STUB FOR PYTHON 3.{minor}: nothing is shown about it")
    shutil.copy2(stubs[0], backend)
    return backend.parent


class Triton(Program):
    """A tritonserver over a model repository."""

    def __init__(self, repository: Path, folder: Path) -> None:
        python = environment()
        done = subprocess.run([python, "-c", ASK], check=True, capture_output=True, text=True, cwd=folder)
        minor, libraries, site = done.stdout.split()
        pytriton = Path(site) / "pytriton"
        places = [libraries, f"{site}/nvidia_pytriton.libs", pytriton / "tritonserver" / "external_libs"]
        port, grpc, self.metrics = free_port(), free_port(), free_port()
        words = [
            str(pytriton / "tritonserver" / "bin" / "tritonserver"), f"--model-repository={repository}",
            f"--backend-directory={_backend(pytriton, minor, folder)}", "--exit-on-error=false",
            f"--http-port={port}", f"--grpc-port={grpc}", f"--metrics-port={self.metrics}", "--http-address=127.0.0.1",
            "--grpc-address=127.0.0.1", "--metrics-address=127.0.0.1", "--http-thread-count=4",
        ]  # fmt: skip
        # The stub embeds an isolated interpreter: it takes its environment from the python that is first on the path.
        path = f"{python.parent}:{os.environ.get('PATH', '')}"
        env = {"LD_LIBRARY_PATH": ":".join(map(str, places)), "PATH": path, "OMP_NUM_THREADS": "1"}
        super().__init__(words, port, folder / "triton.log", env)
        self.url = f"http://127.0.0.1:{port}/v2"

    def ready(self, model: str) -> bool:
        """Whether a model answers."""
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/models/{model}/ready", timeout=5) as one:
            return one.status == 200
        return False

    def infer(self, model: str, **inputs: tuple[str, list[list[object]]]) -> dict[str, list[list[object]]]:
        """Outputs of a request by name, row by row; ``inputs``: type and rows.  Raises ValueError with what it said."""
        given = []
        for name, (kind, rows) in inputs.items():
            flat = [value for row in rows for value in row]
            given.append({"name": name, "datatype": kind, "shape": [len(rows), len(rows[0])], "data": flat})
        body = json.dumps({"inputs": given}).encode()
        request = urllib.request.Request(f"{self.url}/models/{model}/infer", body, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                said = json.load(reply)
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error)["error"]) from None
        found = {}
        for each in said["outputs"]:
            rows, width = each["shape"]
            found[each["name"]] = [each["data"][row * width : (row + 1) * width] for row in range(rows)]
        return found

    def scraped(self) -> str:
        """The metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=10) as reply:
            return str(reply.read().decode())
