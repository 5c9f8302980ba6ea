"""Layers against plain definitions."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from suisen.data.batch import Features, Field, Schema
from suisen.data.ragged import Ragged
from suisen.models import layers
from suisen.models.layers import (
    ContextVectors,
    FieldVectors,
    IdEmbedding,
    SplitMLP,
    activated,
    drop_some,
    dropout,
    inner,
    inside_pairs,
    pooled,
    square_norm,
)
from tests.models.toys import asked, checkerboard


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- tables ----------------------------------------------------------------------------------------------------------


def test_row_zero_stays_zero_through_training():
    table = IdEmbedding(4, 3)
    optimiser = torch.optim.Adam(table.parameters(), 0.1, weight_decay=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        table(torch.tensor([0, 1, 0])).sum().backward()
        optimiser.step()
    assert not table.weight[0].any()
    assert table.weight[1].any()


@pytest.mark.parametrize("weighted", [False, True])
def test_pooled_is_the_mean_of_known_codes(weighted):
    bags = Ragged.of([[1, 2, 0], [], [0], [3, 3]])
    weights = torch.tensor([1.0, 3.0, 9.0, 5.0, 1.0, 2.0]) if weighted else None
    table = draws(4, 5)
    out = pooled(Ragged(bags.values, bags.offsets, weights), table)
    first = (table[1] + 3 * table[2]) / 4 if weighted else (table[1] + table[2]) / 2
    torch.testing.assert_close(out, torch.stack([first, torch.zeros(5), torch.zeros(5), table[3]]))


def test_field_vectors_by_hand():
    fields = (Field("a", "categorical", 3), Field("n", "numeric"), Field("b", "categorical", 4), Field("m", "multi", 3))
    encoder = FieldVectors(fields, 2, std=1.0)
    bag = Ragged.of([[1, 2], []])
    features = Features(torch.tensor([[2, 0], [1, 3]]), torch.tensor([[1.5], [0.0]]), (bag,))
    tables, zero = encoder.categorical, torch.zeros(2)
    wanted = torch.stack([
        torch.stack([tables[2], zero, 1.5 * encoder.numeric[0], encoder.multi[0].weight[1:].mean(0)]),
        torch.stack([tables[1], tables[3 + 3], zero, zero]),
    ])  # fmt: skip
    torch.testing.assert_close(encoder(features), wanted)
    assert encoder.count == 4


def test_no_fields_are_no_vectors():
    assert FieldVectors((), 3)(Features.none(4)).shape == (4, 0, 3)


def test_histories_are_read_by_span():
    data = checkerboard()
    encoder = ContextVectors(data.schema, 3, (4, 0, 1), std=1.0)
    contexts = asked(data)
    out = encoder(contexts)
    assert out.shape == (len(contexts), encoder.count, 3)
    for row, past in enumerate(contexts.history.tolist()[:5]):
        torch.testing.assert_close(out[row, -2], encoder.history[0].weight[past[-4:]].mean(0))
        torch.testing.assert_close(out[row, -1], encoder.history[1].weight[past[-1]])


# -- dropout ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.5, 0.998])
def test_dropout_keeps_the_mean_and_the_share(share):
    torch.manual_seed(0)
    out = dropout(torch.ones(1000, 1001), share, training=True)
    kept = (out > 0).double().mean()
    cut = round(share * 256) / 256
    assert abs(float(kept) - (1 - cut)) < 0.003
    assert out.mean() == pytest.approx(1.0, abs=0.03)
    assert len(out.unique()) == 2


def test_no_dropout_out_of_training():
    x = draws(3, 3)
    assert dropout(x, 0.9, training=False) is x
    assert dropout(x, 0.0, training=True) is x
    assert dropout(x, 0.9999, training=True).isfinite().all()


def test_dropout_draws_independently_and_reproducibly():
    torch.manual_seed(0)
    masks = torch.stack([dropout(torch.ones(8, 500), 0.5, True) > 0 for _ in range(2)]).double()
    assert abs(float(torch.corrcoef(masks.flatten(1))[0, 1])) < 0.06
    assert torch.corrcoef(masks[0]).fill_diagonal_(0).abs().max() < 0.2
    torch.manual_seed(0)
    assert torch.equal(dropout(torch.ones(8, 500), 0.5, True) > 0, masks[0] > 0)


def test_dropout_passes_gradients_of_what_it_keeps():
    torch.manual_seed(0)
    x = torch.ones(50, requires_grad=True)
    out = dropout(x, 0.5, True)
    out.sum().backward()
    torch.testing.assert_close(x.grad, out.detach())


def test_some_ids_are_hidden():
    torch.manual_seed(0)
    ids = torch.arange(1, 20_001)
    hidden = drop_some(ids, 0.25)
    assert (hidden == 0).double().mean() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(hidden[hidden > 0], ids[hidden > 0])
    assert drop_some(ids, 0) is ids


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("rows", [2, 5, 700])
def test_activated_is_norm_relu_dropout_one_by_one(share, norm, rows, monkeypatch):
    monkeypatch.setattr(layers, "FLOATS_PER_CHUNK", 1500)  # several parts
    outcomes = []
    for fused in (True, False):
        torch.manual_seed(3)
        layer = nn.BatchNorm1d(9).double() if norm else None
        if layer is not None:
            nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
        x = (draws(rows, 9).double() * 3 + 50).requires_grad_()
        torch.manual_seed(5)
        z = x * 2
        out = activated(z, layer, share) if fused else dropout(F.relu(layer(z) if norm else z), share, True)
        (out * draws(rows, 9, seed=1)).sum().backward()
        outcomes.append([out, x.grad, *((layer.weight.grad, layer.bias.grad, *layer.buffers()) if norm else ())])
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(one, other)


def test_activated_of_one_row_uses_what_was_seen_and_learns_nothing_of_it():
    layer = nn.BatchNorm1d(3)
    layer.running_mean.fill_(1.0)
    x = torch.tensor([[2.0, 0.0, 1.5]])
    torch.testing.assert_close(activated(x, layer, 0.0), torch.tensor([[1.0, 0.0, 0.5]]), rtol=1e-4, atol=1e-4)
    assert activated(x[:0], layer, 0.5).shape == (0, 3)
    assert (layer.running_mean == 1).all()
    assert layer.num_batches_tracked == 0


def test_activated_in_half_precision():
    layer = nn.BatchNorm1d(4)
    x = draws(64, 4).bfloat16().requires_grad_()
    out = activated(x, layer, 0.0)
    out.float().square().sum().backward()
    assert out.dtype == x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(
        out.float(), F.relu(F.batch_norm(x.float(), None, None, training=True)), rtol=0.02, atol=0.02
    )


def test_square_norm_and_its_gradient():
    tables = [draws(5, 3).requires_grad_(), draws(2, seed=1).requires_grad_(), torch.zeros(0, 4, requires_grad=True)]
    norm = square_norm(tables)
    (0.5 * norm).backward()
    assert norm.item() == pytest.approx(sum(float(table.detach().square().sum()) for table in tables))
    for table in tables:
        torch.testing.assert_close(table.grad, table.detach())


@given(st.data())
def test_pairs_inside_bags_are_the_double_loop_over_different_codes(data):
    rows = data.draw(st.lists(st.lists(st.integers(0, 4), max_size=6), min_size=1, max_size=4))
    bags = Ragged.of(rows)
    weights = None if data.draw(st.booleans()) else torch.rand(len(bags.values)) + 0.1
    bags = Ragged(bags.values, bags.offsets, weights)
    table = draws(5, 3).double()
    wanted = []
    for row in range(len(bags)):
        mass = torch.zeros(5, dtype=torch.float64)
        for place in range(int(bags.offsets[row]), int(bags.offsets[row + 1])):
            if bags.values[place]:
                mass[bags.values[place]] += 1.0 if weights is None else weights[place].double()
        x = mass / mass.sum() if mass.sum() else mass
        wanted.append(sum((x[i] * x[j] * (table[i] @ table[j]) for i, j in combinations(range(5), 2)), torch.zeros(())))
    mean = pooled(bags, table)
    torch.testing.assert_close(inside_pairs(bags, table, mean), torch.stack(wanted).double(), rtol=1e-6, atol=1e-6)


def test_a_shared_list_s_inner_products():
    context, item = draws(4, 3), draws(1, 6, 3, seed=1)
    torch.testing.assert_close(inner(context, item), inner(context, item.expand(4, -1, -1)))
    assert inner(context[:1], item).shape == (1, 6)


# -- the split deep net ----------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """The same net on concatenated inputs, layer by layer, nothing folded."""

    def __init__(self, split: SplitMLP) -> None:
        super().__init__()
        first = torch.cat([split.from_context, split.from_item, split.from_pair], 1)
        self.layers = [(first, split.bias), *((layer.weight, layer.bias) for layer in split.upper)]
        self.norms = split.norms

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for depth, (weight, bias) in enumerate(self.layers):
            x = F.linear(x, weight, bias)
            if self.norms is not None:
                x = self.norms[depth](x.flatten(0, -2)).view(x.shape)
            x = F.relu(x)
        return x


def inputs(rows: int = 4, width: int = 6, pair: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return draws(rows, 5), draws(rows, width, 3, seed=1), draws(rows, width, pair, seed=2)


def concatenated(context, item, pair) -> torch.Tensor:
    return torch.cat([context.unsqueeze(1).expand(-1, item.shape[1], -1), item, pair], 2)


def split_of(batch_norm: bool, pair: int = 2) -> SplitMLP:
    torch.manual_seed(0)
    split = SplitMLP((5, 3, pair), (7, 4), 0.0, batch_norm)
    for norm in split.norms or ():
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    return split


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("pair", [0, 2])
def test_split_is_the_plain_net(batch_norm, pair):
    split = split_of(batch_norm, pair).double().eval()
    context, item, extra = (part.double() for part in inputs(pair=pair))
    out = split(split.context(context), split.item(item), extra)
    torch.testing.assert_close(out, Plain(split)(concatenated(context, item, extra)), rtol=1e-9, atol=1e-9)
    assert out.shape == (4, 6, split.out)


def test_a_list_for_all_contexts_is_broadcast():
    split = split_of(True).eval()
    context, item, pair = inputs()
    one = split(split.context(context), split.item(item[:1]), pair)
    each = split(split.context(context), split.item(item[:1]).expand(4, -1, -1), pair)
    torch.testing.assert_close(one, each)


def test_batch_norm_sees_rows_of_some_weight_alone():
    weights = torch.tensor([[1.0, 0.5, 0, 1, 0, 2]] * 3 + [[0.0] * 6])
    context, item, pair = inputs()
    split, plain_split = split_of(True).train(), split_of(True).train()
    out = split(split.context(context), split.item(item), pair, weights)
    real = weights > 0
    wanted = Plain(plain_split).train()(concatenated(context, item, pair)[real])
    torch.testing.assert_close(out[real], wanted)
    assert not out[~real].any()
    for ours, theirs in zip(split.norms, plain_split.norms, strict=True):
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)
        torch.testing.assert_close(ours.running_var, theirs.running_var)
    padded = pair.clone()
    padded[~real] = 1e6  # what pads may hold anything
    again = split_of(True).train()
    torch.testing.assert_close(again(again.context(context), again.item(item), padded, weights)[real], out[real])


def test_gradients_are_those_of_the_plain_net():
    context, item, pair = inputs()
    split, other = split_of(True).train(), split_of(True).train()
    split(split.context(context), split.item(item), pair, torch.ones(4, 6)).square().sum().backward()
    plain = Plain(other)
    plain.layers[0] = (torch.cat([other.from_context, other.from_item, other.from_pair], 1), other.bias)
    plain(concatenated(context, item, pair).flatten(0, 1)).square().sum().backward()
    for (name, ours), (_, theirs) in zip(split.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_schema_decides_the_sizes():
    schema = Schema(3, 4, user=(Field("n", "numeric"),), context=(Field("c", "categorical", 2),))
    assert ContextVectors(schema, 2, ()).count == 3
    assert ContextVectors(schema, 2, (5, 0, 2)).count == 5
