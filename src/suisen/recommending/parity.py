"""The parity fixture: some requests with the answers they must get, computed by brute force.

The expected answers use neither an index, nor precomputed item states, nor batches: every allowed item is scored one
request at a time with the whole networks.  A server replays the fixture before it is ready, so that a wrong library, a
damaged index or a broken optimisation cannot serve.  Scores agree to a tolerance, order agrees up to ties; where the
index is approximate, a stated share of the expected items must be there.  Where the system has a plan, the fixture is
replayed by it too, and a share of the expected items must be there in any case: a plan may round.
"""

from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from suisen.arguments import shown
from suisen.data.batch import Candidates
from suisen.errors import BundleError, SuisenError, one_line
from suisen.recommending import manifest
from suisen.recommending.answering import answer, to_frame
from suisen.recommending.queries import DenseQueries, RawQueries, RecommendOptions, dense_queries
from suisen.recommending.rules.declared import Rules
from suisen.recommending.sources import Found, Lists, Source, nothing
from suisen.recommending.store import Store
from suisen.recommending.system import System

K = 10
USERS = 6
"""Users whose answers are kept, where train has so many."""
TOLERANCE = 1e-3
"""Largest difference of a score, relative to the largest score of the expected list (at least 1)."""

MARGIN = 0.2
"""Share of the expected items that may be missing beside those that are when the fixture is made."""

MOST_TOLERANCE = 1.0
"""Of a fixture that is read: scores that may differ by more than the largest are compared with nothing."""

WHOLE = 2**62
Finite = Annotated[float, Field(allow_inf_nan=False)]
Id = str | Annotated[int, Field(ge=-(2**63), lt=2**63)]


class Bounds(BaseModel):
    """How near an answer must come."""

    model_config = ConfigDict(strict=True, extra="forbid")
    least_found: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    tolerance: Annotated[float, Field(gt=0, le=MOST_TOLERANCE, allow_inf_nan=False)]


class Row(Bounds):
    """A request and the answer that it must get."""

    user: Id | None = None
    history: list[Id] | None = None
    at: Annotated[int, Field(ge=-WHOLE, le=WHOLE)]
    items: Annotated[list[Id], Field(max_length=K)]
    scores: list[Finite]
    fast: Bounds | None = None


def read(path: Path) -> list[dict[str, Any]]:
    """The fixture in a file.  Raises BundleError naming the file, the request and what is wrong with it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error}); {manifest.MENDED}") from None
    rows: list[dict[str, Any]] = manifest.decoded(content, path)
    manifest.held_to(Annotated[list[Row], Field(min_length=1)], rows, path)
    for at, row in enumerate(rows):
        if ("user" in row) == ("history" in row):
            raise _unfit(path, at, "asks for a user or for a history, not for both or neither")
        if len(row["items"]) != len(row["scores"]) or len(set(row["items"])) != len(row["items"]):
            raise _unfit(path, at, "has not one score for each of its different items")
    return rows


def complete(store: Store, histories: bool, fixture: list[dict[str, Any]], path: Path) -> None:
    """Raises BundleError where a fixture asks for less than ``make`` does, or names ids that the bundle does not know:
    how much must be asked is for the reader to say.  ``histories``: whether the model reads them.
    """
    for at, row in enumerate(fixture):
        users = [row["user"]] if row.get("user") is not None else []
        for ids, names in ((store.users, users), (store.items, [*row["items"], *row.get("history", [])])):
            strange = [name for name, dense in zip(names, ids.dense(names).tolist(), strict=True) if dense == 0]
            if strange:
                raise _unfit(path, at, f"names {shown(strange[0])}, which the bundle does not know")
    asked = {("user", row["user"]) if "user" in row else ("history", *row["history"]) for row in fixture}
    wanted = min(USERS, int(store.trained_users.sum()))
    of_users = sum(kind == "user" and bool(rest) and rest[0] is not None for kind, *rest in asked)
    if of_users < wanted or ("user", None) not in asked or len(asked) < wanted + 1 + histories:
        raise BundleError(
            f"{path} asks for {of_users} users of {wanted} and in {len(asked)} ways of {wanted + 1 + histories}; "
            "save the bundle again"
        )


def _unfit(path: Path, at: int, what: str) -> BundleError:
    return BundleError(f"{path} does not fit the bundle: request {at} {what}; save the bundle again")


def make(system: System, users: int = USERS) -> list[dict[str, Any]]:
    """Users with events, spread over the table; a history alone, where the model can read one; nobody at all.

    All are asked at one moment behind the last event, which is kept: answers must not depend on when they are replayed.
    An approximate index may miss some of the nearest, which also moves the pair features of the others: how much of an
    answer must be there, and how near its scores must come, is what is found now, with a margin.
    """
    store = system.store
    known = store.trained_users.nonzero().squeeze(1)
    spread = known[torch.linspace(0, max(0, known.numel() - 1), min(users, known.numel())).long()]
    asked: list[dict[str, Any]] = [{"user": raw} for raw in store.users.raw(spread.numpy()).to_list()]
    if "history" in system.abilities:
        asked.append({"history": store.items.raw(store.popular[1:4].numpy()).to_list()})
    asked.append({"user": None})
    at = int(store.history_times.max()) + 1 if store.history_times.numel() else 0
    fixture = [{**request, "at": at, **_expected(system, request, at)} for request in asked]
    bounds = _bounds(system, fixture, precise=True)
    if system.engine.plan is not None:
        bounds["fast"] = _bounds(system, fixture, precise=False)
    return [{**row, **bounds} for row in fixture]


def _bounds(system: System, fixture: list[dict[str, Any]], precise: bool) -> dict[str, Any]:
    """How much of each expected answer one way finds, and how near its scores come, with a margin."""
    compared = [_compare(row, *_answer(system, row, precise)) for row in fixture]
    found = min(found for found, _ in compared)
    apart = max(apart for _, apart in compared)
    least = 1.0 if found == 1.0 and precise else round(max(0.0, found - MARGIN), 2)
    return {
        "least_found": least,
        "tolerance": TOLERANCE if apart <= TOLERANCE else min(round(2 * apart, 6), MOST_TOLERANCE),
    }


def check(system: System, fixture: list[dict[str, Any]]) -> None:
    """Replays the fixture, by the plan too where there is one.  Raises BundleError naming the first request whose
    answer differs, and how.
    """
    for row in fixture:
        try:
            _check(system, row, row, precise=True)
            if "fast" in row and system.engine.plan is not None:
                _check(system, row, row["fast"], precise=False)
        except BundleError:
            raise
        except (SuisenError, ValueError, IndexError, TypeError, RuntimeError) as error:
            raise _mismatch(row, f"it cannot be answered ({one_line(str(error))})") from None


def _check(system: System, row: dict[str, Any], bounds: dict[str, Any], precise: bool) -> None:
    items, scores = _answer(system, row, precise)
    found, apart = _compare(row, items, scores)
    way = "" if precise else "by the plan "
    if len(items) != len(row["items"]) or found < bounds["least_found"]:
        raise _mismatch(row, f"{way}it gets {items}, expected {row['items']}")
    if apart > bounds["tolerance"]:
        most = bounds["tolerance"]
        raise _mismatch(row, f"{way}scores differ by {apart:.2g} of the largest, at most {most:g} is expected")


def _compare(row: dict[str, Any], items: list[Any], scores: list[float]) -> tuple[float, float]:
    """The share of the expected items that is there, and the largest relative difference of a score.

    Only where a score ties with the last of the expected list may another item take the place of one.
    """
    expected = dict(zip(row["items"], row["scores"], strict=True))
    answered = dict(zip(items, scores, strict=True))
    size = max([1.0, *(abs(score) for score in row["scores"])])
    slack, last = TOLERANCE * size, min(row["scores"], default=0.0)
    apart = max((abs(answered[item] - expected[item]) / size for item in answered.keys() & expected), default=0.0)
    lost = sum(expected[item] > last + slack for item in expected.keys() - answered)
    strange = sum(abs(answered[item] - last) > slack for item in answered.keys() - expected)
    return 1.0 - max(lost, strange) / max(1, len(expected)), apart


def _mismatch(row: dict[str, Any], what: str) -> BundleError:
    who = f"history {row['history']}" if "history" in row else f"user {row['user']!r}"
    return BundleError(f"parity: {who}: {what}; the bundle or the libraries changed since it was saved: save it again")


def _queries(row: dict[str, Any]) -> RawQueries:
    return RawQueries(history=[row["history"]]) if "history" in row else RawQueries([row["user"]])


def _answer(system: System, row: dict[str, Any], precise: bool) -> tuple[list[Any], list[float]]:
    queries = _queries(row)
    options = RecommendOptions(k=K, unknown="popular", exclude_seen=True, precise=precise, at=row["at"], rules=Rules())
    answers = answer(system, queries, options)
    frame = to_frame(system, queries, answers)
    return frame["item_id"].to_list(), frame["score"].to_list()


@torch.no_grad()
def _expected(system: System, request: dict[str, Any], at: int) -> dict[str, Any]:
    """The answer by brute force: every allowed item, one request, the whole networks."""
    store, engine = system.store, system.engine
    dense = dense_queries(store, _queries(request), at)
    if not bool(system.answerable(dense)[0]):
        pool = store.popular[~torch.isin(store.popular, dense.seen.values)][:K]
        return _named(system, pool, store.item_counts[pool].float())
    found = _candidates(system, dense, max(K, engine.candidates))
    known = found.ids[0] > 0
    pool, scores = found.ids[0, known], found.scores[0, known]
    if engine.states is not None and engine.ranker is not None:
        device = engine.first.device
        pair = engine.pair(dense.contexts, found)[:, known]
        ranked = engine.ranker.score(dense.contexts.to(device), Candidates(pool[None], pair).to(device))[0].cpu()
        pool, scores = _sorted(pool, ranked)
    return _named(system, pool[:K], scores[:K])


def _candidates(system: System, dense: DenseQueries, depth: int) -> Found:
    """The candidates of one request, of one source all items; of several at most ``depth``, 0 behind them."""
    engine = system.engine
    if engine.union is None:
        ids, scores = _scored(engine.sources[0], dense)
        most = depth if engine.states is not None else ids.shape[1]
        return Found(ids[:, :most], scores[:, :most])
    n = min(depth, engine.n_allowed)

    def lists(at: int, rows: Tensor) -> Lists:
        ids, scores = _scored(engine.sources[at], dense)
        return (ids[:, :n], scores[:, :n]) if rows.numel() else nothing(1)

    return engine.union.merged(dense.contexts, n, lists)


def _scored(source: Source, dense: DenseQueries) -> Lists:
    """(1, n) everything that a source may recommend to one request, best first, with its scores."""
    allowed = source.allowed.clone()
    allowed[dense.seen.values] = False
    pool, device = allowed.nonzero().squeeze(1), source.scorer.device
    scores = source.net.score(dense.contexts.to(device), Candidates(pool[None]).to(device))[0].cpu()
    ids, scores = _sorted(pool, scores)
    return ids[None], scores[None]


def _sorted(pool: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The pool and its scores, best first."""
    order = scores.argsort(descending=True, stable=True)
    return pool[order], scores[order]


def _named(system: System, pool: Tensor, scores: Tensor) -> dict[str, Any]:
    return {
        "items": system.store.items.raw(pool.numpy()).to_list(),
        "scores": [round(float(score), 6) for score in scores],
    }
