"""Experiments: from assignment to a verdict one can defend; the names below are loaded at first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from suisen.experiments.analysis import AnalysisOptions, analyze, analyze_units
    from suisen.experiments.assignment import Assigner, check_layers
    from suisen.experiments.frozen import Change, Frozen, changes, freeze, read_frozen
    from suisen.experiments.interleaving import balanced, preference, team_draft
    from suisen.experiments.logged import Logged, Policies
    from suisen.experiments.off_policy import evaluate_policy
    from suisen.experiments.plan import Plan, load
    from suisen.experiments.power import Baseline, Design
    from suisen.experiments.record import About, Record
    from suisen.experiments.result import Estimated, Result
    from suisen.experiments.simulation.repeats import Repeats, browse, interleaving_gain
    from suisen.experiments.simulation.rerandomised import Rerandomised, rerandomise
    from suisen.experiments.simulation.world import Browsing, Habits
    from suisen.experiments.sizing import Sizing, size
    from suisen.experiments.units import Units

_HOMES = {
    "suisen.experiments.analysis": ("AnalysisOptions", "analyze", "analyze_units"),
    "suisen.experiments.assignment": ("Assigner", "check_layers"),
    "suisen.experiments.frozen": ("Change", "Frozen", "changes", "freeze", "read_frozen"),
    "suisen.experiments.interleaving": ("balanced", "preference", "team_draft"),
    "suisen.experiments.logged": ("Logged", "Policies"),
    "suisen.experiments.off_policy": ("evaluate_policy",),
    "suisen.experiments.plan": ("Plan", "load"),
    "suisen.experiments.power": ("Baseline", "Design"),
    "suisen.experiments.simulation.repeats": ("Repeats", "browse", "interleaving_gain"),
    "suisen.experiments.record": ("About", "Record"),
    "suisen.experiments.simulation.rerandomised": ("Rerandomised", "rerandomise"),
    "suisen.experiments.result": ("Estimated", "Result"),
    "suisen.experiments.sizing": ("Sizing", "size"),
    "suisen.experiments.units": ("Units",),
    "suisen.experiments.simulation.world": ("Browsing", "Habits"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'suisen.experiments' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOME_OF)


__all__ = [
    "About",
    "AnalysisOptions",
    "Assigner",
    "Baseline",
    "Browsing",
    "Change",
    "Design",
    "Estimated",
    "Frozen",
    "Habits",
    "Logged",
    "Plan",
    "Policies",
    "Record",
    "Repeats",
    "Rerandomised",
    "Result",
    "Sizing",
    "Units",
    "analyze",
    "analyze_units",
    "balanced",
    "browse",
    "changes",
    "check_layers",
    "evaluate_policy",
    "freeze",
    "interleaving_gain",
    "load",
    "preference",
    "read_frozen",
    "rerandomise",
    "size",
    "team_draft",
]
