"""What all experiments together have brought: the holdout, which none of them touched, against everybody else.

A plan's ``holdout`` keeps a share of the units out of every experiment with the same ``holdout_salt``.  After a quarter
they are compared with the rest, who had all that was shipped: one experiment more, whose arms were drawn by the hash of
the holdout.  Its effects are not the sum of the single ones, which overlap, fade, and were chosen for being large.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import polars as pl

from suisen.errors import InputError
from suisen.experiments.assignment import Assigner
from suisen.experiments.plan import Assignment, Plan

HELD, REST = "holdout", "everybody else"


def holdout_plan(plan: Plan, *, start: str, end: str, **more: Any) -> Plan:
    """The read-out as a plan of its own: two arms, weighed as the holdout is, and the same metrics.

    ``more``: fields that differ, like ``primary``.  Raises InputError for a plan without a holdout.
    """
    share = plan.assignment.holdout
    if not share:
        raise InputError(
            "assignment.holdout = 0 holds nobody out, so there is nothing to read; plan one from the start"
        )
    none: Mapping[str, Any] = {"sample": None, "sequential": None, "mde": None, "assignment": Assignment()}
    return replace(
        plan, name=f"{plan.assignment.holdout_salt} read-out", arms={HELD: share, REST: 1 - share}, control=HELD,
        start=start, end=end, **{**none, **more},
    )  # fmt: skip


def held_out(plan: Plan, units: Any) -> pl.DataFrame:
    """The units with their arm in the read-out; add the time from which they count, and they are exposures.

    ``units``: a frame or a column of them, as ``Assigner.assign`` takes it.  Testers get no arm and are left out.
    """
    everybody = replace(
        plan, assignment=replace(plan.assignment, eligible="")
    )  # whom the experiment takes is no matter
    drawn = Assigner.of(everybody).assign(units).filter(pl.col("why") != "override")
    arm = pl.when(pl.col("why") == "holdout").then(pl.lit(HELD)).otherwise(pl.lit(REST))
    return drawn.drop("arm").with_columns(arm.alias(plan.columns.arm)).drop("why")
