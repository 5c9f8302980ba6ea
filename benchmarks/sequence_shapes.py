"""GRU4Rec and SASRec by their shapes: what a step of training costs by length, and how far back each can reach.

    python benchmarks/sequence_shapes.py      # 5 minutes on one core; a copy that is there is not run again

``steps``: seconds of a training step (forward, backward, Adam) on one thread at equal dim, one recurrent layer against
one block, which cost the same multiply-adds a position but for the attention's; with one sequence, and with POSITIONS
positions in as many sequences as make them.  ``copies``: sequences of random items in which each item repeats the one
``gap`` places before; drawn anew for each step, so that nothing can be learnt by heart; the share of fresh sequences
whose next item is predicted.  Seconds are the processor's: of one thread, what a clock shows where nothing else runs.
Lines go to results/sequence_shapes.jsonl, the picture to docs/images.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from common import IMAGES, RESULTS, append, draw_picture, interleaved, parser, records, stamp
from torch import Tensor

import suisen as su
from suisen.data.batch import Batch, Contexts, Schema
from suisen.data.ragged import Ragged
from suisen.models.contract import Net
from suisen.pages.draw import Axis, Line, Panel, Rule

FILE = "sequence_shapes.jsonl"
PICTURE = IMAGES / "sequence_shapes.svg"
DIM, ITEMS = 64, 1_000
LENGTHS, POSITIONS = (25, 50, 100, 200, 400), 6_400
GAPS, SYMBOLS, REPEATS = (5, 10, 20, 50, 100), 20, 32
"""Items a copy is made of, and how many places of a sequence repeat an earlier one."""
BATCH, ASKED, RATE = 32, 500, 3e-3
MODELS: dict[str, Callable[..., Any]] = {
    "gru4rec": lambda length, **more: su.GRU4Rec(dim=DIM, layers=1, length=length, **more),
    "sasrec": lambda length, **more: su.SASRec(dim=DIM, blocks=1, length=length, **more),
}


def contexts(items: Tensor) -> Contexts:
    """Anonymous visitors with (B, L) items behind them."""
    rows, length = items.shape
    history = Ragged(items.flatten(), torch.arange(rows + 1) * length)
    anonymous = Contexts.of_users(torch.zeros(rows, dtype=torch.int64))
    return replace(anonymous, history=history, history_time=torch.zeros_like(history.values))


def stepper(model: Any, n_items: int, seed: int) -> tuple[Net, Callable[[Tensor], float]]:
    """A fresh network and a step of training on (B, L) items, which tells the loss."""
    torch.manual_seed(seed)
    net = model.build(Schema(1, n_items + 1))
    (optimiser,) = model.phases(net)[0].optimisers(net)

    def step(items: Tensor) -> float:
        net.train()
        optimiser.zero_grad(set_to_none=True)
        loss = net(Batch(contexts(items)))
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return net, step


# -- steps ------------------------------------------------------------------------------------------------------------


def steps(options: Namespace) -> None:
    """Both models at every length, taking turns."""
    run = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    for length in LENGTHS:
        for sequences in (1, POSITIONS // length):
            items = torch.randint(1, ITEMS + 1, (sequences, length + 1))
            made = {name: stepper(make(length), ITEMS, 0)[1] for name, make in MODELS.items()}
            for step in made.values():
                step(items)
            sides = {name: _calls(step, items, 5 if sequences == 1 else 1) for name, step in made.items()}
            found: dict[str, list[float]] = {name: [] for name in made}
            for _, name, _, seconds in interleaved(sides, options.rounds):
                found[name].append(round(seconds, 6))
            facts = {"what": "step", "dim": DIM, "items": ITEMS, "length": length, "sequences": sequences}
            for name, seconds in found.items():
                append(FILE, {**facts, "model": name, "seconds": seconds, "threads": 1, "run": run, **stamp()})
            said = ", ".join(f"{name} {1e3 * min(seconds):.2f} ms" for name, seconds in found.items())
            print(f"{sequences} sequences of {length}: {said} a step", flush=True)


def _calls(step: Callable[[Tensor], float], items: Tensor, calls: int) -> Callable[[], float]:
    """Seconds of one step, the mean of some."""

    def timed() -> float:
        started = time.process_time()
        for _ in range(calls):
            step(items)
        return (time.process_time() - started) / calls

    return timed


# -- copies -----------------------------------------------------------------------------------------------------------


def copies_of(rows: int, gap: int, rng: torch.Generator) -> Tensor:
    """(rows, gap + REPEATS) items from 1 to SYMBOLS: ``gap`` drawn ones, over and over."""
    drawn = torch.randint(1, SYMBOLS + 1, (rows, gap), generator=rng)
    return drawn.repeat(1, 1 + -(-REPEATS // gap))[:, : gap + REPEATS]


@torch.no_grad()
def hit_rate(net: Any, items: Tensor) -> float:
    """Share of sequences whose last item scores highest after all before it."""
    net.eval()
    scores = net.score_all(contexts(items[:, :-1]))
    return float((scores[:, 1:].argmax(1) + 1 == items[:, -1]).float().mean())


def copies(options: Namespace) -> None:
    """Both models at every gap, the same sequences and number of steps."""
    there = {_key(line) for line in records(RESULTS / FILE) if line["what"] == "copy"}
    for gap in GAPS:
        for name, make in MODELS.items():
            if (name, gap, options.steps, options.seed) not in there:
                copy(name, make(gap + REPEATS - 1, dropout=0.0, learning_rate=RATE), gap, options)


def copy(name: str, model: Any, gap: int, options: Namespace) -> None:
    """One model at one gap; the hit rate at each quarter of the way."""
    net, step = stepper(model, SYMBOLS, options.seed)
    rng, curve, started = torch.Generator().manual_seed(options.seed + 1), [], time.process_time()
    asked = copies_of(ASKED, gap, torch.Generator().manual_seed(options.seed + 2))
    for number in range(1, options.steps + 1):
        step(copies_of(BATCH, gap, rng))
        if number % max(1, options.steps // 4) == 0:
            curve.append([number, round(hit_rate(net, asked), 4)])
    facts = {"what": "copy", "model": name, "gap": gap, "steps": options.steps, "seed": options.seed}
    task = {"symbols": SYMBOLS, "repeats": REPEATS, "batch": BATCH, "asked": ASKED, "config": asdict(model)}
    seconds = round(time.process_time() - started, 1)
    append(FILE, {**facts, "hit": curve[-1][1], "curve": curve, "seconds": seconds, **task, "threads": 1, **stamp()})
    print(f"gap {gap}, {name}: hit rate {curve[-1][1]:.3f} after {options.steps} steps, {seconds:.0f} s", flush=True)


def _key(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(line[name] for name in ("model", "gap", "steps", "seed"))


# -- what the records say ---------------------------------------------------------------------------------------------


def step_times(lines: list[dict[str, Any]], alone: bool) -> dict[str, dict[int, float]]:
    """Model → length → seconds at best in the newest run: of one sequence alone, or of POSITIONS positions."""
    out: dict[str, dict[int, float]] = {}
    for line in lines:
        if line["what"] == "step" and (line["sequences"] == 1) == alone:
            out.setdefault(line["model"], {})[line["length"]] = min(line["seconds"])
    return out


def hit_rates(lines: list[dict[str, Any]]) -> dict[str, dict[int, float]]:
    """Model → gap → hit rate of the newest line."""
    out: dict[str, dict[int, float]] = {}
    for line in lines:
        if line["what"] == "copy":
            out.setdefault(line["model"], {})[line["gap"]] = line["hit"]
    return out


def plot(options: Namespace) -> None:
    """Step times and hit rates side by side."""
    lines = records(RESULTS / FILE)
    panels = []
    for alone, what in ((True, "one sequence"), (False, f"{POSITIONS:,} positions")):
        times = {
            name: {length: 1e3 * seconds for length, seconds in found.items()}
            for name, found in step_times(lines, alone).items()
        }
        y = Axis(label=f"ms per training step, {what}", low=0)
        panels.append(Panel(marks=curves(times), x=by_powers("length of a sequence", LENGTHS), y=y))
    chance = Rule(y=1 / SYMBOLS, dashes="2 3", label="chance")
    y = Axis(label="hit rate, repeating what was a gap ago", low=0, high=1.05)
    panels.append(Panel(marks=[*curves(hit_rates(lines)), chance], x=by_powers("gap", GAPS), y=y))
    draw_picture(PICTURE, "GRU4Rec and SASRec by the length of the sequence and by the gap", panels)


def curves(found: dict[str, dict[int, float]]) -> list[Line]:
    """A line per model."""
    colours = dict(zip(MODELS, ("second", "accent"), strict=True))
    return [Line(list(of), list(of.values()), colour=colours[name], label=name) for name, of in found.items()]


def by_powers(label: str, places: tuple[int, ...]) -> Axis:
    """A log axis with these ticks."""
    return Axis(label=label, log=True, marks={place: str(place) for place in places})


def main() -> int:
    """Runs the parts asked for, one thread."""
    parts = {"steps": steps, "copies": copies, "plot": plot}
    made = parser(__doc__ or "")
    made.add_argument("--parts", nargs="+", choices=list(parts), default=list(parts))
    made.add_argument("--steps", type=int, default=800, help="training steps of a copy")
    made.add_argument("--seed", type=int, default=0)
    options = made.parse_args()
    torch.set_num_threads(1)
    for part in options.parts:
        parts[part](options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
