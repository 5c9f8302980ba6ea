"""Plays of a music service with a planted structure: listeners play a few albums again and again.

    python examples/plays.py plays                # plays/plays.csv, plays/tracks.csv, plays/expected.csv
    python examples/plays.py plays --size large   # a million plays
    suisen train --events plays/plays.csv --item track_id --time played_at --item-features plays/tracks.csv \
        --titles title --retriever ease --no-exclude-seen --out runs/plays
    suisen recommend runs/plays --user 1 -k 5

Nearly all plays repeat an earlier one, so a protocol that never offers what somebody has heard would measure nothing.
Times are milliseconds since 1970.  ``expected.csv`` names the tracks of each listener's own albums.
"""

import argparse
from pathlib import Path

import numpy as np
import polars as pl

SIZES = {"small": (200, 60, 40), "large": (5_000, 600, 200)}
"""Listeners, albums, plays per listener."""
TRACKS, OWN, ELSEWHERE = 8, 3, 0.05
"""Tracks of an album, albums of a listener, share of plays outside of them."""


def plays(listeners: int, albums: int, each: int, rng: np.random.Generator) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(plays, expected)."""
    own = np.stack([rng.choice(albums, size=OWN, replace=False) for _ in range(listeners)])
    picked = np.take_along_axis(own, rng.integers(0, OWN, (listeners, each)), axis=1)
    strange = rng.random((listeners, each)) < ELSEWHERE
    album = np.where(strange, rng.integers(0, albums, (listeners, each)), picked)
    track = album * TRACKS + rng.integers(0, TRACKS, (listeners, each)) + 1
    user = np.repeat(np.arange(1, listeners + 1), each)
    at = 1_735_689_600_000 + np.cumsum(rng.integers(1, 14_400_000, user.size).reshape(listeners, each), axis=1).ravel()
    log = pl.DataFrame({"user": user, "track_id": track.ravel(), "played_at": at}).sort(
        "played_at", maintain_order=True
    )
    mine = (own[:, :, None] * TRACKS + np.arange(1, TRACKS + 1)).reshape(listeners, -1)
    expected = {"user": np.repeat(np.arange(1, listeners + 1), OWN * TRACKS), "track_id": mine.ravel()}
    return log, pl.DataFrame(expected)


def write(folder: Path, size: str = "small", seed: int = 0) -> None:
    """Writes the three files."""
    listeners, albums, each = SIZES[size]
    folder.mkdir(parents=True, exist_ok=True)
    log, expected = plays(listeners, albums, each, np.random.default_rng(seed))
    log.write_csv(folder / "plays.csv")
    expected.write_csv(folder / "expected.csv")
    titles = [(n + 1, f'Album {n // TRACKS}, track {n % TRACKS + 1}, 12" mix') for n in range(albums * TRACKS)]
    pl.DataFrame(titles, schema=["track_id", "title"], orient="row").write_csv(folder / "tracks.csv")
    print(f"{log.height:,} plays of {listeners:,} listeners in {folder / 'plays.csv'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--seed", type=int, default=0)
    write(**vars(parser.parse_args()))
