"""A form scores what its ranker's ``combine`` does: every ranker, trained, with pair features and without."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.data.batch import Candidates
from suisen.models import EASE, MF, RANKERS, DCNv2, TwoTower, WideDeep
from suisen.models.contract import Ranker
from suisen.pipeline.recommender import Recommender
from suisen.recommending.sources import PAIR
from suisen.recommending.standin import StandIn, build_ranker
from tests.fitted import small_split
from tests.models.test_contract import small
from tests.models.toys import asked, bound, checkerboard

NEAR = {"dcn-v2", "wide-deep with mixed crosses"}
"""Rankers that are more than their form: products of three features, weights of pairs."""
FORMED = {"mlp", "neumf", "fm", "deepfm", "wide-deep", "dnn", "ffm", "dcn-v2"}
"""Rankers that have a form; one that is new may do without."""
MODELS = {
    **{name: small(name, epochs=2) for name in RANKERS},
    "wide-deep": WideDeep(dim=4, hidden=(16, 8), epochs=2, crosses=[("user", "history"), ("item", "category")]),
    "wide-deep with mixed crosses": WideDeep(dim=4, hidden=(8,), epochs=1, crosses=[("user", "item")]),
    "wide alone": WideDeep(hidden=(), epochs=2),
    "one cross layer": DCNv2(dim=4, hidden=(8,), crosses=1, epochs=2),
    "one of low rank": DCNv2(dim=4, hidden=(8,), crosses=1, rank=3, epochs=1),
    "mf": MF(dim=8, epochs=2),
    "two-tower": TwoTower(dim=8, hidden=(8,), epochs=1),
}


def trained(name: str) -> Recommender:
    return Recommender(EASE(l2=20.0), ranker=MODELS[name], candidates=30, seed=1).fit(small_split().train)


@pytest.fixture(scope="module", params=list(MODELS))
def case(request) -> tuple[str, Recommender]:
    rec = trained(request.param)
    if rec.engine.ranker.form() is None and request.param in set(RANKERS) - FORMED:
        pytest.skip("combined on torch")
    return request.param, rec


@torch.no_grad()
def sides(net: Ranker, contexts, rows: int):
    """Context states, item states and pair features of 40 items."""
    ids = torch.arange(40)
    pair = torch.randn((rows, 40, len(PAIR)), generator=torch.Generator().manual_seed(1))
    return net.context_state(contexts), net.item_state(ids), pair


def agrees(net: Ranker, context, item, pair) -> None:
    form = net.form()
    with torch.no_grad():
        rows = form.context(context), form.item(item)
        width = form.inner + len(form.gamma) + len(form.from_pair)
        assert rows[0].shape == (len(context), width)
        assert rows[1].shape == (len(item), width)
        assert rows[0].dtype == rows[1].dtype == torch.float32
        for features in (pair, None):
            expected = net.combine(context, item[None], features)
            scale = expected.abs().max().clamp(min=1)
            found = form.score(rows[0], rows[1][None], features)
            torch.testing.assert_close(found / scale, expected / scale, atol=1e-5, rtol=0)
            spread = item[None].expand(len(context), -1, -1)
            again = net.combine(context, spread, features)
            torch.testing.assert_close(
                form.score(rows[0], form.item(item)[None], features), again, atol=1e-4, rtol=1e-5
            )


def test_a_form_scores_what_the_ranker_does(case):
    name, rec = case
    net = rec.engine.ranker
    assert net.form().exact == (name not in NEAR)
    if name in NEAR:
        return
    train = small_split().train
    agrees(net, *sides(net, asked(train), len(asked(train))))


def test_what_is_trained_is_not_what_it_began_as(case):
    _, rec = case
    form = rec.engine.ranker.form()
    contexts = asked(small_split().train)
    _, item, pair = sides(rec.engine.ranker, contexts, len(contexts))
    scores = form.score(form.context(rec.engine.ranker.context_state(contexts)), form.item(item)[None], pair)
    assert float(scores.std(1).min()) > 1e-3
    assert not any(part.requires_grad for part in (form.gamma, form.from_pair, form.out, *sum(form.layers, ())))


@settings(max_examples=15, deadline=None)
@given(name=st.sampled_from(sorted(FORMED - NEAR)), seed=st.integers(0, 10**6))
def test_whatever_the_weights_are(name, seed):
    data = checkerboard()
    torch.manual_seed(seed)
    model = small(name, **({"crosses": ()} if name == "wide-deep" else {}))
    net = bound(build_ranker(model, replace(data.schema, pair=PAIR)), data)
    with torch.no_grad():
        for key, value in net.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.1 if "running_var" in key else 0.5 * torch.randn_like(value))
    net.eval()
    contexts = asked(data)
    ids = torch.arange(data.schema.n_items)
    pair = torch.randn((len(contexts), len(ids), len(PAIR)))
    with torch.no_grad():
        agrees(net, net.context_state(contexts), net.item_state(ids), pair)


def test_a_ranker_without_pair_features_has_a_form_too():
    data = checkerboard()
    net = bound(small("deepfm").build(data.schema), data).eval()
    form, contexts = net.form(), asked(data)
    assert form.gamma.shape == (0, 0)
    with torch.no_grad():
        rows = form.context(net.context_state(contexts)), form.item(net.item_state(torch.arange(20)))[None]
        expected = net.score(contexts, Candidates(torch.arange(20).expand(len(contexts), -1)))
        torch.testing.assert_close(form.score(*rows, None), expected, atol=1e-5, rtol=1e-5)


def test_the_stand_in_blends_the_retrieval_score():
    rec = trained("mf")
    net = rec.engine.ranker
    assert isinstance(net, StandIn)
    net.blend.fill_(0.7)
    contexts = asked(small_split().train)
    agrees(net, *sides(net, contexts, len(contexts)))


def test_wide_and_deep_without_the_weights_of_pairs():
    net = trained("wide-deep with mixed crosses").engine.ranker
    contexts = asked(small_split().train)
    context, item, pair = sides(net, contexts, len(contexts))
    before = net.combine(context, item[None], pair)
    for cross in net.wide.crosses:
        cross.weight.data.zero_()
    assert not torch.equal(net.combine(context, item[None], pair), before)
    agrees(net, context, item, pair)
    data = checkerboard()
    exact = lambda *crosses: bound(WideDeep(crosses=crosses).build(data.schema), data).eval().form().exact  # noqa: E731
    assert exact(("user", "side"), ("item", "colour"))
    assert not exact(("side", "colour"))


@torch.no_grad()
@pytest.mark.parametrize("rank", [0, 3])
def test_products_of_two_features_are_all_there_and_only_those_of_three_are_missing(rank):
    """Features half as large: an eighth of the error."""
    data = checkerboard()
    torch.manual_seed(0)
    model = DCNv2(dim=4, hidden=(8,), crosses=3, rank=rank)
    net = bound(model.build(replace(data.schema, pair=PAIR)), data).eval().double()
    for name, value in net.named_parameters():
        value.copy_(torch.rand_like(value) if name.startswith(("context", "item")) else 0.4 * torch.randn_like(value))
    contexts, ids = asked(data), torch.arange(data.schema.n_items)
    pair = torch.rand((len(contexts), len(ids), len(PAIR)), dtype=torch.float64)
    apart = []
    for _ in range(3):
        context, item = net.context_state(contexts), net.item_state(ids)
        form = net.form()
        found = form.score(form.context(context), form.item(item)[None], pair)
        apart.append(float((found - net.combine(context, item[None], pair)).abs().max()))
        for name, value in net.named_parameters():
            if name.startswith(("context", "item")):
                value.mul_(0.5)
        pair = pair * 0.5
    assert apart[0] > 1e-3
    assert apart[1] / apart[2] == pytest.approx(8, rel=0.2)


def test_a_stacked_net_has_no_form():
    assert DCNv2(structure="stacked").build(checkerboard().schema).form() is None
