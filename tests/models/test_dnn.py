"""DNN: the tower over everything side by side; items of history and scored item share a table; example age."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from suisen.data.batch import Batch, Candidates, Schema
from suisen.models import DNN
from suisen.models.losses import softmax_lists
from suisen.training.options import RunOptions
from suisen.training.trainer import fit
from tests.helpers import make_data
from tests.models.test_fm import PAIR, question
from tests.models.test_layers import Plain
from tests.models.toys import all_scores, asked, bound, checkerboard


def net_of(**hyper):
    torch.manual_seed(0)
    data = checkerboard()
    hyper = {"dim": 3, "hidden": (6, 4), "history": 4, "recent": 2, "dropout": 0.0, "hide_ids": 0.0, **hyper}
    net = bound(DNN(**hyper).build(Schema(**{**vars(data.schema), "pair": PAIR})), data)
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.5)
    for norm in net.tower.norms or ():
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    net.prepare(data)
    return net.double().eval()


@torch.no_grad()
@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("age", [True, False])
def test_score_is_the_plain_tower_over_all_fields(batch_norm, age):
    net = net_of(batch_norm=batch_norm, example_age=age)
    contexts, items, extra = question()
    table = net.item.item.weight
    scores = net.score(contexts, Candidates(items, extra))
    for b, past in enumerate(contexts.history.tolist()):
        one = contexts.take(torch.tensor([b]))
        means = [table[torch.tensor(past[-span:])].mean(0) for span in (4, 2)]
        context = [*net.context(one).flatten(1), *means, *([torch.zeros(2)] if age else [])]
        for c, item in enumerate(items[b]):
            fields = net.item(net.items.known(item[None]), net.items.features.take(item[None])).flatten()
            whole = torch.cat([*context, fields, extra[b, c]])
            wanted = net.out(Plain(net.tower)(whole[None]))[0, 0] + extra[b, c] @ net.pair
            torch.testing.assert_close(scores[b, c], wanted, rtol=1e-8, atol=1e-8)


def test_the_tables_norm_counts_the_shared_table_once():
    net = net_of(l2=0.5)
    contexts, items, extra = question()
    labels = torch.zeros(items.shape, dtype=torch.float64)
    labels[:, 0] = 1
    batch = Batch(contexts, Candidates(items, extra), labels, torch.ones_like(labels))
    bare = softmax_lists(net.score(contexts, batch.candidates), labels, batch.weights)
    squares = sum(
        float(w.detach().square().sum()) for name, w in net.named_parameters() if name.startswith(("context", "item"))
    )
    assert float(net(batch).detach()) == pytest.approx(float(bare.detach()) + 0.25 * squares, rel=1e-6)


# -- example age ------------------------------------------------------------------------------------------------------


def test_age_is_the_share_of_trains_window_and_0_when_asked():
    data = checkerboard()
    net = net_of().train()
    oldest, newest = int(data.events.time.min()), int(data.events.time.max())
    times = torch.tensor([newest, oldest, newest - (newest - oldest) // 4, newest + 10**15])
    contexts = replace(asked(data).take(torch.arange(4)), time=times)
    wanted = torch.tensor([[0, 0], [1, 1], [0.25, 0.5], [0, 0]], dtype=torch.float64)
    torch.testing.assert_close(net.ages(contexts), wanted, atol=1e-6, rtol=0)
    assert not net.eval().ages(contexts).any()


@pytest.mark.parametrize("times", [None, [7] * 6])
def test_data_without_time_have_no_age(times):
    more = {} if times is None else {"time": times}
    data = make_data(user=[1, 1, 2, 2, 3, 3], item=[1, 2, 1, 2, 2, 3], **more)
    net = DNN(dim=2, hidden=(3,)).build(data.schema)
    net.prepare(data)
    assert not net.train().ages(data.contexts(torch.arange(6))).any()


def test_age_tells_what_is_taken_now_from_what_was_taken():
    """Item 1 in the first half of the window, item 2 in the second: asked now, item 2 is right.  Without the age the
    net has nothing to tell the halves apart, and the first half is the longer one.
    """
    n = 300
    data = make_data(
        user=[t % 10 for t in range(n)], time=list(range(n)), item=[1 if t < 180 else 2 for t in range(n)],
        items={"item": [1, 2]},
    )  # fmt: skip
    found = {}
    for age in (True, False):
        hyper = {"dim": 4, "hidden": (16, 8), "history": 0, "recent": 0, "dropout": 0.0}
        model = DNN(example_age=age, negatives=1, batch_size=64, learning_rate=0.01, epochs=30, **hyper)
        net, _ = fit(model, data, options=RunOptions())
        scores = all_scores(net, asked(data))[:, 1:]
        right = torch.from_numpy(data.items.dense([2])) - 1
        found[age] = float((scores.argmax(1) == right).float().mean())
    assert found[True] == 1.0
    assert found[False] == 0.0


# -- bad input --------------------------------------------------------------------------------------------------------


def test_click_rows_train_it_and_unknown_codes_are_scored():
    data = make_data(
        user=["a", "b"] * 8, item=[1, 2, 3, 1] * 4, label=[0, 1, 1, 0] * 4, time=list(range(16)),
        shelf=["x", "y", None, "x"] * 4, kinds={"shelf": "categorical"},
    )  # fmt: skip
    net, curves = fit(DNN(dim=2, hidden=(4,), batch_size=4, epochs=3), data, options=RunOptions())
    assert len(curves[0].rows) == 3
    contexts = data.contexts(torch.arange(4), history=5)
    strange = replace(
        contexts,
        user=torch.zeros(4, dtype=torch.int64),
        context_features=replace(contexts.context_features, categorical=torch.zeros((4, 1), dtype=torch.int64)),
    )
    with torch.no_grad():
        assert net.score(strange, Candidates(torch.zeros((4, 1), dtype=torch.int64))).isfinite().all()
