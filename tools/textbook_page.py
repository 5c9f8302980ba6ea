"""Fills the figures of docs/textbook.md from records in benchmarks/results; where there is no record, it says so.

python tools/textbook_page.py          # writes them between their marks; the rest of the page is written by hand
python tools/textbook_page.py --check  # fails where the page is not what the records say
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tools")]

import ncf_dims  # noqa: E402
import sequence_shapes  # noqa: E402
from accuracy_table import TEXTBOOK, Line, protocols, table_lines  # noqa: E402
from common import RESULTS, records  # noqa: E402
from figures import absent, filled, write_or_check  # noqa: E402
from report import last_run, table, where  # noqa: E402

PAGE = ROOT / "docs" / "textbook.md"
NCF = ("mf", "gmf", "mlp", "neumf")
Record = dict[str, Any]


def listed(words: Iterable[object]) -> str:
    """a, b and c."""
    *head, last = map(str, words)
    return f"{', '.join(head)} and {last}" if head else last


# -- NeuMF and MF -----------------------------------------------------------------------------------------------------


def ncf(results: Path) -> str:
    """MF and the NCF family on the paper's split, and who is ahead."""
    found = table_lines(records(results / "accuracy.jsonl"))
    lines = {line.name: line for line in found if line.data == "ncf-ml-1m" and line.name in NCF}
    return "\n\n".join([_accuracies([lines[name] for name in NCF if name in lines]), _verdict(lines)])


def _accuracies(lines: list[Line]) -> str:
    """HR@10 and NDCG@10 of each, with protocol and machine where any was measured."""
    text = table(("model", "HR@10", "NDCG@10", "seeds", "minutes per run", "command"), map(_accuracy, lines))
    runs = [run for line in lines for run in line.runs]
    return "\n\n".join([text, *(["\n".join(protocols(lines)), where(runs)] if runs else [])])


def _accuracy(line: Line) -> list[str]:
    if not line.runs:
        return [line.name, "–", "–", "–", "–", f"not measured yet: `{line.command}`"]
    figures = [f"{line.metrics[metric]:.4f}" for metric in ("hr@10", "ndcg@10")]
    return [line.name, *figures, line.seeds, f"{line.seconds / 60:.1f}", f"`{line.command}`"]


def _verdict(lines: dict[str, Line]) -> str:
    missing = [name for name in ("mf", "neumf") if name not in lines or not lines[name].runs]
    if missing:
        return f"Whether NeuMF beats MF here is not measured yet: {listed(missing)} have no record."
    ours, other = lines["neumf"].metrics["ndcg@10"], lines["mf"].metrics["ndcg@10"]
    side = "ahead of" if ours > other else "behind"
    return f"NeuMF, pretrained, is {abs(ours - other):.4f} of NDCG@10 {side} MF."


def dims(results: Path) -> str:
    """MF and NeuMF by the numbers they have, and who is ahead in every draw of the world."""
    lines = records(results / ncf_dims.FILE)
    found = ncf_dims.figures(lines)
    mf, neumf = found.get("mf", {}), found.get("neumf", {})
    seeds = {dim: sorted(mf.get(dim, {}).keys() & neumf.get(dim, {})) for dim in ncf_dims.DIMS}
    both = [dim for dim, some in seeds.items() if some]
    if not both:
        return absent("python benchmarks/ncf_dims.py")
    values = {dim: [[of[dim][seed] for seed in seeds[dim]] for of in (mf, neumf)] for dim in both}
    gain = {dim: sum(net) / sum(product) - 1 for dim, (product, net) in values.items()}
    rows = [[str(dim), *map(_spread, pair), f"{100 * gain[dim]:+.0f} %"] for dim, pair in values.items()]
    leads = {dim: {neumf[dim][seed] > mf[dim][seed] for seed in seeds[dim]} for dim in both}
    ahead = {name: [dim for dim in both if leads[dim] == {who}] for name, who in (("NeuMF", True), ("MF", False))}
    mixed = [dim for dim in both if len(leads[dim]) > 1]
    said = "; ".join(f"{name} is ahead with {listed(at)} numbers" for name, at in ahead.items() if at)
    said += f"; the draws disagree with {listed(mixed)}" if mixed else ""
    most = max(both, key=lambda dim: gain[dim])
    said += f"; NeuMF's gain is largest with {most} numbers"
    head = ("numbers per user and item", "MF, NDCG@10", "NeuMF, NDCG@10", "gain")
    draws = f"Of {listed(sorted({len(some) for some in seeds.values() if some}))} draws of the world"
    return f"{table(head, rows)}\n\n{draws}: {said}. {lines[-1]['protocol']}. {where(lines)}"


def _spread(values: list[float]) -> str:
    """The mean, and the ends where there are several values."""
    ends = f" ({min(values):.4f} to {max(values):.4f})" if len(values) > 1 else ""
    return f"{sum(values) / len(values):.4f}{ends}"


# -- FM ---------------------------------------------------------------------------------------------------------------


def fm(results: Path) -> str:
    """The newest timing of the identity beside the pairs."""
    lines = records(results / "fm_cost.jsonl")
    if not lines:
        return absent("python benchmarks/fm_cost.py")
    line = lines[-1]
    parts = []
    for name, of, places in (("n", "fields", line["fields"]), ("k", "numbers a field", line["dims"])):
        times = line["us_a_row"][name]
        rows = [[str(x), *(f"{times[side][i]:.2f}" for side in times)] for i, x in enumerate(places)]
        growth = listed(f"{side} {times[side][-1] / times[side][0]:.1f} times" for side in times)
        parts.append(table((f"{name} {of}", *(f"{side}, µs a row" for side in times)), rows))
        parts.append(f"{places[-1] / places[0]:.0f} times as many {of} take {growth} as long.")
    return "\n\n".join([*parts, "![The cost of an FM](images/fm_cost.svg)", where([line])])


# -- sequences --------------------------------------------------------------------------------------------------------


def parallel(results: Path) -> str:
    """Milliseconds of a step by length."""
    lines = last_run([line for line in records(results / sequence_shapes.FILE) if line["what"] == "step"])
    if not lines:
        return absent("python benchmarks/sequence_shapes.py --parts steps plot")
    alone, many = (sequence_shapes.step_times(lines, one) for one in (True, False))
    names = ("gru4rec", "sasrec")
    lengths = sorted(alone["gru4rec"])
    rows = [[str(n), *(f"{1e3 * times[name][n]:.1f}" for times in (alone, many) for name in names)] for n in lengths]
    many_of = f"{sequence_shapes.POSITIONS:,} positions"
    head = ("length", *(f"{name}, {what}" for what in ("one sequence, ms", f"{many_of}, ms") for name in names))
    first, last = lengths[0], lengths[-1]
    growth = [f"{name} {alone[name][last] / alone[name][first]:.1f} times" for name in names]
    said = f"From {first} to {last} places a step with one sequence takes {listed(growth)} as long."
    return f"{table(head, rows)}\n\n{said} {where(lines)}"


def reach(results: Path) -> str:
    """Hit rate by gap, and how far each reaches."""
    lines = [line for line in records(results / sequence_shapes.FILE) if line["what"] == "copy"]
    found = sequence_shapes.hit_rates(lines)
    gaps = [gap for gap in sequence_shapes.GAPS if all(gap in found.get(name, {}) for name in sequence_shapes.MODELS)]
    if not gaps:
        return absent("python benchmarks/sequence_shapes.py --parts copies plot")
    rows = [[str(gap), *(f"{found[name][gap]:.3f}" for name in sequence_shapes.MODELS)] for gap in gaps]
    said = "; ".join(f"{name}: {_reached(found[name], gaps)}" for name in sequence_shapes.MODELS)
    task = f"chance is {1 / lines[-1]['symbols']:g}, {lines[-1]['steps']} steps of {lines[-1]['batch']} sequences"
    picture = "![Steps and reach of GRU4Rec and SASRec](images/sequence_shapes.svg)"
    head = ("gap", *(f"{name}, hit rate" for name in sequence_shapes.MODELS))
    return f"{table(head, rows)}\n\n{said} ({task}). {where(lines)}\n\n{picture}"


def _reached(rates: dict[int, float], gaps: list[int]) -> str:
    far = [gap for gap in gaps if rates[gap] >= 0.9]
    return f"nine of ten up to a gap of {max(far)}" if far else "nine of ten at no gap"


def films(results: Path) -> str:
    """SASRec and GRU4Rec on the split of SASRec's authors."""
    found = table_lines(records(results / "accuracy.jsonl"))
    return _accuracies([line for line in found if line.data == "sasrec" and line.name in sequence_shapes.MODELS])


# -- requests and settings --------------------------------------------------------------------------------------------


def requests(results: Path) -> str:
    """What each part of a request costs."""
    lines = last_run(records(results / "request_parts.jsonl"))
    if not lines:
        return absent("python benchmarks/request_parts.py")
    found = [line for line in lines if line["what"] == "search"]
    rows = [
        [line["index"], f"{line['recall']:.3f}", *(f"{line[one]:.2f}" for one in ("ms_alone", "ms_together")),
         str(line["bytes_a_vector"]), f"{line['bytes_a_vector'] * 10**7 / 1e9:.2f} GB"] for line in found
    ]  # fmt: skip
    together = f"ms a query, {found[0]['together']} at once"
    head = ("index", "recall@500", "ms, one query", together, "bytes scanned a vector", "of 10 million")
    ms = {line["states"]: line for line in lines if line["what"] == "rank"}
    said = (
        f"Ranking {ms['table']['candidates']} candidates with DeepFM takes {ms['table']['ms']:.2f} ms with item states "
        f"from a table and {ms['anew']['ms']:.2f} ms without."
    )
    return f"{table(head, rows)}\n\n{said} {where(lines)}"


def settings(results: Path) -> str:
    """The rows of the textbook's own settings."""
    lines = table_lines(records(results / "accuracy.jsonl"), TEXTBOOK)
    rows = [[line.name, line.data, line.best or "–", *_settings(line), f"`{line.command}`"] for line in lines]
    return table(("row", "data", "its figure", "ours", "minutes per run", "seeds", "command"), rows)


def _settings(line: Line) -> list[str]:
    if not line.runs:
        return ["not measured yet", "–", "–"]
    figures = ", ".join(f"{name} {value:.4f}" for name, value in line.metrics.items())
    return [figures, f"{line.seconds / 60:.1f}", line.seeds]


FIGURES: dict[str, Callable[[Path], str]] = {
    "dims": dims, "ncf": ncf, "fm": fm, "parallel": parallel, "reach": reach, "films": films, "requests": requests,
    "settings": settings,
}  # fmt: skip


def main() -> int:
    """Writes or checks; the exit status says whether the page is what the records say."""
    return write_or_check(PAGE, filled(PAGE.read_text(encoding="utf-8"), FIGURES, RESULTS), "textbook_page")


if __name__ == "__main__":
    sys.exit(main())
