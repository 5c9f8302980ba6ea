"""NeuMF: the blend of its parts, its phases, and a run resumed in any of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from suisen.data.batch import Batch, Candidates, Contexts, Schema
from suisen.models import NeuMF
from suisen.models.gmf import loss_of
from suisen.training.checkpoint import weights_of
from suisen.training.options import RunOptions
from suisen.training.trainer import fit, run
from tests.models.toys import all_scores, asked, bound, checkerboard
from tests.training.toys import Bomb, Interrupted, watched

SMALL = {"gmf_dim": 6, "mlp_dim": 4, "hidden": (5, 3), "batch_size": 64, "learning_rate": 0.02}
PAIR = ("retrieval_score", "retrieval_rank")


def net_of(model: NeuMF, pair=PAIR):
    torch.manual_seed(0)
    data = checkerboard()
    net = bound(model.build(Schema(data.schema.n_users, data.schema.n_items, pair=pair)), data)
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.5)
    with torch.no_grad():
        for part in (net.gmf, net.mlp):
            part.user.weight[0], part.item.weight[0] = 0, 0
    return net.double().eval()


def question(pair=PAIR):
    rng = torch.Generator().manual_seed(1)
    items = torch.randint(1, 25, (6, 4), generator=rng)
    extra = torch.randn((6, 4, len(pair)), generator=rng).double() if pair else None
    return Contexts.of_users(torch.tensor([1, 2, 1, 24, 7, 0])), Candidates(items, extra)


@torch.no_grad()
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_the_third_phase_begins_at_the_blend_of_the_parts(alpha):
    model = NeuMF(**SMALL, alpha=alpha)
    net = net_of(model)
    contexts, candidates = question()
    gmf, mlp = net.gmf.logits(contexts.user, candidates.items), net.mlp.score(contexts, candidates)
    third = model.phases(net)[2]
    third.before()
    assert third.module is net
    torch.testing.assert_close(net.score(contexts, candidates), alpha * gmf + (1 - alpha) * mlp, rtol=1e-12, atol=1e-12)


def test_fit_blends_what_the_parts_learnt_alone():
    """With a third phase of next to no step, fit ends at the blend of the two parts trained by hand."""
    data = checkerboard()
    model = NeuMF(**SMALL, epochs=3, alpha=0.25, fine_tune="sgd", fine_tune_rate=1e-30)
    net, curves = fit(model, data)
    assert [len(curve.rows) for curve in curves] == [3, 3, 3]
    torch.manual_seed(RunOptions().stage_seed)
    parts = bound(model.build(data.schema), data)
    for number, phase in enumerate(model.phases(parts)[:2], start=1):
        run(phase, model.view, data, options=RunOptions(stage=f"model-phase{number}"))
    contexts = asked(data)
    items = torch.arange(data.schema.n_items).expand(len(contexts), -1)
    with torch.no_grad():
        wanted = 0.25 * parts.gmf.logits(contexts.user, items) + 0.75 * parts.mlp.score(contexts, Candidates(items))
    torch.testing.assert_close(all_scores(net, contexts), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pair", [(), PAIR])
@pytest.mark.parametrize("l2", [0.0, 0.2])
def test_the_loss_is_that_of_the_score(pair, l2):
    """GMF's logits take their own path in training: value and gradients are those of the composed score."""
    net = net_of(NeuMF(**SMALL, gmf_l2=l2, mlp_l2=2 * l2), pair)
    contexts, candidates = question(pair)
    labels = torch.zeros(candidates.items.shape).double()
    labels[:, 0] = 1
    batch = Batch(contexts, candidates, labels, torch.rand(labels.shape).double())
    wanted = loss_of(net.score(contexts, candidates), batch)
    for part, share in ((net.gmf, l2), (net.mlp, 2 * l2)):
        user, item = part.user.weight[contexts.user], part.item.weight[candidates.items]
        wanted = wanted + share * (user.square().sum(1).mean() + item.square().sum(2).mean())
    value, weights = net(batch), list(net.parameters())
    torch.testing.assert_close(value, wanted)
    ours, theirs = (torch.autograd.grad(one, weights, allow_unused=True) for one in (value, wanted))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_each_part_has_vectors_of_its_own():
    net = net_of(NeuMF(**SMALL))
    before = net.mlp.user.weight.detach().clone()
    with torch.no_grad():
        net.gmf.user.weight.add_(1)
    assert torch.equal(net.mlp.user.weight, before)
    assert (net.gmf.user.weight.shape[1], net.mlp.user.weight.shape[1]) == (6, 4)


def test_phases_train_what_they_say():
    net = net_of(NeuMF(**SMALL))
    parts = [phase.module for phase in NeuMF(**SMALL).phases(net)]
    assert parts == [net.gmf, net.mlp, net]
    (whole,) = NeuMF(**SMALL, pretrain=False).phases(net)
    assert whole.module is net
    assert whole.before is None
    for name, kind in (("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)):
        (optimiser,) = NeuMF(**SMALL, fine_tune=name, fine_tune_rate=0.03).phases(net)[2].optimisers(net)
        assert type(optimiser) is kind
        assert optimiser.param_groups[0]["lr"] == 0.03
        assert {id(w) for group in optimiser.param_groups for w in group["params"]} == {id(w) for w in net.parameters()}


def test_without_pretraining_it_learns_too():
    data = checkerboard()
    net, curves = fit(NeuMF(**SMALL, pretrain=False, epochs=25), data)
    assert len(curves) == 1
    scores, contexts = all_scores(net, asked(data)), asked(data)
    scores[contexts.history.rows(), contexts.history.values] = -torch.inf
    scores[:, ~data.trained_items] = -torch.inf
    right = torch.from_numpy(data.items.dense(list(range(24))))
    assert (scores.argmax(1) == right).float().mean() > 0.9


def test_resumed_in_every_phase(tmp_path):
    """An epoch has five batches: cut off in the first, second and third phase."""
    model = NeuMF(**SMALL, epochs=2, dropout=0.3)
    wanted = weights_of(fit(model, checkerboard(), options=RunOptions(seed=3))[0])
    for number in (3, 10, 14, 23, 28):
        options = RunOptions(seed=3, checkpoint=tmp_path / str(number), checkpoint_seconds=0.0)
        with pytest.raises(Interrupted):
            fit(model, checkerboard(), options=watched(options, Bomb(number)))
        again = weights_of(fit(model, checkerboard(), options=replace(options, resume=True))[0])
        for name, weight in wanted.items():
            assert torch.equal(again[name], weight), name
