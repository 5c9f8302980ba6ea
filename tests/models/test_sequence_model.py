"""What the sequence models share: each hyper-parameter reaches the batches, the optimiser or the network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from suisen.data.batch import Batch, Schema
from suisen.data.ragged import Ragged
from suisen.data.views import Sequences
from suisen.models import BERT4Rec, GRU4Rec, SASRec
from suisen.models.sequence_model import SequenceModel
from tests.models.test_sasrec import ROWS, contexts_of

MODELS = {"gru4rec": GRU4Rec, "sasrec": SASRec, "bert4rec": BERT4Rec}


@pytest.fixture(params=list(MODELS))
def cls(request) -> type[SequenceModel]:
    return MODELS[request.param]


def built(model: SequenceModel) -> nn.Module:
    torch.manual_seed(0)
    return model.build(Schema(3, 500))


def test_batches_are_those_of_the_hyper_parameters(cls):
    more = 0 if cls is BERT4Rec else 1  # a causal model reads ``length`` items and predicts one more
    assert cls().view == Sequences(200 + more, 128, by_length=False, windows=False)
    view = cls(length=7, batch_size=3, batch_by_length=True, windows=True).view
    assert view == Sequences(7 + more, 3, by_length=True, windows=True)


def test_one_phase_of_adam(cls):
    net = built(cls(dim=8, learning_rate=0.003, epochs=7))
    (phase,) = net.model.phases(net)
    assert (phase.module, phase.epochs, phase.before, phase.view) == (net, 7, None, None)
    (optimiser,) = phase.optimisers(net)
    (group,) = optimiser.param_groups
    assert isinstance(optimiser, torch.optim.Adam)
    assert (group["lr"], group["betas"]) == (0.003, (0.9, 0.999 if cls is GRU4Rec else 0.98))
    assert len(group["params"]) == len(list(net.parameters()))


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_a_batch_is_computed_in_its_groups(cls, groups):
    net, widths = built(cls(dim=8, length=6, groups=groups)), []
    states = net.states
    net.states = lambda items: (widths.append(int(items.lengths.max())), states(items))[1]
    net(Batch(contexts_of(ROWS)))
    assert len(widths) == groups
    assert widths == sorted(widths)  # rows of like length are together


@torch.no_grad()
@pytest.mark.parametrize("cls", [SASRec, BERT4Rec])
def test_the_transformer_has_the_sizes_named(cls):
    model = cls(dim=8, blocks=3, heads=4, length=9, dropout=0.3)
    net = built(model)
    inner = 8 if cls is SASRec else 32
    assert net.body.position.weight.shape == (9, 8)
    assert len(net.body.blocks) == 3
    for block in net.body.blocks:
        assert (block.heads, block.dropout, block.causal) == (4, 0.3, cls is SASRec)
        assert block.first.weight.shape == (inner, 8)
    assert net.body.shape.dropout == 0.3
    for table in (net.item.weight[1:], net.body.position.weight):
        assert float(table.std()) == pytest.approx(0.02, rel=0.2)


def test_bert4recs_feed_forward_layer_is_as_wide_as_named():
    assert built(BERT4Rec(dim=8, inner=2)).body.blocks[0].first.weight.shape == (16, 8)
    assert not built(BERT4Rec(dim=8)).bias.any()  # no item is preferred before it is learnt


def test_sasrecs_blocks_are_published_where_asked_for():
    assert [built(SASRec(dim=8, published=p)).body.blocks[0].published for p in (False, True)] == [False, True]


@torch.no_grad()
@pytest.mark.parametrize("cls", [GRU4Rec, SASRec])
def test_exactly_length_items_are_read(cls):
    net = built(cls(dim=8, length=4)).eval()
    three, four, five = (net.query_vectors(contexts_of([past])) for past in ([2, 3, 4], [1, 2, 3, 4], [9, 1, 2, 3, 4]))
    assert torch.equal(four, five)
    assert not torch.allclose(three, four)


@torch.no_grad()
def test_states_are_float32_whatever_autocast_does(cls):
    net = built(cls(dim=8, length=6)).eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert net.query_vectors(contexts_of(ROWS)).dtype == torch.float32
        assert net.states(Ragged.of(ROWS)).shape == (4, 5, 8)
