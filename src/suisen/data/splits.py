"""How a log is cut into train, valid and test: the rules that a user names.

>>> LeaveLast(test=1, valid=1)
LeaveLast(test=1, valid=1)
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from suisen.data.cut import Order, Parts, Split, Splitter, split_parts
from suisen.data.dataset import Dataset
from suisen.errors import InputError


@dataclass(frozen=True)
class LeaveLast:
    """Each visitor's last ``test`` positives are asked in test, the ``valid`` before them in valid.

    Who has fewer than test + valid + 1 positives stays in train whole.  The order is time, then the place in the
    source; the place alone where the log has no time.  Events of label 0 go with the part in whose span they lie.
    """

    test: int = 1
    valid: int = 1

    def __post_init__(self) -> None:
        _at_least("test", self.test, 1)
        _at_least("valid", self.valid, 0)

    def split(self, data: Dataset) -> Split:
        """Fails where nobody has enough events."""
        counts, held = data.histories.lengths, self.test + self.valid
        enough = counts > held
        if not bool(enough.any()):
            raise _too_few(self, int(counts.max()) if counts.numel() else 0)
        part = _tail(data, enough * self.test, enough * self.valid)
        short = int(((counts <= held) & (data.events.offsets.diff() > 0)).sum())
        notes = (f"{short:,} users with fewer than {held + 1} positives stay in train whole",) if short else ()
        rule = f"leave last out: test {self.test}, valid {self.valid}"
        return split_parts(data, Parts(part, _user_order(data), rule, notes=notes))


def _user_order(data: Dataset) -> Order:
    return "user" if data.has_time else "place"


def _too_few(rule: LeaveLast, most: int) -> InputError:
    have = "only one event a user" if most <= 1 else f"at most {most} positives a user"
    return InputError(
        f"{have}: {rule} needs {rule.test + rule.valid + 1} of somebody; hold out less or split by GlobalTime"
    )


def _tail(data: Dataset, test: Tensor, valid: Tensor) -> Tensor:
    """(n,) parts: the last ``test`` positives of each visitor, the ``valid`` before them, and what lies between.

    ``test`` and ``valid`` are (n_visitors,).
    """
    visitor = data.events.visitor
    left = data.histories.offsets[visitor + 1] - data.positives_before  # positives from here on
    place = left + (~data.positive).long()  # an event of label 0 stands with the positive in front of it
    held = test[visitor]
    return (place <= held).long() + (place <= held + valid[visitor]).long()


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{name} = {value!r} must be at least {least}")


__all__ = ["LeaveLast", "Split", "Splitter"]
