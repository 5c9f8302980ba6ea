"""FM: the double loop over all fields of context, item and pair; its loss."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from suisen.data.batch import Batch, Candidates, Schema
from suisen.models import FM
from suisen.models.fm import own_pairs
from suisen.models.losses import softmax_lists
from tests.models.toys import asked, bound, checkerboard

PAIR = ("a", "b")


def net_of(pair=PAIR, **hyper):
    torch.manual_seed(0)
    data = checkerboard()
    schema = Schema(**{**vars(data.schema), "pair": pair})
    net = bound(FM(**{"dim": 3, "history": 4, **hyper}).build(schema), data)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return net.double().eval()


def question(rows: int = 3, width: int = 4):
    data = checkerboard()
    contexts = asked(data).take(torch.arange(rows))
    rng = torch.Generator().manual_seed(1)
    items = torch.randint(1, data.schema.n_items, (rows, width), generator=rng)
    return contexts, items, torch.randn(rows, width, len(PAIR), generator=rng, dtype=torch.float64)


@given(fields=st.integers(1, 7), dim=st.integers(1, 5), seed=st.integers(0, 3))
def test_pairs_in_linear_time_are_the_double_loop(fields, dim, seed):
    vectors = torch.randn(2, fields, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    pairs, total = own_pairs(vectors)
    wanted = [sum((v[f] @ v[g] for f, g in combinations(range(fields), 2)), torch.zeros(())) for v in vectors]
    torch.testing.assert_close(pairs[:, 0], torch.stack(wanted).double())
    torch.testing.assert_close(total, vectors.sum(1))


@torch.no_grad()
@pytest.mark.parametrize("pair", [PAIR, ()])
def test_score_is_the_double_loop_over_all_fields(pair):
    net = net_of(pair)
    contexts, items, extra = question()
    scores = net.score(contexts, Candidates(items, extra if pair else None))
    context_fields = net.core.context(contexts)
    item_fields = net.core.item(net.items.known(items.flatten()), net.items.features.take(items.flatten()))
    item_fields = item_fields.view(*items.shape, *item_fields.shape[1:])
    for b in range(items.shape[0]):
        for c in range(items.shape[1]):
            fields = [*context_fields[b], *item_fields[b, c]]
            fields += [extra[b, c, k] * net.core.pair[k] for k in range(len(pair))]
            wanted = net.core.bias + sum(field[0] for field in fields)
            wanted = wanted + sum(f[1:] @ g[1:] for f, g in combinations(fields, 2))
            torch.testing.assert_close(scores[b, c], wanted, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_every_field_counts():
    """What the double loop runs over is there: id, feature and history of the context; id and features of the item."""
    net = net_of()
    spans = sum(span > 0 for span in (net.model.history, net.model.recent))
    assert net.core.context.count == 1 + 1 + 0 + spans
    assert net.core.item.count == 1 + 3


def test_the_norm_is_over_all_tables():
    net = net_of(l2=0.5)
    contexts, items, extra = question()
    labels = torch.zeros(items.shape, dtype=torch.float64)
    labels[:, 0] = 1
    weights = torch.ones_like(labels)
    weights[0, 3] = 0
    batch = Batch(contexts, Candidates(items, extra), labels, weights)
    bare = softmax_lists(net.score(contexts, batch.candidates), labels, weights)
    squares = sum(float(w.detach().square().sum()) for name, w in net.named_parameters() if name != "core.bias")
    assert float(net(batch).detach()) == pytest.approx(float(bare.detach()) + 0.25 * squares, rel=1e-6)
