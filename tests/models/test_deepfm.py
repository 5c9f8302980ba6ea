"""DeepFM: FM plus a plain deep net over the same fields; batch norm sees what weighs something."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from suisen.data.batch import Batch, Candidates, Schema
from suisen.data.views import Rows
from suisen.models import DeepFM
from suisen.training.options import RunOptions
from suisen.training.trainer import fit
from tests.helpers import make_data
from tests.models.test_fm import PAIR, question
from tests.models.test_layers import Plain
from tests.models.toys import bound, checkerboard


def net_of(batch_norm: bool = True, **hyper):
    torch.manual_seed(0)
    data = checkerboard()
    model = DeepFM(**{"dim": 3, "hidden": (6, 4), "history": 4, "dropout": 0.0, "batch_norm": batch_norm, **hyper})
    net = bound(model.build(Schema(**{**vars(data.schema), "pair": PAIR})), data)
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.5)
    for norm in net.deep.norms or ():
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    return net.double().eval()


@torch.no_grad()
@pytest.mark.parametrize("batch_norm", [True, False])
def test_score_is_fm_plus_the_plain_deep_net(batch_norm):
    net = net_of(batch_norm)
    contexts, items, extra = question()
    flat = items.flatten()
    side, context = net.core.of_context(contexts, 0.0)
    item_side, item = net.core.of_item(net.items.known(flat), net.items.features.take(flat), 0.0)
    shallow = net.core(side, item_side.view(*items.shape, -1), extra)
    deep_context = context.flatten(1).unsqueeze(1).expand(-1, items.shape[1], -1)
    whole = torch.cat([deep_context, item.reshape(*items.shape, -1), extra], 2)
    wanted = shallow + Plain(net.deep)(whole) @ net.out.weight[0]
    torch.testing.assert_close(net.score(contexts, Candidates(items, extra)), wanted, rtol=1e-8, atol=1e-8)


def test_padding_changes_neither_loss_nor_running_statistics():
    contexts, items, extra = question()
    labels = torch.zeros(items.shape, dtype=torch.float64)
    labels[:, 0] = 1
    weights = torch.ones_like(labels)
    weights[:, 3] = 0
    outcomes = []
    for padding in (0, 7):
        net = net_of(hide_ids=0.0).train()
        padded = torch.cat([items[:, :3], torch.full((3, 1), padding)], 1)
        loss = net(Batch(contexts, Candidates(padded, extra), labels, weights))
        outcomes.append([loss.detach(), *(norm.running_mean.clone() for norm in net.deep.norms)])
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("events", [5, 9])
def test_a_last_batch_of_one_joins_its_neighbour(events):
    """Click logs in batches of 4: batch norm could not train on a single row."""
    data = make_data(
        user=[f"u{n % 3}" for n in range(events)], item=[n % 4 for n in range(events)],
        label=[n % 2 for n in range(events)], time=list(range(events)),
    )  # fmt: skip
    model = DeepFM(dim=2, hidden=(3,), batch_size=4, epochs=2)
    sizes = [len(batch) for batch in Rows(batch_size=4).open(data).batches(torch.Generator())]
    assert sizes == [*[4] * (events // 4 - 1), 5]
    net, curves = fit(model, data, options=RunOptions())
    assert len(curves[0].rows) == 2
    assert all(weight.isfinite().all() for weight in net.parameters())
