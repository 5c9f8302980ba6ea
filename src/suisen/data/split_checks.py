"""Checks of a split: of a rule's parameters and of what it needs, and whether train holds what it may not know."""

from typing import Any, Literal, get_args

import torch

from suisen.arguments import choice, real, whole
from suisen.data.batch import Queries
from suisen.data.dataset import Dataset, Split
from suisen.data.durations import spelt
from suisen.data.ordered import OrderedLog
from suisen.errors import InputError

By = Literal["time", "rows", "random"]


# -- parameters and needs of a rule; ``rule`` is its name, for the message ---------------------------------------------


def settle(rule: Any, **values: Any) -> None:
    """Parameters of a frozen rule as they were meant; called while it is made."""
    for name, value in values.items():
        object.__setattr__(rule, name, value)


def settle_counts(rule: Any, **least: int) -> None:
    """Parameters that are whole numbers, of any library.  Raises InputError for others and for less than ``least``."""
    counts = {name: whole(f"{type(rule).__name__}: {name}", getattr(rule, name), low) for name, low in least.items()}
    settle(rule, **counts)


def check_shares(rule: str, test: float, valid: float) -> None:
    """Raises InputError unless both are from 0 up to 1 and test + valid < 1."""
    for name, value in (("test", test), ("valid", valid)):
        real(f"{rule}: {name}", value, "a share between 0 and 1")
        if not 0 <= value < 1:
            raise InputError(f"{rule}: {name} = {value!r} must be a share between 0 and 1")
    if test + valid >= 1:
        raise InputError(f"{rule}: test = {test!r} and valid = {valid!r} leave nothing for train; hold out less")


def check_by(rule: str, by: str) -> None:
    """Raises InputError unless ``by`` is one of ``By``."""
    choice(f"{rule}: by", by, get_args(By))


def check_before(rule: str, given: object, valid: int, test: int) -> None:
    """Raises InputError where valid, written as ``given``, begins after test (both in microseconds since 1970 UTC)."""
    if valid > test:
        raise InputError(f"{rule}: valid = {given!r} begins after test ({spelt(test)}); name an earlier time")


def need_time(log: OrderedLog, rule: str) -> None:
    """Raises InputError where the log has no times."""
    if not log.has_time:
        raise InputError(f"{rule} needs times and the log has none; name the time column, or use LeaveLast or Ratio")


# -- a split -----------------------------------------------------------------------------------------------------------


def check_no_future(split: Split) -> None:
    """Raises InputError where train holds what lies in the future of a query, by what the split promises (``Order``).

    Per user: no event of train is later than the first truth of the same user (guests cannot be matched).  Global time:
    none is at or after the cut.  Sessions: none of a session that began at or after it.  Always: ids, vocabularies and
    means are those that train's log alone gives.  Splits at random or without time promise nothing and are refused.
    """
    if split.order == "random":
        raise InputError("the split is random: train holds the future of the queries; split by time to measure that")
    if split.order == "place":
        raise InputError("the log has no time, so the future cannot be told from the past; name the time column")
    train = split.train
    if split.order == "user":
        for name, queries in (("valid", split.valid), ("test", split.test)):
            if queries is not None:
                _check_users(train, name, queries)
    else:
        _check_cut(split)
    alone = Dataset.of(train.log)
    same_ids = alone.users.raw_ids.equals(train.users.raw_ids) and alone.items.raw_ids.equals(train.items.raw_ids)
    if not same_ids or alone.encoders != train.encoders:
        raise InputError("train's ids or feature statistics come from more than train; build it with Dataset.of")


def _check_users(train: Dataset, name: str, queries: Queries) -> None:
    known = (queries.contexts.user > 0) & train.trained_users[queries.contexts.user]
    user, time = queries.contexts.user[known], queries.contexts.time[known]
    latest = train.events.time[train.events.offsets[user + 1] - 1]
    late = torch.nonzero(latest > time).squeeze(1)
    if late.numel():
        who = train.users.raw(user[late[:1]].numpy())[0]
        raise InputError(
            f"train holds events later than the {name} truth of {late.numel():,} users "
            f"(the first: {who!r}, {spelt(int(latest[late[0]]))} after {spelt(int(time[late[0]]))}); split by time"
        )


def _check_cut(split: Split) -> None:
    events, cut = split.train.events, split.cut or 0
    time = events.time
    if split.order == "session":
        time = time[events.offsets[:-1][events.offsets.diff() > 0]]
    late = int((time >= cut).sum())
    if late:
        what = "sessions" if split.order == "session" else "events"
        raise InputError(f"train holds {late:,} {what} at or after the cut ({spelt(cut)}); move them to valid or test")
