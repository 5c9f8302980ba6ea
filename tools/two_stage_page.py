"""Fills the figures of docs/two-stage.md from the declared features and from benchmarks/results/two_stage.jsonl.

python tools/two_stage_page.py          # writes them between their marks; the rest of the page is written by hand
python tools/two_stage_page.py --check  # fails where the page is not what features and records say
"""

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tools")]

from common import RESULTS, newest, records  # noqa: E402
from figures import absent, filled, write_or_check  # noqa: E402
from report import table, where  # noqa: E402

from suisen.recommending.pairs.declared import FEATURES  # noqa: E402

PAGE = ROOT / "docs" / "two-stage.md"
COMMAND = "python benchmarks/two_stage.py"
METRIC = "ndcg@10"


def lines_of(results: Path, what: str) -> list[dict[str, Any]]:
    """The records of one part."""
    return [line for line in records(results / "two_stage.jsonl") if line["what"] == what]


def features(results: Path) -> str:
    """Every declared feature: what it reads, its definition, its cost."""
    lines = lines_of(results, "cost")
    taken = lines[-1]["us_per_pair"] if lines else {}
    head = ("name", "reads", "definition", "cost", "µs per pair, alone")
    rows = [
        (f"`{f.name}`", f.reads, f.means, f.cost, f"{taken[f.name]:.3f}" if f.name in taken else "–") for f in FEATURES
    ]
    said = [table(head, rows)]
    if not lines:
        return "\n\n".join([*said, absent(f"{COMMAND} cost")])
    line, one = lines[-1], taken["one list"]
    said.append(
        f"All together take {taken['all']:.2f} µs per pair in lists of {line['candidates']} for {line['contexts']} "
        f"contexts at a time, {one:.2f} µs ({one * line['candidates'] / 1000:.2f} ms) for one "
        f"list alone: {line['events']:,} events, {line['items']:,} items, {line['history']:.0f} items of history on "
        f"average. {where([line])}"
    )
    return "\n\n".join(said)


def gain(results: Path) -> str:
    """The same two stages with and without the features."""
    lines = newest(lines_of(results, "pairs"), lambda line: (line["retriever"], line["seed"]))
    if not lines:
        return absent(f"{COMMAND} pairs")
    head = ("retriever", "seed", "alone", "+ DeepFM", "+ DeepFM with all features", "difference, 95 % interval", "p")
    rows = []
    for line in lines:
        middle, low, high = line["difference"]
        values = [line["alone"][METRIC], *(line[side]["metrics"][METRIC] for side in ("without", "with"))]
        between = f"{middle:+.4f} [{low:+.4f}, {high:+.4f}]"
        p = "< 0.001" if line["p"] < 0.001 else f"{line['p']:.3f}"
        rows.append([line["retriever"], str(line["seed"]), *(f"{value:.4f}" for value in values), between, p])
    text = table(head, rows)
    return f"{text}\n\nNDCG@10 on {lines[0]['data']}; {lines[0]['protocol']}. {where(lines)}"


FIGURES = {"features": features, "gain": gain}


def main() -> int:
    """Writes or checks the page."""
    new = filled(PAGE.read_text(encoding="utf-8"), FIGURES, RESULTS)
    return write_or_check(PAGE, new, "two_stage_page")


if __name__ == "__main__":
    sys.exit(main())
