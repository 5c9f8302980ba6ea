"""Features of the pair, declared: what each is called, reads and means, what it costs, and which of them words name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from suisen.arguments import listed, shown
from suisen.data.batch import Field
from suisen.errors import InputError, unknown

ALL = "all"
Reads = Literal["histories", "categories", "numbers", "times"]


@dataclass(frozen=True)
class PairFeature:
    """One feature, or (where it reads columns of the item table) a family of one feature per column."""

    name: str
    """A family's features are named ``name:column``."""
    reads: Reads
    """Histories; categorical and multi-valued columns of the item table; its numeric columns; times."""
    means: str
    """The definition in one line; h₁ is the last item of the history, L its length, t the time of the request."""
    cost: str
    """Operations per pair, where nothing else is said."""


def _visits(span: int) -> PairFeature:
    of = "the last item of the history" if span == 1 else f"the last {span} items"
    means = f"co-visits with {of}: Σ w(h_j, candidate) / j over j ≤ {span}, standardised in its list"
    return PairFeature(
        f"covisit_{span}", "histories", means, f"≤ {100 * span:,} binary searches in the list per context"
    )


def _trend(name: str, span: str) -> PairFeature:
    means = f"log₂((1 + takes in the {span} before t) / (1 + takes in the {span} before that)) / 4"
    return PairFeature(f"trend_{name}", "times", means, "2 binary searches in all takes")


FEATURES = (
    _visits(1),
    _visits(5),
    _visits(20),
    PairFeature(
        "last",
        "categories",
        "1 / log₂(1 + d), d: how many items ago the history last met the candidate's category (its last item: 1); "
        "0: never",
        "a binary search per category of the candidate",
    ),
    PairFeature(
        "share",
        "categories",
        "the share of the history's items that are of the candidate's category; of several categories the mean",
        "the same search",
    ),
    PairFeature(
        "difference",
        "numbers",
        "the candidate's number less the history's mean, in standard deviations over train's items; 0: not known",
        "1 subtraction",
    ),
    PairFeature("popularity", "times", "log₂(1 + takes of the candidate before t) / 8", "1 binary search in all takes"),
    PairFeature(
        "age", "times", "log₂(1 + days from the candidate's first take to t) / 8; 0: no take yet", "2 look-ups"
    ),
    _trend("day", "day"),
    _trend("week", "7 days"),
    _trend("month", "30 days"),
    PairFeature("history_length", "histories", "log₂(1 + L) / 8", "1 logarithm per context"),
    PairFeature(
        "session_position",
        "times",
        "log₂(1 + s) / 8, s: newest items of the history with at most 30 minutes from each to the next, and to t",
        "L comparisons per context",
    ),
)
"""All of them, in the order in which a ranker is given them."""
OF_COLUMNS: dict[str, tuple[str, ...]] = {"categories": ("categorical", "multi"), "numbers": ("numeric",)}
"""What a family reads → the kinds of the columns that it has a feature of."""
LACK: dict[Reads, str] = {
    "times": "the log has no times",
    "categories": "the item table has no categorical column",
    "numbers": "the item table has no numeric column",
}


def words_of(given: Any) -> tuple[str, ...]:
    """What ``pair_features`` names, its families checked: ``all``, names, and names with a - in front to leave out.

    Raises InputError for what is no list of names, and for the name of no feature.

    >>> words_of("all")
    ('all',)
    >>> words_of(["all", "-trend"])
    Traceback (most recent call last):
    suisen.errors.UnknownName: pair_features = 'trend' is unknown; did you mean 'trend_day'?
    """
    if given is None or isinstance(given, str):
        given = (given,) if given else ()
    words = tuple(listed("pair_features", given, ordered=True))
    known = [ALL, *(feature.name for feature in FEATURES)]
    families = [feature.name for feature in FEATURES if feature.reads in OF_COLUMNS]
    for word in words:
        if not isinstance(word, str):
            raise InputError(f"pair_features: {shown(word)} is no name; give names like 'covisit_5', or 'all'")
        name, sign, _ = word.removeprefix("-").partition(":")
        if name not in known or (sign and name not in families):
            raise unknown("pair_features", word.removeprefix("-"), known)
    return words


def chosen(words: Sequence[str], fields: Sequence[Field], has_time: bool) -> tuple[str, ...]:
    """Names of the features that ``words`` choose where items have these ``fields``, in the order of ``FEATURES``.

    What the data lack is left out.  Words that all leave something out begin with all features.  Raises InputError for
    a column that the item table has not.
    """
    return _resolved(words, fields, has_time)[0]


def said_of(words: Sequence[str], fields: Sequence[Field], has_time: bool) -> tuple[str, ...]:
    """What is to be told of the choice: which features a ranker reads, and which were left out for what reason."""
    if not words:
        return ()
    names, lacking = _resolved(words, fields, has_time)
    named = f": {', '.join(names)}" if names else ""
    said = f"the ranker reads {len(names)} features of each pair beside the retrieval's{named}"
    why: dict[str, list[str]] = {}
    for feature in lacking:
        why.setdefault(LACK[feature.reads], []).append(feature.name)
    return ("; ".join([said, *(f"left out, for {reason}: {', '.join(out)}" for reason, out in why.items())]),)


def _resolved(
    words: Sequence[str], fields: Sequence[Field], has_time: bool
) -> tuple[tuple[str, ...], list[PairFeature]]:
    """Names that the words choose, and the features among them for which the data lack what they read."""
    offered = _offered(fields, has_time)
    every = [name for names in offered.values() for name in names]
    wanted, picked = set[str](), set[str]()
    for word in (ALL, *words) if words and all(word.startswith("-") for word in words) else words:
        name = word.removeprefix("-")
        if name not in (ALL, *offered, *every):
            raise unknown("pair_features", name, every)
        families = set(offered) if name == ALL else {name}
        found = {one for family in families for one in offered.get(family, (name,))}
        if word.startswith("-"):
            wanted, picked = wanted - families, picked - found
        else:
            wanted, picked = wanted | families, picked | found
    lacking = [feature for feature in FEATURES if feature.name in wanted and not offered[feature.name]]
    return tuple(name for name in every if name in picked), lacking


def _offered(fields: Sequence[Field], has_time: bool) -> Mapping[str, tuple[str, ...]]:
    """Family → the names that the data allow, in the order of ``FEATURES`` and of the columns."""
    out: dict[str, tuple[str, ...]] = {}
    for feature in FEATURES:
        if feature.reads in OF_COLUMNS:
            columns = [field.name for field in fields if field.kind in OF_COLUMNS[feature.reads]]
            out[feature.name] = tuple(f"{feature.name}:{column}" for column in columns)
        else:
            out[feature.name] = () if feature.reads == "times" and not has_time else (feature.name,)
    return out


__all__ = ["ALL", "FEATURES", "PairFeature", "chosen", "said_of", "words_of"]
