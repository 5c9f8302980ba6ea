"""Losses of sequence models over sampled negatives: how they are drawn and scored, and three losses of the scores.

At each of n positions, in B sequences, the state h (d floats) predicts the next item y among y and N drawn items.  What
shares the N draws decides the cost:

* ``position``: each position has its own.  n·N·d multiply-adds that read a row of the table each; 8·n·N bytes of ids.
* ``sequence``: the positions of a sequence.  B products of (L, d) by (d, N): as many multiply-adds, B·N rows are read.
* ``batch``: all positions.  One product of (n, d) by (d, N), N rows are read.

Scores and their gradients are n·N floats each, whatever the catalogue; the table's gradient is dense.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suisen.data.dataset import Dataset
from suisen.data.negatives import MAX_TABLE_BYTES, Sampler
from suisen.data.ragged import Ragged
from suisen.models.losses import weighted_mean
from suisen.models.sequences import Positions
from suisen.models.tables import lookup, products

Per = Literal["position", "sequence", "batch"]
MAX_ROUNDS = 3
"""How often draws of the sequence's own items are drawn again; what is left of them then counts for nothing."""


class Negatives(nn.Module):
    """Draws of items with probability ~ (events in train) ^ ``power``, from torch's generator and on the network's
    device.  ``prepare`` fills the buffers; they are training's alone and are not saved.
    """

    pool: Tensor
    log_q: Tensor
    cumulative: Tensor

    def __init__(self, count: int, per: Per, power: float = 0.0) -> None:
        super().__init__()
        self.count, self.per, self.power = count, per, power
        self.register_buffer("pool", torch.zeros(0, dtype=torch.int64), persistent=False)
        self.register_buffer("log_q", torch.zeros(0), persistent=False)
        self.register_buffer("cumulative", torch.zeros(0, dtype=torch.float64), persistent=False)

    def prepare(self, train: Dataset) -> None:
        """Takes the counts of train."""
        sampler = Sampler.of(train, self.power, False)
        self.pool, self.log_q = sampler.items, sampler.log_q
        if sampler.cumulative is not None:
            self.cumulative = sampler.cumulative

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Independent draws, int64 ids."""
        if self.power == 0:
            return self.pool[torch.randint(len(self.pool), shape, device=self.pool.device)]
        at = torch.searchsorted(self.cumulative, torch.rand(shape, dtype=torch.float64, device=self.pool.device))
        return self.pool[at.clamp(max=len(self.pool) - 1)]

    def of(self, at: Positions) -> Tensor:
        """Draws for a batch: (n, N) per position, (B, N) per sequence, (N,) per batch."""
        rows = {"position": (at.targets.numel(),), "sequence": (len(at.inputs),), "batch": ()}[self.per]
        return self.draw((*rows, self.count))

    def strangers(self, at: Positions) -> tuple[Tensor, Tensor]:
        """Draws shaped as those of ``of``, and (n, N) bool: which of them stand in the position's own sequence.

        Unless the batch shares them, such draws are first drawn again, at most ``MAX_ROUNDS`` times.
        """
        ids = self.of(at)
        if self.per == "batch":
            return ids, holds(at.sequences, at.owners[:, None], ids, len(self.log_q))
        owners = at.owners if self.per == "position" else torch.arange(len(at.inputs), device=ids.device)
        hits = holds(at.sequences, owners[:, None], ids, len(self.log_q))
        for _ in range(MAX_ROUNDS):
            places = hits.nonzero(as_tuple=True)
            if not places[0].numel():
                break
            ids[places] = self.draw((places[0].numel(),))
            hits[places] = holds(at.sequences, owners[places[0]], ids[places], len(self.log_q))
        return ids, hits if self.per == "position" else hits[at.owners]

    def scores(self, at: Positions, hidden: Tensor, table: Tensor, ids: Tensor) -> Tensor:
        """(n, N) inner products of each position's state ``hidden`` (n, d) with its negatives' rows of ``table``."""
        if self.per == "position":
            return products(hidden, table, table.new_zeros(len(table)), ids)
        rows = lookup(table, ids)
        if self.per == "batch":
            return (hidden @ rows.T).float()
        real = at.inputs.mask(int(at.inputs.lengths.max()))
        states = hidden.new_zeros((*real.shape, hidden.shape[1])).masked_scatter(real[:, :, None], hidden)
        return (states @ rows.mT)[real].float()

    def own(self, at: Positions, ids: Tensor) -> Tensor:
        """(n, N) bool: which draws are the item that the position is to predict."""
        return (ids[at.owners] if self.per == "sequence" else ids) == at.targets[:, None]

    def log_counts(self, at: Positions, ids: Tensor) -> Tensor:
        """Logarithms of how often each negative is expected among the N draws, N q_j; broadcasts over (n, N)."""
        log_q = self.log_q[ids] + torch.tensor(float(self.count)).log()
        return log_q[at.owners] if self.per == "sequence" else log_q


def holds(sequences: Ragged, rows: Tensor, ids: Tensor, n_items: int) -> Tensor:
    """Bool: whether row ``rows`` of ``sequences`` holds item ``ids``, in the shape the two broadcast to."""
    if len(sequences) * n_items > MAX_TABLE_BYTES:
        return sequences.holds(ids, rows)
    table = torch.zeros(len(sequences) * n_items, dtype=torch.bool, device=ids.device)
    table[sequences.keys(n_items)] = True
    return table[rows * n_items + ids]


def positive_scores(hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """(n, 1) inner products of each position's state ``hidden`` (n, d) with the row of its next item (n,)."""
    return (hidden * lookup(table, targets)).sum(1, keepdim=True).float()


# -- losses ------------------------------------------------------------------------------------------------------------


def sampled_softmax(
    positive: Tensor, negative: Tensor, log_counts: Tensor, hits: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Mean over positions of −log e^p / (e^p + Σⱼ e^(sⱼ − log_countsⱼ)): p (n, 1), s (n, N).

    ``log_counts``, log (N q_j), is how often j is expected among the draws: subtracted, the sum's expectation is that
    of the whole catalogue (Jean et al. 2015; the positive is there for certain and is not corrected).  ``hits`` (n, N):
    draws of the position's own item, which are left out, for the positive is in the sum already.  ``weights`` (n,): of
    the positions in the mean, here and below.
    """
    corrected = (negative - log_counts).masked_fill(hits, -torch.inf)
    losses = torch.cat([positive, corrected], 1).logsumexp(1, keepdim=True) - positive
    return weighted_mean(losses[:, 0], weights)


def calibrated_bce(
    positive: Tensor, negative: Tensor, hits: Tensor, power: float = 1.0, weights: Tensor | None = None
) -> Tensor:
    """The gBCE of Petrov & Macdonald 2023: mean over positions of −(β log σ(p) + Σⱼ log(1 − σ(sⱼ))) / (N + 1).

    p (n, 1), s (n, N), ``power`` β; with β = 1 the binary cross-entropy of SASRec's paper.  ``hits`` (n, N): draws that
    count for nothing.
    """
    losses = F.softplus(negative).masked_fill(hits, 0.0).sum(1) + power * F.softplus(-positive[:, 0])
    return weighted_mean(losses, weights) / (1 + negative.shape[1])


def calibration(negatives: int, items: int, t: float) -> float:
    """β of gBCE: α (t (1 − 1/α) + 1/α) with α = N / (items − 1), the share that is sampled.  t = 0: 1, plain binary
    cross-entropy, which is too sure of itself; t = 1: α, fully calibrated.
    """
    share = min(1.0, negatives / max(1, items - 1))
    return share * (t * (1 - 1 / share) + 1 / share)


def bpr_max(positive: Tensor, negative: Tensor, hits: Tensor, penalty: float, weights: Tensor | None = None) -> Tensor:
    """BPR-max (Hidasi & Karatzoglou 2018): mean of −log Σⱼ wⱼ σ(p − sⱼ) + λ Σⱼ wⱼ sⱼ², w = softmax over the
    negatives: the hardest ones count, and a position with an easy sample still learns.

    p (n, 1), s (n, N), ``penalty`` λ; ``hits`` (n, N): draws of the position's own item, left out.
    """
    some = ~hits.all(1)  # where every draw hit nothing is left
    positive, negative = positive[some], negative[some]
    share = torch.full_like(some, 1 / max(1, len(some)), dtype=positive.dtype)
    if weights is not None:
        share = weights / weights.sum().clamp(min=1e-12)
    log_w = negative.masked_fill(hits[some], -torch.inf).log_softmax(1)
    agreed = (log_w + F.logsigmoid(positive - negative)).logsumexp(1)
    penalised = (log_w.exp() * negative.square()).sum(1)
    return ((penalty * penalised - agreed) * share[some]).sum()
