"""Two-Tower: its loss as a slow loop over the batch, its vectors, the hiding of ids."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from suisen.data.batch import Batch, Candidates, Features
from suisen.models import TwoTower
from suisen.models.contract import ItemTable
from tests.models.toys import EVEN_NEW, EVEN_TWIN, asked, bound, checkerboard, dense_item


def net_of(**hyper):
    torch.manual_seed(0)
    data = checkerboard()
    return bound(TwoTower(**{"dim": 4, "hidden": (6,), **hyper}).build(data.schema), data)


def batch_of(rows: int = 7) -> Batch:
    data = checkerboard()
    items = torch.tensor([3, 5, 3, 8, 9, 5, 1])[:rows]  # 3 and 5 come twice
    log_q = (data.item_counts / data.item_counts.sum()).log()
    log_q = log_q + torch.linspace(-1, 1, len(log_q))  # unequal, so that leaving it out is seen
    return Batch(asked(data).take(torch.arange(rows)), Candidates(items[:, None]), log_q=log_q[items])


@pytest.mark.parametrize("log_q", [True, False])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("cosine", [True, False])
def test_loss_is_the_slow_loop(log_q, temperature, cosine):
    net = net_of(log_q=log_q, temperature=temperature, cosine=cosine).eval()
    batch = batch_of()
    with torch.no_grad():
        queries, vectors = net.query_vectors(batch.contexts), net.item_vectors()
        loss = float(net(batch))
    losses = []
    taken = batch.taken.tolist()
    for row, own in enumerate(taken):
        terms = {}
        for column, item in enumerate(taken):
            if column == row or item != own:
                shift = float(batch.log_q[column]) if log_q else 0.0
                terms[column] = float(queries[row] @ vectors[item]) / temperature - shift
        losses.append(math.log(sum(map(math.exp, terms.values()))) - terms[row])
    assert loss == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_cosine_vectors_have_length_one():
    data = checkerboard()
    for cosine in (True, False):
        net = net_of(cosine=cosine).eval()
        with torch.no_grad():
            lengths = torch.cat([net.query_vectors(asked(data)), net.item_vectors()[1:]]).norm(dim=1)
        assert torch.allclose(lengths, torch.ones(len(lengths)), atol=1e-5) == cosine


def test_scores_of_one_row_do_not_depend_on_the_others_in_the_batch():
    net = net_of(dropout=0.0, hide_ids=0.0).train()
    batch = batch_of()
    short = batch_of(3)
    torch.testing.assert_close(net.query_vectors(batch.contexts)[:3], net.query_vectors(short.contexts))


def test_ids_and_user_features_are_hidden_in_training_alone():
    data = checkerboard()
    net = net_of(hide_ids=0.999, dropout=0.0)
    ids = torch.arange(len(net.items))
    rows = len(asked(data))
    nobody, nothing = torch.zeros(rows, dtype=torch.int64), Features.missing(data.schema.user, rows)
    unknown = replace(asked(data), user=nobody, user_features=nothing)
    with torch.no_grad():
        torch.manual_seed(0)
        hidden_items, hidden_users = net.train().vectors_of(ids), net.query_vectors(asked(data))
        net.eval()
        torch.testing.assert_close(hidden_users, net.query_vectors(unknown))
        assert not torch.allclose(hidden_users, net.query_vectors(asked(data)))
        assert not torch.allclose(hidden_items, net.item_vectors())
        twins = hidden_items[dense_item(data, [0, 2, 4, EVEN_TWIN])]
        torch.testing.assert_close(twins, twins[:1].expand_as(twins))  # without ids only the features are left


def test_untrained_items_are_read_by_their_features():
    data = checkerboard()
    net = net_of().eval()
    twin, other = dense_item(data, [EVEN_TWIN, EVEN_NEW])
    with torch.no_grad():
        before = net.item_vectors()
        assert torch.equal(before[twin], before[other])
        net.item.item.weight[twin] += 1  # a row that no event ever trained
        assert torch.equal(net.item_vectors(), before)
        net.items.trained[twin] = True
        assert not torch.equal(net.item_vectors()[twin], before[twin])
    net.bind(ItemTable(Features(data.item_features.categorical.clone(), data.item_features.numeric + 1,
                                data.item_features.multi), data.trained_items))  # fmt: skip
    with torch.no_grad():
        assert not torch.allclose(net.item_vectors()[1:], before[1:])


def test_only_different_items_pass_through_the_tower():
    net = net_of().eval()
    seen = []
    net.item_tower.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
    net(batch_of())
    assert seen == [5]
