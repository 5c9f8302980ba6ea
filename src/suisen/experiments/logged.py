"""Logs with propensities: what off-policy evaluation reads, refused by name where it cannot be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import numpy as np
import numpy.typing as npt
import polars as pl

from suisen.errors import InputError, unknown

Floats = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]


class Optional(TypedDict, total=False):
    """What a log may say beside reward and propensity, one value per row."""

    predicted: npt.ArrayLike | None
    """q(x, a) of the action taken."""
    expected: npt.ArrayLike | None
    """q(x, π): the model's expectation under the target policy."""
    unit: npt.ArrayLike | None
    """Whose row it is (user, session): rows of one unit are resampled together."""


@dataclass(frozen=True, eq=False)
class Logged:
    """A log that can be judged: checked, one row per action.  Make it with ``of``, ``of_policies`` or ``read``."""

    reward: Floats
    """(n,)."""
    weight: Floats
    """(n,): π(a | x) / μ(a | x), at least 0."""
    predicted: Floats | None = None
    """(n,): the reward model's value of the action taken."""
    expected: Floats | None = None
    """(n,): the reward model's value of the target policy."""
    unit: Longs | None = None
    """(n,): codes 0… of the units."""
    bound: float | None = None
    """The largest weight that could ever have been: known where both whole policies are."""

    @classmethod
    def of(
        cls, reward: npt.ArrayLike, propensity: npt.ArrayLike | None, target: npt.ArrayLike, **more: Unpack[Optional]
    ) -> Logged:
        """From columns (n,): ``propensity`` = μ(a | x), ``target`` = π(a | x) of the actions taken.

        Raises InputError where propensities are missing or outside (0, 1], where the target's are outside [0, 1], and
        where the target policy takes none of the logged actions.
        """
        rewards = _column("reward", reward)
        chances = _propensities(propensity, len(rewards))
        wanted = _column("target", target, len(rewards))
        outside = (wanted < 0) | (wanted > 1)
        if outside.any():
            row = int(outside.argmax())
            raise InputError(
                f"target = {wanted[row]:g} in row {row} is outside [0, 1]; give the policy's probabilities"
            )
        if not (wanted > 0).any():
            raise InputError(
                "no overlap: the target policy takes none of the logged actions; "
                "its worth cannot be read from this log, only from an experiment"
            )
        predicted, expected, unit = (more.get(name) for name in ("predicted", "expected", "unit"))
        return cls(
            rewards,
            wanted / chances,
            None if predicted is None else _column("predicted", predicted, len(rewards)),
            None if expected is None else _column("expected", expected, len(rewards)),
            None if unit is None else _codes(unit, len(rewards)),
        )

    @classmethod
    def of_policies(
        cls,
        action: npt.ArrayLike,
        reward: npt.ArrayLike,
        propensity: npt.ArrayLike | None,
        policies: Policies,
        *,
        unit: npt.ArrayLike | None = None,
    ) -> Logged:
        """From whole policies: overlap is then checked over every action, and not over the logged ones alone.

        ``action`` (n,) counts from 0 over the A columns of the policies.
        """
        rewards = _column("reward", reward)
        actions = _actions(action, policies.target.shape[-1], len(rewards))
        chances = _propensities(propensity, len(rewards))
        policies.check(actions, chances)
        more: Optional = {"unit": unit}
        if policies.model is not None:
            more["predicted"] = _taken(policies.model, actions)
            more["expected"] = np.broadcast_to((policies.target * policies.model).sum(-1), rewards.shape)
        log = cls.of(rewards, chances, _taken(policies.target, actions), **more)
        return cls(log.reward, log.weight, log.predicted, log.expected, log.unit, policies.bound())

    @classmethod
    def read(cls, frame: pl.DataFrame, *, reward: str, propensity: str, target: str, **more: str) -> Logged:
        """From a table: the arguments, and ``predicted``, ``expected``, ``unit`` where given, name its columns."""
        for name in more:
            if name not in ("predicted", "expected", "unit"):
                raise unknown("column", name, ("predicted", "expected", "unit"))
        if propensity not in frame.columns:
            return cls.of(frame.get_column(reward), None, ())  # says what is missing and what to do
        for name in (reward, target, *more.values()):
            if name not in frame.columns:
                raise unknown("column", name, frame.columns)
        columns: Any = {key: frame.get_column(name) for key, name in more.items()}
        return cls.of(frame.get_column(reward), frame.get_column(propensity), frame.get_column(target), **columns)

    def __len__(self) -> int:
        return len(self.reward)


@dataclass(frozen=True, eq=False)
class Policies:
    """Whole policies over A actions, (A,) where the context does not matter and (n, A) where it does."""

    target: Floats
    """π: what is to be judged."""
    logging: Floats | None = None
    """μ: what chose.  Without it an action that the log never shows counts as one that it could not show."""
    model: Floats | None = None
    """q: the expected reward of each action."""
    unlogged: float = 0.0
    """Without ``logging``: the share of the target's choices that may fall on actions the log never shows."""

    def __post_init__(self) -> None:
        for name in ("target", "logging", "model"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, np.asarray(given, dtype=np.float64))
        if self.target.ndim not in (1, 2):
            raise InputError(f"target has shape {self.target.shape}; give (actions,) or (rows, actions)")
        for name in ("logging", "model"):
            given = getattr(self, name)
            if given is not None and given.shape[-1:] != self.target.shape[-1:]:
                raise InputError(
                    f"{name} has shape {given.shape} and target {self.target.shape}; give the same actions"
                )
        for name in ("target", "logging"):
            given = getattr(self, name)
            if given is not None and not (bool((given >= 0).all()) and np.allclose(given.sum(-1), 1, atol=1e-6)):
                raise InputError(f"{name}: probabilities must be at least 0 and sum to 1 in each row")

    def check(self, actions: Longs, chances: Floats) -> None:
        """Refuses what has no overlap: π > 0 where μ = 0, or, μ unknown, where nothing was ever logged."""
        if self.logging is None:
            seen = np.bincount(actions, minlength=self.target.shape[-1]) > 0
            share = float(np.where(seen, 0.0, self.target).sum(-1).mean())
            never = (~seen) & (np.atleast_2d(self.target) > 0).any(0)
            if share > self.unlogged:
                raise InputError(
                    f"no overlap: {share:.2%} of the target policy's choices fall on {int(never.sum())} actions that "
                    f"the log never shows (first: {int(never.argmax())}); give the logging policy where they were "
                    f"possible, or unlogged={share:.2g} to leave them out"
                )
            return
        lost = np.atleast_2d((self.logging == 0) & (self.target > 0))
        if lost.any():
            row, action = (int(at[0]) for at in np.nonzero(lost))
            raise InputError(
                f"no overlap: the target policy takes action {action} (row {row}) where the logging policy never does; "
                "restrict the target to actions that were possible, or run an experiment"
            )
        said = _taken(self.logging, actions)
        wrong = ~np.isclose(said, chances, rtol=1e-6, atol=0)
        if wrong.any():
            row = int(wrong.argmax())
            raise InputError(
                f"propensity = {chances[row]:g} in row {row}, but logging gives action {actions[row]} {said[row]:g}; "
                "give the policy that wrote the log"
            )

    def bound(self) -> float | None:
        """The largest weight that can be."""
        if self.logging is None:
            return None
        target, logging = np.broadcast_arrays(self.target, self.logging)
        ratio = np.divide(target, logging, out=np.zeros(target.shape), where=logging > 0)
        return float(ratio.max())


def _column(name: str, values: Any, n: int | None = None) -> Floats:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or (n is not None and len(column) != n):
        raise InputError(f"{name} has shape {column.shape}; give one value per row" + (f", {n} rows" if n else ""))
    if not len(column):
        raise InputError(f"{name} has no row; give a log with at least one action")
    if not np.isfinite(column).all():
        row = int((~np.isfinite(column)).argmax())
        raise InputError(f"{name} = {column[row]} in row {row}; give finite numbers")
    return column


def _propensities(values: Any, n: int) -> Floats:
    if values is None:
        raise InputError(
            "propensity is missing: the log does not say how likely each action was; "
            "write that probability when actions are drawn, or run an experiment"
        )
    column = np.asarray(values, dtype=np.float64)
    if column.shape != (n,):
        raise InputError(f"propensity has shape {column.shape}; give one value per row, {n} rows")
    if (lacking := np.isnan(column)).any():
        raise InputError(
            f"propensity is missing in {int(lacking.sum())} of {n} rows (first: {int(lacking.argmax())}); "
            "leave such rows out on purpose, or write the probability when actions are drawn"
        )
    outside = ~((column > 0) & (column <= 1))
    if outside.any():
        row = int(outside.argmax())
        raise InputError(
            f"propensity = {column[row]:g} in row {row} is outside (0, 1]; "
            "it is the probability with which the action that was taken was drawn"
        )
    return column


def _actions(values: Any, actions: int, n: int) -> Longs:
    column = np.asarray(values)
    if column.shape != (n,) or column.dtype.kind not in "iu":
        raise InputError(f"action is {column.dtype} of shape {column.shape}; give {n} integers from 0")
    outside = (column < 0) | (column >= actions)
    if outside.any():
        row = int(outside.argmax())
        raise InputError(f"action = {column[row]} in row {row}; the policies have actions 0…{actions - 1}")
    return column.astype(np.int64)


def _taken(table: Floats, actions: Longs) -> Floats:
    """(n,): the entry of each row's action."""
    if table.ndim == 1:
        return np.asarray(table[actions])
    if len(table) != len(actions):
        raise InputError(f"a policy or model has {len(table)} rows and the log {len(actions)}; give one row per action")
    return np.asarray(table[np.arange(len(actions)), actions])


def _codes(unit: Any, n: int) -> Longs:
    values = np.asarray(unit)
    if values.shape != (n,):
        raise InputError(f"unit has shape {values.shape}; give one value per row, {n} rows")
    codes: Longs = np.unique(values, return_inverse=True)[1].astype(np.int64)
    return codes
