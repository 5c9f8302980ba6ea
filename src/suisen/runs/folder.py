"""The run folder: what lies where, written so that nobody reads half of a file.  Light: nothing of models is loaded."""

import contextlib
import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from suisen.errors import InputError
from suisen.files import write_text

CONFIG, METRICS, ENVIRONMENT, CURVES = "config.toml", "metrics.json", "environment.json", "curves.json"
TUNING, TRIALS, BEST, JOURNAL = "tuning.toml", "trials.json", "best.toml", "study.journal"
REPORT, CHECKPOINTS, BUNDLE, MEASURED = "report.html", "checkpoints", "bundle", "measured"
LIBRARIES = ("suisen", "torch", "numpy", "polars", "scipy", "faiss-cpu", "safetensors", "pydantic")


def check_folder(folder: Path, overwrite: bool, mark: str = CONFIG, *, resumes: bool = True) -> None:
    """Raises InputError where a run cannot be written: an old run goes only when asked, other files never.

    ``mark``: the file that tells a run; ``resumes``: whether the command has --resume.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"out = {folder} is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            mend = f"go on with --resume {folder}, give" if resumes and (folder / mark).exists() else "give"
            raise InputError(f"out = {folder} is not empty; {mend} another --out, or pass --overwrite")
        if not (folder / mark).exists():
            raise InputError(f"out = {folder} holds something else than a run; give another --out")


def new_folder(folder: Path, mark: str = CONFIG) -> Path:
    """An empty run folder in the place of an old run; ``check_folder`` came before."""
    if (folder / mark).is_file():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def default_folder(models: str) -> Path:
    """runs/<date>-<models>."""
    return Path("runs", f"{datetime.now():%Y%m%d-%H%M%S}-{models}")


def write_json(path: Path, data: Any) -> None:
    """Whole or not at all; NaN and infinities become null, as JSON has neither."""
    write_text(path, json.dumps(finite(data), ensure_ascii=False, indent=1, allow_nan=False))


def finite(data: Any) -> Any:
    """Plain data without NaN and infinities."""
    if isinstance(data, Mapping):
        return {str(key): finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def read_json(path: Path) -> Any:
    """A JSON file of a run.  Raises InputError naming it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: the run is not finished; go on with: suisen train --resume") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}); train again") from None


def is_run(folder: Path) -> bool:
    """Whether a run was started in this folder."""
    return (folder / CONFIG).is_file()


def now() -> str:
    """The time, UTC, ISO 8601, to the microsecond: runs are ordered by it."""
    return datetime.now(UTC).isoformat()


def environment(threads: int) -> dict[str, Any]:
    """What the numbers of a run depend on beside its configuration."""
    import torch

    return {
        "started": now(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "libraries": {name: _version(name) for name in LIBRARIES},
        "commit": _commit(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _commit() -> str | None:
    """The commit of the working folder, with + where files were changed; None outside of git."""
    git = shutil.which("git")
    if git is None:
        return None
    said = [
        subprocess.run([git, *words], capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
        for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    ]
    if any(each.returncode for each in said):
        return None
    return said[0].stdout.strip() + ("+" if said[1].stdout.strip() else "")
