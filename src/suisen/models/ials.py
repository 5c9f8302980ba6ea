"""iALS: implicit matrix factorisation by alternating least squares (Hu et al. 2008).

score(u, i) = p_u · q_i.  The loss, with the frequency-scaled regularisation of Rendle et al. 2021 (Revisiting the
Performance of iALS, section 3):

    Σ_(u,i) taken w_ui (1 − p_u·q_i)² + α₀ Σ_all (p_u·q_i)²
        + λ (Σ_u (n_u + α₀ |I|)^ν |p_u|² + Σ_i (n_i + α₀ |U|)^ν |q_i|²)

w_ui, the confidence of Hu et al., is the weight of the pair's events, of mean 1 (1 where they have none), and n_u sums
them over u's items.  A history that is folded in weighs 1 per item, for a request carries no weights.

What α₀ is right depends on the catalogue: what is right for 4,000 items drowns what was taken among 40,000, and all
vectors vanish.  By default all pairs together weigh c times what was taken weighs: α₀ = c |S| / (|U| |I|), S the pairs
taken; λ's factor is then n_u + c · (mean n_u), whatever the catalogue.  The settings that Rendle et al. 2021 found for
three data sets one by one are c = 7 (MovieLens-1M), 27 (MovieLens-20M) and 14 (Million Song); their α₀ differ 15-fold.
(Gowalla, 30 thousand users and 41 thousand items, Recall@20 of 1,500 users after 5 sweeps of 64 dimensions: 0.150 with
c = 7, 0.149 with c = 25; 0.009 with α₀ = 0.3, which is c = 7 on MovieLens-1M.)

So does λ.  The fewer events, the more of what is taken is chance: the singular values of a random 0/1 matrix with a
events per user and b per item end at about √a + √b, and a regularised factorisation drops factors below
λ (1 + c) √(a b), the root of both sides' mean regularisation.  By default λ = κ (1/√a + 1/√b) / (1 + c); κ = 0.4 gives
the 0.007 of Rendle et al. on MovieLens-1M.  (The shop of benchmarks/defaults.py, 18 events per user: NDCG@10 0.050 with
λ = 0.007, less than popularity's 0.059, and 0.076 with the rule's 0.02; on MovieLens-1M 0.444 with 0.007, 0.381 with
0.02.)

Each half sweep is exact.  The part of the normal equations that all users share, α₀ QᵀQ, is made diagonal by a rotation
of the vectors (scores do not change), so that user u's system is D_u + MᵀM with D_u diagonal and M the (n_u, d) vectors
of what it took, times √w.  Where n_u < d it is solved in its dual, p = D⁻¹Mᵀ(I + M D⁻¹ Mᵀ)⁻¹√w: n_u²·d + n_u³/3
multiply-adds in place of n_u·d²·(1 + 1/``BLOCKS``)/2 + d³/3.  Users are grouped by n_u, so that a group is one batched
product and one batched Cholesky; each group is one thread's work.  Traffic: each taken vector is copied once (4·d
bytes) and read once or twice from the cache; nothing else of that size is written.
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
from suisen.models.closed_form import root_matrix
from suisen.models.contract import Ability, Fold, Phase, Retriever, hyper_parameters
from suisen.models.layers import IdEmbedding
from suisen.parameters import Search

FLOATS_PER_GROUP = 2**20
"""Floats of one group's stacked vectors (4 MB): large enough for full speed, small enough for the caches."""
BLOCKS = 4
"""A Gram matrix is symmetric: cut into so many block rows, (1 + 1/BLOCKS)/2 of it is enough for its Cholesky factor."""

NOISE = 0.4
"""κ: which part of the level of chance the regularisation stands at."""

Group = tuple[Tensor, Tensor, Tensor | None]
"""(B,) which rows, (B, n) their values, 0 where a row has no more, and (B, n) roots of weights; None: all weigh 1."""
Plan = list[Group]


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

    abilities: ClassVar[frozenset[Ability]] = frozenset({"history", "weights"})

    dim: Annotated[int, Field(ge=1, le=4096), Search(choices=(64, 128, 192, 256))] = 128
    """Length of a user or item vector."""
    unobserved_ratio: Annotated[float, Field(gt=0), Search(1, 50, log=True)] = 7.0
    """c, what all pairs weigh together as not taken, in multiples of what those that were taken weigh."""
    unobserved: Annotated[float | None, Field(gt=0)] = None
    """α₀, the weight of a pair that was not taken (a taken one weighs 1 more); none: c · events / (users · items)."""
    l2: Annotated[float | None, Field(gt=0), Search(1e-3, 0.1, log=True)] = None
    """λ; none: by the events per user and per item, see above (0.007 on MovieLens-1M, 0.02 on Gowalla)."""
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
        given = model.unobserved is not None and model.l2 is not None  # bundles made before the rules hold no settings
        self.register_buffer("settled", None if given else torch.zeros(2, dtype=torch.float64))

    taking: Tensor
    """(2,) |U| and |I|: visitors and items with a positive event in train."""
    settled: Tensor | None
    """(2,) α₀ and λ, where train decides one of them."""

    def prepare(self, train: Dataset) -> None:
        """Keeps who took what by users and by items; guests' sessions are rows, too, with vectors in the sweeps."""
        matrix, weighted = root_matrix(train), train.events.weight is not None
        self.by_user, self.by_item = _rows(matrix, weighted), _rows(matrix.T.tocsr(), weighted)
        self.plans: list[Plan] = []
        visitors, dim = matrix.shape[0], self.model.dim
        guests = torch.zeros(visitors - self.user.num_embeddings, dim)
        self.register_buffer("guests", guests, persistent=False)
        for side, rows in enumerate((self.by_user, self.by_item)):
            self.taking[side] = (rows.lengths > 0).sum()
        if self.settled is not None:
            found = settings_of(self.model, matrix.nnz, *self.taking.tolist())
            self.settled.copy_(torch.tensor(found, dtype=torch.float64))

    @property
    def settings(self) -> tuple[float, float]:
        """α₀ and λ."""
        if self.settled is None:
            return settings_of(self.model)
        unobserved, l2 = self.settled.tolist()
        return unobserved, l2

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
        unobserved, l2 = self.settings
        gram = unobserved * (fixed.T @ fixed)
        with _single():  # hundreds of small steps, which wait for each other's threads longer than they work
            values, basis = torch.linalg.eigh(gram)
        rotated = fixed @ basis
        # λ (n_u + α₀ |I|)^ν of each row: its regularisation grows with what it took
        taken = rows.lengths.to(fixed.dtype)
        if rows.weights is not None:
            taken = torch.zeros_like(taken).index_add_(0, rows.rows(), rows.weights.square())
        scale = l2 * (taken + unobserved * others) ** model.frequency_power
        rotated[0] = 0.0  # row 0 pads
        out = fixed.new_zeros((len(rows), fixed.shape[1]))

        def solve(group: Group) -> None:
            which, ids, roots = group
            out[which] = _solve(ids, rotated, values.clamp(min=0) + scale[which, None], roots)

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

    def fold(self) -> Fold:
        """What ``query_vectors`` solves."""
        return Fold(self.user.weight, *self.settings, self.model.frequency_power, int(self.taking[1]))

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
        unobserved, l2 = self.settings
        regular = l2 * (len(history) + unobserved * int(self.taking[1])) ** model.frequency_power
        system = unobserved * (q.T @ q) + taken.T @ taken + regular * torch.eye(q.shape[1], device=q.device)
        return taken @ torch.linalg.solve(system, q[item])


def settings_of(model: IALS, pairs: int = 1, users: int = 1, items: int = 1) -> tuple[float, float]:
    """α₀ and λ of a model on so many different pairs of so many users and items, as given or by the rules above.

    >>> [round(value, 3) for value in settings_of(IALS(), 994_169, 6_040, 3_704)]
    [0.311, 0.007]
    """
    pairs, density = max(1, pairs), max(1, pairs) / max(1, users * items)
    unobserved = model.unobserved_ratio * density if model.unobserved is None else model.unobserved
    noise = (users / pairs) ** 0.5 + (items / pairs) ** 0.5
    return unobserved, NOISE * noise / (1 + unobserved / density) if model.l2 is None else model.l2


def _rows(matrix: Any, weighted: bool) -> Ragged:
    """The column numbers of each row of a CSR matrix, with its values beside them where they are roots of weights."""
    indices, offsets = (torch.from_numpy(part.astype(np.int64)) for part in (matrix.indices, matrix.indptr))
    return Ragged(indices, offsets, torch.from_numpy(matrix.data) if weighted else None)


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
    plan: Plan = []
    for group in _groups(rows.lengths, dim):
        some = rows.take(group)
        roots = None if some.weights is None else some.with_values(some.weights).padded()
        plan.append((group, some.with_values(some.values.int()).padded(), roots))
    return plan


def _each(work: Callable[[Group], None], groups: Plan, device: torch.device) -> None:
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


def _solve(ids: Tensor, vectors: Tensor, diagonal: Tensor, roots: Tensor | None = None) -> Tensor:
    """(B, d): argmin_x Σ_i w_i (1 − x·v_i)² + Σ_f diagonal_f x_f² over each row's ids (B, n), 0 where it has no more;
    row 0 of ``vectors`` is zero; ``roots`` (B, n) are √w, and None where every w is 1.
    """
    longest, dim = ids.shape[1], vectors.shape[1]
    m = F.embedding(ids, vectors)  # (B, n, d)
    if roots is not None:
        m.mul_(roots.unsqueeze(2))
    if longest < dim:  # the dual: a system of n × n is smaller than one of d × d
        root = diagonal.rsqrt()
        m.mul_(root.unsqueeze(1))
        system = _upper_gram(m.mT, 2 if longest >= 64 else 1)
        system.diagonal(dim1=1, dim2=2).add_(1.0)  # padding: a row of the identity, whose answer is 0
        taken = ((ids > 0).to(vectors.dtype) if roots is None else roots).unsqueeze(2)
        return torch.bmm(_cholesky_solve(system, taken).mT, m).squeeze(1) * root
    system = _upper_gram(m, BLOCKS)
    system.diagonal(dim1=1, dim2=2).add_(diagonal)
    right = m.sum(1).unsqueeze(2) if roots is None else m.mT @ roots.unsqueeze(2)
    return _cholesky_solve(system, right).squeeze(2)


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
