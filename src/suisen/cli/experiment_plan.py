"""What the commands of an experiment share: its frozen plan, columns that stay text, effects and tables in words."""

from pathlib import Path

from suisen.experiments.frozen import Frozen, frozen_path, read_frozen
from suisen.experiments.plan import Plan


def frozen_beside(path: Path) -> Frozen | None:
    """The plan as it was frozen, where it was."""
    place = frozen_path(path)
    return read_frozen(place) if place.exists() else None


def texts_of(plan: Plan) -> list[str]:
    """Columns whose values are names and stay text."""
    names = [plan.unit, plan.columns.arm, plan.columns.event, plan.columns.item, plan.columns.event_id]
    return list(dict.fromkeys(name for name in (*names, *plan.strata, *plan.segments) if name))


def effect_text(plan: Plan, size: float) -> str:
    """An effect on the plan's scale."""
    return f"{100 * size:.3g} %" if plan.scale == "relative" else f"{size:.4g}"


def aligned(rows: list[list[str]]) -> list[str]:
    """A table for a terminal: names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    out = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        out.append("  ".join(cells).rstrip())
    return out
