"""FFM: the paper's equation as a double loop over the expanded vector; parameters; its loss."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from suisen.data.batch import Batch, Candidates, Features
from suisen.models import FFM
from suisen.models.ffm import field_pairs
from suisen.models.losses import logistic
from tests.models.test_fm import PAIR, coordinates, rich_net, rich_question, shares_of


def by_field(net, contexts, items, extra, b, c):
    """(field, x_i, row of the table) of every coordinate; fields are numbered as the docstring says."""
    schema, kinds = net.schema, ("categorical", "numeric", "multi")

    def of(fields, encoder, features, row, first):
        """Fields in the encoder's order: categorical, numeric, multi-valued."""
        place = first
        for kind in kinds:
            for index in range(sum(field.kind == kind for field in fields)):
                for x, weight in alone(encoder, features, row, kind, index, fields):
                    yield place, x, weight
                place += 1

    user, item = int(contexts.user[b]), int(net.items.known(items[b, c]))
    yield 0, float(user > 0), net.context.user.weight[user]
    yield from of(schema.user, net.context.fields, contexts.user_features, b, 1)
    yield from of(schema.context, net.context.request, contexts.context_features, b, 1 + len(schema.user))
    place = 1 + len(schema.user) + len(schema.context)
    past = contexts.history.tolist()[b]
    for span, table in zip(net.context.spans, net.context.history):
        for x, weight in shares_of(past[-span:], [1.0] * span, table.weight):
            yield place, x, weight
        place += 1
    yield place, float(item > 0), net.item.item.weight[item]
    yield from of(schema.item, net.item.fields, net.items.features, int(items[b, c]), place + 1)
    for k in range(len(net.pair)):
        yield place + 1 + len(schema.item) + k, extra[b, c, k], net.pair[k]


def alone(encoder, features, row, kind, index, fields):
    """The coordinates of one field: all of the row's less those of the others."""
    codes, numbers, bags = features.categorical.clone(), features.numeric, list(features.multi)
    for other in range(codes.shape[1]):
        if kind != "categorical" or other != index:
            codes[:, other] = 0
    bags = [
        bag if kind == "multi" and i == index else replace(bag, values=bag.values * 0) for i, bag in enumerate(bags)
    ]
    found = list(coordinates(fields, encoder, Features(codes, numbers, tuple(bags)), row))
    numeric = numbers.shape[1]
    if kind == "numeric":
        return found[index : index + 1]
    return found[:-numeric] if kind == "categorical" else found[numeric:]


def juan(net, terms):
    """Equation 4 of Juan et al. 2016 with linear terms, as a double loop."""
    k = net.model.dim
    vector = lambda row, field: row[1 + field * k : 1 + (field + 1) * k]  # noqa: E731
    score = net.bias.double() + sum(x * row[0] for _, x, row in terms)
    for (f, x, one), (g, y, other) in combinations(terms, 2):
        score = score + x * y * (vector(one, g) @ vector(other, f))
    return score


@torch.no_grad()
@pytest.mark.parametrize("pair", [PAIR, ()])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("repeat", [False, True])
def test_score_is_the_double_loop_over_the_expanded_vector(pair, dtype, repeat):
    net = rich_net(pair, FFM).to(dtype)
    contexts, items, extra = rich_question(repeat)
    extra = extra.to(dtype)
    scores = net.score(contexts, Candidates(items, extra if pair else None))
    for b in range(items.shape[0]):
        for c in range(items.shape[1]):
            terms = [
                (f, x if isinstance(x, float) else x.double(), row.double())
                for f, x, row in by_field(net, contexts, items, extra, b, c)
            ]
            assert float(scores[b, c]) == pytest.approx(float(juan(net, terms)), rel=1e-6, abs=1e-6)


@torch.no_grad()
def test_shared_candidates_score_like_each_context_s_own():
    net = rich_net((), FFM)
    contexts, items, _ = rich_question(True)
    one = net.combine(net.context_state(contexts), net.item_state(items[0])[None], None)
    torch.testing.assert_close(one, net.score(contexts, Candidates(items[:1].expand(len(contexts), -1))))


@given(rows=st.integers(0, 5), fields=st.integers(1, 5), dim=st.integers(1, 4))
def test_field_pairs_are_the_double_loop(rows, fields, dim):
    rng = torch.Generator().manual_seed(rows)
    v = torch.randn(rows, fields, fields, dim, generator=rng, dtype=torch.float64).requires_grad_()
    wanted = [sum((one[f, g] @ one[g, f] for f, g in combinations(range(fields), 2)), torch.zeros(())) for one in v]
    out = field_pairs(v)
    torch.testing.assert_close(out, torch.stack(wanted).double() if rows else torch.zeros(0, dtype=torch.float64))
    if rows:
        assert torch.autograd.gradcheck(field_pairs, v)


def test_parameters_are_a_vector_for_every_field():
    net = rich_net(PAIR, FFM, dim=5)
    schema = net.schema
    context, item = 1 + 3 + 3 + 2, 1 + 3
    assert net.counts == (context, item, 2)
    assert (net.context.count, net.item.count) == (context, item)
    sizes = [schema.n_users, 3 * schema.n_items, 2 * (4 + 1 + 6), 5 + 1 + 3, len(PAIR)]
    total = sum(weight.numel() for weight in net.parameters())
    assert total == sum(sizes) * (1 + (context + item + 2) * 5) + 1


def test_the_norm_is_over_all_tables():
    net = rich_net(PAIR, FFM, l2=0.5)
    contexts, items, extra = rich_question(True)
    labels = torch.tensor([[0.0], [1], [1], [0], [1]], dtype=torch.float64)
    batch = Batch(contexts, Candidates(items[:, :1], extra[:, :1]), labels)
    bare = logistic(net.score(contexts, batch.candidates), labels)
    squares = sum(float(w.detach().square().sum()) for name, w in net.named_parameters() if name != "bias")
    assert float(net(batch).detach()) == pytest.approx(float(bare.detach()) + 0.25 * squares, rel=1e-6)
