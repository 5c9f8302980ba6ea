"""Fills the table of metrics of docs/serving.md from their definitions.

python tools/metrics_page.py           # writes the page
python tools/metrics_page.py --check   # only says whether it is up to date
"""

import sys
from pathlib import Path

from suisen.serving.metrics import Definition
from suisen.serving.telemetry import Telemetry

PAGE = Path(__file__).parents[1] / "docs" / "serving.md"
BEGIN, END = "<!-- metrics -->", "<!-- end -->"
BESIDE = (
    Definition("counter", "suisen_worker_requests", "Requests by the worker that answered.", ["worker"]),
    Definition("gauge", "process_…", "What the system knows of the process; by worker where there are several."),
)
"""What is made when it is asked for."""


def table() -> str:
    """A row per metric: name, kind, labels, what it is for several workers, what it says."""
    rows = ["| metric | kind | labels | of several workers | |", "|---|---|---|---|---|"]
    for one in (*Telemetry().definitions.values(), *BESIDE):
        labels = ", ".join(f"`{label}`" for label in one.labels)
        whole = {"max": "the highest", "min": "the lowest", "worker": "each"}.get(one.whole, "the sum")
        whole = "each" if one.name == "process_…" else whole if one.kind != "info" else ""
        rows.append(f"| `{one.shown}` | {one.kind} | {labels} | {whole} | {one.help} |")
    return "\n".join(rows)


def filled(text: str) -> str:
    """The page with its table made anew."""
    head, begin, rest = text.partition(BEGIN)
    if not begin:
        raise ValueError(f"the page has no place for the metrics; add {BEGIN} and {END} there")
    return f"{head}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


def main() -> int:
    """Writes or checks the page; the exit status says whether it was up to date."""
    written = PAGE.read_text(encoding="utf-8")
    wanted = filled(written)
    if "--check" not in sys.argv:
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    print(
        "docs/serving.md is up to date" if written == wanted else "docs/serving.md is old: python tools/metrics_page.py"
    )
    return int(written != wanted)


if __name__ == "__main__":
    sys.exit(main())
