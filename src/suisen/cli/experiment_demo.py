"""``suisen experiment demo | simulate``: a whole experiment in a world whose true effects are known, once and often."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl

from suisen.cli.experiment_analysis import PAGE, PLAN, analysed, command_of, save
from suisen.cli.experiment_plan import aligned
from suisen.data.durations import spelt
from suisen.data.synthetic import DAY, START
from suisen.errors import InputError
from suisen.experiments.assignment import Assigner
from suisen.experiments.frozen import Frozen, freeze
from suisen.experiments.plan import Plan, load
from suisen.experiments.record import Record, Truth
from suisen.experiments.simulation.repeats import Repeated, Repeats, browse
from suisen.experiments.simulation.world import Browsing, Ranker
from suisen.experiments.sizing import size
from suisen.runs.folder import check_folder, new_folder

MARK, BEFORE, ARMS, ANALYSIS = "world.json", "before.parquet", "arms.csv", "analysis"
EXPOSURES, EVENTS = "exposures.csv", "events.parquet"
USERS, ITEMS, SESSIONS = 20_000, 300, 4.0
BEFORE_DAYS, LASTS = 28, 21
"""How long before the start the users were watched, and how long the experiment lasts."""
BAND, REPEATS = (0.92, 0.98), 400
"""Where the coverage of 95 % intervals lies over so many repetitions, or more."""


@dataclass(frozen=True)
class Stage:
    """The world, and the two recommenders that were trained on its log."""

    world: Browsing
    rankers: Mapping[str, Ranker]
    """control, treatment."""
    start: int
    """Microseconds: when the world's log ends and the experiment begins."""


def stage(users: int, seed: int) -> Stage:
    """Generates the world and trains ItemKNN and EASE on its log."""
    from suisen import EASE, Dataset, ItemKNN, World

    if users < 200:
        raise InputError(f"users = {users} are too few to compare two recommenders on; give 200 or more")
    generated = World(users=users, items=ITEMS, sessions=SESSIONS, seed=seed).generate()
    world = Browsing.of(generated, seed=seed)
    log = Dataset.of(generated.log)
    rankers = {"control": _ranker(ItemKNN(), log, world), "treatment": _ranker(EASE(), log, world)}
    start = -(-(START + generated.world.days * DAY) // DAY) * DAY  # midnight
    return Stage(world, rankers, start)


def _ranker(model: Any, log: Any, world: Browsing) -> Ranker:
    """A model's lists as the function that the world asks: each user's list, from a table that is made once."""
    from suisen import Recommender

    places = world.habits.places
    found = Recommender(model).fit(log, verbose=False).recommend(world.users.tolist(), places, exclude_seen=False)
    table = np.zeros((world.users.size, places), dtype=np.int64)
    table[found["user_id"].to_numpy() - 1, found["rank"].to_numpy() - 1] = found["item_id"].to_numpy()
    return lambda users: table[users - 1]


# -- demo --------------------------------------------------------------------------------------------------------------


@click.command(short_help="Two recommenders, traffic, analysis, report; the truth beside.")
@click.option("--out", default="runs/experiment-demo", metavar="DIR", help="An older demo is replaced.")
@click.option("--users", type=int, default=USERS, help="Users of the world; all are in the experiment.")
@click.option("--seed", type=int, default=0, help="Of the world and of what its users do.")
def demo(out: str, users: int, seed: int) -> None:
    """Plan, freeze, assign, run and judge an experiment in a world whose true effects are known.

    \b
    suisen experiment demo

    Trains ItemKNN and EASE on a synthetic log; watches everybody under ItemKNN before the start; sizes and freezes the
    plan; assigns; lets users browse, click, buy and come back; writes exposures and events as files; analyzes them; and
    prints each estimate beside the true effect.  Less than two minutes.  The other commands work on its files:

    \b
    suisen experiment plan runs/experiment-demo/plan.toml --events runs/experiment-demo/before.parquet
    """  # noqa: D301 - \b keeps the lines for click
    clock, folder = time.perf_counter(), Path(out)
    check_folder(folder, True, mark=MARK)
    acted = stage(users, seed)
    new_folder(folder, mark=MARK)
    (folder / MARK).write_text(json.dumps({"users": users, "items": ITEMS, "seed": seed}), encoding="utf-8")
    click.echo(f"{users:,} users, {ITEMS} items; ItemKNN (control) and EASE (treatment) are trained")
    plan, frozen = _planned(acted, folder, seed)
    _run(acted, plan, folder, seed)
    record = _judged(acted, plan, frozen, folder)
    click.echo(f"\n{record.result.verdict}\n{record.result.split}\n")
    click.echo("\n".join(beside(record)))
    page = folder / ANALYSIS / PAGE
    where = f"page: {page}   " if page.exists() else ""
    click.echo(f"\n{where}the demo took {time.perf_counter() - clock:.0f} s")


def _planned(acted: Stage, folder: Path, seed: int) -> tuple[Plan, Frozen]:
    """Watches users before the start, sizes the plan by that, freezes it."""
    everybody = np.full(acted.world.users.size, "control")
    alone = {"control": acted.rankers["control"]}
    before = acted.world.traffic(alone, everybody, seed=seed + 1, start=acted.start - BEFORE_DAYS * DAY)
    earlier = before.events.filter(before.events["time"].cast(int) < acted.start)
    earlier.write_parquet(folder / BEFORE)
    path = folder / PLAN
    dates = {"start": spelt(acted.start), "end": spelt(acted.start + LASTS * DAY), "before": BEFORE_DAYS}
    text = resources.files("suisen.cli").joinpath("experiment_demo.toml").read_text(encoding="utf-8")
    path.write_text(text.format(**dates, sample=everybody.size), encoding="utf-8")
    sized = size(load(path), earlier, days=(7, 14), exposed_by="impression")
    click.echo(sized.text())
    path.write_text(text.format(**dates, sample=sum(sized.arms.values())), encoding="utf-8")
    plan = load(path)
    frozen = freeze(path, at=datetime.fromtimestamp(acted.start / 10**6, UTC))  # by the world's clock
    click.echo(f"frozen: {path}, hash {frozen.fingerprint[:12]}")
    return plan, frozen


def _run(acted: Stage, plan: Plan, folder: Path, seed: int) -> None:
    """Assigns everybody and writes what they saw and did."""
    arms = Assigner.of(plan).assign(pl.DataFrame({plan.unit: acted.world.users}))
    arms.write_csv(folder / ARMS)
    assigned = arms["arm"].cast(pl.String).to_numpy()
    traffic = acted.world.traffic(acted.rankers, assigned, seed=seed, start=acted.start)
    traffic.exposures.write_csv(folder / EXPOSURES)
    traffic.events.write_parquet(folder / EVENTS)
    click.echo(f"{traffic.exposures.height:,} visits and {traffic.events.height:,} events → {folder}")


def _judged(acted: Stage, plan: Plan, frozen: Frozen, folder: Path) -> Record:
    """The analysis of the files, with the truth beside."""
    files = {"exposures": EXPOSURES, "events": EVENTS, "pre": BEFORE}
    given: dict[str, Any] = {name: str(folder / file) for name, file in files.items()}
    given |= {"plan_file": str(folder / PLAN), "now": plan.end}  # nobody does anything after the end
    record = analysed(plan, frozen, given, command_of(given, folder / ANALYSIS))
    record = replace(record, about=replace(record.about, truth=truths(acted.world.truth(acted.rankers), plan)))
    save(folder / ANALYSIS, record, folder / PLAN)
    return record


def truths(table: pl.DataFrame, plan: Plan) -> tuple[Truth, ...]:
    """The true effects on the plan's metrics."""
    return tuple(
        Truth(row["metric"], row["arm"], row["absolute"], row["relative"])
        for row in table.iter_rows(named=True)
        if row["metric"] in plan.metrics and row["arm"] != plan.control
    )


def beside(record: Record) -> list[str]:
    """Each estimate beside the true effect, as a table for a terminal."""
    known = {(each.metric, each.arm): each for each in record.about.truth}
    rows = [["metric", "estimate, % of control", "true effect", "interval holds it"]]
    for each in record.result.estimates:
        true = known[each.metric, each.arm].relative
        held = "yes" if each.relative.low <= true <= each.relative.high else "no"
        rows.append([each.metric, each.relative.percent(), f"{100 * true:+.3g} %", held])
    return aligned(rows)


# -- simulate ----------------------------------------------------------------------------------------------------------


@click.command(short_help="The demo's experiment many times: do intervals hold the truth?")
@click.option("--repeat", type=int, default=REPEATS, help="Experiments.")
@click.option("--units", type=int, default=4_000, help="Users of each, drawn from the world.")
@click.option("--users", type=int, default=USERS, help="Users of the world.")
@click.option("--seed", type=int, default=0)
@click.option("--no-cuped", is_flag=True, help="Without the rows that are adjusted by the days before.")
@click.option("--json", "as_json", is_flag=True, help="Plain data instead of a table.")
def simulate(repeat: int, units: int, users: int, seed: int, no_cuped: bool, as_json: bool) -> None:
    """Repeat the demo's experiment with other users and other days, and count the intervals that hold the true effect.

    \b
    suisen experiment simulate --repeat 400

    One row per metric and scale, with and without CUPED: the true effect, the mean estimate, the share of the 95 %
    intervals that hold the truth, and the share of the experiments that find an effect (the power).
    """  # noqa: D301 - \b keeps the lines for click
    acted = stage(users, seed)
    found = browse(acted.world, acted.rankers, Repeats(repeat=repeat, units=units, seed=seed, covariate=not no_cuped))
    if as_json:
        rows = [line._asdict() for line in found.lines]
        click.echo(json.dumps({"repeat": repeat, "units": units, "lines": rows}, indent=1))
        return
    click.echo(str(found))
    click.echo(f"\n{covered(found)}")


def covered(found: Repeated) -> str:
    """Whether the coverage is as promised, in words."""
    low, high = band(found.repeats.repeat)
    shares = [line.coverage for line in found.lines]
    outside = [f"{line.metric} ({line.scale})" for line in found.lines if not low <= line.coverage <= high]
    said = f"coverage of the 95 % intervals: {min(shares):.1%} to {max(shares):.1%}"
    if outside:
        return f"{said}; outside {low:.0%} to {high:.0%}: {', '.join(dict.fromkeys(outside))}"
    return f"{said}, all inside {low:.0%} to {high:.0%}"


def band(repeat: int) -> tuple[float, float]:
    """Where coverage lies over so many repetitions: few of them scatter more, with the square root of their number."""
    wider = max(1.0, (REPEATS / repeat) ** 0.5)
    return max(0.0, 0.95 - (0.95 - BAND[0]) * wider), min(1.0, 0.95 + (BAND[1] - 0.95) * wider)
