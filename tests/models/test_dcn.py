"""DCN-v2 against the paper's equations on the concatenated input, layer by layer."""

from __future__ import annotations

import pytest
import torch

from suisen.data.batch import Batch, Candidates
from suisen.models import DCNv2
from suisen.models.losses import softmax_lists
from tests.models.test_fm import PAIR, rich_net, rich_question
from tests.models.test_layers import Plain


def net_of(pair=PAIR, **hyper):
    net = rich_net(pair, DCNv2, **{"hidden": (6, 4), "dropout": 0.0, "crosses": 3, **hyper})
    for norm in net.deep.norms or ():
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    return net


def paper(net, contexts, items, extra):
    """Equations 1 to 3 of Wang et al. 2021, the input written out for every pair."""
    rows, width = items.shape
    flat = items.flatten()
    context = net.context(contexts).flatten(1).unsqueeze(1).expand(-1, width, -1)
    item = net.item(net.items.known(flat), net.items.features.take(flat)).view(rows, width, -1)
    first = torch.cat([context, item, extra], 2)
    x = first
    for layer in net.crosses:
        matrix = layer.outwards.weight if layer.inwards is None else layer.outwards.weight @ layer.inwards.weight
        x = first * (x @ matrix.T + layer.outwards.bias) + x
    deep = Plain(net.deep)
    last = deep(x) if net.model.structure == "stacked" else torch.cat([x, deep(first)], 2)
    return last @ net.out.weight[0] + net.out.bias + extra @ net.order


@torch.no_grad()
@pytest.mark.parametrize("structure", ["parallel", "stacked"])
@pytest.mark.parametrize("rank", [0, 5])
@pytest.mark.parametrize("crosses", [1, 3])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_score_is_the_paper_s(structure, rank, crosses, batch_norm):
    net = net_of(structure=structure, rank=rank, crosses=crosses, batch_norm=batch_norm)
    contexts, items, extra = rich_question(True)
    wanted = paper(net, contexts, items, extra)
    torch.testing.assert_close(net.score(contexts, Candidates(items, extra)), wanted, rtol=1e-8, atol=1e-8)


@torch.no_grad()
@pytest.mark.parametrize("structure", ["parallel", "stacked"])
def test_without_pair_features_and_with_shared_candidates(structure):
    net = net_of((), structure=structure)
    contexts, items, _ = rich_question(False)
    shared = items[:1].expand(len(contexts), -1)
    wanted = paper(net, contexts, shared, torch.zeros(*items.shape, 0, dtype=torch.float64))
    torch.testing.assert_close(net.score(contexts, Candidates(shared)), wanted)
    one = net.combine(net.context_state(contexts), net.item_state(items[0])[None], None)
    torch.testing.assert_close(one, wanted)


@torch.no_grad()
def test_missing_pair_features_are_zeros():
    net = net_of()
    contexts, items, extra = rich_question(False)
    zeros = net.score(contexts, Candidates(items, torch.zeros_like(extra)))
    torch.testing.assert_close(net.score(contexts, Candidates(items)), zeros)


def test_low_rank_is_the_full_layer_with_the_product():
    full, low = net_of(), net_of(rank=2)
    width = full.of_pair.stop
    count = lambda net: sum(weight.numel() for weight in net.crosses.parameters())  # noqa: E731
    assert count(full) == 3 * (width * width + width)
    assert count(low) == 3 * (2 * 2 * width + width)


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
def test_padding_changes_neither_loss_nor_running_statistics(structure):
    contexts, items, extra = rich_question(False)
    labels = torch.zeros(items.shape, dtype=torch.float64)
    labels[:, 0] = 1
    weights = torch.ones_like(labels)
    weights[:, 3] = 0
    outcomes = []
    for padding in (0, 7):
        net = net_of(hide_ids=0.0, structure=structure).train()
        padded = torch.cat([items[:, :3], torch.full((len(items), 1), padding)], 1)
        loss = net(Batch(contexts, Candidates(padded, extra), labels, weights))
        outcomes.append([loss.detach(), *(norm.running_mean.clone() for norm in net.deep.norms)])
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(one, other)


def test_the_norm_is_over_the_field_tables():
    net = net_of(l2=0.5)
    contexts, items, extra = rich_question(False)
    labels = torch.zeros(items.shape, dtype=torch.float64)
    labels[:, 0] = 1
    bare = softmax_lists(net.score(contexts, Candidates(items, extra)), labels)
    squares = sum(
        float(weight.detach().square().sum())
        for name, weight in net.named_parameters()
        if name.startswith(("context.", "item."))
    )
    loss = net(Batch(contexts, Candidates(items, extra), labels))
    assert float(loss.detach()) == pytest.approx(float(bare.detach()) + 0.25 * squares, rel=1e-6)


def test_every_parameter_learns():
    net = net_of(structure="parallel").train()
    contexts, items, extra = rich_question(True)
    labels = torch.zeros(items.shape, dtype=torch.float64)
    labels[:, 0] = 1
    net(Batch(contexts, Candidates(items, extra), labels)).backward()
    still = [
        name
        for name, weight in net.named_parameters()
        if weight.grad is None or (weight.numel() and not weight.grad.any())
    ]
    assert still == []
