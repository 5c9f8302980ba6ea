"""Mutants: small faults put into the source on purpose, to see whether a test fails.  Not part of CI.

python tools/mutants.py              # a seeded sample, the same number from each room; resumes where it was stopped
python tools/mutants.py --page       # writes the figures and the list of survivors into docs/development.md
python tools/mutants.py --check      # fails where that page is not up to date

The faults are those of cosmic-ray's operators (another number, operator, comparison or boolean, a decorator less, a
loop that never runs, …), one place of the source each.  ``is`` and ``==`` are not exchanged for each other and the
unions of annotations are left alone: such mutants are the same program.  A mutant first meets the tests that mirror
its file, then those that import it and the room's contract suites, then the rest of its room.  Each runs in a process
forked from one that has loaded the libraries already.  What survived and is harmless is listed with its reason in
``tools/harmless_mutants.toml``.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

from figures import absent, filled, write_or_check

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "results" / "mutants.jsonl"
HARMLESS = ROOT / "tools" / "harmless_mutants.toml"
PAGE = ROOT / "docs" / "development.md"
ROOMS = ("models", "training", "recommending", "evaluation", "retrieval", "experiments")
CONTRACTS = ("test_contract.py", "test_hyper_parameters.py")
PRELOADED = ("torch", "polars", "scipy.stats", "scipy.sparse", "pydantic", "safetensors.torch", "faiss")
SAME_PROGRAM = re.compile(r"_(Eq|NotEq|Is|IsNot)_(Eq|NotEq|Is|IsNot)$")
HARNESS = 9
"""Exit status of a child in which not the tests failed but what runs them."""
SECONDS = 900
"""A mutant that runs longer is not known to be caught, and counts as a survivor."""
MAX_FILES = 8
"""Test files beside the mirror and the contract suites."""


@dataclass(frozen=True)
class Mutant:
    """One fault: where it is and what the line becomes."""

    room: str
    file: str
    line: int
    operator: str
    occurrence: int
    before: str
    after: str

    @property
    def name(self) -> str:
        """What it is called in the list of harmless ones: it does not change where lines above it do."""
        return f"{self.file}: {self.before} -> {self.after}"


def annotation_lines(text: str) -> set[tuple[int, int]]:
    """(line, column) of every place inside an annotation."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            for inner in ast.walk(part) if part is not None else ():
                if isinstance(inner, ast.BinOp):
                    for line in range(inner.lineno, (inner.end_lineno or inner.lineno) + 1):
                        found |= {(line, column) for column in range(400)}
    return found


def places(path: Path) -> dict[tuple[int, int], list[tuple[str, int]]]:
    """(line, column) → the (operator, occurrence) pairs that change it."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    text = path.read_text(encoding="utf-8")
    nodes, unions = list(ast_nodes(get_ast(text))), annotation_lines(text)
    found: dict[tuple[int, int], list[tuple[str, int]]] = defaultdict(list)
    for name in operator_names():
        operator_class = get_operator(name)
        if operator_class.arguments() or SAME_PROGRAM.search(name):
            continue
        operator = operator_class()
        positions = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        for occurrence, start in enumerate(positions):
            if not ("BitOr" in name and start in unions):
                found[start].append((name, occurrence))
    return found


def mutated(text: str, operator: str, occurrence: int) -> str:
    """The source with one fault."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    return mutate_code(text, get_operator(operator)(), occurrence) or text


def sample(rng: random.Random, each: int) -> list[Mutant]:
    """``each`` mutants of every room: places drawn evenly, then one of the faults that fit there."""
    chosen = []
    for room in ROOMS:
        every = []
        for path in sorted((ROOT / "src" / "suisen" / room).rglob("*.py")):
            every += [(path, start, faults) for start, faults in sorted(places(path).items())]
        for path, (line, _), faults in rng.sample(every, min(each, len(every))):
            operator, occurrence = rng.choice(faults)
            text = path.read_text(encoding="utf-8")
            old, new = text.splitlines(), mutated(text, operator, occurrence).splitlines()
            changed = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), line - 1)
            after = new[changed].strip() if changed < len(new) else ""
            file = str(path.relative_to(ROOT / "src" / "suisen"))
            chosen.append(Mutant(room, file, changed + 1, operator, occurrence, old[changed].strip(), after))
    return chosen


def tests_of(mutant: Mutant) -> list[list[str]]:
    """Test files in the order in which they are run: mirror, contract suites and importers, the rest of the room."""
    inside = Path(mutant.file)
    folder = ROOT / "tests" / inside.parent
    mirror = folder / f"test_{inside.stem}.py"
    module = "suisen." + mutant.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    wanted = re.compile(
        rf"{re.escape(module)}\b|from {re.escape(module.rpartition('.')[0])} import .*\b{inside.stem}\b"
    )
    # the pasted examples of CONTRIBUTING run in a copy of their own, which has no mutant
    tests = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "contributing" not in path.name]
    importing = [path for path in tests if wanted.search(path.read_text("utf-8"))]
    room = [folder / name for name in CONTRACTS if (folder / name).exists()]
    if len(list(folder.glob("test_*.py"))) < 14:
        room = sorted(folder.glob("test_*.py"))
    importing.sort(key=lambda path: path.parent != folder)  # the room's own tests first
    rest = [path for path in dict.fromkeys([*room, *importing[:MAX_FILES]]) if path != mirror]
    others = [path for path in tests if folder in path.parents and path not in (mirror, *rest)]
    stages = [[mirror] if mirror.exists() else [], rest, others]
    return [[str(path.relative_to(ROOT)) for path in stage] for stage in stages if stage]


class FirstFailure:
    """A pytest plugin that remembers the first test that failed."""

    def __init__(self) -> None:
        self.name = ""

    def pytest_runtest_logreport(self, report: object) -> None:
        """Of each phase of each test."""
        if report.failed and not self.name:  # type: ignore[attr-defined]
            self.name = report.nodeid  # type: ignore[attr-defined]

    def pytest_collectreport(self, report: object) -> None:
        """Of each file: a fault that breaks an import."""
        if report.failed and not self.name:  # type: ignore[attr-defined]
            self.name = report.nodeid  # type: ignore[attr-defined]


def in_child(tree: Path, stages: list[list[str]], out: Path) -> None:
    """Runs the stages in a forked process; the name of the first test that fails goes to ``out``."""
    import pytest

    os.setsid()
    os.chdir(tree)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(tree / "src"), str(tree)])
    sys.path[:0] = [str(tree / "src"), str(tree)]
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    for stage in stages:
        first = FirstFailure()
        options = ["-x", "-q", "--no-cov", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=no"]
        code = pytest.main([*options, *stage], plugins=[first])
        if code != 0:
            out.write_text(first.name or f"exit code {int(code)}", encoding="utf-8")
            os._exit(1)
    os._exit(0)


def outcome(tree: Path, mutant: Mutant) -> dict[str, object]:
    """What became of a mutant, and by which test."""
    path = tree / "src" / "suisen" / mutant.file
    text = path.read_text(encoding="utf-8")
    out, began = tree / "first_failure", time.monotonic()
    out.unlink(missing_ok=True)
    path.write_text(mutated(text, mutant.operator, mutant.occurrence), encoding="utf-8")
    try:
        child = os.fork()
        if child == 0:
            try:
                in_child(tree, tests_of(mutant), out)
            except BaseException as error:  # nothing of the parent's may be unwound in the child
                out.write_text(repr(error), encoding="utf-8")
            finally:
                os._exit(HARNESS)
        status = waited(child)
    finally:
        path.write_text(text, encoding="utf-8")
    if status is not None and os.waitstatus_to_exitcode(status) == HARNESS:
        raise SystemExit(f"the tests could not be run: {out.read_text(encoding='utf-8')}")
    by = out.read_text(encoding="utf-8") if out.exists() else ""
    return {"caught": status is not None and status != 0, "by": by, "seconds": round(time.monotonic() - began, 1)}


def waited(child: int) -> int | None:
    """The child's exit status; None where it was ended because it did not end."""
    for _ in range(SECONDS * 10):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def copied(folder: Path) -> Path:
    """A copy of the checkout that mutants may change."""
    tree = folder / "tree"
    leave = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".mypy_cache", ".ruff_cache", ".hypothesis")
    shutil.copytree(ROOT, tree, ignore=leave)
    return tree


def run(seed: int, each: int, part: int, parts: int, again: bool) -> None:
    """Tries the sample's mutants that have no record of this seed yet; ``again``: survivors without a reason, too."""
    os.environ.update(CI="true", OMP_NUM_THREADS="1")  # Hypothesis draws the same examples every time
    for name in PRELOADED:
        __import__(name)
    import torch

    torch.set_num_threads(1)
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True).strip()
    done = [row for row in records() if row["seed"] == seed]
    known = {row["name"] for row in done if row["caught"] or not again or row["name"] in harmless()}
    drawn = sample(random.Random(seed), each)
    mutants = [mutant for turn in range(each) for mutant in drawn[turn::each]][part::parts]  # a room after the other
    with tempfile.TemporaryDirectory() as folder:
        tree = copied(Path(folder))
        for number, mutant in enumerate(mutants, start=1):
            if mutant.name in known:
                continue
            row = {"name": mutant.name, "seed": seed, "commit": commit, **asdict(mutant), **outcome(tree, mutant)}
            with RECORDS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            said = f"caught by {row['by']}" if row["caught"] else "SURVIVED"
            print(f"{number}/{len(mutants)} {mutant.file}:{mutant.line} {said} ({row['seconds']} s)", flush=True)


def records(path: Path = RECORDS) -> list[dict[str, object]]:
    """All that was tried; of a mutant tried again, the newest."""
    if not path.exists():
        return []
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return list({(row["seed"], row["name"]): row for row in rows}.values())


def harmless() -> dict[str, str]:
    """Mutant → why no test could see it."""
    return tomllib.loads(HARMLESS.read_text(encoding="utf-8")) if HARMLESS.exists() else {}


def table(results: Path) -> str:
    """Tried and caught per room."""
    rows = records(results / RECORDS.name)
    if not rows:
        return absent("make mutants")
    lines = ["| room | tried | caught | share |", "|---|---:|---:|---:|"]
    for room in (*ROOMS, "all"):
        mine = [row for row in rows if room in (row["room"], "all")]
        caught = sum(bool(row["caught"]) for row in mine)
        lines.append(f"| {room} | {len(mine)} | {caught} | {caught / max(1, len(mine)):.0%} |")
    commits = sorted({str(row["commit"]) for row in rows})
    seeds = sorted({int(str(row["seed"])) for row in rows})
    lines += ["", f"Seed {', '.join(map(str, seeds))}; commits {', '.join(commits)}."]
    return "\n".join(lines)


def survivors(results: Path) -> str:
    """What no test caught, with the reason why that is harmless."""
    rows, reasons = [row for row in records(results / RECORDS.name) if not row["caught"]], harmless()
    if not rows:
        return "None."
    lines = ["| where | the line | becomes | why it is harmless |", "|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: str(row["name"])):
        before, after = (str(row[name]).replace("|", "\\|") for name in ("before", "after"))
        reason = reasons.get(str(row["name"]), "**not looked at yet**")
        lines.append(f"| {row['file']} | `{before}` | `{after}` | {reason} |")
    return "\n".join(lines)


def main() -> int:
    """Runs, writes or checks."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--mutants", type=int, default=300, help="of all rooms together")
    options.add_argument("--part", type=int, default=0, help="this one of --parts processes")
    options.add_argument("--parts", type=int, default=1)
    options.add_argument("--again", action="store_true", help="survivors without a reason, too")
    options.add_argument("--page", action="store_true")
    options.add_argument("--check", action="store_true")
    given = options.parse_args()
    if not (given.page or given.check):
        run(given.seed, given.mutants // len(ROOMS), given.part, given.parts, given.again)
    figures = {"mutants": table, "survivors": survivors}
    return write_or_check(PAGE, filled(PAGE.read_text(encoding="utf-8"), figures, RECORDS.parent), "mutants")


if __name__ == "__main__":
    sys.exit(main())
