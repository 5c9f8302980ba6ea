"""Enrolments of students without times, with a planted structure: a programme is a set of courses that belong together.

    python examples/enrolments.py school          # school/enrolments.csv, school/expected.csv
    suisen train --events school/enrolments.csv --user student --item course --retriever ease --out runs/school
    suisen recommend runs/school --user s0001 -k 3

Nobody wrote down when a student enrolled, so what is held out for testing is drawn at random.  Every student still
lacks some core courses of the own programme; ``expected.csv`` names them.
"""

import argparse
from pathlib import Path

import numpy as np
import polars as pl

SIZES = {"small": (300, 12), "large": (60_000, 150)}
"""Students, programmes."""
CORE, TAKEN, ELECTIVES = 10, 7, 1
"""Core courses of a programme, those that a student has taken already, electives of any programme beside."""


def enrolments(students: int, programmes: int, rng: np.random.Generator) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(enrolments in the order of the registrar's list: by course, expected)."""
    rows, expected = [], []
    for student in range(students):
        programme, name = int(rng.integers(programmes)), f"s{student:04d}"
        order = rng.permutation(CORE)
        rows += [(name, f"P{programme:03d}-{course}") for course in order[:TAKEN]]
        expected += [(name, f"P{programme:03d}-{course}") for course in order[TAKEN:]]
        others = rng.integers(0, programmes, ELECTIVES)
        rows += [(name, f"P{other:03d}-{rng.integers(CORE)}") for other in others if other != programme]
    head = ["student", "course"]
    log = pl.DataFrame(rows, schema=head, orient="row").unique().sort("course", "student")
    return log, pl.DataFrame(expected, schema=head, orient="row")


def write(folder: Path, size: str = "small", seed: int = 0) -> None:
    """Writes the two files."""
    folder.mkdir(parents=True, exist_ok=True)
    log, expected = enrolments(*SIZES[size], np.random.default_rng(seed))
    log.write_csv(folder / "enrolments.csv")
    expected.write_csv(folder / "expected.csv")
    print(f"{log.height:,} enrolments of {SIZES[size][0]:,} students in {folder / 'enrolments.csv'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--seed", type=int, default=0)
    write(**vars(parser.parse_args()))
