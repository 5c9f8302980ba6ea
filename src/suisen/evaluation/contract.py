"""What a model offers to be evaluated: scores of candidates, ranked lists, and, where it can, tiles of the catalogue.

Ids are dense; 0 is no item.  A score of −inf says "not to be recommended": such an item stands in front of no other,
and as a relevant item it is a miss.  NaN is refused.  Contexts arrive on the CPU; a scorer moves them to where it
computes.
"""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from suisen.data.batch import Candidates, Contexts
from suisen.data.ragged import Ragged


@runtime_checkable
class Scorer(Protocol):
    """Anything that recommends: one model or a pipeline of several."""

    def score(self, contexts: Contexts, candidates: Candidates) -> Tensor:
        """(B, C): the higher, the sooner to be recommended.  For click logs the logit of a click."""

    def rank(self, contexts: Contexts, k: int, exclude: Ragged) -> tuple[Tensor, Tensor]:
        """The best k items of each context, none of ``exclude``'s B rows among them.

        Returns (B, k) ids, 0 = none, no id twice in a row, and (B, k) scores, never rising where there is an id.
        Equal scores are ties.  A list whose order does not follow its scores (a diversified one) gives −1, −2, … as
        scores instead.
        """


@runtime_checkable
class TileScorer(Scorer, Protocol):
    """A scorer that can go through the whole catalogue piece by piece.  Full ranking prefers it: exact, no lists.

    A scorer whose ``tile`` needs more memory than its result says so in an attribute ``bytes_per_score`` (working
    bytes per score, the result's own 4 included; 4 where there is none), so that tiles can be cut to the budget.
    """

    @property
    def n_items(self) -> int:
        """Rows of the item table, row 0 included."""

    @property
    def allowed(self) -> Tensor:
        """(n_items,) bool: what the model may recommend; False for row 0 and, say, items it was not trained on.
        On the device on which tiles are computed.
        """

    def prepare(self, contexts: Contexts) -> Any:
        """What ``tile`` needs of B contexts, computed once (query vectors)."""

    def tile(self, state: Any, lo: int, hi: int) -> Tensor:
        """(B, hi − lo) floats: scores of the items lo … hi − 1.  The caller may write into the result.

        The same arguments give the same bits, so that a target's score equals itself in every pass.
        """
