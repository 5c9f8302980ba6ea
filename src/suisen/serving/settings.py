"""How the server runs: one frozen object, its bounds checked where it is made."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path

from suisen.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of the server; none of them changes an answer."""

    deadline_s: float = 1.0
    """Seconds until a request that has no answer yet is refused with 503."""
    max_queries: int = 1024
    """Most queries that wait or are computed; further ones are refused with 503."""
    queries_per_batch: int = 256
    """Most queries per call of the model."""
    max_body_bytes: int = 1 << 20
    """Largest body of a request."""
    log_dir: Path | None = None
    """Folder of the event log; None: events are refused (``serve`` puts it beside the bundle)."""
    impressions: bool = False
    """Log the lists that were answered, too."""
    access_log: bool = False
    """One log line per request."""
    drain_s: float = 1.0
    """Seconds between SIGTERM, when ready turns to 503, and the closing of the port: let balancers see it."""
    grace_s: float = 30.0
    """Most seconds that running requests get to finish."""

    def __post_init__(self) -> None:
        if self.log_dir is not None:
            object.__setattr__(self, "log_dir", Path(self.log_dir))  # a command line brings text
        for field in fields(self):
            if field.type not in ("int", "float"):
                continue
            value, zero = getattr(self, field.name), field.name == "drain_s"
            good = not isinstance(value, bool) and isfinite(value) and (value > 0 or (zero and value == 0))
            if not good:
                raise InputError(f"{field.name} = {value!r} must be a number {'at least' if zero else 'above'} 0")
