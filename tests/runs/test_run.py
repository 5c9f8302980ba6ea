"""A run is executed by code: no command line is needed."""

import subprocess
import sys
import textwrap

EXECUTE = """
import sys
from pathlib import Path

from suisen.runs.config import resolve
from suisen.runs.keep import save
from suisen.runs.run import execute
from suisen.runs.summary import summary

raw = {"data": {"events": "log.csv"}, "retriever": {"name": "popularity"}, "run": {"threads": 1}}
run = execute(resolve(raw), Path("out"))
save(run)
print(summary(run))
loaded = {name.partition(".")[0] for name in sys.modules}
assert "torch" in loaded
assert not loaded & {"click", "rich", "uvicorn"}, loaded & {"click", "rich", "uvicorn"}
assert not any(name.startswith("suisen.cli") for name in sys.modules)
"""


def test_a_run_is_executed_without_a_command_line(tmp_path):
    rows = [f"{user},{item},{time}" for user in "abcd" for time, item in enumerate("vwxyz")]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time", *rows]))
    command = [sys.executable, "-c", textwrap.dedent(EXECUTE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "protocol: " in done.stdout
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"config.toml", "metrics.json", "curves.json", "environment.json", "report.html", "bundle"}
