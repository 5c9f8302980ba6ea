"""The models of CONTRIBUTING.md, pasted as written into a copy of the package, pass every suite over the registry."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import suisen
from tests.test_contributing import PAGE, example

ROOT = Path(__file__).parents[2]
SUITES = ("test_contract.py", "test_hyper_parameters.py", "test_ranker_fields.py")
EXAMPLES = {
    "### A retriever": ("pairwise_mf.py", "pairwise-mf", "import suisen as su"),
    "### A ranker": ("field_dot.py", "field-dot", "two = "),
}


def applied(diff: str, text: str) -> str:
    """``text`` with the added lines of a diff behind the lines that it names."""
    at = 0
    for line in diff.splitlines():
        if line.startswith("+"):
            text = f"{text[:at]}{line[1:]}\n{text[at:]}"
            at += len(line)
        else:
            at = text.index(f"{line[1:]}\n") + len(line)
    return text


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """A copy of the package with both examples in it."""
    folder = tmp_path_factory.mktemp("package")
    source = Path(suisen.__file__).parent
    shutil.copytree(source, folder / "suisen", ignore=shutil.ignore_patterns("__pycache__"))
    registry = folder / "suisen" / "models" / "__init__.py"
    for heading, (file, _, start_of_use) in EXAMPLES.items():
        code = "from __future__ import annotations\n" + example(heading, start_of_use)
        (registry.parent / file).write_text(code, encoding="utf-8")
        section = PAGE.read_text(encoding="utf-8").split(f"{heading}\n")[1]
        diff = re.findall(r"```diff\n(.*?)```", section, re.DOTALL)[0]
        registry.write_text(applied(diff, registry.read_text(encoding="utf-8")), encoding="utf-8")
    return folder


@pytest.mark.parametrize("suite", SUITES)
def test_the_examples_pass_the_suites(package, suite):
    names = " or ".join(name for _, name, _ in EXAMPLES.values())
    command = [sys.executable, "-m", "pytest", "-q", "--no-cov", "-p", "no:cacheprovider", "-p", "no:xdist"]
    path = os.pathsep.join([str(package), str(ROOT)])
    ran = subprocess.run(
        [*command, f"tests/models/{suite}", "-k", names], cwd=ROOT, env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    assert int(re.findall(r"(\d+) passed", ran.stdout)[0]) > 5
