"""Reports of runs that are over: of a named one, and of the one that came before."""

import contextlib
from dataclasses import replace
from pathlib import Path

from suisen.errors import InputError
from suisen.evaluation import Report
from suisen.runs.folder import CONFIG, CURVES, METRICS, is_run, read_json
from suisen.training.options import TIME_UP

NOTHING = "nothing was measured: the split holds nothing out for test"


def report_of(folder: Path, part: str = "test") -> Report:
    """A run's report on valid or test, named by its folder."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give a run folder")
    if not is_run(folder):
        raise InputError(f"{folder} is no run folder ({CONFIG} is missing); give what suisen train wrote with --out")
    reports = read_json(folder / METRICS)["reports"]
    if part not in reports:
        raise InputError(f"{folder} has no report on {part}; its split holds nothing out for it")
    return replace(Report.from_dict(reports[part]), name=folder.name)


def said_of(folder: Path) -> str:
    """What a finished run found, in words."""
    facts = read_json(folder / METRICS)
    found = str(report_of(folder)) if "test" in facts["reports"] else NOTHING
    return "\n".join(part for part in (found, facts.get("bundle", "")) if part)


def stopped_by_time(folder: Path) -> bool:
    """Whether a stage of a finished run was ended by its time limit."""
    stages = read_json(folder / CURVES).values()
    return any(phase["stopped"].startswith(TIME_UP) for phases in stages for phase in phases)


def last_run(folder: Path, data: str, report: Report) -> tuple[Path, Report] | None:
    """The run beside ``folder`` that was finished last on the same data and the same queries."""
    found: list[tuple[str, Path, Report]] = []
    for path in sorted(folder.absolute().parent.glob(f"*/{METRICS}")):
        if path.parent == folder.absolute():
            continue
        with contextlib.suppress(InputError, KeyError, TypeError):  # what is no run of ours is not compared
            facts = read_json(path)
            test = Report.from_dict(facts["reports"]["test"])
            same = test.fingerprint == report.fingerprint and test.protocol == report.protocol
            if same and facts["data"]["fingerprint"] == data:
                found.append((facts["finished"], path.parent, replace(test, name=path.parent.name)))
    if not found:
        return None
    _, place, theirs = max(found, key=lambda each: each[0])
    return place, theirs
