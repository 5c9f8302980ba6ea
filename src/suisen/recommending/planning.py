"""Making plans: tables are laid out, a speed is chosen by how its lists agree with the precise ones, all goes to disk.

The speeds are tried from the fastest to float32.  Chosen is the first whose ordered top 10 is that of ``Engine.lists``
for a share ``identical`` of queries that were held back: users with a history, its last item taken away, which counts
as the truth and may be recommended again.  Lists of up to 100 items have a speed of their own, found alike.  What the
tables are calibrated on are other users' queries.  Where users have no histories (guests alone), items drawn by their
events make them up.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from suisen.data.batch import Contexts, Queries
from suisen.data.ragged import Ragged
from suisen.errors import BundleError
from suisen.models.contract import ITEMS_PER_CHUNK
from suisen.models.form import Form
from suisen.recommending import manifest
from suisen.recommending.engine import CONTEXTS_PER_CHUNK, Engine, Filters, States
from suisen.recommending.kernels import PRECISE, Quantised, RankTables, Sample, Speed, partitioned, paths_here
from suisen.recommending.kernels.quantised import ITEMS, MAX_DIM
from suisen.recommending.plan import LONG, SHORT, Agreement, Plan
from suisen.recommending.queries import DenseQueries, answerable
from suisen.recommending.store import Store
from suisen.recommending.system import System
from suisen.retrieval import INDEXES

IDENTICAL = 0.99
"""Share of the queries whose lists must be those of the precise way."""
JUDGED, FITTED, LONG_JUDGED = 1_000, 200, 300
"""Most queries that a speed is judged by, that tables are calibrated on, and that long lists are judged by."""
FORMAT = 4
"""Of the tables and their description.  A plan of another format is not read: the bundle runs on torch instead."""
CANDIDATES, RANKER = "candidates", "ranker"
"""Folders of the tables."""
LADDER = (
    Speed(rescore=False, cut=48, quantised=True, finish=12),
    Speed(rescore=False, cut=64, quantised=True, finish=12),
    Speed(rescore=False, cut=96, quantised=True, finish=12),
    Speed(rescore=True, cut=64, quantised=True, finish=18),
    Speed(rescore=False, cut=96, quantised=True, finish=18),
    Speed(rescore=False, cut=192, quantised=True, finish=30),
    Speed(rescore=True, cut=128, quantised=True, finish=30),
    Speed(rescore=True, cut=0, quantised=True, finish=60),
    PRECISE,
)
"""The speeds of two compiled stages whose ranker has a deep net, fastest first."""
INTEGERS = Speed(quantised=True)
"""What chooses where the ranker's form is not exact."""
BEST = (24, 48, 96, 192)
"""So many candidates the ranker itself then orders on torch; where none is enough, all of them."""
RECALLS = (0.95, 0.999)
"""Of the candidates in the cells of a large catalogue that a query reads; where neither agrees, it reads all."""
NO_PATH = "numba is not installed, or this processor has neither AVX-512 VNNI nor AVX2"
OF_REQUESTS = "features of the pair are made of each request's history and time, which no kernel reads"


def held_back(store: Store, abilities: frozenset[str], most: int, seed: int) -> Queries:
    """At most ``most`` queries that the model can answer, whose last item is held back, in a random order.

    What is ``seen`` is the history without the truth, which may be recommended again.
    """
    rng = torch.Generator().manual_seed(seed)
    users = (store.trained_users & (store.histories.lengths > 1)).nonzero().squeeze(1)
    users = users[torch.randperm(len(users), generator=rng)[:most]]
    time = int(store.history_times.max()) + 1 if store.history_times.numel() else 0
    contexts = store.contexts(users, time) if len(users) else _made_up(store, most, time, rng)
    truth = contexts.history.last(1)
    past = contexts.history.drop_last()
    times = contexts.history.with_values(contexts.history_time).drop_last()
    contexts = replace(contexts, history=past, history_time=times.values)
    users = contexts.user
    dense = DenseQueries(contexts, past, store.trained_users[users], store.featured_users[users])
    able = answerable(dense, abilities).nonzero().squeeze(1)
    return Queries(contexts, truth, seen=past.minus(truth)).take(able)


def _made_up(store: Store, most: int, time: int, rng: torch.Generator) -> Contexts:
    """Contexts of nobody, whose histories are four items each, drawn by events; none where there are none."""
    rows = most if len(store.popular) else 0
    contexts = store.contexts(torch.zeros(rows, dtype=torch.int64), time)
    weights = store.item_counts[store.popular].double()
    drawn = torch.multinomial(weights, 4 * rows, True, generator=rng) if rows else torch.zeros(0, dtype=torch.int64)
    history = Ragged(store.popular[drawn], 4 * torch.arange(rows + 1))
    return replace(contexts, history=history, history_time=contexts.time.repeat_interleave(4))


# -- making ------------------------------------------------------------------------------------------------------------


def make(system: System, identical: float = IDENTICAL) -> Plan | str:
    """The plan of a system, measured; or why everything runs on torch."""
    engine = system.engine
    if engine.union is not None:
        return "several sources are merged on torch"
    if engine.retriever is None:
        return "a ranker alone scores every item"
    if engine.pairs is not None:
        return OF_REQUESTS
    if paths_here() == ("plain",):
        return NO_PATH
    queries = held_back(system.store, system.abilities, JUDGED + FITTED, system.seed)
    fitted = min(FITTED, len(queries) // 4)
    if not fitted:
        return "train has too few histories to measure a plan by"
    order = torch.arange(len(queries))
    sample, judged = queries.take(order[:fitted]), queries.take(order[fitted:])
    form, tables = _form(engine), _tables(engine, sample)
    if not tables and form is None:
        return "its first stage has no vectors, or an approximate index, and no compiled ranker stands behind it"
    ranks = None if form is None else _ranks(engine, form, sample)
    plans = [Plan(engine, table, ranks, form) for table in tables] or [Plan(engine, None, ranks, form)]
    if tables and form is not None and not form.exact:
        plans.append(Plan(engine, tables[-1], None, None))
    return _chosen(plans, judged, identical)


def _chosen(plans: Sequence[Plan], queries: Queries, identical: float) -> Plan | str:
    """The first of some plans that agrees at one of its speeds, at the fastest of those; or that none does."""
    precise = plans[0].engine.lists(queries.contexts, SHORT, Filters(queries.seen))[0]
    reached = 0.0
    for plan in plans:
        prepared = _prepared(plan, queries)
        for plan.speed, plan.best in ladder(plan):  # noqa: B020 - its fields, not it
            lists = torch.cat([plan.lists(states, SHORT, seen)[0] for states, seen in prepared])
            plan.agreement = agreement(lists, precise, queries.truth.values)
            reached = plan.agreement.identical
            if reached >= identical:
                _choose_for_long(plan, queries.take(torch.arange(min(len(queries), LONG_JUDGED))), identical)
                return plan
    return f"{reached:.1%} of {len(precise)} lists are identical in float32, {identical:.1%} are asked for"


def _prepared(plan: Plan, queries: Queries) -> list[tuple[States, Ragged]]:
    """States and seen items of the queries, a chunk at a time."""
    chunks = [queries.take(rows) for rows in torch.split(torch.arange(len(queries)), CONTEXTS_PER_CHUNK)]
    return [(plan.prepare(chunk.contexts), chunk.seen) for chunk in chunks]


def _choose_for_long(plan: Plan, queries: Queries, identical: float) -> None:
    """Sets the fastest speed, no faster than that of short lists, at which long ones agree; float32 where none does."""
    precise = plan.engine.lists(queries.contexts, LONG, Filters(queries.seen))[0]
    prepared = _prepared(plan, queries)
    speeds = [speed for speed, best in ladder(plan) if best == plan.best]
    for plan.long_speed in speeds[speeds.index(plan.speed) :]:  # noqa: B020 - its field, not it
        lists = torch.cat([plan.lists(states, LONG, seen)[0] for states, seen in prepared])
        plan.long_identical = float((lists == precise).all(1).double().mean())
        if plan.long_identical >= identical:
            return


def ladder(plan: Plan) -> Sequence[tuple[Speed, int]]:
    """The speeds that a plan can run at, and how many candidates are left to torch, fastest first."""
    if plan.ranks is None or plan.form is None:
        return [(PRECISE, 0)]
    if not plan.form.exact:
        return [(INTEGERS, best) for best in BEST]
    speeds = LADDER if len(plan.form.from_pair) else (Speed(rescore=False), PRECISE)
    return [(speed, 0) for speed in speeds if speed.rescore or plan.table is not None]


@torch.no_grad()
def _tables(engine: Engine, sample: Queries) -> list[Quantised]:
    """The first stage's vectors in int8, where it is an exact search of vectors that such a table can hold: of a large
    catalogue by cells of which a query reads few, then more, and last the whole.
    """
    if engine.index is None:
        return []
    described, vectors = engine.index.description, engine.index.vectors
    if not INDEXES[described["name"]].exact or described["d"] > MAX_DIM:
        return []
    asking = engine.first.prepare(sample.contexts).float().cpu().numpy()
    wanted = engine.candidates if engine.states is not None else SHORT
    made = []
    for recall in RECALLS:
        made.append(partitioned(vectors, asking, wanted, recall))
        if made[-1].cells is None:
            return made
    return [*made, Quantised.of(vectors)]


@torch.no_grad()
def _form(engine: Engine) -> Form | None:
    return None if engine.ranker is None else engine.ranker.form()


@torch.no_grad()
def _ranks(engine: Engine, form: Form, queries: Queries) -> RankTables:
    """The ranker's tables, calibrated on the lists of some queries."""
    assert engine.states is not None  # noqa: S101 - a form is
    assert engine.ranker is not None  # noqa: S101 - of a second stage
    items = torch.cat([form.item(states) for states in torch.split(engine.states[1:], ITEMS_PER_CHUNK)])
    ids, scores = engine.retrieve(queries.contexts, engine.candidates, Filters(queries.seen))
    rows = form.context(engine.ranker.context_state(queries.contexts.to(engine.first.device)))
    sample = Sample(rows.float().cpu().numpy(), ids.numpy() - 1, scores.numpy())
    return RankTables.of(form, items.float().cpu().numpy(), sample)


def agreement(lists: Tensor, precise: Tensor, truth: Tensor) -> Agreement:
    """Of (B, k) lists with (B, k) precise ones, 0 = none, and (B,) true items."""
    held = precise > 0
    shared = ((lists[:, :, None] == precise[:, None, :]) & held[:, None, :]).any(1)  # (B, k): of the precise list
    overlap = shared.sum(1) / held.sum(1).clamp(min=1)
    discounts = torch.log2(torch.arange(lists.shape[1]) + 2.0)
    ndcg, reference = (float(((one == truth[:, None]) / discounts).sum(1).mean()) for one in (lists, precise))
    return Agreement(
        float((lists == precise).all(1).double().mean()), float(overlap.mean()), ndcg, reference, len(truth)
    )


# -- on disk -----------------------------------------------------------------------------------------------------------


def save(plan: Plan | str, folder: Path) -> dict[str, Any]:
    """Writes the plan's tables into ``folder`` and returns its description for a manifest."""
    if isinstance(plan, str):
        return {"torch": plan}
    if plan.table is not None:
        plan.table.save(folder / CANDIDATES)
    if plan.ranks is not None:
        plan.ranks.save(folder / RANKER)
    return {"format": FORMAT, **plan.describe()}


def load(description: dict[str, Any] | None, folder: Path, engine: Engine) -> Plan | str:
    """The plan that ``save`` wrote, of the same engine; or why there is none.  Raises BundleError for other tables."""
    if description is None:
        return "the bundle is older than plans; save it again"
    if "torch" in description:
        return str(description["torch"])
    if description.get("format") != FORMAT:
        return "its plan was made by another version; save the bundle again"
    if paths_here() == ("plain",):
        return NO_PATH
    manifest.held_to(manifest.PlanFields, description, folder)
    table = ranks = form = None
    if description["candidates"] == "compiled":
        if engine.index is None:
            raise BundleError(f"{folder} holds a table of vectors, and the first stage has none; save the bundle again")
        table = Quantised.load(folder / CANDIDATES, engine.index.vectors)
    if description["ranker"] == "compiled" or description["best"]:
        form = _form(engine)
        ranks = RankTables.load(folder / RANKER, len(engine.allowed) - 1)
        _check_form(folder / RANKER, form, ranks)
    plan = Plan(engine, table, ranks, form)
    speeds = ladder(plan)
    plan.speed, plan.best = Speed(**description["speed"]), description["best"]
    plan.long_speed, plan.long_identical = Speed(**description["long_speed"]), description["long_identical"]
    for name, speed in (("speed", plan.speed), ("long_speed", plan.long_speed)):
        if (speed, plan.best) not in speeds:
            raise BundleError(f"{folder}: plan.{name} = {tuple(speed)} is none of this plan's; save the bundle again")
    plan.agreement = Agreement(**description["agreement"])
    plan.measured_on = description["measured_on"]
    return plan


def _check_form(folder: Path, form: Form | None, ranks: RankTables) -> None:
    """Compiled code reads as many numbers of a context's row as the tables say: they must be those of the form."""
    if form is None:
        raise BundleError(f"{folder} holds a ranker's tables, and the ranker has no form; save the bundle again")
    wanted = [form.inner, len(form.gamma), len(form.from_pair)]
    hidden = [len(form.from_pair), *(len(bias) for _, bias in form.layers)]
    padded = [-(-width // ITEMS) * ITEMS for width in hidden]
    if ranks.shape.tolist() != wanted or ranks.widths.tolist() != padded:
        found = f"{ranks.shape.tolist()} and {ranks.widths.tolist()}"
        raise BundleError(f"{folder} holds tables of {found}, the ranker has {wanted} and {padded}")
