"""A folder of Parquet files as one table, its ``key=value`` folders as columns."""

from dataclasses import replace
from pathlib import Path

import polars as pl

from suisen.data.raw import Raw, raw_of_frame
from suisen.errors import InputError

SUFFIXES = (".parquet", ".pq")


def parquet_folder(folder: Path) -> Raw:
    """All Parquet files in and below the folder, in the order of their paths; names with _ or . in front are not read.

    Raises InputError where there is none and where their columns differ.
    """
    inside = [path for path in sorted(folder.rglob("*")) if path.suffix in SUFFIXES and _is_data(path, folder)]
    if not inside:
        raise InputError(f"{folder} is a folder without Parquet files; give a file, or a folder of Parquet files")
    hive = any("=" in part for path in inside for part in path.relative_to(folder).parent.parts)
    try:
        frame = pl.scan_parquet(inside, hive_partitioning=hive, missing_columns="insert").collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(
            f"{folder}: its Parquet files are no one table ({error}); give files of the same columns"
        ) from None
    raw = raw_of_frame(folder.name, frame)
    keys = sorted(
        {part.partition("=")[0] for path in inside for part in path.relative_to(folder).parent.parts if "=" in part}
    )
    said = f"; columns of its folders: {', '.join(keys)}" if keys else ""
    return replace(raw, notes=(f"{folder.name}: {len(inside):,} Parquet files in the order of their names{said}",))


def _is_data(path: Path, folder: Path) -> bool:
    return path.is_file() and not any(part.startswith(("_", ".")) for part in path.relative_to(folder).parts)
