"""Reports of runs that are over: of a named one, and of the one that came before."""

import contextlib
from dataclasses import replace
from pathlib import Path

from suisen.errors import InputError
from suisen.evaluation import Report
from suisen.runs.folder import CONFIG, METRICS, is_run, read_json


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
