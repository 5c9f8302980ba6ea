"""A retriever as the second stage."""

from __future__ import annotations

import pytest
import torch

from suisen.data.batch import Candidates
from suisen.data.ragged import Ragged
from suisen.errors import InputError
from suisen.models import EASE, FM, IALS, Popularity
from suisen.pipeline import two_stage
from suisen.pipeline.recommender import Recommender
from suisen.recommending.engine import Engine, Filters
from suisen.recommending.sources import PAIR, pair_features
from suisen.recommending.standin import SHARES, StandIn, Undrawn, as_ranker, build_ranker, stands_in
from tests.fitted import MODELS, RANKERS, fitted, small_split


def test_its_score_is_the_inner_product_and_the_blended_retrieval_score():
    net = fitted("two-tower").engine.retriever
    ranker = as_ranker(net)
    assert isinstance(ranker, StandIn)
    contexts, items = small_split().test.contexts, torch.arange(1, 21).expand(len(small_split().test), -1)
    scores = torch.randn(items.shape, generator=torch.Generator().manual_seed(1)).sort(1, descending=True).values
    pair = pair_features(scores, items > 0)
    own = net.score(contexts, Candidates(items)) * net.items.trained[items]
    for blend in (0.0, 0.7):
        ranker.blend.fill_(blend)
        torch.testing.assert_close(ranker.score(contexts, Candidates(items, pair)), own + blend * pair[..., 0])
        torch.testing.assert_close(ranker.score(contexts, Candidates(items)), own)
    assert as_ranker(fitted("fm").engine.ranker) is fitted("fm").engine.ranker


def test_the_blend_is_the_best_on_valid():
    split = small_split()
    rec = Recommender(EASE(l2=20.0), ranker=IALS(dim=8, epochs=3), candidates=30, seed=1).fit(split.train, split.valid)
    engine, ranker = rec.engine, rec.engine.ranker
    parts = two_stage.valid_lists(Engine(engine.retriever, None, engine.allowed, 30), split.valid, 30)
    validate = two_stage.list_validator(parts)
    picked = float(ranker.blend)
    own = torch.cat([ranker.net.score(q.contexts, Candidates(ids)).where(ids > 0, torch.nan) for q, ids, _ in parts])
    spread = float((own - own.nanmean(1, keepdim=True)).square().nanmean(1).sqrt().mean())
    reached = []
    for share in SHARES:
        ranker.blend.fill_(share * spread)
        reached.append(validate(ranker))
    ranker.blend.fill_(picked)
    assert picked == pytest.approx(SHARES[reached.index(max(reached))] * spread, rel=1e-4)
    assert "picked on valid" in rec.system.notes[0]
    assert max(reached) > min(reached)


def test_validation_of_lists_is_ndcg():
    from suisen.evaluation import evaluate

    rec, valid = fitted("ease + fm"), small_split().valid
    parts = two_stage.valid_lists(Engine(rec.engine.retriever, None, rec.engine.allowed, 30), valid, 30)
    assert two_stage.list_validator(parts)(rec.engine.ranker) == pytest.approx(
        evaluate(rec.engine, valid, ["ndcg@10"]).value("ndcg@10"), abs=1e-6
    )


def test_who_stands_in():
    schema = small_split().train.schema
    assert {name for name, model in (MODELS | RANKERS).items() if name != "ease" and stands_in(model)} == {
        "popularity", "ials", "mf", "two-tower", "sasrec",
    }  # fmt: skip
    for ask in (lambda: build_ranker(EASE(), schema), lambda: stands_in(EASE())):
        with pytest.raises(
            InputError, match=r"ranker = EASE scores the whole catalogue only; rankers are mlp, .* ials"
        ):
            ask()


def test_nothing_is_drawn_inside_undrawn():
    from dataclasses import replace

    schema = replace(small_split().train.schema, pair=PAIR)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with Undrawn():
        nets = [model.build(schema) for model in (MODELS | RANKERS).values()]
    assert torch.equal(torch.get_rng_state(), state)
    plain = [model.build(schema) for model in (MODELS | RANKERS).values()]
    for one, other in zip(nets, plain, strict=True):
        shapes = [{name: tuple(part.shape) for name, part in net.state_dict().items()} for net in (one, other)]
        assert shapes[0] == shapes[1]
        kept = {name for name, _ in one.named_buffers()} - set(one.state_dict())
        for name in kept:  # what no file holds must be there all the same
            assert torch.equal(one.get_buffer(name), other.get_buffer(name))


def test_a_stand_in_alone_is_its_retriever():
    rec = Recommender(ranker=MODELS["mf"], seed=1).fit(small_split().train)
    contexts = small_split().test.contexts
    ids, scores = rec.engine.lists(contexts, 9, Filters(Ragged.empty(len(contexts))))
    again = rec.engine.ranker.net.score(contexts, Candidates(ids)).detach()
    torch.testing.assert_close(scores, again, rtol=1e-4, atol=1e-6)


def test_a_first_stage_of_no_taste_is_ranked_by_the_second():
    split = small_split()
    rec = Recommender(Popularity(), ranker=FM(dim=4, epochs=2), candidates=80, seed=1).fit(split.train, split.valid)
    assert rec.name == "popularity + fm"
    assert rec.curves["ranker"][0].best_metric is not None


def test_the_blend_that_is_best_is_set_and_moves_the_scores():
    """The validation metric is made to be best at a share of 0.45: ``blend`` is that many spreads, and it counts."""
    engine = fitted("ease").engine
    ranker = as_ranker(fitted("sasrec").engine.retriever)
    parts = two_stage.valid_lists(engine, small_split().valid, 30)
    queries, ids, pair = parts[0]
    with torch.no_grad():
        wanted = 0.45 * ranker._spread(queries, ids, pair)
        assert wanted > 0
        ranker.pick_blend(parts, lambda net: -abs(float(net.blend) - wanted))
        assert float(ranker.blend) == pytest.approx(wanted)
        added = ranker.score(queries.contexts, Candidates(ids, pair)) - ranker.score(
            queries.contexts, Candidates(ids, None)
        )
    assert torch.allclose(added, wanted * pair[..., 0], atol=1e-4)
    assert float(added.abs().max()) > 0
