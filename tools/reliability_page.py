"""Fills the figures of docs/reliability.md from benchmarks/results/chaos.jsonl.

python tools/reliability_page.py          # writes them between their marks; the rest of the page is written by hand
python tools/reliability_page.py --check  # fails where the page is not what the records say
"""

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tools")]

from common import RESULTS, records  # noqa: E402
from figures import absent, filled, write_or_check  # noqa: E402
from report import table  # noqa: E402

PAGE = ROOT / "docs" / "reliability.md"
FILE = "chaos.jsonl"
Record = dict[str, Any]


def newest(results: Path, what: str) -> Record | None:
    """The last record of a kind; None where there is none."""
    found = [line for line in records(results / FILE) if line["what"] == what]
    return found[-1] if found else None


def attack(results: Path) -> str:
    """What was done, and how."""
    one = newest(results, "chaos")
    if one is None:
        return absent("make chaos")
    borne = f"{one['borne']:,} a second are borne beside all neighbours by the same clients"
    head = f"Seed {one['seed']}, {one['seconds']:g} s at {one['rate']:g} requests a second ({borne}), {one['at'][:10]}."
    return f"{head}\n\n" + table(["what was done", "times"], sorted(([w, f"{n:,}"] for w, n in one["faults"].items())))


def requests(results: Path) -> str:
    """What became of every request."""
    one = newest(results, "chaos")
    if one is None:
        return absent("make chaos")
    names = {
        "steady": "lists of users who do nothing",
        "acting": "lists of users who act, after each event",
        "event": "events",
    }
    rows = [
        [names.get(kind, kind), end, f"{count:,}"]
        for kind, ends in one["requests"]["ends"].items()
        for end, count in sorted(ends.items(), key=lambda pair: -pair[1])
    ]
    for burst in one["bursts"]:
        late = "not sent, or left open, when the burst was over"
        named = {"answered": "answered", "refused": "refused", "lost": late, "wrong": "wrong"}
        rows += [["burst of ten times the rate", name, f"{burst[what]:,}"] for what, name in named.items()]
    shares = ", ".join(f"{name} {value:g} ms" for name, value in one["requests"]["ms"].items())
    return table(["requests", "end", "count"], rows) + f"\n\nLists that were there at the first try: {shares}."


def verdict(results: Path) -> str:
    """Every promise, and what was counted."""
    one = newest(results, "chaos")
    if one is None:
        return absent("make chaos")
    lists, log, topic = one["lists"], one["events in the log"], one["events in the topic"]
    rows = [
        ["every request is answered or refused", f"{one['unfinished']} were not", one["unfinished"] == 0],
        [
            "every list is the offline list of its version",
            f"{lists.get('equal to the offline list', 0):,} are, {lists['wrong']} are wrong",
            lists["wrong"] == 0,
        ],
        [
            "a degraded list says so, and is made from the user's first events",
            f"{lists.get('degraded and by its rule', 0):,} are",
            lists["wrong"] == 0,
        ],
        [
            "every acknowledged event is in the topic once after de-duplication",
            f"{topic['acknowledged']:,} acknowledged, {topic['missing']} missing, "
            f"{log['written more than once']} twice in the log",
            topic["missing"] == log["written more than once"] == 0,
        ],
        ["no refused event is kept", f"{topic['refused and written']} of {topic['refused']}",
         not topic["refused and written"]],
        ["a corrupt bundle is refused", f"{one['faults'].get('corrupt bundle refused', 0)} of "
         f"{one['faults'].get('corrupt bundle offered', 0)}",
         one["faults"].get("corrupt bundle refused") == one["faults"].get("corrupt bundle offered")],
        ["no process grows", f"{one['memory']['processes judged']} judged: {one['memory']['grown'] or 'none did'}",
         not one["memory"]["grown"]],
        ["alerts fire", ", ".join(f"{name} after {second:g} s" for name, second in one["alerts"].items()),
         not one["alerts missing"]],
        ["SIGTERM under load ends the server", f"exit code {one['exit']}", one["exit"] == 0],
    ]  # fmt: skip
    return table(
        ["promise", "counted", "kept"], [[what, counted, "yes" if kept else "**no**"] for what, counted, kept in rows]
    )


def soak(results: Path) -> str:
    """A million requests, and patient clients beside hostile ones."""
    one = newest(results, "soak")
    if one is None:
        return absent("make soak")
    sizes = "; ".join(" + ".join(map(str, each)) for each in one["mib"])
    grown = "no process grew" if not one["grown"] else f"**grown: {one['grown']}**"
    head = (
        f"{one['answered']:,} of {one['requests']:,} requests answered, {one['wrong']} of them wrongly; {grown}: "
        f"MiB of the supervisor and its workers after each quarter: {sizes}."
    )
    rows = [
        [each["attack"], f"{each['ms']['p50']:g}", f"{each['ms']['p99']:g}", f"{each['answered']:,}",
         f"{each['refused'] + each['lost']:,}"] for each in one["attacks"]
    ]  # fmt: skip
    return f"{head}\n\n" + table(["beside others' 300 requests a second", "p50 ms", "p99 ms", "answered", "not"], rows)


FIGURES = {"attack": attack, "requests": requests, "verdict": verdict, "soak": soak}


def main() -> int:
    """Writes the page, or checks it."""
    new = filled(PAGE.read_text(encoding="utf-8"), FIGURES, RESULTS)
    return write_or_check(PAGE, new, "reliability_page")


if __name__ == "__main__":
    sys.exit(main())
