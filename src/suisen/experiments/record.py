"""A result on disk: JSON that is read back to the same objects, with what the page says beside the numbers."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from suisen.errors import InputError
from suisen.experiments.result import Result
from suisen.files import write_text

FORMAT = 1


class Truth(NamedTuple):
    """A true effect, which only a simulated world knows."""

    metric: str
    arm: str
    absolute: float
    relative: float


@dataclass(frozen=True, kw_only=True)
class About:
    """What a page says beside the result."""

    when: str = ""
    """When the analysis was made, in words."""
    command: str = ""
    """Repeats the analysis."""
    frozen_at: str = ""
    """When the plan was frozen; empty: it was not."""
    files: Mapping[str, str] = field(default_factory=dict)
    """What was read, by name."""
    truth: tuple[Truth, ...] = ()


@dataclass(frozen=True)
class Record:
    """A result and what is said about it."""

    result: Result
    about: About = field(default_factory=About)

    def save(self, path: Path | str) -> None:
        """As JSON, whole or not at all.  NaN and infinities are text, as JSON has neither."""
        from pydantic import TypeAdapter

        place = Path(path)
        made = {"format": FORMAT, **_written(TypeAdapter(Record).dump_python(self))}
        write_text(place, json.dumps(made, ensure_ascii=False, indent=1, allow_nan=False) + "\n")

    @staticmethod
    def load(path: Path | str) -> "Record":
        """Raises InputError for a file that is missing, damaged or of another format."""
        from pydantic import TypeAdapter, ValidationError

        place = Path(path)
        try:
            made = json.loads(place.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{place} does not exist; give what suisen experiment analyze wrote with --out") from None
        except ValueError as error:
            raise InputError(f"{place} is damaged ({error}); analyze again") from None
        found = made.get("format") if isinstance(made, dict) else None
        if found != FORMAT:
            raise InputError(f"{place}: format = {found!r} is not {FORMAT}; analyze again with this version")
        try:
            return TypeAdapter(Record).validate_python({name: made[name] for name in ("result", "about")})
        except (ValidationError, KeyError, InputError) as error:
            first = str(error).splitlines()[0]
            raise InputError(f"{place} is damaged ({first}); analyze again") from None


def _written(value: Any) -> Any:
    """Plain values that JSON has."""
    if isinstance(value, Mapping):
        return {name: _written(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_written(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
