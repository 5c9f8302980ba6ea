"""The k largest of many scores, with a tie rule: equal scores, lower position first.

Choosing costs more than scoring, so it is one pass: the k-th largest of the maxima of m disjoint groups of scores is
reached by at least k scores; what reaches it is little more than k (545 of 50,000 for k = 500 and groups of 16).
Survivors become unsigned 64-bit keys (score reversed in the high half, position in the low half), so that one plain
sort orders by score and position, and partial results merge by sorting again.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from suisen.retrieval.contract import Floats, Ints

Keys = npt.NDArray[np.uint64]
NONE = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_SIGN = np.uint32(0x8000_0000)
_LOWEST = np.finfo(np.float32).min
_LARGEST_GROUP = 32


def pack(scores: Floats, positions: Ints) -> Keys:
    """Keys whose ascending order is: score descending, then position ascending.  Positions are below 2^32."""
    bits = (scores + np.float32(0)).view(np.uint32)  # + 0 turns -0 into 0: they are equal scores
    falling = np.where(bits & _SIGN, bits, ~bits & ~_SIGN)
    return (falling.astype(np.uint64) << np.uint64(32)) | positions.astype(np.uint64)


def unpack(keys: Keys, k: int) -> tuple[Ints, Floats]:
    """(B, k) positions and scores of (B, at most k) sorted keys; -1 and -inf where there is none."""
    rows, width = keys.shape
    falling = (keys >> np.uint64(32)).astype(np.uint32)
    bits = np.where(falling & _SIGN, falling, ~falling & ~_SIGN)
    none = keys == NONE
    ids = np.full((rows, k), -1, dtype=np.int64)
    scores = np.full((rows, k), -np.inf, dtype=np.float32)
    ids[:, :width] = np.where(none, -1, (keys & np.uint64(0xFFFF_FFFF)).astype(np.int64))
    scores[:, :width] = np.where(none, np.float32(-np.inf), bits.view(np.float32))
    return ids, scores


def largest(scores: Floats, k: int, first: int = 0, best: Keys | None = None, bar: Floats | None = None) -> Keys:
    """(B, at most k) sorted keys of the k largest finite scores of each row of (B, n); column j is position first + j.

    ``best``: what earlier columns gave; the result is over both, and its k-th score is the bar for these columns.
    ``bar``: (B,) a score that at least k scores of the row reach, where it is known.
    """
    if bar is None:  # the k-th score of what is known; -inf where its row is not full
        bar = _bar(scores, k) if best is None or best.shape[1] < k else unpack(best[:, -1:], 1)[1][:, 0]
    # What reaches the bar is little more than k, so that only this is packed and sorted.
    survivors = np.flatnonzero(scores >= np.maximum(bar, _LOWEST)[:, None])
    rows, columns = np.divmod(survivors, max(scores.shape[1], 1))
    # (survivors,) keys, then (B, most survivors of a row)
    keys = _padded(pack(scores.ravel()[survivors], columns + first), rows, scores.shape[0])
    merged = keys if best is None else np.concatenate([best, keys], axis=1)
    merged.sort(axis=1)
    return merged[:, :k]


def top_of(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(B, min(k, n)) columns and scores of the largest of (B, n) float32 on the CPU; 0 and -inf where there is none.

    Where k is a good part of n, ``largest`` has nothing to leave out and ``torch.topk`` is faster; but that may take
    any of equal scores, so rows in which two are equal are chosen again.
    """
    n = scores.shape[1]
    k = min(k, n)
    if 8 * k <= n:
        return _top_by_keys(scores, k)
    top, ids = scores.topk(min(k + 1, n), dim=1)  # one more, to see a tie at the cut
    tied = ((top[:, 1:] == top[:, :-1]) & (top[:, 1:] > -torch.inf)).any(1).nonzero().squeeze(1)
    top = top[:, :k]
    ids = ids[:, :k].masked_fill(top == -torch.inf, 0)
    if tied.numel():
        ids[tied], top[tied] = _top_by_keys(scores[tied], k, top[tied, -1].numpy())
    return ids, top


def _top_by_keys(scores: Tensor, k: int, bar: Floats | None = None) -> tuple[Tensor, Tensor]:
    """``top_of`` by ``largest``."""
    ids, top = unpack(largest(scores.numpy(), k, bar=bar), k)
    return torch.from_numpy(ids).clamp_(min=0), torch.from_numpy(top)


def _bar(scores: Floats, k: int) -> Floats:
    """(B,): a score that at least min(k, n) scores of the row reach."""
    rows, columns = scores.shape
    size = min(_LARGEST_GROUP, columns // max(4 * k, 1))
    if size < 2 or k < 1:  # k = 0: nothing is allowed
        return np.full(rows, -np.inf, dtype=np.float32)
    groups = columns // size
    # Groups of stride `groups`, so that the maximum runs over whole rows and similar neighbours fall apart.
    maxima = torch.from_numpy(scores)[:, : groups * size].view(rows, size, groups).amax(1).numpy()
    kth: Floats = np.partition(maxima, groups - k, axis=1)[:, groups - k]
    return kth


def _padded(keys: Keys, rows: npt.NDArray[np.intp], n_rows: int) -> Keys:
    """(n_rows, longest) of keys given row by row, NONE behind them."""
    counts = np.bincount(rows, minlength=n_rows)
    starts = np.cumsum(counts) - counts
    out = np.full((n_rows, int(counts.max(initial=0))), NONE, dtype=np.uint64)
    out[rows, np.arange(len(keys)) - starts[rows]] = keys
    return out
