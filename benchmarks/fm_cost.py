"""FM: the cost of all pairs against the number of fields n and the dimension k, beside the sum written pair by pair.

    python benchmarks/fm_cost.py

Rendle 2010, lemma 3.1: Σ_{i<j} v_i · v_j = ½(|Σ v_i|² − Σ |v_i|²), linear in n and in k.  Forward and backward of
``suisen.models.fm.own_pairs`` on 128 rows, and of the Gram matrix's upper triangle (n² k).  The best
of all rounds counts; a run is a line of results/fm_cost.jsonl and the picture docs/images/fm_cost.svg.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from common import IMAGES, append, draw_picture, parser, stamp
from torch import Tensor

from suisen.models.fm import own_pairs
from suisen.pages.draw import Axis, Line, Panel

ROWS, CALLS = 128, 3
FIELDS, DIM = (10, 20, 40, 80, 120, 160), 16
DIMS, COUNT = (8, 16, 24, 32, 48, 64), 40
PICTURE = IMAGES / "fm_cost.svg"


def linear(vectors: Tensor) -> Tensor:
    """(n, 1) by the lemma."""
    return own_pairs(vectors)[0]


def pair_by_pair(vectors: Tensor) -> Tensor:
    """(n,) from every pair's inner product."""
    return torch.bmm(vectors, vectors.transpose(1, 2)).triu(1).sum((1, 2))


SIDES: dict[str, Callable[[Tensor], Tensor]] = {"FM": linear, "pair by pair": pair_by_pair}


def measured(side: Callable[[Tensor], Tensor], fields: int, dim: int) -> float:
    """Microseconds of this thread's CPU a row, forward and backward."""
    vectors = torch.randn(ROWS, fields, dim, requires_grad=True)
    side(vectors).sum().backward()  # pages and kernels are there
    started = time.thread_time()
    for _ in range(CALLS):
        vectors.grad = None
        side(vectors).sum().backward()
    return (time.thread_time() - started) / CALLS / ROWS * 1e6


def fit(x: tuple[int, ...], y: list[float]) -> dict[str, float]:
    """A straight line by least squares of the relative errors, and the largest of them."""
    weights = 1 / np.asarray(y)
    slope, start = np.polyfit(x, y, 1, w=weights)
    worst = np.abs((slope * np.asarray(x) + start) * weights - 1).max()
    return {"start": round(start, 4), "slope": round(slope, 5), "worst": round(worst, 3)}


def draw(curves: dict[str, dict[str, list[float]]]) -> None:
    """Both panels as an SVG; what is above three times the cost of an FM is cut off."""
    panels = []
    for name, x, label in (("n", FIELDS, f"fields n (k = {DIM})"), ("k", DIMS, f"dimension k (n = {COUNT})")):
        most = 3 * max(curves[name]["FM"])
        found = fit(x, curves[name]["FM"])
        straight = [found["start"] + found["slope"] * at for at in x]
        marks = [
            Line(*below(x, curves[name]["pair by pair"], most), colour="second", label="pair by pair", dots=False),
            Line(x, curves[name]["FM"], label="FM"),
            Line(x, straight, colour="muted", label="straight line", dashes="2 3", dots=False),
        ]
        level = Axis(label=label, low=0, high=x[-1] + x[0])
        panels.append(Panel(marks=marks, x=level, y=Axis(label="µs per row, forward and backward", low=0, high=most)))
    draw_picture(PICTURE, "The cost of an FM's pairs by the number of fields and by the dimension", panels)


def below(x: tuple[int, ...], y: list[float], most: float) -> tuple[list[float], list[float]]:
    """A rising course up to the place where it passes ``most``."""
    inside = [at for at, value in zip(x, y, strict=True) if value < most]
    if len(inside) == len(x):
        return inside, y
    return [*inside, float(np.interp(most, y, x))], [*y[: len(inside)], most]


def main() -> int:
    """Rounds over all points, the best kept."""
    options = parser(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    points = {"n": [(n, DIM) for n in FIELDS], "k": [(COUNT, k) for k in DIMS]}
    curves = {name: {side: [float("inf")] * len(at) for side in SIDES} for name, at in points.items()}
    for _ in range(options.rounds * 8):
        for name, at in points.items():
            for side, run in SIDES.items():
                best = curves[name][side]
                for place, (fields, dim) in enumerate(at):
                    best[place] = min(best[place], measured(run, fields, dim))
    record = {"rows": ROWS, "fields": FIELDS, "dims": DIMS, "us_a_row": curves, "fits": {}}
    for name, x in (("n", FIELDS), ("k", DIMS)):
        for side in SIDES:
            found = record["fits"][f"{side}, {name}"] = fit(x, curves[name][side])
            text = f"{found['start']:.3f} + {found['slope']:.4f} {name} µs a row, off by {found['worst']:.0%} at most"
            print(f"{side}: {text}", flush=True)
    draw(curves)
    append("fm_cost.jsonl", {**record, **stamp()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
