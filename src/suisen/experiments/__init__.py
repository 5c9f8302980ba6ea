"""Experiments: from assignment to a verdict one can defend; the names below are loaded at first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from suisen.experiments.analysis import Options, analyze, analyze_units
    from suisen.experiments.assignment import Assigner, check_layers
    from suisen.experiments.frozen import Change, Frozen, changes, freeze, read_frozen
    from suisen.experiments.plan import Plan, load
    from suisen.experiments.power import Baseline, Design
    from suisen.experiments.rerandomised import Rerandomised, rerandomise
    from suisen.experiments.result import Estimated, Result
    from suisen.experiments.sizing import Sizing, size
    from suisen.experiments.units import Units

_HOMES = {
    "suisen.experiments.analysis": ("Options", "analyze", "analyze_units"),
    "suisen.experiments.assignment": ("Assigner", "check_layers"),
    "suisen.experiments.frozen": ("Change", "Frozen", "changes", "freeze", "read_frozen"),
    "suisen.experiments.plan": ("Plan", "load"),
    "suisen.experiments.power": ("Baseline", "Design"),
    "suisen.experiments.rerandomised": ("Rerandomised", "rerandomise"),
    "suisen.experiments.result": ("Estimated", "Result"),
    "suisen.experiments.sizing": ("Sizing", "size"),
    "suisen.experiments.units": ("Units",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'suisen.experiments' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOME_OF)


__all__ = [
    "Assigner",
    "Baseline",
    "Change",
    "Design",
    "Estimated",
    "Frozen",
    "Options",
    "Plan",
    "Rerandomised",
    "Result",
    "Sizing",
    "Units",
    "analyze",
    "analyze_units",
    "changes",
    "check_layers",
    "freeze",
    "load",
    "read_frozen",
    "rerandomise",
    "size",
]
