"""Fills the figures of docs/experiments.md from records in benchmarks/results; where there is no record, it says so.

python tools/experiments_page.py          # writes them between their marks; the rest of the page is written by hand
python tools/experiments_page.py --check  # fails where the page is not what the records say
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tools")]

import cookie_cats  # noqa: E402
import off_policy  # noqa: E402
from common import RESULTS, median, records  # noqa: E402
from figures import absent, filled, write_or_check  # noqa: E402
from report import newest, table, where  # noqa: E402

import experiments  # noqa: E402
from suisen.experiments.simulation.laws import law  # noqa: E402

PAGE = ROOT / "docs" / "experiments.md"
USUAL = {
    "ctr": ("delta", "delta, relative"),
    "conversion": ("z",),
    "before": ("welch", "cuped", "post-stratified"),
}
"""Tests that a plan gets without asking, by law; Welch's t elsewhere."""
MEAN = ("welch", "welch, relative")
REMEDIES = ("permutation", "winsorised", "log", "fisher", "bootstrap-t", "bootstrap-bca")
COVERED = (0.944, 0.956)
"""Where the coverage of 95 % intervals has to be."""
Record = dict[str, Any]
Rows = list[experiments.Row]


def percent(part: float, digits: int = 1) -> str:
    """Of a share."""
    return f"{100 * part:.{digits}f}"


def lines_of(results: Path, *parts: str) -> list[Record]:
    """The newest line of each job of these parts, at the most runs that it was done with."""
    found = [line for line in records(results / experiments.FILE) if line["part"] in parts]
    most = {(line["part"], line["name"]): 0 for line in found}
    for line in found:
        key = line["part"], line["name"]
        most[key] = max(most[key], line["runs"])
    kept = [line for line in found if line["runs"] == most[line["part"], line["name"]]]
    return newest(kept, lambda line: (line["part"], line["name"]))


def ends(values: Iterable[float], digits: int = 1) -> str:
    """Least to most, in percent."""
    low, high = min(kept := list(values)), max(kept)
    return percent(low, digits) if low == high else f"{percent(low, digits)}–{percent(high, digits)}"


# -- false alarms -----------------------------------------------------------------------------------------------------


def alarms(results: Path) -> str:
    """The tests that a plan gets by itself, in every cell, and what was found outside the band."""
    lines = lines_of(results, "errors", "resampling")
    if not lines:
        return absent("make bench-experiments")
    rows = experiments.rated(lines, "rejected", 0.05)
    said = [counted(rows, lines), defaults(rows, lines), remedies(rows, lines), unwarned(rows), where(lines)]
    return "\n\n".join(part for part in said if part)


def counted(rows: Rows, lines: list[Record]) -> str:
    """How many rows are where, and the band."""
    kinds = {kind: sum(row.verdict == kind for row in rows) for kind in dict.fromkeys(row.verdict for row in rows)}
    bands = {line["runs"]: (row.low, row.high) for line in lines for row in rows if row.cell == line["name"]}
    bands = {runs: experiments.band(0.05, runs, len(rows)) for runs in sorted(bands, reverse=True)}
    band = " and ".join(
        f"{percent(low, 2)}–{percent(high, 2)} % at {runs:,} experiments" for runs, (low, high) in bands.items()
    )
    found = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    return f"{len(rows)} rows (a test in a cell), held to one band for all of them, {band}: {found}."


def defaults(rows: Rows, lines: list[Record]) -> str:
    """One row a law and test, one column a size and split."""
    cells = {line["name"]: (line["n"], line["share"]) for line in lines}
    columns = sorted(set(cells.values()), key=lambda cell: (cell[0], -cell[1]))
    of = {(row.cell.partition(",")[0], row.test, cells[row.cell]): row for row in rows}
    laws = list(dict.fromkeys(line["law"] for line in lines))
    out = []
    for name in laws:
        for test in (*USUAL.get(name, MEAN), *(experiments.TRAPS[:1] if name == "ctr" else ())):
            found = [of.get((name, test, cell)) for cell in columns]
            out.append([f"{law(name).title}: {test}", *(rated(row) for row in found)])
    head = ["metric: test", *(f"{2 * n:,} units, {1 - share:.0%}/{share:.0%}" for n, share in columns)]
    key = "False alarms in %, of 5. **Bold**: above the band; ⚠: the analysis warns in most of these experiments."
    return f"{key}\n\n{table(head, out)}"


def rated(row: experiments.Row | None) -> str:
    """A rate, bold where it is above its band, with a sign where the analysis warns."""
    if row is None:
        return "–"
    text = percent(row.rate)
    return (f"**{text}**" if row.rate > row.high else text) + (" ⚠" if (row.warned or 0) > 0.5 else "")


def remedies(rows: Rows, lines: list[Record]) -> str:
    """Cells in which a usual test is above the band, with the answers that the warning names."""
    laws = {line["name"]: line["law"] for line in lines}
    of = {(row.cell, row.test): row for row in rows}
    out = []
    for cell in dict.fromkeys(row.cell for row in rows):
        usual = [of[cell, test] for test in USUAL.get(laws[cell], MEAN) if (cell, test) in of]
        if not any(row.rate > row.high for row in usual):
            continue
        name, _, size = cell.partition(", ")
        worst = max(usual, key=lambda row: row.rate)
        answers = [rated(of.get((cell, test))) for test in REMEDIES]
        out.append(
            [f"{law(name).title}; {size}", f"{rated(worst)} ({worst.test})", percent(worst.warned or 0, 0), *answers]
        )
    if not out:
        return ""
    said = (
        "Where a usual test is above the band, and what the remedies do in the same cells (n: an arm of 50/50; "
        "–: does not fit the metric, or not run, as resampling tests above n = 2,000):"
    )
    return f"{said}\n\n{table(('cell', 'worst usual test', 'warned, %', *REMEDIES), out)}"


def unwarned(rows: Rows) -> str:
    """Rows above the band of which no warning tells."""
    bad = [row for row in rows if row.verdict == "above"]
    if not bad:
        return "No row is above the band without a warning."
    said = "; ".join(f"{row.test} on {row.cell}, {percent(row.rate, 2)} %" for row in bad)
    return f"Above the band without a warning in most of the experiments: {said}."


def _case(line: Record) -> str:
    """The row of a job: those of large effects with a covariate share one."""
    if line["part"] != "adjusted":
        return str(line["name"])
    rhos, lifts = ([each[at] for each in experiments.ADJUSTED] for at in (1, 2))
    return f"{line['kind']}, correlations {min(rhos):g} to {max(rhos):g}, effects {min(lifts):.0%} to {max(lifts):.0%}"


def span(rows: Rows | None) -> str:
    """Least to most of some rates; bold where one is above its band, with a sign where the analysis warns."""
    if not rows or len(rows) == 1:
        return rated(rows[0] if rows else None)
    worst = max(rows, key=lambda row: row.rate / row.high)
    text = ends(row.rate for row in rows)
    return f"**{text}**" if worst.rate > worst.high else text


def survives(results: Path) -> str:
    """Verdicts before the end, at and below zero, with large effects, on one side, of rare buyers."""
    lines = lines_of(results, *experiments.VERDICTS)
    if not lines:
        return absent("make bench-experiments")
    rows = experiments.survived(lines)
    runs = {(line["name"], row["test"]): f"{row['runs']:,}" for line in lines for row in line["rows"]}
    cases = {line["name"]: _case(line) for line in lines}
    of: dict[tuple[str, str], Rows] = {}
    names: dict[tuple[str, str], str] = {}
    for row in rows:
        test = row.test.removesuffix(experiments.MISSED)
        names[cases[row.cell], test] = runs[row.cell, test]
        of.setdefault((cases[row.cell], row.test), []).append(row)
    shown = [
        [case, test, count, span(of.get((case, test))), span(of.get((case, test + experiments.MISSED)))]
        for (case, test), count in names.items()
    ]
    kinds = {kind: sum(row.verdict == kind for row in rows) for kind in dict.fromkeys(row.verdict for row in rows)}
    found = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    bands = "; ".join(
        f"{percent(row.low, 2)}–{percent(row.high, 2)} % at {count}"
        for count, row in sorted(
            {runs[row.cell, row.test.removesuffix(experiments.MISSED)]: row for row in rows}.items()
        )
    )
    head = ("case", "test", "experiments", "false alarms, %", "missed by the interval, %")
    said = f"{len(rows)} rates of 5 %, held to one band for all of them ({bands} experiments): {found}."
    return "\n\n".join([said, table(head, shown), unwarned(rows), where(lines)])


# -- intervals, power, CUPED ------------------------------------------------------------------------------------------


def coverage(results: Path) -> str:
    """Coverage and power beside what is promised."""
    covered, powered = lines_of(results, "coverage"), lines_of(results, "power")
    if not covered or not powered:
        return absent("make bench-experiments")
    rows, outside = [], 0
    for line in covered:
        for row in line["rows"]:
            share = row["covered"] / line["runs"]
            inside, trap = COVERED[0] <= share <= COVERED[1], row["test"] in experiments.TRAPS
            outside += not (inside or trap)
            text = percent(share, 2) if inside else f"**{percent(share, 2)}**"
            rows.append([law(line["law"]).title, f"{row['test']}{', the trap' * trap}", text])
    kinds = sum("trap" not in name for _, name, _ in rows)
    said = f"Of {kinds} kinds of 95 % intervals about an effect of 10 %, {kinds - outside} cover between "
    said += f"{percent(COVERED[0])} and {percent(COVERED[1])} % ({covered[0]['runs']:,} experiments each; bold: not)."
    found = [
        [law(line["law"]).title, row["test"], f"{row['lift']:.2%}", percent(row["rejected"] / line["runs"]),
         percent(row["analytic"]), f"{100 * (row['rejected'] / line['runs'] - row['analytic']):+.2f}"]
        for line in powered for row in line["rows"]
    ]  # fmt: skip
    gap = max(abs(float(row[-1])) for row in found)
    told = f"Power is that of the formula within {gap:.2g} points (goal: 1.5)."
    return "\n\n".join([
        said, table(("metric", "test", "coverage, %"), rows), told,
        table(("metric", "test", "true effect", "found, %", "formula, %", "points apart"), found),
    ])  # fmt: skip


def cuped(results: Path) -> str:
    """The variance that is left, beside 1 − ρ²."""
    lines = lines_of(results, "cuped")
    if not lines:
        return absent("make bench-experiments")
    found = [(line["rho"], row["ratio"], row["theory"]) for line in lines for row in line["rows"]]
    rows = [[f"{rho:g}", f"{r:.4f}", f"{t:.4f}", f"{100 * (r / t - 1):+.2f} %"] for rho, r, t in found]
    worst = max(abs(ratio / theory - 1) for _, ratio, theory in found)
    said = f"CUPED leaves 1 − ρ² of the variance, within {100 * worst:.2g} % (goal: 2 %)."
    return f"{said}\n\n{table(('correlation', 'variance left', '1 − ρ²', 'apart'), rows)}"


# -- looks ------------------------------------------------------------------------------------------------------------


def looking(results: Path) -> str:
    """Each rule: false alarms, power, and units until it stops."""
    lines = lines_of(results, "looks")
    if not any(line["effect"] for line in lines) or all(line["effect"] for line in lines):
        return absent("make bench-experiments")
    parts = {effect: [line for line in lines if line["effect"] is effect] for effect in (False, True)}
    rates: dict[bool, dict[str, list[float]]] = {False: {}, True: {}}
    stops: dict[str, list[float]] = {}
    for effect, found in parts.items():
        for line in found:
            for row in line["rows"]:
                rates[effect].setdefault(row["rule"], []).append(row["rejected"] / line["runs"])
                if effect:
                    stops.setdefault(row["rule"], []).append(row["units"])
    rows = [
        [rule, ends(of), ends(rates[True][rule]), f"{sum(stops[rule]) / len(stops[rule]):,.0f}"]
        for rule, of in rates[False].items()
    ]
    valid = max(max(of) for rule, of in rates[False].items() if rule.startswith("always valid"))
    naive = rates[False]["fixed, at every look"]
    said = (
        f"100 looks with the fixed test claim an effect that is not there in {ends(naive, 0)} % of the experiments "
        f"({len(parts[False])} metrics); always-valid intervals in {percent(valid)} % at the most (goal: 5 %). The "
        "price is power, of the effect that one look at the end finds in 80 %:"
    )
    head = ("rule", "false alarms, %", "power, %", "units per arm until it stops, with the effect (of 10,000)")
    return f"{said}\n\n{table(head, rows)}"


# -- the rest ---------------------------------------------------------------------------------------------------------


def ratios(results: Path) -> str:
    """How often a broken split is seen."""
    lines = lines_of(results, "srm")
    if not lines:
        return absent("make bench-experiments")
    rows = [
        [f"{line['units']:,}", f"{line['share']:.1%}", percent(row["detected"], 2), percent(row["analytic"], 2)]
        for line in lines for row in line["rows"]
    ]  # fmt: skip
    said = "The sample-ratio test at 0.001, planned 50 %: it speaks as often as the noncentral chi-square law says."
    return f"{said}\n\n{table(('units', 'truly in the control', 'detected, %', 'law, %'), rows)}"


def interleaved(results: Path) -> str:
    """Users that interleaving and A/B need."""
    lines = lines_of(results, "interleaving")
    if not lines:
        return absent("make bench-experiments")
    found = [row for line in lines for row in line["rows"]]
    rows = [
        [f"{row['effect']:+.1%}", f"{row['ab_units']:,}", f"{row['interleaved_units']:,}", f"{row['times']:.0f}",
         f"{percent(row['ab_power'], 0)} / {percent(row['interleaved_power'], 0)}"] for row in found
    ]  # fmt: skip
    times = sorted(row["times"] for row in found)
    said = f"For the same power team-draft interleaving needs {times[0]:.0f} to {times[-1]:.0f} times fewer users."
    head = ("effect on clicks a visit", "users, A/B", "users, interleaved", "times fewer", "power in trials, %")
    return f"{said}\n\n{table(head, rows)}"


def browsing(results: Path) -> str:
    """Coverage in the world of users."""
    lines = lines_of(results, "browsing")
    if not lines:
        return absent("make bench-experiments")
    rows = []
    for line in lines:
        for adjusted in (False, True):
            found = [row for row in line["rows"] if row["adjusted"] is adjusted]
            if found:
                metrics = ", ".join(dict.fromkeys(row["metric"] for row in found))
                rows.append([line["name"], "CUPED" if adjusted else "plain", metrics,
                             ends(row["coverage"] for row in found), ends(row["found"] for row in found)])  # fmt: skip
    said = (
        f"Users who browse, click, buy and return, {lines[0]['runs']:,} repetitions of the whole way from traffic to "
    )
    said += "verdict: how often 95 % intervals hold the true effect (goal: 92–98 %). Equal noise is A/A."
    return f"{said}\n\n{table(('rankers', 'analysis', 'metrics', 'coverage, %', 'effect found, %'), rows)}"


def cookies(results: Path) -> str:
    """The published reading, and the sample ratio at two thresholds."""
    lines = records(results / cookie_cats.FILE)[-1:]
    if not lines:
        return absent("make bench-cookie-cats DATA_DIR=…")
    rows = [
        [each["metric"], each["test"], f"{each['gate_30']:.5g}", f"{each['gate_40']:.5g}",
         f"{each['difference']:+.4g} [{each['low']:.4g}, {each['high']:.4g}]", f"{each['p']:.3g}",
         f"{each['corrected']:.3g}", "; ".join(said.partition(":")[0] for said in each["warnings"])]
        for each in lines[0]["metrics"]
    ]  # fmt: skip
    head = ("metric", "test", "gate_30", "gate_40", "difference", "p", "corrected", "warning")
    ratio = "\n".join(f"* {each['said']}. Verdict: “{each['verdict']}.”" for each in lines[0]["ratios"])
    return f"{table(head, rows)}\n\n{ratio}\n\n{where(lines)}"


def bandit(results: Path) -> str:
    """Ours beside the published values and intervals."""
    lines = records(results / off_policy.FILE)[-1:]
    if not lines:
        return absent("make bench-off-policy")
    line, rows = lines[0], []
    for name, value in line["values"].items():
        other = line["published"].get(name, {})
        held = f"{other['value']:.6f}" if other else "–"
        held += f" [{other['low']:.6f}, {other['high']:.6f}]" if "low" in other else ""
        spans = [line["intervals"][kind].get(name) for kind in ("bootstrap", "bernstein")]
        shown = [f"[{span[0]:.6f}, {span[1]:.6f}]" if span else "–" for span in spans]
        rows.append([name, f"{value:.8f}", *shown, held])
    facts = "; ".join(f"{name} {value:.7g}" for name, value in line["facts"].items())
    head = ("estimator", "ours", "bootstrap, 95 %", "empirical Bernstein, 95 %", "published")
    truth = ", ".join(f"{name} {value:.4f}" for name, value in line["on_policy"].items())
    return f"{table(head, rows)}\n\nHeld to their digits: {facts}. Clicks counted on policy: {truth}. {where(lines)}"


def assignment(results: Path) -> str:
    """Nanoseconds a unit."""
    lines = records(results / "assignment_speed.jsonl")
    if not lines:
        return absent("python benchmarks/assignment_speed.py")
    kinds = newest(lines, lambda line: (line["hash"], line["units"], line["everything"]))
    rows = []
    for kind in kinds:
        same = [
            line["cpu_ns"] for line in lines if all(line[k] == kind[k] for k in ("hash", "units", "everything", "at"))
        ]
        what = "layer, holdout and experiment" if kind["everything"] else "experiment"
        rows.append([kind["hash"], kind["units"], what, f"{median(same) / 1000:.3f}"])
    said = "One thread, a column of ids in, a column of arms out (goal: below 0.2 µs a unit):"
    return f"{said}\n\n{table(('hash', 'ids', 'draws', 'µs a unit'), rows)}\n\n{where(kinds)}"


FIGURES: dict[str, Callable[[Path], str]] = {
    "alarms": alarms, "survives": survives, "coverage": coverage, "cuped": cuped, "looking": looking, "ratios": ratios,
    "interleaved": interleaved, "browsing": browsing, "cookies": cookies, "bandit": bandit, "assignment": assignment,
}  # fmt: skip


def main() -> int:
    """Writes or checks; the exit status says whether the page is what the records say."""
    return write_or_check(PAGE, filled(PAGE.read_text(encoding="utf-8"), FIGURES, RESULTS), "experiments_page")


if __name__ == "__main__":
    sys.exit(main())
