"""Proofs of the experiments' statistics: false alarms, coverage, power, peeking, SRM, CUPED, interleaving.

    python benchmarks/experiments.py                        # 10,000 runs a cell; what is there is not run again
    python benchmarks/experiments.py --repeat 500 --part looks srm
    python benchmarks/experiments.py --report               # tables of what is there, as Markdown

A job is one cell with all its tests and becomes one line of results/experiments.jsonl.  Jobs run in as many processes
as ``--threads`` says, one thread each; the seed is 0 and every job has draws of its own: their order does not matter.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy comes: the processes share the cores

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any, NamedTuple

import common
import numpy as np
from common import append, parser, records, stamp
from interleaving import Sizes, interleaving_gain
from peeking import Looks, watch
from theory import mismatches, variance_ratio
from verdicts import AS_PLANNED, BY_THEN, SIDED, adjusted, capped, early, one_sided, unplanned, zero

from suisen.data.synthetic import World
from suisen.experiments.power import Baseline, Design, mde, power
from suisen.experiments.simulation.laws import law
from suisen.experiments.simulation.repeats import Repeats, browse, noisy
from suisen.experiments.simulation.simulate import RESAMPLING, Cell, band, run
from suisen.experiments.simulation.world import Browsing

FILE = "experiments.jsonl"
SIZES = (20_000, 2_000, 200)
SPLITS = (0.5, 0.1)
METRICS = ("lognormal-1", "lognormal-2", "buyers", "pareto", "counts", "ctr", "conversion", "before")
POWERED = {"before": "welch", "conversion": "z", "ctr": "delta", "counts": "welch"}
COVERED = ("before", "conversion", "ctr", "counts", "lognormal-1")
SRM = ((10_000, 0.5), (10_000, 0.52), (100_000, 0.5), (100_000, 0.507), (1_000_000, 0.502))
TRAPS = ("z of impressions", BY_THEN, AS_PLANNED)
"""Tests that are shown for what they do wrong."""
ZERO = ((-1.0, 0.0), (-1.0, 0.5), (0.0, 0.0), (0.0, 0.2), (0.05, 0.0), (0.05, 0.5), (-0.3, 0.5))
"""Value of the control, relative effect."""
LOOKED = {
    "as planned, at 50 and 100 %": (0.5, 1.0),
    "every 5 % from 50 %": tuple(np.arange(0.5, 1.001, 0.05).round(2)),
    "late, at 90 and 100 %": (0.9, 1.0),
    "every 5 % and past the end": tuple(np.arange(0.5, 1.301, 0.05).round(2)),
}
"""When a plan of looks at 50 and 100 % was looked at."""
ADJUSTED = [
    (kind, rho, lift) for kind in ("mean", "ratio") for rho in (0.0, 0.5, 0.9, 0.98) for lift in (0.0, 0.5, 1.5)
]
RHOS = (0.3, 0.5, 0.7, 0.9)


class Job(NamedTuple):
    """One line to be written."""

    part: str
    name: str
    runs: int
    settings: dict[str, Any]

    @property
    def key(self) -> tuple[Any, ...]:
        return self.part, self.name, self.runs


# -- what there is to do ----------------------------------------------------------------------------------------------


def jobs(repeat: int) -> Iterator[Job]:
    """The largest first, so that the processes end together."""
    yield from tables(repeat)
    for metric in COVERED:
        yield Job("coverage", metric, repeat, {"law": metric, "n": 20_000 if metric == "lognormal-1" else 4_000})
    for metric in POWERED:
        yield Job("power", metric, repeat, {"law": metric, "n": 4_000})
        yield Job("looks", f"{metric}, effect", repeat, {"law": metric, "effect": True})
    for metric in METRICS:
        yield Job("looks", f"{metric}, A/A", repeat, {"law": metric, "effect": False})
    yield from verdicts(repeat)
    yield from small(repeat)


def verdicts(repeat: int) -> Iterator[Job]:
    """What a verdict has to survive."""
    for share in SPLITS:
        for n in (20_000, 2_000):
            cell = {"buyers": 0.03, "share": share, "n": n}
            yield Job("caps", f"3 % buyers, n = {n}, {1 - share:.0%}/{share:.0%}", max(40, repeat // 5), cell)
    yield Job("early", "bought later, looked at before the end", max(20, repeat // 10), {})
    for name in SIDED:
        for alternative in ("greater", "less"):
            yield Job("one-sided", f"{name}, {alternative}", repeat, {"law_name": name, "alternative": alternative})
    for name, shares in LOOKED.items():
        for spending in ("obrien-fleming", "pocock"):
            cell = {"shares": list(map(float, shares)), "spending": spending}
            yield Job("unplanned", f"{name}, {spending}", 10 * repeat, cell)
    for mean, lift in ZERO:
        yield Job("zero", f"control {mean:g}, effect {lift:+.0%}", repeat, {"mean": mean, "lift": lift})
    for kind, rho, lift in ADJUSTED:
        cell = {"kind": kind, "rho": rho, "lift": lift}
        yield Job("adjusted", f"{kind}, correlation {rho:g}, effect {lift:+.0%}", repeat, cell)


def tables(repeat: int) -> Iterator[Job]:
    """Cells of the table of false alarms."""
    for n in SIZES:
        for metric in METRICS:
            for share in SPLITS:
                cell = {"law": metric, "n": n, "share": share}
                name = f"{metric}, n = {n}, {1 - share:.0%}/{share:.0%}"
                if metric != "before" and n <= 2_000:
                    yield Job("resampling", name, max(100, repeat // 5), cell)
                yield Job("errors", name, repeat, cell)


def small(repeat: int) -> Iterator[Job]:
    """What takes seconds."""
    browsed = max(40, repeat // 25)
    for noise in (0.4, 0.8):
        yield Job("browsing", f"noise 0.8 against {noise}", browsed, {"noise": noise})
    for noise in (0.0, 0.4, 0.7):
        yield Job("interleaving", f"noise 0.8 against {noise}", browsed, {"noise": noise})
    for units, share in SRM:
        yield Job("srm", f"{units} units, {share:.1%} in the control", repeat, {"units": units, "share": share})
    for rho in RHOS:
        yield Job("cuped", f"rho = {rho}", max(100, repeat // 5), {"rho": rho})


# -- how it is done ---------------------------------------------------------------------------------------------------


def errors(runs: int, **cell: Any) -> list[dict[str, Any]]:
    """A/A by every fast test."""
    return [tally._asdict() for tally in run(Cell(runs=runs, **cell))]


def resampling(runs: int, **cell: Any) -> list[dict[str, Any]]:
    """A/A by the tests that go experiment by experiment, 499 resamples."""
    return [tally._asdict() for tally in run(Cell(runs=runs, **cell), list(RESAMPLING))]


def coverage(runs: int, *, law: str, n: int) -> list[dict[str, Any]]:
    """Intervals about an effect of 10 %."""
    return [tally._asdict() for tally in run(Cell(law=law, n=n, lift=0.1, runs=runs)) if tally.covered is not None]


def powered(runs: int, *, law: str, n: int) -> list[dict[str, Any]]:
    """The effect that the formula finds with 80 %, and how often it is found."""
    lift, analytic = detectable(law, n)
    rows = [tally._asdict() for tally in run(Cell(law=law, n=n, lift=lift, runs=runs), [POWERED[law]])]
    if law == "before":
        own = baseline(law, 0.0).adjusted(0.7)
        rows.append(run(Cell(law=law, n=n, lift=lift, runs=runs), ["cuped"])[0]._asdict())
        return [rows[0] | {"lift": lift, "analytic": analytic},
                rows[1] | {"lift": lift, "analytic": power(own, Design(), units=2 * n, effect=lift)}]  # fmt: skip
    return [row | {"lift": lift, "analytic": analytic} for row in rows]


def detectable(name: str, n: int) -> tuple[float, float]:
    """The relative effect for 80 %, and the power by the formula with both arms' variances as they are."""
    base = baseline(name, 0.0)
    design = Design(test="proportions" if name == "conversion" else "welch")
    lift = mde(base, design, units=2 * n) / base.value
    effect = law(name).value(lift) - law(name).value(0.0)
    if name != "conversion":
        base = Baseline(base.value, (base.variance + baseline(name, lift).variance) / 2)
    return lift, power(base, design, units=2 * n, effect=effect)


def baseline(name: str, lift: float) -> Baseline:
    """Of two million units."""
    units = law(name).draw(np.random.default_rng(0), (2_000_000,), lift)
    if name == "conversion":
        return Baseline.proportion(law(name).value(lift))
    spread = Baseline.mean(units.y) if units.d is None else Baseline.ratio(units.y, units.d)
    return Baseline(law(name).value(lift), spread.variance)


def looks(runs: int, *, law: str, effect: bool) -> list[dict[str, Any]]:
    """100 looks, 100 to 10,000 units an arm; with the effect that the fixed test finds with 80 % at the end."""
    lift = detectable(law, 10_000)[0] if effect else 0.0
    return [stopped._asdict() | {"lift": lift} for stopped in watch(Looks(law=law, lift=lift, runs=runs))]


def world(**habits: Any) -> Browsing:
    """2,000 users, 200 items."""
    return Browsing.of(World(users=2_000, items=200, seed=0).generate(), **habits)


def browsing(runs: int, *, noise: float) -> list[dict[str, Any]]:
    """Intervals of the browsing world, plain and by CUPED; equal noise: A/A."""
    place = world()
    found = browse(place, arms(place, noise), Repeats(repeat=runs, covariate=True))
    return [line._asdict() for line in found.lines]


def interleaving(runs: int, *, noise: float) -> list[dict[str, Any]]:
    """Users needed for 80 %, one visit each."""
    place = world(days=1)
    return [interleaving_gain(place, arms(place, noise), Sizes(runs=runs))._asdict()]


def arms(place: Browsing, noise: float) -> dict[str, Any]:
    """Two rankers of known quality."""
    return {"control": noisy(place, 0.8), "treatment": noisy(place, noise)}


def srm(runs: int, *, units: int, share: float) -> list[dict[str, Any]]:
    """How often a split that should be even is caught at 0.001."""
    found, theory = mismatches(units, [0.5, 0.5], [share, 1 - share], runs=runs)
    return [{"detected": found, "analytic": theory, "threshold": 0.001}]


def cuped(runs: int, *, rho: float) -> list[dict[str, Any]]:
    """Variance with the covariate over variance without."""
    found, theory = variance_ratio(rho, runs=runs)
    return [{"ratio": found, "theory": theory}]


PARTS: dict[str, Callable[..., list[dict[str, Any]]]] = {
    "errors": errors, "resampling": resampling, "coverage": coverage, "power": powered, "looks": looks,
    "browsing": browsing, "interleaving": interleaving, "srm": srm, "cuped": cuped,
    "early": early, "unplanned": unplanned, "zero": zero, "adjusted": adjusted, "one-sided": one_sided, "caps": capped,
}  # fmt: skip


VERDICTS = ("early", "unplanned", "zero", "adjusted", "one-sided", "caps")
"""Parts whose rows are both false alarms and coverage."""


def done(job: Job) -> dict[str, Any]:
    """The line of a job."""
    started = time.perf_counter()
    rows = PARTS[job.part](job.runs, **job.settings)
    took = round(time.perf_counter() - started, 2)
    return {"part": job.part, "name": job.name, "runs": job.runs, **job.settings, "rows": rows, "seconds": took}


# -- what it says -----------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """One test in one cell, beside the band that holds all rows of the table at once."""

    cell: str
    test: str
    rate: float
    low: float
    high: float
    warned: float | None

    @property
    def verdict(self) -> str:
        if self.low <= self.rate <= self.high:
            return "inside"
        if self.rate < self.low:
            return "below"
        if self.test in TRAPS:
            return "above, the trap"
        return "above, warned" if (self.warned or 0) > 0.5 else "above"


def rated(lines: list[dict[str, Any]], field: str, rate: float) -> list[Row]:
    """Rows of some parts with their simultaneous 99 % band."""
    flat = [(line, row) for line in lines for row in line["rows"] if row.get(field) is not None]
    bands = {runs: band(rate, runs, len(flat)) for runs in {line["runs"] for line, _ in flat}}
    return [
        Row(line["name"], row["test"], row[field] / line["runs"], *bands[line["runs"]], row.get("warned"))
        for line, row in flat
    ]


MISSED = ", its interval"
"""Behind the name of a test: how often its 95 % interval missed the true effect."""


def survived(lines: list[dict[str, Any]]) -> list[Row]:
    """False alarms and missed intervals of the verdicts' parts, in one band for both."""
    flat = [
        (line, row, name, row[field] if field == "rejected" else row["runs"] - row[field])
        for line in lines
        for row in line["rows"]
        for field, name in (("rejected", ""), ("covered", MISSED))
        if row[field] is not None
    ]
    bands = {runs: band(0.05, runs, len(flat)) for runs in {row["runs"] for _, row, _, _ in flat}}
    return [
        Row(line["name"], row["test"] + name, count / row["runs"], *bands[row["runs"]], row["warned"])
        for line, row, name, count in flat
    ]


def table(title: str, columns: str, rows: Iterable[Sequence[Any]]) -> list[str]:
    """A Markdown table."""
    names = columns.split(", ")
    head = ["", f"## {title}", "| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return head + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]


def share(part: float | None, whole: float = 1.0) -> str:
    """As a percentage; nothing where there is none."""
    return "" if part is None else f"{part / whole:.2%}"


def report(lines: list[dict[str, Any]]) -> list[str]:
    """Markdown: what each part found."""
    of = {part: [line for line in lines if line["part"] == part] for part in PARTS}
    each = {part: [(line, row) for line in found for row in line["rows"]] for part, found in of.items()}
    alarms = rated(of["errors"] + of["resampling"], "rejected", 0.05)
    covered = rated(of["coverage"], "covered", 0.95)
    found = survived([line for part in VERDICTS for line in of[part]])
    return [
        *table(
            "What a verdict has to survive",
            "case, test, rate, band, warned, verdict",
            [(r.cell, r.test, share(r.rate), f"{r.low:.2%}–{r.high:.2%}", share(r.warned), r.verdict) for r in found],
        ),
        *table(
            "False alarms",
            "cell, test, rate, band, warned, verdict",
            [(r.cell, r.test, share(r.rate), f"{r.low:.2%}–{r.high:.2%}", share(r.warned), r.verdict) for r in alarms],
        ),
        *table("Coverage of 95 %", "metric, test, coverage, verdict",
               [(r.cell, r.test, share(r.rate), r.verdict) for r in covered]),
        *table(
            "Power", "metric, test, found, formula",
            [(a["name"], r["test"], share(r["rejected"], a["runs"]), share(r["analytic"])) for a, r in each["power"]],
        ),
        *table(
            "Looking 100 times", "metric, rule, claimed, units an arm",
            [(a["name"], r["rule"], share(r["rejected"], a["runs"]), f"{r['units']:,.0f}") for a, r in each["looks"]],
        ),
        *table(
            "The browsing world", "arms, metric, scale, CUPED, true effect, mean estimate, coverage, found",
            [(a["name"], r["metric"], r["scale"], r["adjusted"], f"{r['truth']:.5f}", f"{r['mean']:.5f}",
              share(r["coverage"]), share(r["found"])) for a, r in each["browsing"]],
        ),
        *table(
            "Interleaving beside A/B", "arms, effect, A/B users, interleaved users, times, power A/B, power",
            [(a["name"], share(r["effect"]), r["ab_units"], r["interleaved_units"], f"{r['times']:.1f}",
              share(r["ab_power"]), share(r["interleaved_power"])) for a, r in each["interleaving"]],
        ),
        *table("Sample ratio", "split, detected, formula",
               [(a["name"], share(r["detected"]), share(r["analytic"])) for a, r in each["srm"]]),
        *table("CUPED", "correlation, variance ratio, 1 − ρ²",
               [(a["name"], f"{r['ratio']:.4f}", f"{r['theory']:.4f}") for a, r in each["cuped"]]),
    ]  # fmt: skip


# -- the run ----------------------------------------------------------------------------------------------------------


def wanted(options: Namespace) -> list[Job]:
    """Jobs of the chosen parts that no line answers yet."""
    have = {(line["part"], line["name"], line["runs"]) for line in records(common.RESULTS / FILE)}
    return [job for job in jobs(options.repeat) if job.part in options.part and job.key not in have]


def work(todo: list[Job], threads: int) -> None:
    """Each job's line as soon as it is there."""
    with ProcessPoolExecutor(threads, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(done, job) for job in todo]):
            line = future.result()
            append(FILE, {**line, **stamp()})
            print(f"{line['part']:<13}{line['name']:<44}{line['seconds']:>8.1f} s", flush=True)


def main() -> int:
    """Runs what is missing, then prints the tables."""
    options = parser(__doc__ or "")
    options.add_argument("--repeat", type=int, default=10_000, help="experiments a cell")
    options.add_argument("--part", nargs="*", default=list(PARTS), choices=list(PARTS))
    options.add_argument("--report", action="store_true", help="only print what is there")
    given = options.parse_args()
    started = time.perf_counter()
    if not given.report:
        todo = wanted(given)
        work(todo, given.threads)
        print(f"{len(todo)} jobs in {time.perf_counter() - started:.0f} s")
    known = {job.key for job in jobs(given.repeat)}
    lines = [line for line in records(common.RESULTS / FILE) if (line["part"], line["name"], line["runs"]) in known]
    print("\n".join(report(lines)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
