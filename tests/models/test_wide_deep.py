"""Wide & Deep: the wide part against explicit one-hot crosses, FTRL against its coordinates, declared fields."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from suisen.data.batch import Batch, Candidates, Features, Field, Schema
from suisen.data.ragged import Ragged
from suisen.errors import InputError
from suisen.models import WideDeep
from suisen.models.losses import logistic, softmax_lists
from suisen.models.wide_deep import FTRL, crossable
from suisen.training.options import RunOptions
from suisen.training.trainer import fit
from tests.helpers import make_data
from tests.models.test_fm import PAIR, question
from tests.models.test_layers import Plain
from tests.models.toys import asked, bound, checkerboard, shelves

CROSSES = (
    ("user", "item"), ("history", "item"), ("item", "side"), ("side", "tags"),
    ("colour", "tags"), ("user", "side"), ("history", "tags"), ("history", "side"),
)  # fmt: skip
"""Context with item, item with item, context with context; ids, categorical, multi-valued, history."""


def net_of(crosses=CROSSES, **hyper):
    torch.manual_seed(0)
    data = checkerboard()
    hyper = {"dim": 3, "hidden": (6, 4), "history": 4, "recent": 2, "dropout": 0.0, "hide_ids": 0.0, **hyper}
    net = bound(WideDeep(crosses=crosses, **hyper).build(Schema(**{**vars(data.schema), "pair": PAIR})), data)
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.5)
    return net.double().eval()


def present(contexts, b: int, items, item: int) -> dict[str, dict[int, float]]:
    """By field: its codes in this row with the share of each, from the raw arrays, one by one."""
    past = contexts.history.tolist()[b][-4:]
    tags = items.features.multi[0].tolist()[item]
    return {
        "user": {int(contexts.user[b]): 1.0},
        "item": {item if items.trained[item] else 0: 1.0},
        "side": {int(contexts.user_features.categorical[b, 0]): 1.0},
        "colour": {int(items.features.categorical[item, 0]): 1.0},
        "tags": {code: tags.count(code) / len(tags) for code in tags},
        "history": {int(code): past.count(code) / len(past) for code in past},
    }


@torch.no_grad()
@pytest.mark.parametrize("buckets", [2**18, 7])
def test_wide_part_is_the_sum_over_one_hot_crosses(buckets):
    net = net_of(buckets=buckets, hidden=())
    assert all(cross.hashed == (buckets == 7) for cross in net.wide.crosses)
    contexts, items, extra = question()
    scores = net.score(contexts, Candidates(items, extra))
    linear = net.wide.context(contexts).sum((1, 2))
    for b, c in product(range(items.shape[0]), range(items.shape[1])):
        item = items[b, c]
        there = present(contexts, b, net.items, int(item))
        wanted = net.wide.bias + linear[b] + extra[b, c] @ net.wide.pair
        wanted = wanted + net.wide.item(net.items.known(item[None]), net.items.features.take(item[None])).sum()
        for cross in net.wide.crosses:
            for (left, a), (right, z) in product(there[cross.left.name].items(), there[cross.right.name].items()):
                if left and right:
                    place = cross.places(torch.tensor(left), torch.tensor(right))
                    wanted = wanted + a * z * cross.weight[place, 0]
        torch.testing.assert_close(scores[b, c], wanted, rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("batch_norm", [True, False])
def test_score_is_the_wide_part_plus_the_plain_deep_net(batch_norm):
    net = net_of(batch_norm=batch_norm)
    for norm in net.deep.net.norms or ():
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    contexts, items, extra = question()
    flat = items.flatten()
    context = net.deep.context(contexts).flatten(1).unsqueeze(1).expand(-1, items.shape[1], -1)
    item = net.deep.item(net.items.known(flat), net.items.features.take(flat)).view(*items.shape, -1)
    deep = Plain(net.deep.net)(torch.cat([context, item, extra], 2)) @ net.deep.out.weight[0]
    of_items = net.wide.of_item(net.items.known(flat), net.items.features.take(flat)).view(*items.shape, -1)
    wanted = net.wide(net.wide.of_context(contexts), of_items, extra) + deep
    torch.testing.assert_close(net.score(contexts, Candidates(items, extra)), wanted, rtol=1e-8, atol=1e-8)


def test_tables_have_a_weight_for_each_pair_until_they_are_hashed():
    net, schema = net_of(buckets=100), checkerboard().schema
    found = {(cross.left.name, cross.right.name): (cross.hashed, len(cross.weight)) for cross in net.wide.crosses}
    assert found["side", "tags"] == (False, schema.user[0].size * schema.item[2].size)
    assert schema.n_users * schema.n_items > 100
    assert found["user", "item"] == (True, 100)


@given(buckets=st.integers(1, 1000), seed=st.integers(0, 5))
def test_hashed_places_are_inside_and_spread(buckets, seed):
    net = net_of((("user", "item"),), buckets=buckets, hidden=())
    (cross,) = net.wide.crosses
    codes = torch.randint(1, 2**24, (2, 4000), generator=torch.Generator().manual_seed(seed))
    if not cross.hashed:
        return
    places = cross.places(*codes)
    assert int(places.min()) >= 0
    counts = torch.bincount(places, minlength=buckets)
    assert len(counts) == buckets
    mean = 4000 / buckets
    assert counts.max() < mean + 8 * math.sqrt(mean) + 8


def test_codes_beyond_what_float32_counts_fold_and_stay_known():
    big = replace(checkerboard().schema, n_users=2**26)
    one = crossable(big, 4)["user"]
    nothing = Features.none(4)
    codes = one.read(torch.tensor([0, 1, 2**24, 2**25]), nothing, None)
    assert (codes[1:] > 0).all()
    assert codes[0] == 0
    assert torch.equal(codes.float().long(), codes)


# -- declared fields --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("crosses", "said"),
    [
        ((("color", "item"),), "field of crosses = 'color' is unknown; did you mean 'colour'"),
        ((("zzz", "item"),), "'zzz' is unknown; known: user, item, history, user.side, side, item.colour"),
        ((("size", "user"),), "'size' is numeric; cross a categorical field"),
        ((("item", "item"),), "crosses a field with itself; name two fields"),
        ((("side", "user.side"),), "crosses a field with itself; name two fields"),
    ],
)
def test_fields_that_cannot_be_crossed_are_named(crosses, said):
    with pytest.raises(InputError, match=f"WideDeep: .*{said}"):
        WideDeep(crosses=crosses).build(checkerboard().schema)


def test_a_pair_can_be_one_text():
    pairs = (("user", "item"), ("side", "tags"))
    for spelt in (["user*item", "side * tags"], (("user*item",), ("side*tags",)), pairs):
        assert WideDeep(crosses=spelt).crosses == pairs
    for wrong in ("user", ("user",), ("a*b*c",)):
        with pytest.raises(InputError, match=r"WideDeep: crosses"):
            WideDeep(crosses=(wrong,))


def test_without_history_there_is_none_to_cross():
    with pytest.raises(InputError, match="'history' is unknown"):
        WideDeep(crosses=(("history", "item"),), history=0, recent=0).build(checkerboard().schema)


def test_a_name_of_two_fields_asks_for_the_owner():
    schema = Schema(3, 3, (Field("kind", "categorical", 4),), (Field("kind", "categorical", 5),))
    with pytest.raises(InputError, match=r"'kind' names several fields; write user\.kind"):
        WideDeep(crosses=(("kind", "item"),)).build(schema)
    net = WideDeep(crosses=(("user.kind", "item.kind"),)).build(schema)
    assert len(net.wide.crosses[0].weight) == 20


def test_a_multi_valued_field_of_very_many_values_is_refused():
    schema = Schema(3, 3, item=(Field("words", "multi", 5000),))
    with pytest.raises(InputError, match=r"'words' has 4,999 values, more than 1,024"):
        WideDeep(crosses=(("words", "user"),)).build(schema)


def test_weights_of_a_multi_valued_field_are_its_shares():
    field = crossable(Schema(3, 3, item=(Field("words", "multi", 4),)), 0)["words"]
    bags = Ragged(torch.tensor([1, 3, 0, 2]), torch.tensor([0, 3, 3, 4]), torch.tensor([1.0, 3.0, 5.0, 2.0]))
    rows = Features(torch.zeros((3, 0)).long(), torch.zeros((3, 0)), (bags,))
    wanted = torch.tensor([[0.25, 0.0, 0.75], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    torch.testing.assert_close(field.read(torch.arange(3), rows, None), wanted)


# -- optimisers -------------------------------------------------------------------------------------------------------


def slow_ftrl(w: float, grads: list[float], rate: float, l1: float, beta: float) -> float:
    """One coordinate, as algorithm 1 writes it."""
    z, n = -w * beta / rate - math.copysign(l1, w) * (w != 0), 0.0
    for g in grads:
        sigma = (math.sqrt(n + g * g) - math.sqrt(n)) / rate
        z += g - sigma * w
        n += g * g
        w = 0.0 if abs(z) <= l1 else -(z - math.copysign(l1, z)) / ((beta + math.sqrt(n)) / rate)
    return w


@given(
    start=st.floats(-2, 2), grads=st.lists(st.floats(-3, 3), max_size=8), rate=st.floats(0.01, 1), l1=st.floats(0, 1)
)
def test_ftrl_is_its_definition(start, grads, rate, l1):
    weight = nn.Parameter(torch.tensor([start, 0.0], dtype=torch.float64))
    optimiser = FTRL([weight], rate, l1, beta=0.5)
    for g in grads:
        weight.grad = torch.tensor([g, -g], dtype=torch.float64)
        optimiser.step()
    found = weight.detach()
    assert float(found[0]) == pytest.approx(slow_ftrl(start, grads, rate, l1, 0.5), rel=1e-8, abs=1e-10)
    assert float(found[1]) == pytest.approx(slow_ftrl(0.0, [-g for g in grads], rate, l1, 0.5), rel=1e-8, abs=1e-10)


def test_l1_makes_useless_weights_exactly_zero():
    """Labels of Pr = σ(2·x₀); the other nineteen coordinates are noise."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 20, generator=rng)
    y = (torch.rand(4000, generator=rng) < torch.sigmoid(2 * x[:, 0])).float()
    found = {}
    for l1 in (0.0, 1.0):
        weight = nn.Parameter(torch.zeros(20))
        optimiser = FTRL([weight], 0.1, l1)
        for batch in torch.arange(4000).split(50):
            optimiser.zero_grad()
            logistic(x[batch] @ weight, y[batch]).backward()
            optimiser.step()
        found[l1] = weight.detach()
    assert (found[0.0] != 0).all()
    assert (found[1.0][1:] == 0).sum() >= 15
    assert found[1.0][0] > 0.5


def test_each_part_has_its_own_optimiser():
    net = net_of()
    (phase,) = net.model.phases(net)
    wide, deep = phase.optimisers(net)
    assert isinstance(wide, FTRL)
    assert isinstance(deep, torch.optim.Adam)
    parts = [{id(w) for group in one.param_groups for w in group["params"]} for one in (wide, deep)]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == {id(w) for w in net.parameters()}
    assert parts[0] == {id(w) for w in net.wide.parameters()}


def test_without_hidden_layers_it_is_logistic_regression():
    """On labelled rows: the solution's gradient vanishes, by coordinates, at the labels' own frequencies."""
    users, labels = [0] * 40 + [1] * 40, [1] * 30 + [0] * 10 + [1] * 8 + [0] * 32
    data = make_data(user=users, item=[5] * 80, label=labels, time=list(range(80)))
    model = WideDeep(hidden=(), history=0, recent=0, l1=0.0, wide_rate=0.5, batch_size=80, epochs=300)
    net, _ = fit(model, data, options=RunOptions())
    contexts = asked(data, torch.tensor([1, 2]))
    with torch.no_grad():
        found = torch.sigmoid(net.score(contexts, Candidates(torch.tensor([[1], [1]]))))[:, 0]
    torch.testing.assert_close(found, torch.tensor([30 / 40, 8 / 40]), atol=0.02, rtol=0)
    assert net.deep is None


def test_the_norm_is_over_the_deep_tables_alone():
    net = net_of(l2=0.5)
    contexts, items, extra = question()
    labels = torch.zeros(items.shape, dtype=torch.float64)
    labels[:, 0] = 1
    weights = torch.ones_like(labels)
    weights[0, 3] = 0
    batch = Batch(contexts, Candidates(items, extra), labels, weights)
    bare = softmax_lists(net.score(contexts, batch.candidates), labels, weights)
    names = ("deep.context", "deep.item")
    squares = sum(float(w.detach().square().sum()) for name, w in net.named_parameters() if name.startswith(names))
    assert float(net(batch).detach()) == pytest.approx(float(bare.detach()) + 0.25 * squares, rel=1e-6)


def test_a_cross_learns_what_no_sum_of_terms_can():
    """Each user's own three of eighteen items, each item and user as frequent as any other: only the cross tells."""
    data = shelves()
    right = []
    for crosses in ((), (("user", "item"),)):
        hyper = {"hidden": (), "history": 0, "recent": 0, "l1": 0.0, "batch_size": 6}
        net, _ = fit(WideDeep(crosses=crosses, wide_rate=0.5, epochs=30, **hyper), data, options=RunOptions())
        users = torch.arange(1, 7)
        with torch.no_grad():
            scores = net.score(asked(data, users), Candidates(torch.arange(1, 19).repeat(6, 1)))
        own = torch.zeros(6, 19)
        own[data.histories.rows() - 1, data.histories.values] = 1
        right.append(float((own[:, 1:].gather(1, scores.topk(3).indices)).mean()))
    assert right[0] < 0.5
    assert right[1] == 1.0
