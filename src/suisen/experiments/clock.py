"""Times of exposures and events, in any spelling, as microseconds UTC."""

import polars as pl

from suisen.data.times import PER_SECOND, parse_times
from suisen.errors import InputError
from suisen.experiments.families import TIME
from suisen.experiments.plan import Plan

ZONED = r"([Zz]|[+-]\d{2}(:?\d{2})?)\s*$"
"""How a written time ends that names its zone; a bare date ends like an offset and has no colon before."""


def clocked(where: str, frame: pl.LazyFrame, plan: Plan) -> tuple[pl.LazyFrame, bool | None]:
    """The frame with TIME in microseconds UTC; whether its column names a zone (numbers: None)."""
    name = plan.columns.time
    dtype = frame.collect_schema()[name]
    if isinstance(dtype, pl.Datetime):
        micros = pl.col(name).dt.cast_time_unit("us").cast(pl.Int64)
        return frame.with_columns(micros.alias(TIME)), dtype.time_zone is not None
    if dtype == pl.Date:
        return frame.with_columns(pl.col(name).cast(pl.Datetime("us")).cast(pl.Int64).alias(TIME)), False
    if dtype.is_integer() and (factor := _unit_of(frame, name)) is not None:
        micros = pl.col(name).cast(pl.Int64)
        return frame.with_columns((micros * factor if factor >= 1 else micros // 1000).cast(pl.Int64).alias(TIME)), None
    table = frame.collect(engine="streaming")
    zone = _zone_of_text(where, table[name]) if dtype == pl.String else None
    try:
        times = parse_times(name, table[name])
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    for reason, rows in times.faults:
        if rows.any():
            first = table[name].filter(rows)[0]
            raise InputError(f"{where}: {name!r} {reason} in {rows.sum():,} rows (first: {first!r}); mend or leave out")
    return table.with_columns(times.values.alias(TIME)).lazy(), zone


def _unit_of(frame: pl.LazyFrame, name: str) -> int | float | None:
    """Microseconds in one of a whole-number column, found without holding it; None: a row is no time."""
    column = pl.col(name)
    facts = frame.select(
        column.null_count().alias("missing"), column.min().alias("least"), column.median().alias("middle"),
        column.max().alias("most"),
    ).collect(engine="streaming").row(0, named=True)  # fmt: skip
    if facts["missing"] or facts["least"] is None or facts["least"] < 0:
        return None
    middle = int(facts["middle"])
    micros = parse_times(name, pl.Series(name, [middle, int(facts["most"]), middle]))
    if micros.values.null_count():
        return None
    read = micros.values[0]
    return next(
        (10**6 / per if per > 10**6 else 10**6 // per for per in PER_SECOND.values() if read == middle * 10**6 // per),
        None,
    )


def _zone_of_text(where: str, values: pl.Series) -> bool | None:
    timed = values.str.contains(":")
    zoned = values.str.contains(ZONED) & timed
    with_zone, without = int(zoned.sum()), int((timed & ~zoned).sum())
    if with_zone and without:
        raise InputError(
            f"{where}: {values.name!r} names a zone in {with_zone:,} rows and none in {without:,}; write all alike"
        )
    return with_zone > 0 if with_zone or without else None


def same_clock(where: str, ours: bool | None, theirs: bool | None) -> None:
    """Raises InputError where the times of ``where`` name a zone and those of the exposures none, or the other way."""
    if ours is not None and theirs is not None and ours != theirs:
        named, bare = (where, "exposures") if ours else ("exposures", where)
        raise InputError(
            f"times of {named} name a zone and times of {bare} none, so they cannot be compared; write both in UTC"
        )
