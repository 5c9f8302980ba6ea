"""Losses over sampled negatives: each against a slow loop, and what is drawn against its law."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from suisen.data.ragged import Ragged
from suisen.models import sampled
from suisen.models.sampled import (
    Negatives,
    bpr_max,
    calibrated_bce,
    calibration,
    holds,
    positive_scores,
    sampled_softmax,
)
from suisen.models.sequences import newest, next_items, positions
from tests.helpers import make_data

ROWS = [[1, 2, 3], [4, 5, 1, 2, 2], [6, 5]]
ITEMS = 8
"""Rows of the table; item 7 stands in no sequence."""


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


HITS = torch.tensor([[False, True, False, False], [False] * 4, [True, False, False, True]])


# -- the losses ------------------------------------------------------------------------------------------------------


def test_sampled_softmax_is_its_loop():
    positive, negative, counts = draws(3, 1), draws(3, 4, seed=1), draws(3, 4, seed=2)
    losses = []
    for p, row, shift, hits in zip(positive[:, 0], negative, counts, HITS):
        others = [math.exp(s - c) for s, c, hit in zip(row, shift, hits) if not hit]
        losses.append(-math.log(math.exp(p) / (math.exp(p) + sum(others))))
    assert float(sampled_softmax(positive, negative, counts, HITS)) == pytest.approx(sum(losses) / 3, rel=1e-9)


@pytest.mark.parametrize("power", [1.0, 0.3])
def test_calibrated_bce_is_its_loop(power):
    positive, negative = draws(3, 1), draws(3, 4, seed=1)
    losses = []
    for p, row, hits in zip(positive[:, 0], negative, HITS):
        refused = sum(math.log(1 - sigmoid(float(s))) for s, hit in zip(row, hits) if not hit)
        losses.append(-(math.log(sigmoid(float(p)) ** power) + refused) / 5)
    assert float(calibrated_bce(positive, negative, HITS, power)) == pytest.approx(sum(losses) / 3, rel=1e-9)


def test_calibration_leads_from_bce_to_the_share_that_is_sampled():
    assert calibration(10, 101, 0.0) == pytest.approx(1.0)
    assert calibration(10, 101, 1.0) == pytest.approx(0.1)
    assert calibration(10, 101, 0.75) == pytest.approx(0.1 * (0.75 * (1 - 10) + 10))
    assert calibration(500, 101, 0.75) == 1.0  # more draws than items


def test_fully_calibrated_bce_keeps_the_share_of_the_softmax():
    """The paper's theorem: at the optimum of t = 1 a score's sigmoid is the item's own probability."""
    share = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    scores = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([scores], max_iter=200, tolerance_grad=1e-12)

    def loss() -> torch.Tensor:
        """Mean over positives ~ share, each with one negative, uniform over the other two items."""
        optimiser.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for item in range(3):
            for other in {0, 1, 2} - {item}:
                parts = scores[item].view(1, 1), scores[other].view(1, 1), torch.zeros((1, 1), dtype=torch.bool)
                total = total + share[item] / 2 * calibrated_bce(*parts, power=calibration(1, 3, 1.0))
        total.backward()
        return total

    optimiser.step(loss)
    torch.testing.assert_close(scores.detach().sigmoid(), share, rtol=1e-4, atol=1e-5)


def test_bpr_max_is_its_loop():
    positive, negative = draws(3, 1), draws(3, 4, seed=1)
    losses = []
    for p, row, hits in zip(positive[:, 0].tolist(), negative.tolist(), HITS.tolist()):
        kept = [s for s, hit in zip(row, hits) if not hit]
        mass = sum(math.exp(s) for s in kept)
        weights = [math.exp(s) / mass for s in kept]
        agreed = sum(w * sigmoid(p - s) for w, s in zip(weights, kept))
        losses.append(-math.log(agreed) + 0.7 * sum(w * s * s for w, s in zip(weights, kept)))
    assert float(bpr_max(positive, negative, HITS, 0.7)) == pytest.approx(sum(losses) / 3, rel=1e-9)


def test_losses_survive_when_every_draw_is_the_item_itself():
    for loss in (
        lambda p, s, hits: bpr_max(p, s, hits, 1.0),
        lambda p, s, hits: sampled_softmax(p, s, torch.zeros(3, 4), hits),
        calibrated_bce,
    ):
        positive, negative = draws(3, 1).requires_grad_(), draws(3, 4, seed=1).requires_grad_()
        value = loss(positive, negative, torch.ones((3, 4), dtype=torch.bool))
        assert value.isfinite()
        value.backward()
        assert positive.grad.isfinite().all()
        assert not negative.grad.any()


def test_corrected_draws_bring_the_gradient_of_the_whole_softmax():
    """Averaged over many draws ~ popularity, the corrected loss pulls where the softmax over the catalogue does; the
    plain one lets items that are drawn often fall too far.
    """
    rng = torch.Generator().manual_seed(0)
    q = torch.tensor([0.6, 0.2, 0.1, 0.05, 0.03, 0.02])
    scores, taken, count = torch.tensor([0.3, -0.2, 0.5, 0.0, -0.4, 0.1]), 2, 200
    full = scores.softmax(0) - F.one_hot(torch.tensor(taken), 6)

    def mean_gradient(corrected: bool) -> torch.Tensor:
        s = scores.clone().requires_grad_()
        ids = torch.multinomial(q.expand(400, -1), count, replacement=True, generator=rng)
        log_counts = (q[ids].log() + math.log(count)) * corrected
        sampled_softmax(s[taken].expand(400, 1), s[ids], log_counts, ids == taken).backward()
        return s.grad

    torch.testing.assert_close(mean_gradient(True), full, atol=5e-3, rtol=0.03)
    assert (mean_gradient(False) - full).abs().max() > 0.1


# -- what is drawn ---------------------------------------------------------------------------------------------------


def data():
    return make_data(
        user=[u for u, row in enumerate(ROWS) for _ in row],
        item=[i for row in ROWS for i in row],
        time=[t for row in ROWS for t in range(len(row))],
        items={"item": list(range(1, 8))},
    )


def prepared(count: int, per: sampled.Per, power: float = 0.0) -> Negatives:
    negatives = Negatives(count, per, power)
    negatives.prepare(data())
    return negatives


def at_positions(width: int = 4):
    table = draws(ITEMS, width, seed=3).float()
    return positions(lambda inputs: table[inputs.padded()] * 2, data().histories.take(torch.tensor([1, 2, 3])))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_draws_follow_the_counts_of_train(power):
    torch.manual_seed(0)
    found = Counter(prepared(1, "batch", power).draw((40_000,)).tolist())
    counts = Counter(data().events.item.tolist())
    total = sum(n**power for n in counts.values())
    assert set(found) == set(counts)  # never padding, never an item without an event
    for item, n in counts.items():
        assert found[item] / 40_000 == pytest.approx(n**power / total, abs=0.012)


@pytest.mark.parametrize(("per", "shape"), [("position", (7, 5)), ("sequence", (3, 5)), ("batch", (5,))])
def test_scores_of_negatives_are_inner_products(per, shape):
    torch.manual_seed(0)
    at, negatives, table = at_positions(), prepared(5, per, 1.0), draws(ITEMS, 4, seed=4).float()
    ids = negatives.of(at)
    assert ids.shape == shape
    scores, logs, own = (
        negatives.scores(at, at.hidden, table, ids),
        negatives.log_counts(at, ids),
        negatives.own(at, ids),
    )
    log_q = negatives.log_q.expand(ITEMS)
    for row, (h, owner, target) in enumerate(zip(at.hidden, at.owners.tolist(), at.targets.tolist(), strict=True)):
        mine = {"position": lambda: ids[row], "sequence": lambda: ids[owner], "batch": lambda: ids}[per]()  # noqa: B023
        for n, item in enumerate(mine.tolist()):
            assert float(scores[row, n]) == pytest.approx(float(h @ table[item]), rel=1e-4, abs=1e-5)
            assert float(logs.expand(7, 5)[row, n]) == pytest.approx(float(log_q[item]) + math.log(5), abs=1e-5)
            assert bool(own[row, n]) == (item == target)
    torch.testing.assert_close(
        positive_scores(at.hidden, table, at.targets)[:, 0], (at.hidden * table[at.targets]).sum(1)
    )


@pytest.mark.parametrize("per", ["position", "sequence", "batch"])
def test_strangers_are_marked_where_the_sequence_holds_them(per):
    torch.manual_seed(0)
    at, negatives = at_positions(), prepared(50, per)
    ids, hits = negatives.strangers(at)
    own = [set(row) for row in at.sequences.tolist()]
    wide = ids[at.owners] if per == "sequence" else ids.expand(7, -1)
    wanted = [
        [item in own[owner] for item in row] for row, owner in zip(wide.tolist(), at.owners.tolist(), strict=True)
    ]
    assert hits.tolist() == wanted
    if per != "batch":  # 4 of 6 items are the second sequence's own: most of its hits were drawn again
        assert hits[at.owners == 1].float().mean() < 0.4


@pytest.mark.parametrize("most", [0, sampled.MAX_TABLE_BYTES])
def test_holds_is_membership(monkeypatch, most):
    monkeypatch.setattr(sampled, "MAX_TABLE_BYTES", most)
    rows = Ragged.of([[1, 2, 2], [], [7, 1]])
    ids = torch.arange(8)
    found = holds(rows, torch.arange(3)[:, None], ids, 8)
    assert found.tolist() == [[i in set(row) for i in range(8)] for row in rows.tolist()]


def test_positions_of_which_every_draw_is_the_item_itself_cost_nothing():
    nothing = bpr_max(draws(2, 1), draws(2, 3), torch.ones(2, 3, dtype=torch.bool), 0.5)
    assert float(nothing) == 0.0


def test_negatives_are_not_saved():
    assert not prepared(4, "batch", 0.5).state_dict()


# -- positions -------------------------------------------------------------------------------------------------------


def test_every_item_but_the_first_is_a_target():
    rows = [[1, 2, 3], [], [4], [5, 6]]
    inputs, targets = next_items(Ragged.of(rows))
    assert inputs.tolist() == [[1, 2], [], [], [5]]
    assert targets.tolist() == [2, 3, 6]


def test_newest_of_empty_rows_is_zero():
    states = lambda rows: torch.nn.functional.one_hot(rows.padded(), 5).float()  # noqa: E731
    found = newest(states, Ragged.of([[1, 2], [], [4]]), 5)
    assert found.argmax(1).tolist() == [2, 0, 4]
    assert not found[1].any()
    assert newest(states, Ragged.of([[], []]), 5).shape == (2, 5)
