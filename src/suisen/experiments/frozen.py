"""The plan as it was when the experiment started: written once beside its file, and what was changed after."""

import json
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from suisen.data.durations import moment, spelt
from suisen.errors import InputError
from suisen.experiments.plan import Plan, fingerprint_of, load
from suisen.files import write_text


@dataclass(frozen=True)
class Change:
    """A field that is not as it was planned."""

    field: str
    """Where, like ``arms.treatment``."""
    planned: Any
    """As frozen; None: it was not there."""
    now: Any
    """As it is now; None: it is gone."""

    def __str__(self) -> str:
        return f"{self.field}: planned {_shown(self.planned)}, now {_shown(self.now)}"


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class Frozen:
    """A plan as it was when the experiment started."""

    plan: Plan
    fingerprint: str
    frozen_at: str
    """ISO 8601, UTC."""

    def changes(self, now: Plan) -> tuple[Change, ...]:
        """What ``now`` says otherwise, field by field; empty: as planned."""
        return changes(self.plan, now)

    def late(self, first: int | None, last: int | None) -> str:
        """What it proves where it was frozen after the ``first`` exposure or the ``last`` event (microseconds).

        Empty where it was frozen before.
        """
        at = moment("frozen_at", self.frozen_at, 0)
        if last is not None and at > last:
            none = "so nothing shows what was planned before the data were seen"
            return f"plan frozen at {self.frozen_at}, after the last event ({spelt(last)}), {none}"
        if first is not None and at > first:
            seen = f"after the first exposure ({spelt(first)})"
            return f"plan frozen at {self.frozen_at}, {seen}, so what was seen until then may be in it"
        return ""


def changes(planned: Plan, now: Plan) -> tuple[Change, ...]:
    """The fields in which two plans differ, in the order of the plan; a table that came or went is one change."""
    before, after = _leaves(planned.as_dict()), _leaves(now.as_dict())
    names = [*before, *(name for name in after if name not in before)]
    was, is_ = _tables(planned), _tables(now)
    alone = [name for name in {**was, **is_} if (name in was) != (name in is_)]
    inside = tuple(f"{name}." for name in alone)
    found = [
        Change(name, before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name) and name not in alone and not name.startswith(inside)
    ]
    found += [Change(name, was.get(name), is_.get(name)) for name in alone]
    order = list(planned.arms), list(now.arms)
    if sorted(order[0]) == sorted(order[1]) and order[0] != order[1]:
        found.append(Change("arms (order of the buckets)", *order))
    return tuple(found)


def moving(planned: Plan, now: Plan) -> tuple[Change, ...]:
    """The changes that move units between arms or out of the experiment; after the start they spoil it.

    A new name moves nobody where the salt says what the name said.
    """
    salts = ("name", "salt") if planned.seed != now.seed else ()
    movers = ("unit", "arms", "assignment", *salts)
    harmless = ("assignment.ramp", "assignment.overrides", "assignment.eligible")
    return tuple(
        change
        for change in changes(planned, now)
        if change.field.split(" ")[0].split(".")[0] in movers and not change.field.startswith(harmless)
    )


def _tables(plan: Plan) -> dict[str, dict[str, Any]]:
    """The plan's tables that may be there or not, under their dotted names, without what is at its default."""
    named = [(part, name) for part in ("metrics", "guardrails", "equivalence") for name in getattr(plan, part)]
    found = {f"{part}.{name}": getattr(plan, part)[name] for part, name in named}
    if plan.sequential is not None:
        found["sequential"] = plan.sequential
    if plan.bayes is not None:
        found["bayes"] = plan.bayes
    return {
        name: {each.name: getattr(of, each.name) for each in fields(of) if getattr(of, each.name) != each.default}
        for name, of in found.items()
    }


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    """Every leaf of nested tables under its dotted name; an empty table is no leaf."""
    if not isinstance(value, dict):
        return {name: value}
    out: dict[str, Any] = {}
    for key, each in value.items():
        out |= _leaves(each, f"{name}.{key}" if name else str(key))
    return out


def frozen_path(path: Path | str) -> Path:
    """Where the frozen plan of a TOML file lies: beside it, ``ranker.toml`` → ``ranker.frozen.json``."""
    return Path(path).with_suffix(".frozen.json")


def freeze(path: Path | str, *, at: datetime | None = None) -> Frozen:
    """Writes the plan and its fingerprint beside the file, once.

    Frozen again, the same plan is left as it is.  Raises InputError for a plan that was changed since.
    """
    plan, place = load(path), frozen_path(path)
    if place.exists():
        kept = read_frozen(place)
        found = kept.changes(plan)
        if found:
            said = "; ".join(str(change) for change in found)
            raise InputError(
                f"{path} was frozen at {kept.frozen_at} and changed since ({said}); put it back, or start a new "
                "experiment under another name"
            )
        return kept
    when = (at or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    made = {"format": 1, "fingerprint": plan.fingerprint(), "frozen_at": when, "plan": plan.as_dict()}
    write_text(place, json.dumps(made, indent=2, ensure_ascii=False) + "\n")
    return Frozen(plan, plan.fingerprint(), when)


def read_frozen(path: Path | str) -> Frozen:
    """The frozen plan in a file (of ``frozen_path``).  Raises InputError where it is damaged or was edited."""
    path = Path(path)
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
        plan, fingerprint, when = made["plan"], str(made["fingerprint"]), str(made["frozen_at"])
        true = fingerprint_of(plan)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; freeze the plan at the start of the experiment") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is no frozen plan; take it from the experiment's records") from None
    if true != fingerprint:
        raise InputError(f"{path} was edited after it was frozen: its hash is {true[:12]}…, not {fingerprint[:12]}…")
    known = {field.name for field in fields(Plan)}
    return Frozen(Plan.of({name: value for name, value in plan.items() if name in known}), fingerprint, when)
