"""Fills the figures of docs/serving-performance.md from benchmarks/results/serving.jsonl; missed goals are said to be.

python tools/serving_page.py          # writes them between their marks; the rest of the page is written by hand
python tools/serving_page.py --check  # fails where the page is not what the records say
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tools")]

from common import RESULTS, median, records  # noqa: E402
from figures import absent, filled, write_or_check  # noqa: E402
from report import table, where  # noqa: E402

PAGE = ROOT / "docs" / "serving-performance.md"
FILE = "serving.jsonl"
TOGETHER = (1, 6, 60)
IDENTICAL = 0.99
RECALL = 0.95
Record = dict[str, Any]


# -- records ----------------------------------------------------------------------------------------------------------


def part(results: Path, name: str) -> list[Record]:
    """The lines of the newest run of a part that came to its end."""
    lines = [line for line in records(results / FILE) if line["part"] == name and not line["quick"]]
    whole = {line["run"] for line in lines if line["what"] == "done"}
    return [line for line in lines if line["run"] == max(whole)] if whole else []


def some(lines: Iterable[Record], **wanted: Any) -> list[Record]:
    """Those lines that hold these values."""
    return [line for line in lines if all(line.get(name) == value for name, value in wanted.items())]


def middle(lines: list[Record], *names: str) -> float | None:
    """The median of a figure over rounds; its name in steps, like "ms", "p99".  None where there is no line."""
    values = []
    for line in lines:
        value: Any = line
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            values.append(float(value))
    return median(values) if values else None


def command(name: str) -> str:
    """What measures a part."""
    return f"python benchmarks/serving/run.py --part {name}"


def place(lines: list[Record]) -> str:
    """Machine, commit, path and load, in one sentence."""
    paths = ", ".join(dict.fromkeys(line["path"] for line in lines))
    loads = [line["load"] for line in lines]
    return f"{where(lines)} Path: {paths}; load {min(loads):.1f} to {max(loads):.1f}."


def ms(value: float | None) -> str:
    """Milliseconds."""
    return "–" if value is None else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def count(value: float | None) -> str:
    """A whole number."""
    return "–" if value is None else f"{value:,.0f}"


# -- goals ------------------------------------------------------------------------------------------------------------


class Goal(NamedTuple):
    """A figure of the table of goals."""

    figure: str
    goal: str
    stretch: str
    measured: str
    met: int | None
    """2: the stretch, 1: the goal, 0: missed, None: not measured."""

    @property
    def row(self) -> list[str]:
        """Of the table."""
        said = {2: "stretch reached", 1: "reached", 0: "**missed**", None: "not measured yet"}[self.met]
        return [self.figure, self.goal, self.stretch, self.measured, said]


def level(value: float | None, goal: float, stretch: float | None = None, least: bool = True) -> int | None:
    """Which of goal and stretch a value reaches; ``least``: they are lower bounds."""
    if value is None:
        return None

    def reaches(bound: float) -> bool:
        return value >= bound if least else value < bound

    return 2 if stretch is not None and reaches(stretch) else int(reaches(goal))


def goals(results: Path) -> str:
    """Every goal, what was measured, and whether that is enough."""
    found = [
        *_throughput(part(results, "ratio")),
        *_open(part(results, "open")),
        _k6(part(results, "k6")),
        *_items(part(results, "items")),
        *_events(part(results, "events")),
        _agreed(part(results, "agreement")),
    ]
    return table(("figure", "goal", "stretch", "measured", "verdict"), [goal.row for goal in found])


def _throughput(lines: list[Record]) -> list[Goal]:
    ours, naive = (middle(_closed(lines, side), "per_cpu_s") for side in ("suisen", "naive"))
    ratio = ours / naive if ours and naive else None
    return [
        Goal(
            "requests per server CPU-second over HTTP, 64 connections; state, event and impression log, metrics on",
            "6,500", "8,000", count(ours), level(ours, 6_500, 8_000),
        ),
        Goal(
            "ratio to the naive service in the same run, per CPU-second", "30x", "38x",
            "–" if ratio is None else f"{ratio:.1f}x", level(ratio, 30, 38),
        ),
    ]  # fmt: skip


def _closed(lines: list[Record], side: str, connections: int = 64) -> list[Record]:
    return some(lines, what="closed", side=side, connections=connections)


def _borne(lines: list[Record], rate: int) -> tuple[float | None, int, str]:
    """p99 of a rate, how many of its requests were not answered, and both in words."""
    at = some(lines, what="open", rate=rate)
    p99 = middle(at, "ms", "p99")
    missing = sum(line["lost"] + line["refused"] + line["wrong"] for line in at)
    told = "–" if p99 is None else f"p99 {ms(p99)} ms, {missing:,} of {sum(line['sent'] for line in at):,} not answered"
    return p99, missing, told


def _open(lines: list[Record]) -> list[Goal]:
    (low, low_missing, low_told), (high, high_missing, high_told) = (_borne(lines, rate) for rate in (10_000, 12_000))
    good = low is not None and not low_missing and low < 20
    best = high is not None and not high_missing and high < 20
    slow = some(lines, what="open", rate=1_000)
    p90, p99 = middle(slow, "ms", "p90"), middle(slow, "ms", "p99")
    own = middle(some(lines, what="open", rate=10_000), "generator_us")
    met = None if p90 is None or p99 is None else 2 * int(p90 < 2 and p99 < 3) or int(p90 < 2 and p99 < 7)
    return [
        Goal(
            "open loop, two cores in all, the generator on them", "10,000/s, p99 < 20 ms, none lost",
            "12,000/s, p99 < 20 ms", f"10,000/s: {low_told}; 12,000/s: {high_told}",
            None if low is None else 2 if good and best else int(good),
        ),
        Goal("the generator's own cost, at 10,000/s", "≤ 20 µs a request", "", "–" if own is None else f"{own:.1f} µs",
             level(own, 20.05, least=False)),
        Goal("open loop 1,000/s", "p90 < 2 ms, p99 < 7 ms", "p99 < 3 ms", f"p90 {ms(p90)} ms, p99 {ms(p99)} ms", met),
    ]  # fmt: skip


def _k6(lines: list[Record]) -> Goal:
    at = [line for line in lines if line["what"] == "k6" and "skipped" not in line]
    told, met = "–", None
    if at:
        line = at[-1]
        told = f"{line['rate']:,}/s for {line['seconds']} s: {line['dropped']:,} dropped, {line['failed']:,} failed"
        met = int(not line["dropped"] and not line["failed"])
    return Goal("k6, constant arrival rate, a quarter of the knee", "no dropped iteration", "", told, met)


def _items(lines: list[Record]) -> list[Goal]:
    exact, ivf = (some(lines, what="items", way=way, together=60) for way in ("int8 scan", "int8 IVF"))
    found = []
    for name, at, goal, stretch in (("exact", exact, 2_000, 2_400), ("IVF", ivf, 4_000, 6_000)):
        us = middle(at, "us")
        rate = None if us is None else 1e6 / us
        recall = middle(at, "recall")
        met = level(rate, goal, stretch)
        if met and name == "IVF" and (recall or 0.0) < RECALL:
            met = 0
        told = "–" if us is None else f"{count(rate)}/s ({us:.0f} µs), recall@500 {recall:.3f}"
        asked = f"{goal:,}/s" + (f" at recall@500 ≥ {RECALL}" if name == "IVF" else "")
        found.append(Goal(f"candidates of a million items, {name}, per CPU-second in process", asked, f"{stretch:,}/s",
                          told, met))  # fmt: skip
    return found


def _events(lines: list[Record]) -> list[Goal]:
    at = some(lines, what="event")
    same, every, p99 = middle(at, "same_worker"), middle(at, "any_worker"), middle(at, "ms", "p99")
    if same is None or p99 is None:
        return [Goal("after an event: the next list reflects it", "same worker 100 %; p99 < 20 ms", "", "–", None)]
    same = min(line["same_worker"] for line in at)
    told = f"same worker {100 * same:.1f} %, any worker at once {100 * (every or 0):.1f} %, update p99 {ms(p99)} ms"
    return [
        Goal("after an event: the next list reflects it", "same worker 100 %; p99 of the update < 20 ms", "", told,
             int(same == 1 and p99 < 20)),
    ]  # fmt: skip


def _agreed(lines: list[Record]) -> Goal:
    at = some(lines, what="agreement", k=10)
    shares = {f"{line['world']} ({line['source']})": line["identical"] for line in at}
    told = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items()) or "–"
    met = int(min(shares.values()) >= IDENTICAL) if shares else None
    return Goal("ordered top 10 identical to float32's, trained models", "≥ 99 %", "", told, met)


# -- tables -----------------------------------------------------------------------------------------------------------


def beside(results: Path) -> str:
    """Closed loop, sides in turn."""
    lines = part(results, "ratio")
    if not lines:
        return absent(command("ratio"))
    closed = some(lines, what="closed")
    rows = []
    for side, connections in dict.fromkeys((line["side"], line["connections"]) for line in closed):
        at = _closed(lines, side, connections)
        rows.append([
            side, str(connections), count(middle(at, "per_cpu_s")), count(middle(at, "answered_per_s")),
            *(ms(middle(at, "ms", name)) for name in ("p50", "p99", "p99.9")), f"{middle(at, 'cores'):.2f}",
            str(sum(line["lost"] + line["refused"] + line["wrong"] for line in at)),
        ])  # fmt: skip
    head = ("side", "connections", "requests per server CPU-second", "requests a second", "p50, ms", "p99, ms",
            "p99.9, ms", "cores", "not answered")  # fmt: skip
    return f"{table(head, rows)}\n\n{place(closed)} {closed[0]['workers']} workers."


def _latencies(at: list[Record]) -> list[str]:
    return [
        *(ms(middle(at, "ms", name)) for name in ("p50", "p90", "p95", "p99", "p99.9")),
        str(sum(line["lost"] for line in at)), str(sum(line["refused"] for line in at)),
        f"{middle(at, 'cores') or 0:.2f}", f"{middle(at, 'generator_us') or 0:.1f}",
    ]  # fmt: skip


LATENCIES = ("p50, ms", "p90", "p95", "p99", "p99.9", "lost", "refused", "server cores", "generator, µs a request")


def rates(results: Path) -> str:
    """Open loop at the rates of the goals."""
    lines = part(results, "open")
    if not lines:
        return absent(command("open"))
    opened = some(lines, what="open")
    rows = [[f"{rate:,}", *_latencies(some(opened, rate=rate))] for rate in dict.fromkeys(x["rate"] for x in opened)]
    text = table(("requests a second", *LATENCIES), rows)
    said = ""
    for line in some(lines, what="h2load"):
        said = f"h2load: {line['skipped']}. " if "skipped" in line else (
            f"h2load, {line['rate']:,}/s, one user, {line['connections']} connections: {line['answered']:,} answered, "
            f"{line['refused']} refused, p50 {ms(line['ms']['p50'])}, p99 {ms(line['ms']['p99'])} ms. "
        )  # fmt: skip
    return f"{text}\n\n{said}{place(opened)}"


def knee(results: Path) -> str:
    """Latencies at shares of the knee."""
    lines = part(results, "knee")
    if not lines:
        return absent(command("knee"))
    at, levels = some(lines, what="knee")[-1], some(lines, what="level")
    rows = [
        [f"{share:.0%}", count(middle(some(levels, share=share), "rate")), *_latencies(some(levels, share=share))]
        for share in sorted({line["share"] for line in levels})
    ]
    borne = "" if at["borne"] else " Even that was not borne: it is the lowest that was tried."
    said = f"The knee is {at['rate']:,.0f} requests a second (closed loop: {at['closed_loop']:,.0f}).{borne}"
    return f"{said}\n\n{table(('of the knee', 'a second', *LATENCIES), rows)}\n\n{place(lines)}"


def overload(results: Path) -> str:
    """Goodput and refusals beyond what is borne."""
    lines = part(results, "overload")
    if not lines:
        return absent("make bench-overload")
    borne = {line["side"]: line["rate"] for line in some(lines, what="borne")}
    rows = []
    for side, rate in borne.items():
        for share in dict.fromkeys(line["share"] for line in some(lines, what="overload", side=side)):
            at = some(lines, what="overload", side=side, share=share)
            if any("skipped" in line for line in at):
                rows.append([side, f"{share:g}", "–", at[0]["skipped"], *6 * [""]])
                continue
            rows.append([
                side, f"{share:g}", count(share * rate), f"{100 * (middle(at, 'answered_per_s') or 0) / rate:.0f} %",
                ms(middle(at, "ms", "p99")), *(ms(middle(at, "refused_ms", name)) for name in ("p50", "p90", "p99")),
                f"{middle(at, 'cores') or 0:.2f}", str(sum(line["lost"] for line in at)),
            ])  # fmt: skip
    head = ("side", "times what is borne", "a second", "goodput, of what is borne", "answered p99, ms",
            "refused p50, ms", "p90", "p99", "server cores", "lost")  # fmt: skip
    told = ", ".join(f"{side} {rate:,.0f} a second" for side, rate in borne.items())
    return f"Borne: {told}.\n\n{table(head, sorted(rows, key=lambda row: (row[0], float(row[1]))))}\n\n{place(lines)}"


def model_server(results: Path) -> str:
    """A model server beside ours."""
    lines = [line for line in some(part(results, "triton"), what="model_server") if "skipped" not in line]
    if not lines:
        return absent("make bench-triton")
    rows = []
    for connections in dict.fromkeys(line["connections"] for line in lines):
        for side in dict.fromkeys(line["side"] for line in lines):
            at = some(lines, side=side, connections=connections)
            rows.append([
                side, str(connections), count(middle(at, "per_cpu_s")), count(middle(at, "answered_per_s")),
                ms(middle(at, "ms", "p50")), ms(middle(at, "ms", "p99")), str(sum(line["wrong"] for line in at)),
            ])  # fmt: skip
    head = ("side", "connections", "requests per server CPU-second", "requests a second", "p50, ms", "p99, ms", "wrong")
    return f"{table(head, rows)}\n\n{place(lines)} {lines[0]['processes']} processes each."


def events(results: Path) -> str:
    """Updates, quiet and under load."""
    lines = some(part(results, "events"), what="event")
    if not lines:
        return absent(command("events"))
    rows = []
    for what in dict.fromkeys(line["beside"] for line in lines):
        at = some(lines, beside=what)
        rows.append([
            what, count(sum(line["events"] for line in at)), f"{100 * min(line['same_worker'] for line in at):.1f} %",
            f"{100 * (middle(at, 'any_worker') or 0):.1f} %", f"{max(line['latest_ms'] for line in at):.1f}",
            *(ms(middle(at, name, p)) for name in ("event_ms", "ms") for p in ("p50", "p99")),
        ])  # fmt: skip
    head = ("beside", "events", "same worker", "any worker, at once", "latest of the others, ms", "event p50, ms",
            "event p99", "event and next list p50", "p99")  # fmt: skip
    return f"{table(head, rows)}\n\n{place(lines)} {lines[0]['workers']} workers."


def mib(value: float) -> str:
    """MiB."""
    return f"{value / 2**20:,.0f} MiB"


def memory(results: Path) -> str:
    """Start-up, memory per worker, growth."""
    lines = part(results, "memory")
    if not lines:
        return absent(command("memory"))
    held = [
        [f"{line['requests']:,}", mib(line["pss"]), mib(line["uss"]), mib(line["rss"])]
        for line in some(lines, what="memory")
    ]
    grown = some(lines, what="growth")[-1]
    starts = {name: middle(some(lines, what="start", cache=name), "seconds") for name in ("cold", "warm")}
    told = ", ".join(f"{name} {value:.1f} s" for name, value in starts.items() if value is not None)
    size = some(part(results, "world"), what="bundle")
    bundle = f" The bundle has {mib(size[-1]['bytes'])}." if size else ""
    return (
        f"Start-up until all workers are ready, compiled code cold and warm: {told}.{bundle}\n\n"
        f"{table(('requests so far', 'PSS per worker', 'USS', 'RSS'), held)}\n\n"
        f"Growth over the last {grown['requests']:,} requests: {mib(grown['uss'])} of a worker's own memory, "
        f"{mib(grown['uss_per_million'])} per million at that pace. {place(lines)}"
    )


def items(results: Path) -> str:
    """A million items by every way."""
    lines = part(results, "items")
    if not lines:
        return absent(command("items"))
    at = some(lines, what="items")
    rows = []
    for way in dict.fromkeys(line["way"] for line in at):
        mine = some(at, way=way)
        built = middle(some(lines, what="built", way=way), "seconds")
        rows.append([
            way, f"{middle(mine, 'recall'):.3f}", *(count(middle(some(mine, together=n), "us")) for n in TOGETHER),
            count(1e6 / (middle(some(mine, together=60), "us") or 1e9)), "–" if built is None else f"{built:.0f}",
        ])  # fmt: skip
    head = ("way", "recall@500", *(f"µs, {n} together" for n in TOGETHER), "per CPU-second", "build, s")
    one = at[0]
    return (
        f"{table(head, rows)}\n\n{one['k']} candidates of {one['items']:,} × {one['dim']}, processor time of one "
        f"thread per query, each of which excludes 100 items. {place(at)}"
    )


def users(results: Path) -> str:
    """Bytes of a user."""
    lines = part(results, "users")
    if not lines:
        return absent(command("users"))
    held = []
    for line in some(lines, what="users"):
        size = count(line["counted_bytes"]), count(line["grown_bytes"])
        held.append([line["of"], f"{line['users']:,}", f"{line['asked']:,}", *size, f"{line['us']:.1f}"])
    answered = ", ".join(f"{line['of']}: {line['us']:.0f} µs" for line in some(lines, what="answers"))
    head = ("of", "users", "of whom asked", "bytes a user, as counted", "as the process grew", "µs a user")
    return f"{table(head, held)}\n\nLists of 60 known users together, in process, per list: {answered}. {place(lines)}"


def speed(plan: Record, long: bool = False) -> str:
    """A plan's speed in words; ``long``: that of lists of more than ten items."""
    if "torch" in plan:
        return f"torch ({plan['torch']})"
    one, best = plan["long_speed" if long else "speed"], plan.get("best") or 0
    steps = [f"cut {one['cut']}"] if one["cut"] else []
    steps += [f"int8, {one['finish']} in float32"] if one["quantised"] and one["finish"] else []
    steps += ["int8"] if one["quantised"] and not one["finish"] else []
    steps += [f"{best} on torch"] if best else []
    return ", ".join(steps) or "float32"


def agreement(results: Path) -> str:
    """Trained systems: the plan beside torch."""
    lines = part(results, "agreement")
    if not lines:
        return absent(command("agreement"))
    rows = []
    for line in some(lines, what="agreement"):
        plan = some(lines, what="plan", world=line["world"])[0]["plan"]
        long = line["k"] > 10
        told = plan["long_identical"] if long else plan["agreement"]["identical"]
        rows.append([
            f"{line['world']} ({line['source']})", f"{line['users']:,} × {line['items']:,}", str(line["k"]),
            f"{100 * line['identical']:.2f} %", f"{100 * line['same_set']:.2f} %", f"{100 * line['overlap']:.3f} %",
            speed(plan, long), f"{100 * told:.2f} %",
            "–" if long else f"{plan['agreement']['ndcg']:.4f} / {plan['agreement']['precise_ndcg']:.4f}",
        ])  # fmt: skip
    head = ("system", "users × items", "k", "identical in order", "same set", "overlap", "speed", "as the bundle says",
            "NDCG@10, plan / precise")  # fmt: skip
    return f"{table(head, rows)}\n\n{place(lines)}"


def models(results: Path) -> str:
    """Every retriever with every ranker."""
    lines = some(part(results, "models"), what="pair")
    if not lines:
        return absent(command("models"))
    rows = []
    for line in lines:
        us, plan = line["us"], line["plan"]
        agreed = plan.get("agreement")
        rows.append([
            line["retriever"], line["ranker"],
            *("–" if f"plan_{n}" not in us else count(us[f"plan_{n}"]) for n in TOGETHER),
            *(count(us[f"torch_{n}"]) for n in TOGETHER), count(us.get("prepare_1")), count(us.get("prepare_60")),
            "–" if agreed is None else f"{100 * agreed['identical']:.1f} %", speed(plan) if "torch" in plan else
            f"{' + '.join(stage for stage in (plan['candidates'], plan['ranker']) if stage)}, {speed(plan)}",
        ])  # fmt: skip
    head = ("retriever", "ranker", *(f"plan, µs, {n} together" for n in TOGETHER), *(f"torch, {n}" for n in TOGETHER),
            "after an event, µs, 1", "60", "identical", "runs on")  # fmt: skip
    return f"{table(head, rows)}\n\nData: {lines[0]['source']}. {place(lines)}"


FIGURES: dict[str, Callable[[Path], str]] = {
    "goals": goals, "beside": beside, "rates": rates, "knee": knee, "overload": overload, "model_server": model_server,
    "events": events, "memory": memory, "items": items,
    "users": users, "agreement": agreement, "models": models,
}  # fmt: skip


def main() -> int:
    """Writes or checks; the exit status says whether the page is what the records say."""
    return write_or_check(PAGE, filled(PAGE.read_text(encoding="utf-8"), FIGURES, RESULTS), "serving_page")


if __name__ == "__main__":
    sys.exit(main())
