"""DIN: the paper's activation unit as a loop over pairs and items of history, beside FM and a plain deep net."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from suisen.data.batch import Batch, Candidates
from suisen.data.ragged import Ragged
from suisen.models import DIN, din
from suisen.models.din import ActivationUnit
from tests.models.test_fm import PAIR, expanded, rendle, rich_net, rich_question
from tests.models.test_layers import Plain


def net_of(pair=PAIR, **hyper):
    net = rich_net(pair, DIN, **{"hidden": (6, 4), "attention": 5, "dropout": 0.0, **hyper})
    for norm in net.deep.norms or ():
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    return net


def vector(net, item: int) -> torch.Tensor:
    """(k,) an item's vector: the sum of its fields', of its id only where train has it."""
    one = torch.tensor([item])
    return net.core.item(net.items.known(one), net.items.features.take(one))[0, :, 1:].sum(0)


def attended(unit: ActivationUnit, past: list[torch.Tensor], candidate: torch.Tensor) -> torch.Tensor:
    """Section 4.3 of Zhou et al. 2018, item by item."""
    interest = torch.zeros_like(candidate)
    for item in past:
        seen = unit.first(torch.cat([item, candidate, item - candidate, item * candidate]))
        seen = torch.where(seen > 0, seen, seen * unit.activation.weight)
        interest = interest + unit.last(seen) * item
    return interest


def slow(net, contexts, items, extra) -> torch.Tensor:
    """Every pair for itself: FM over all coordinates, and the deep net over the whole input."""
    plain, context = Plain(net.deep), net.core.context(contexts)[..., 1:]
    out = torch.zeros(items.shape, dtype=torch.float64)
    for b, history in enumerate(contexts.history.tolist()):
        newest = history[-net.model.history :] if net.model.history else []
        past = [vector(net, item) for item in newest if item]
        for c in range(items.shape[1]):
            candidate = vector(net, int(items[b, c]))
            interest = attended(net.unit, past, candidate)
            shallow = rendle(net.core.bias, list(expanded(net, contexts, items, extra, b, c)))
            one = items[b, c : c + 1]
            fields = net.core.item(net.items.known(one), net.items.features.take(one))[0, :, 1:]
            whole = torch.cat([context[b].flatten(), fields.flatten(), interest, extra[b, c]])
            out[b, c] = shallow + plain(whole[None])[0] @ net.out.weight[0]
    return out


@torch.no_grad()
@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("repeat", [True, False])
@pytest.mark.parametrize("history", [0, 1, 4])
def test_score_is_the_loop(batch_norm, repeat, history):
    """Histories that are empty, longer than what is read, with an item twice, an unknown one and an untrained one."""
    net = net_of(batch_norm=batch_norm, history=history)
    contexts, items, extra = rich_question(repeat)
    wanted = slow(net, contexts, items, extra)
    torch.testing.assert_close(net.score(contexts, Candidates(items, extra)), wanted, rtol=1e-8, atol=1e-8)


@torch.no_grad()
def test_missing_pair_features_are_zeros_and_there_may_be_none():
    contexts, items, extra = rich_question(True)
    net = net_of()
    zeros = net.score(contexts, Candidates(items, torch.zeros_like(extra)))
    torch.testing.assert_close(net.score(contexts, Candidates(items)), zeros)
    net = net_of(())
    wanted = slow(net, contexts, items, extra[..., :0])
    torch.testing.assert_close(net.score(contexts, Candidates(items)), wanted, rtol=1e-8, atol=1e-8)
    shared = items[:1].expand(len(contexts), -1)
    one = net.combine(net.context_state(contexts), net.item_state(items[0])[None], None)
    torch.testing.assert_close(one, net.score(contexts, Candidates(shared)))


@torch.no_grad()
@pytest.mark.parametrize("floats", [1, 100, 2**20])
def test_chunks_of_any_size_give_the_same(floats, monkeypatch):
    monkeypatch.setattr(din, "FLOATS_PER_CHUNK", floats)
    contexts, items, extra = rich_question(True)
    net = net_of()
    wanted = slow(net, contexts, items, extra)
    torch.testing.assert_close(net.score(contexts, Candidates(items, extra)), wanted, rtol=1e-8, atol=1e-8)


@torch.no_grad()
def test_what_stands_behind_a_history_is_never_looked_at():
    unit = ActivationUnit(3, 4)
    past, candidates = torch.randn(2, 5, 3), torch.randn(2, 6, 3)
    counts = torch.tensor([2.0, 0.0])
    found = unit(past, counts, candidates)
    past[0, 2:], past[1] = 100.0, -50.0
    torch.testing.assert_close(unit(past, counts, candidates), found)
    assert not found[1].any()
    assert found[0].any()


def test_weights_are_no_softmax():
    """Twice the same item: twice the interest."""
    unit = ActivationUnit(3, 4)
    item, candidates = torch.randn(1, 1, 3), torch.randn(1, 2, 3)
    once = unit(item, torch.tensor([1.0]), candidates)
    torch.testing.assert_close(unit(item.expand(1, 2, 3), torch.tensor([2.0]), candidates), 2 * once)


def test_gradients_are_those_of_the_loop():
    """Of every parameter, through histories and candidates alike."""
    net = net_of(batch_norm=False)
    contexts, items, extra = rich_question(True)
    parts = [weight for weight in net.parameters() if weight.numel()]
    factor = torch.randn(items.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ours = torch.autograd.grad((net.score(contexts, Candidates(items, extra)) * factor).sum(), parts)
    loop = torch.zeros((), dtype=torch.float64)
    for b, history in enumerate(contexts.history.tolist()):
        past = [vector(net, item) for item in history[-net.model.history :] if item]
        for c in range(items.shape[1]):
            candidate = vector(net, int(items[b, c]))
            interest = attended(net.unit, past, candidate)
            one, row = items[b, c : c + 1], torch.tensor([b])
            side, vectors = net.core.of_context(contexts.take(row), 0.0)
            item_side, item = net.core.of_item(net.items.known(one), net.items.features.take(one), 0.0)
            shallow = net.core(side, item_side[None], extra[b : b + 1, c : c + 1])[0, 0]
            whole = torch.cat([vectors.flatten(), item.flatten(), interest, extra[b, c]])
            layers = [(torch.cat([net.deep.from_context, net.deep.from_item, net.deep.from_pair], 1), net.deep.bias)]
            layers += [(layer.weight, layer.bias) for layer in net.deep.upper]
            for weight, bias in layers:
                whole = F.relu(F.linear(whole, weight, bias))
            loop = loop + (shallow + whole @ net.out.weight[0]) * factor[b, c]
    for one, other in zip(ours, torch.autograd.grad(loop, parts), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def test_every_parameter_learns():
    net = net_of().train()
    contexts, items, extra = rich_question(True)
    labels = torch.zeros(items.shape, dtype=torch.float64)
    labels[:, 0] = 1
    net(Batch(contexts, Candidates(items, extra), labels)).backward()
    still = {
        name
        for name, weight in net.named_parameters()
        if weight.grad is None or (weight.numel() and not weight.grad.any())
    }
    assert still <= {"core.bias"}  # what all candidates of a list have in common


@torch.no_grad()
def test_the_candidate_decides_what_of_the_history_counts():
    """Another candidate, another interest; a mean would be the same for all."""
    net = net_of()
    contexts, items, _ = rich_question(True)
    state = net._past(contexts.history)
    past = state[1].view(len(contexts), net.model.history, -1)
    found = net.unit(past, state[0].squeeze(1), net.item_state(items.flatten())[:, 1:4].view(*items.shape, 3))
    kept = state[0].squeeze(1) > 0
    assert float(found[kept].std(1).min()) > 0


@torch.no_grad()
def test_no_history_at_all_in_a_batch():
    net = net_of()
    contexts, items, extra = rich_question(True)
    bare = contexts.take(torch.arange(5))
    bare = type(bare)(**{**vars(bare), "history": Ragged.empty(5), "history_time": torch.zeros(0, dtype=torch.int64)})
    torch.testing.assert_close(
        net.score(bare, Candidates(items, extra)), slow(net, bare, items, extra), rtol=1e-8, atol=1e-8
    )
