"""iALS: implicit matrix factorisation by alternating least squares (Hu et al. 2008).

score(u, i) = p_u · q_i.  The loss, with the frequency-scaled regularisation of Rendle et al. 2021 (Revisiting the
Performance of iALS, section 3):

    Σ_(u,i) taken (1 − p_u·q_i)² + α₀ Σ_all (p_u·q_i)² + λ (Σ_u (n_u + α₀ |I|)^ν |p_u|² + Σ_i (n_i + α₀ |U|)^ν |q_i|²)

Each half sweep is exact.  The part of the normal equations that all users share, α₀ QᵀQ, is made diagonal by a rotation
of the vectors (scores do not change), so that user u's system is D_u + MᵀM with D_u diagonal and M the (n_u, d) vectors
of what it took.  Where n_u < d it is solved in its dual, p = D⁻¹Mᵀ(I + M D⁻¹ Mᵀ)⁻¹1: n_u²·d + n_u³/3 multiply-adds in
place of n_u·d²·(1 + 1/``BLOCKS``)/2 + d³/3.  Users are grouped by n_u, so that a group is one batched product and one
batched Cholesky; each group is one thread's work.  Traffic: each taken vector is copied once (4·d bytes) and read once
or twice from the cache; nothing else of that size is written.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from suisen.data.batch import Batch, Contexts, Schema
from suisen.data.dataset import Dataset
from suisen.data.ragged import Ragged, offsets_of
from suisen.data.views import View, Whole
from suisen.models.closed_form import binary_matrix
from suisen.models.contract import Ability, Phase, Retriever, hyper_parameters
from suisen.models.layers import IdEmbedding
from suisen.parameters import Search

FLOATS_PER_GROUP = 2**20
"""Floats of one group's stacked vectors (4 MB): large enough for full speed, small enough for the caches."""
BLOCKS = 4
"""A Gram matrix is symmetric: cut into so many block rows, (1 + 1/BLOCKS)/2 of it is enough for its Cholesky factor."""

Plan = list[tuple[Tensor, Tensor]]
"""Groups of rows: (B,) which rows, and (B, n) their values, 0 where a row has no more."""


@hyper_parameters
class IALS:
    """Matrix factorisation on all user-item pairs by alternating least squares (Hu et al. 2008).

    Answers users and guests with a history, new ones without training: their vectors are solved for ("folded in"); and
    known users without one, by their stored vectors.  For items that train has events of.

    >>> import suisen as su
    >>> data = su.Dataset.of(su.World(users=30, items=100, seed=0).generate().log)
    >>> recommender = su.Recommender(su.IALS(dim=4, epochs=1)).fit(data)
    >>> recommender.recommend(history=[7, 3], k=5).shape
    (5, 4)
    """

    abilities: ClassVar[frozenset[Ability]] = frozenset({"history"})

    dim: Annotated[int, Field(ge=1, le=4096), Search(choices=(64, 128, 192, 256))] = 128
    """Length of a user or item vector."""
    unobserved: Annotated[float, Field(gt=0), Search(0.02, 1, log=True)] = 0.3
    """α₀, the weight of a pair that was not taken (a taken one weighs 1 more)."""
    l2: Annotated[float, Field(gt=0), Search(1e-3, 0.1, log=True)] = 0.007
    """λ."""
    frequency_power: Annotated[float, Field(ge=0, le=1), Search(0, 1)] = 1.0
    """ν: 0 regularises every vector alike, 1 in proportion to its events."""
    init: Annotated[float, Field(gt=0)] = 0.1
    """Standard deviation of the initial components times √dim: about the length of an initial vector."""
    epochs: Annotated[int, Field(ge=1)] = 12
    """Most sweeps (users, then items)."""

    @property
    def view(self) -> View:
        """The whole of train at once: an epoch is a sweep."""
        return Whole()

    def build(self, schema: Schema) -> "IALSNet":
        """Two tables of vectors."""
        return IALSNet(self, schema)

    def phases(self, net: Any) -> list[Phase]:
        """Sweeps; no optimiser: ``forward`` solves for the vectors."""
        return [Phase(net, lambda module: [], self.epochs)]


class IALSNet(Retriever):
    """score(u, i) = p_u · q_i; p_u is solved from the history where there is one, else the stored vector."""

    by_user: Ragged
    by_item: Ragged

    def __init__(self, model: IALS, schema: Schema) -> None:
        super().__init__()
        self.model = model
        self.user = IdEmbedding(schema.n_users, model.dim, model.init / model.dim**0.5)
        self.item = IdEmbedding(schema.n_items, model.dim, model.init / model.dim**0.5)
        self.requires_grad_(False)
        self.register_buffer("taking", torch.zeros(2, dtype=torch.int64))

    taking: Tensor
    """(2,) |U| and |I|: visitors and items with a positive event in train."""

    def prepare(self, train: Dataset) -> None:
        """Keeps the binary matrix by users and by items; guests' sessions are rows, too, with vectors in the sweeps."""
        matrix = binary_matrix(train)
        self.by_user, self.by_item = _rows(matrix), _rows(matrix.T.tocsr())
        self.plans: list[Plan] = []
        visitors, dim = matrix.shape[0], self.model.dim
        guests = torch.zeros(visitors - self.user.num_embeddings, dim)
        self.register_buffer("guests", guests, persistent=False)
        for side, rows in enumerate((self.by_user, self.by_item)):
            self.taking[side] = (rows.lengths > 0).sum()

    def forward(self, batch: Batch) -> Tensor:
        """Solves for all user vectors, then for all item vectors.

        Returned in place of a loss: the mean squared change of an item vector.
        """
        device = self.item.weight.device
        if not self.plans or self.plans[0][0][1].device != device:
            self.by_user, self.by_item = self.by_user.to(device), self.by_item.to(device)
            self.plans = [_plan(rows, self.model.dim) for rows in (self.by_user, self.by_item)]
        users, items = self.taking.tolist()
        with torch.autocast(device.type, enabled=False):  # the factorisations want float32
            p = self._half(self.by_user, self.item.weight, items, self.plans[0])
            q = self._half(self.by_item, p, users, self.plans[1])
        change = (q - self.item.weight).square().sum(1).mean()
        known = self.user.num_embeddings
        self.user.weight.copy_(p[:known])
        self.item.weight.copy_(q)
        self.guests = p[known:]
        return change

    def _half(self, rows: Ragged, fixed: Tensor, others: int, plan: Plan | None = None) -> Tensor:
        """(B, d): the best vector for each of B rows of taken ids, given the other side's vectors ``fixed`` (n, d), of
        which ``others`` have an event in train.
        """
        model = self.model
        gram = model.unobserved * (fixed.T @ fixed)
        with _single():  # hundreds of small steps, which wait for each other's threads longer than they work
            values, basis = torch.linalg.eigh(gram)
        rotated = fixed @ basis
        # λ (n_u + α₀ |I|)^ν of each row: its regularisation grows with what it took
        scale = model.l2 * (rows.lengths.to(fixed.dtype) + model.unobserved * others) ** model.frequency_power
        rotated[0] = 0.0  # row 0 pads
        out = fixed.new_zeros((len(rows), fixed.shape[1]))

        def solve(group: tuple[Tensor, Tensor]) -> None:
            which, ids = group
            out[which] = _solve(ids, rotated, values.clamp(min=0) + scale[which, None])

        _each(solve, plan or _plan(rows, fixed.shape[1]), fixed.device)
        return out @ basis.T

    def query_vectors(self, contexts: Contexts) -> Tensor:
        """(B, d): solved from the history where there is one, the stored vector elsewhere."""
        vectors = self.user(contexts.user)  # (B, d)
        folded = (contexts.history.lengths > 0).nonzero().squeeze(1)
        if folded.numel():
            histories = contexts.history.take(folded).unique()
            vectors[folded] = self._half(histories, self.item.weight, int(self.taking[1]))
        return vectors

    def item_vectors(self) -> Tensor:
        """(n_items, d)."""
        return self.item.weight

    learns_items: ClassVar[bool] = True

    def learn_items(self, old: "IALSNet", histories: Ragged) -> None:
        """Half a sweep for the new items alone, given the vectors that the known items give their users."""
        first, rows = len(old.item.weight), histories.to(self.item.weight.device)
        users = self._half(rows.keep(rows.values < first).unique(), self.item.weight, int(self.taking[1]))
        new = rows.keep(rows.values >= first).unique()
        order = new.values.argsort(stable=True)
        lengths = torch.bincount(new.values - first, minlength=len(self.item.weight) - first)
        takers = Ragged(new.rows()[order], offsets_of(lengths))
        self.item.weight[first:] = self._half(takers, users, int(self.taking[0]))

    def shares_of_history(self, history: Tensor, item: int) -> Tensor | None:
        """(n,) q_i · A⁻¹ q_j for each taken item j, A the matrix of the user's normal equations (Hu et al. 2008,
        section 5); their sum is the score, for p = A⁻¹ Σ_j q_j.  None where there is no history.
        """
        if not len(history):
            return None
        model, q = self.model, self.item.weight.double()
        taken = q[history]  # (n, d)
        regular = model.l2 * (len(history) + model.unobserved * int(self.taking[1])) ** model.frequency_power
        system = model.unobserved * (q.T @ q) + taken.T @ taken + regular * torch.eye(q.shape[1], device=q.device)
        return taken @ torch.linalg.solve(system, q[item])


def _rows(matrix: Any) -> Ragged:
    """The column numbers of each row of a CSR matrix."""
    return Ragged(torch.from_numpy(matrix.indices.astype(np.int64)), torch.from_numpy(matrix.indptr.astype(np.int64)))


def _groups(lengths: Tensor, dim: int) -> list[Tensor]:
    """Non-empty rows in groups of like length, longest first; a group's padded vectors fit ``FLOATS_PER_GROUP``."""
    order = lengths.argsort()
    order = order[lengths[order] > 0]
    rising = lengths[order].cpu().numpy()
    groups, start = [], 0
    while start < len(rising):
        alike = int(np.searchsorted(rising, 1.25 * rising[start] + 8, side="right"))
        room = max(1, FLOATS_PER_GROUP // (max(int(rising[alike - 1]), dim) * dim))
        groups.append(order[start : min(alike, start + room)])
        start += len(groups[-1])
    return groups[::-1]


def _plan(rows: Ragged, dim: int) -> Plan:
    """Each group's rows (B,) and their padded values (B, n), as int32 for half the bytes; made once for all sweeps."""
    values = rows.with_values(rows.values.int())
    return [(group, values.take(group).padded()) for group in _groups(rows.lengths, dim)]


def _each(work: Callable[[tuple[Tensor, Tensor]], None], groups: Plan, device: torch.device) -> None:
    """Calls ``work`` with each group.  On a CPU each thread takes whole groups: a batched Cholesky is a loop over small
    factorisations, which threads within one do not speed up.
    """
    threads = min(torch.get_num_threads(), len(groups)) if device.type == "cpu" else 1
    if threads < 2:
        for group in groups:
            work(group)
        return
    with _single(), ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for done in [pool.submit(torch.no_grad()(work), group) for group in groups]:
            done.result()


@contextmanager
def _single() -> Iterator[None]:
    """Within the context torch computes each operation in one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _solve(ids: Tensor, vectors: Tensor, diagonal: Tensor) -> Tensor:
    """(B, d): argmin_x Σ_i (1 − x·v_i)² + Σ_f diagonal_f x_f² over each row's ids (B, n), 0 where it has no more; row 0
    of ``vectors`` is zero.
    """
    longest, dim = ids.shape[1], vectors.shape[1]
    m = F.embedding(ids, vectors)  # (B, n, d)
    if longest < dim:  # the dual: a system of n × n is smaller than one of d × d
        root = diagonal.rsqrt()
        m.mul_(root.unsqueeze(1))
        system = _upper_gram(m.mT, 2 if longest >= 64 else 1)
        system.diagonal(dim1=1, dim2=2).add_(1.0)  # padding: a row of the identity, whose answer is 0
        taken = (ids > 0).to(vectors.dtype).unsqueeze(2)
        return torch.bmm(_cholesky_solve(system, taken).mT, m).squeeze(1) * root
    system = _upper_gram(m, BLOCKS)
    system.diagonal(dim1=1, dim2=2).add_(diagonal)
    return _cholesky_solve(system, m.sum(1).unsqueeze(2)).squeeze(2)


def _upper_gram(m: Tensor, blocks: int) -> Tensor:
    """(B, n, n): the upper triangle of MᵀM, M (B, k, n), computed in block rows; below it the result is undefined."""
    size = m.shape[2]
    out = m.new_empty((len(m), size, size))
    width = -(-size // blocks)
    for start in range(0, size, width):
        torch.bmm(m[:, :, start : start + width].mT, m[:, :, start:], out=out[:, start : start + width, start:])
    return out


def _cholesky_solve(system: Tensor, right: Tensor) -> Tensor:
    """(B, n, 1): system⁻¹ right for symmetric systems (B, n, n), of which the upper triangle is read (LAPACK reads the
    lower one of the transpose).

    LAPACK's blocked factorisation starts above 128: below it 136 × 136 takes less time than 104 × 104 (41, 56 µs).
    """
    size = right.shape[1]
    wide = 136 if 92 < size < 136 and system.device.type == "cpu" else size
    if wide > size:
        system, small = system.new_zeros((len(system), wide, wide)), system
        system[:, :size, :size] = small
        system.diagonal(dim1=1, dim2=2)[:, size:] = 1.0
        right = F.pad(right, (0, 0, 0, wide - size))
    return torch.cholesky_solve(right, torch.linalg.cholesky(system.mT))[:, :size]
