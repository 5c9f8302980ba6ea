"""``suisen experiment off-policy | interleave``: tables of logged decisions and of interleaved lists, judged."""

from typing import Any, get_args

import click
import polars as pl

from suisen.cli.options import echo_json
from suisen.cli.tables import broken, read_table
from suisen.errors import InputError, unknown
from suisen.experiments.interleaving import Preference, preference
from suisen.experiments.logged import Logged
from suisen.experiments.off_policy import ESTIMATORS, Interval, Settings, evaluate_policy

COLUMNS = ("reward", "propensity", "target", "unit", "expected", "predicted")
"""Of a log, each named by the option of the same name; the first three are there in any case."""


@click.command("off-policy", short_help="What another policy would have earned, from a log with propensities.")
@click.argument("log", metavar="FILE")
@click.option("--reward", default="reward", metavar="COLUMN", help="What the action earned.")
@click.option("--propensity", default="propensity", metavar="COLUMN", help="Probability with which it was drawn.")
@click.option("--target", default="target", metavar="COLUMN", help="Probability of it under the policy to be judged.")
@click.option("--unit", metavar="COLUMN", help="Whose row it is: rows of one user or session are resampled together.")
@click.option("--expected", metavar="COLUMN", help="A reward model's expectation under the policy: adds dm.")
@click.option("--predicted", metavar="COLUMN", help="With --expected: its value of the action taken; adds dr.")
@click.option("--clip", type=float, help="Largest weight that is used.")
@click.option("--interval", type=click.Choice(get_args(Interval)), default="bootstrap")
@click.option("--largest-weight", type=float, help="Largest weight that can be; bernstein needs it, or --clip.")
@click.option("--reward-range", type=(float, float), default=(0.0, 1.0), help="Rewards that can be; for bernstein.")
@click.option("--level", type=float, default=0.95, help="Of the intervals.")
@click.option("--seed", type=int, default=0)
@click.option("--json", "as_json", is_flag=True, help="Plain data instead of a table.")
def off_policy(**given: Any) -> None:
    """Estimate a policy's mean reward and its lift over the policy that wrote the log, with intervals.

    \b
    suisen experiment off-policy log.parquet --target new_policy --unit user
    suisen experiment off-policy log.csv --expected q_new --predicted q_taken --json

    One row per action.  The lift is the difference to the log's own mean, and its share of it; both intervals hold what
    estimate and log have in common.  docs/experiments.md says which estimator to read.
    """  # noqa: D301 - \b keeps the lines for click
    if given["predicted"] and not given["expected"]:
        raise InputError("--predicted goes with --expected, the model's expectation under the policy")
    named = {name: given[name] for name in COLUMNS if given[name]}
    frame = _read(given["log"], list(named.values()), [given["unit"]] if given["unit"] else [])
    _check_numbers(frame, {name: column for name, column in named.items() if name != "unit"})
    _check_unit(frame, given["unit"])
    estimators = list(ESTIMATORS)
    if given["interval"] == "bernstein":
        estimators.remove("snips")  # a ratio, which it is not for
    if not given["predicted"]:
        estimators.remove("dr")
    if not given["expected"]:
        estimators.remove("dm")
    chosen = {name: given[name] for name in ("clip", "interval", "largest_weight", "reward_range", "level", "seed")}
    found = evaluate_policy(Logged.read(frame, **named), estimators, Settings(**chosen))
    if given["as_json"]:
        rest = {name: value for name, value in vars(found).items() if name != "estimates"}
        echo_json({**rest, "estimates": [each._asdict() for each in found.estimates]})
    else:
        click.echo(str(found))


@click.command(short_help="Which of two interleaved rankers is preferred, from their credits or clicks.")
@click.argument("table", metavar="FILE")
@click.option(
    "--a", "a", default="a", metavar="COLUMN", help="Points of ranker A; with --team: A's name in that column."
)
@click.option(
    "--b", "b", default="b", metavar="COLUMN", help="Points of ranker B; with --team: B's name in that column."
)
@click.option("--team", metavar="COLUMN", help="One row per item shown: which ranker picked it; empty: neither.")
@click.option("--clicks", metavar="COLUMN", help="With --team: clicks on the item, or what they are worth.")
@click.option("--unit", metavar="COLUMN", help="Whose rows they are: points are summed over the rows of a unit.")
@click.option("--level", type=float, default=0.95, help="Of the intervals.")
@click.option("--json", "as_json", is_flag=True, help="Plain data instead of text.")
def interleave(**given: Any) -> None:
    """Say which ranker the units preferred: sign test, share with an exact interval.

    \b
    suisen experiment interleave lists.csv --a points_a --b points_b --unit user
    suisen experiment interleave shown.parquet --team team --clicks clicks --unit user --a old --b new
    """  # noqa: D301 - \b keeps the lines for click
    if bool(given["team"]) != bool(given["clicks"]):
        raise InputError("--team and --clicks go together: whose item it was, and its clicks")
    if given["team"] and not given["unit"]:
        raise InputError("--team needs --unit: the rows of one list or user belong together")
    if given["a"] == given["b"]:
        raise InputError(f"--a and --b both say {given['a']!r}; name two rankers")
    texts = [given[name] for name in ("unit", "team") if given[name]]
    values = [given["clicks"]] if given["team"] else [given["a"], given["b"]]
    frame = _read(given["table"], [*values, *texts], texts)
    _check_numbers(frame, {name: name for name in values})
    _check_unit(frame, given["unit"])
    points = frame.select(values).to_numpy() if not given["team"] else _of_teams(frame, given)
    found = preference(points, frame[given["unit"]].to_numpy() if given["unit"] else None, level=given["level"])
    if given["as_json"]:
        echo_json(found._asdict())
    else:
        click.echo(_said(found))


def _said(found: Preference) -> str:
    wins = f"{found.wins_a:,} units prefer A, {found.wins_b:,} prefer B"
    ends = f"[{100 * found.delta_low:.3g}, {100 * found.delta_high:.3g}]"
    return f"{found}\n{wins}; over all units, ties halved, B is ahead by {100 * found.delta:+.3g} points {ends}"


def _of_teams(frame: pl.DataFrame, given: dict[str, Any]) -> Any:
    """(n, 2) points of A and B."""
    team = frame[given["team"]].cast(pl.String).fill_null("")
    names = given["a"], given["b"]
    for found in team.unique().to_list():
        if found not in (*names, ""):
            raise InputError(
                f"team: the column {given['team']!r} holds {found!r}, which is neither --a {names[0]} nor "
                f"--b {names[1]}; name both teams, and leave it empty where neither picked the item"
            )
    clicks = frame[given["clicks"]].cast(pl.Float64)
    return pl.DataFrame({name: clicks * (team == name) for name in names}).to_numpy()


def _read(path: str, columns: list[str], texts: list[str]) -> pl.DataFrame:
    """The named columns of a file."""
    with broken("table", path):
        table = read_table("table", path, texts)
        there = table.collect_schema().names()
        for name in columns:
            if name not in there:
                raise unknown("column", name, there)
        return table.select(list(dict.fromkeys(columns))).collect()


def _check_numbers(frame: pl.DataFrame, named: dict[str, str]) -> None:
    """Raises InputError for a column that holds no numbers."""
    for field, column in named.items():
        dtype = frame[column].dtype
        if not (dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)):
            raise InputError(f"{field}: the column {column!r} holds {dtype}; give numbers")


def _check_unit(frame: pl.DataFrame, unit: str | None) -> None:
    if unit and (lost := frame[unit].null_count()):
        raise InputError(f"unit: the column {unit!r} is empty in {lost:,} rows; leave them out, or name their unit")
