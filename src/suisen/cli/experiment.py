"""``suisen experiment …``: plan, assign, analyze, report, off-policy, interleave, simulate, demo."""

import json
from math import ceil, isnan
from pathlib import Path
from typing import Any

import click
import polars as pl

from suisen.cli.experiment_analysis import analyze, report
from suisen.cli.experiment_demo import demo, simulate
from suisen.cli.experiment_logged import interleave, off_policy
from suisen.cli.experiment_plan import aligned, effect_text, frozen_beside, texts_of
from suisen.cli.tables import broken, check_table, read_table, write_table
from suisen.errors import InputError
from suisen.experiments.assignment import Assigner
from suisen.experiments.frozen import Frozen, freeze
from suisen.experiments.plan import Plan, load
from suisen.experiments.power import Baseline, Design, arms_of, mde, power, sample_size
from suisen.experiments.result import margin_of
from suisen.experiments.sizing import critical_of, share_of, size
from suisen.runs.folder import finite


@click.group(short_help="Plan, assign, analyze and report an A/B experiment.")
def experiment() -> None:
    """From a plan to a verdict one can defend; docs/experiments.md goes through it.

    \b
    suisen experiment plan ranker.toml --events april.parquet --freeze
    suisen experiment assign ranker.toml --units users.csv --out arms.csv
    suisen experiment analyze ranker.toml --exposures exposures.csv --events events.csv --out runs/ranker
    suisen experiment report runs/ranker
    suisen experiment demo
    """  # noqa: D301 - \b keeps the lines for click


for _command in (analyze, report, off_policy, interleave, simulate, demo):
    experiment.add_command(_command)


# -- plan --------------------------------------------------------------------------------------------------------------


@experiment.command(short_help="Sample size, power and days of a plan; freezes it.")
@click.argument("plan_file", metavar="PLAN")
@click.option("--events", metavar="FILE", help="Events from before the experiment: counts units and variance by days.")
@click.option("--exposed-by", metavar="TYPE", help="With --events: type of the events that expose a unit.")
@click.option("--value", type=float, help="In place of --events: the metric's value in the control.")
@click.option("--variance", type=float, help="With --value: variance of one unit; a share of units needs none.")
@click.option("--daily", type=float, help="With --value: new units per day, for the number of days.")
@click.option("--freeze", "frozen", is_flag=True, help="Write the plan and its hash beside the file, as it starts.")
@click.option("--json", "as_json", is_flag=True, help="Plain data instead of text.")
def plan(**given: Any) -> None:
    """Check a plan, size it, freeze it.

    \b
    suisen experiment plan ranker.toml
    suisen experiment plan ranker.toml --events april.parquet
    suisen experiment plan ranker.toml --value 0.05 --daily 3000
    suisen experiment plan ranker.toml --freeze

    With --events the last d days of the log are taken for an experiment that did nothing, for several d: units, value,
    the units that the plan's mde needs, and the smallest effect that is found with its power.  The first d that is
    enough is the answer.  --freeze writes PLAN's .frozen.json; whatever is changed afterwards stands in the report.
    """  # noqa: D301 - \b keeps the lines for click
    path = Path(given["plan_file"])
    _check_sizing(given)
    read = load(path)
    facts, lines = _sizes(read, given)
    kept = freeze(path) if given["frozen"] else frozen_beside(path)
    if given["as_json"]:
        click.echo(json.dumps(finite({**_plan_facts(read, kept), **facts}), ensure_ascii=False, indent=1))
    else:
        click.echo("\n".join([*_plan_lines(read, kept), *lines]))


def _check_sizing(given: dict[str, Any]) -> None:
    if given["events"] and given["value"] is not None:
        raise InputError("--events and --value say the same thing twice; give one of them")
    if given["exposed_by"] and not given["events"]:
        raise InputError("--exposed-by goes with --events")
    for name in ("variance", "daily"):
        if given[name] is not None and given["value"] is None:
            raise InputError(f"--{name} goes with --value; --events needs neither")
        if given[name] is not None and not given[name] > 0:
            raise InputError(f"{name} = {given[name]} must be above 0")


def _sizes(plan: Plan, given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What sizing found, as plain data and in lines; nothing where nothing was given to size with."""
    if given["events"]:
        return _from_events(plan, given)
    if given["value"] is not None:
        return _from_value(plan, given)
    return {}, ["", "to size it: --events FILE of events from before, or --value (and --variance, --daily)"]


def _from_events(plan: Plan, given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    path = given["events"]
    with broken("events", path):
        found = size(plan, read_table("events", path, texts_of(plan)), exposed_by=given["exposed_by"] or "")
    facts: dict[str, Any] = {"days": found.days, "arms": dict(found.arms), "runs": found.frame().to_dicts()}
    facts |= {"margins": [vars(claim) for claim in found.margins], "notes": list(found.notes)}
    rows = [["days", "units", plan.primary, "deviation", "needed", "power", "smallest effect"]]
    for run in found.runs:
        least = "none" if isnan(run.mde) else effect_text(plan, run.mde)
        rows.append([
            str(run.days), f"{run.units:,}", f"{run.baseline.value:.5g}", f"{run.baseline.variance**0.5:.4g}",
            f"{ceil(run.needed):,}", f"{run.power:.1%}", least,
        ])  # fmt: skip
    return facts, ["", *aligned(rows), "", found.text(), *(f"note: {note}" for note in found.notes)]


def _from_value(plan: Plan, given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    if plan.mde is None:
        raise InputError("the plan has no mde; write the smallest effect that must not be missed")
    design = Design.of(plan, critical_of(plan))
    if given["variance"] is not None:
        base = Baseline(given["value"], given["variance"])
    elif design.of_shares:
        base = Baseline.proportion(given["value"])
    else:
        raise InputError(f"variance is missing: {plan.primary!r} is no share of units; give --variance or --events")
    effect = -plan.mde if plan.alternative == "less" else plan.mde
    total = sample_size(base, design, effect=effect)
    arms = arms_of(total, plan)
    facts: dict[str, Any] = {"value": base.value, "variance": base.variance, "needed": total, "arms": arms}
    each = ", ".join(f"{arm} {n:,}" for arm, n in arms.items())
    lines = ["", f"an effect of {effect_text(plan, effect)} needs {sum(arms.values()):,} units: {each}"]
    if given["daily"] is not None:
        share = share_of(plan)
        facts["days"] = ceil(total / (given["daily"] * share))
        lines.append(f"{facts['days']:,} days at {given['daily']:,g} new units per day, {share:.0%} of them in")
    if plan.sample is not None:
        facts["sample"], said = _of_sample(plan, base, design, effect)
        lines.append(said)
    return facts, lines


def _of_sample(plan: Plan, base: Baseline, design: Design, effect: float) -> tuple[dict[str, Any], str]:
    """What the planned sample finds."""
    units = plan.sample or 0
    chance = power(base, design, units=units, effect=effect)
    try:
        least: float | None = mde(base, design, units=units)
    except InputError:  # no effect, however large
        least = None
    found = "no effect" if least is None else f"effects from {effect_text(plan, least)}"
    said = f"the planned {units:,} units find {found} with power {plan.power:.0%}, the planned one with {chance:.1%}"
    return {"units": units, "power": chance, "smallest_effect": least}, said


def _plan_facts(plan: Plan, kept: Frozen | None) -> dict[str, Any]:
    return {
        "name": plan.name,
        "fingerprint": plan.fingerprint(),
        "frozen_at": None if kept is None else kept.frozen_at,
        "changes": [] if kept is None else [str(change) for change in kept.changes(plan)],
        "plan": plan.as_dict(),
    }


def _plan_lines(plan: Plan, kept: Frozen | None) -> list[str]:
    """The plan in words."""
    arms = ", ".join(f"{arm} {weight:.4g}" for arm, weight in plan.arms.items())
    metric = plan.metrics[plan.primary]
    mde = "no mde" if plan.mde is None else f"mde {effect_text(plan, plan.mde)}"
    lines = [
        f"plan {plan.name}, hash {plan.fingerprint()[:12]}",
        *([f"  {plan.hypothesis}"] if plan.hypothesis else []),
        f"  unit {plan.unit}; arms {arms}; control {plan.control}",
        f"  primary {plan.primary} ({metric.kind}), {plan.alternative}, alpha {plan.alpha:g}, power {plan.power:g}",
        f"  {mde}, effects are {plan.scale}",
    ]
    lines += [f"  guardrail {name}: not worse by {margin_of(rail)}" for name, rail in plan.guardrails.items()]
    lines += [f"  equivalence {name}: equal within {margin_of(rule)}" for name, rule in plan.equivalence.items()]
    if plan.start or plan.end:
        lines.append(f"  from {plan.start or 'any time'} to {plan.end or 'any time'}")
    if plan.sequential is not None:
        lines.append(f"  looks: {plan.sequential.kind}")
    if kept is None:
        return [*lines, "  not frozen: pass --freeze when it starts"]
    changed = [f"  changed since: {change}" for change in kept.changes(plan)]
    return [*lines, f"  frozen at {kept.frozen_at}, hash {kept.fingerprint[:12]}", *changed]


# -- assign ------------------------------------------------------------------------------------------------------------


@experiment.command(short_help="Units to arms, by the plan's hash.")
@click.argument("plan_file", metavar="PLAN")
@click.option("--units", metavar="FILE", help="A table with the unit's column, and those that eligibility asks for.")
@click.option("--out", metavar="FILE", help="A .csv or .parquet file of the same rows with arm and why.")
@click.option("--unit", "one", multiple=True, metavar="ID", help="In place of --units: some ids; may be repeated.")
@click.option("--at", metavar="TIME", help="Moment of the ramp, like 2024-05-03T12:00; else its end.")
def assign(plan_file: str, units: str | None, out: str | None, one: tuple[str, ...], at: str | None) -> None:
    """Give every unit its arm: the same on every machine, at every call, and in every language (vectors.json).

    \b
    suisen experiment assign ranker.toml --units users.csv --out arms.csv
    suisen experiment assign ranker.toml --unit u17 --unit u18

    The column "why" says which rule decided: assigned, override, ineligible, holdout, layer or closed.  Where the plan
    was frozen, one that would move units between arms is refused.
    """  # noqa: D301 - \b keeps the lines for click
    _check_assign(units, out, one)
    if out:
        check_table("out", out)
    read = load(plan_file)
    assigner = Assigner.of(read, at=at or "", frozen=frozen_beside(Path(plan_file)))
    if one:
        for unit in one:
            drawn = assigner.one(unit)
            click.echo(f"{unit}\t{drawn.arm or '-'}\t{drawn.why}")
        return
    with broken("units", units or ""):
        table = assigner.assign(read_table("units", units or "", texts_of(read)))
    write_table(Path(out or ""), table)
    click.echo(f"{table.height:,} units → {out}")
    click.echo("\n".join(_arm_lines(table, read)))


def _check_assign(units: str | None, out: str | None, one: tuple[str, ...]) -> None:
    if bool(units) == bool(one):
        raise InputError("nobody is named, or twice; give either --units FILE or --unit ID")
    if one and out:
        raise InputError("--out goes with --units; a few ids are printed")
    if units and not out:
        raise InputError("--units needs --out FILE, a .csv or .parquet file")


def _arm_lines(table: pl.DataFrame, plan: Plan) -> list[str]:
    counts = dict(table.group_by("arm").len().iter_rows())
    inside = sum(counts.get(arm, 0) for arm in plan.arms)
    rows = [["arm", "units", "share", "planned"]]
    for arm, weight in plan.arms.items():
        n = counts.get(arm, 0)
        rows.append([arm, f"{n:,}", f"{n / max(1, inside):.4f}", f"{weight:.4f}"])
    outside = table.filter(table["arm"].is_null()).group_by("why").len().sort("why")
    return [*aligned(rows), *(f"no arm, {why}: {n:,}" for why, n in outside.iter_rows())]
