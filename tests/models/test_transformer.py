"""The shared transformer against PyTorch's own pre-norm layer, and its two ways of attending against each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from suisen.models import transformer
from suisen.models.transformer import Block, Shape, Transformer

SHAPE = Shape(dim=8, blocks=2, heads=2, length=6, dropout=0.0, inner=12)


def pytorch_layer(block: Block, shape: Shape) -> nn.TransformerEncoderLayer:
    """PyTorch's layer (Vaswani et al. 2017, norm first) with the weights of ours."""
    layer = nn.TransformerEncoderLayer(
        shape.dim, shape.heads, shape.inner, 0.0, shape.activation, 1e-8, batch_first=True, norm_first=True
    )
    pairs = [
        (layer.norm1, block.norm_attention), (layer.norm2, block.norm_forward), (layer.linear1, block.first),
        (layer.linear2, block.second), (layer.self_attn.out_proj, block.out),
    ]  # fmt: skip
    for theirs, ours in pairs:
        theirs.load_state_dict(ours.state_dict())
    layer.self_attn.in_proj_weight.data.copy_(block.qkv.weight)
    layer.self_attn.in_proj_bias.data.copy_(block.qkv.bias)
    return layer


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_a_causal_block_is_pytorchs(activation, heads):
    torch.manual_seed(heads)
    shape = replace(SHAPE, heads=heads, activation=activation)
    block, x = Block(shape), torch.randn(3, 6, 8)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    mask = nn.Transformer.generate_square_subsequent_mask(6)
    wanted = pytorch_layer(block, shape)(theirs, src_mask=mask, is_causal=True)
    found = block(ours)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    found.square().sum().backward()
    wanted.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_a_block_that_looks_both_ways_is_pytorchs():
    torch.manual_seed(0)
    shape = replace(SHAPE, causal=False)
    block, x, lengths = Block(shape), torch.randn(3, 6, 8), torch.tensor([6, 1, 4])
    real = torch.arange(6) < lengths[:, None]
    wanted = pytorch_layer(block, shape).train()(x, src_key_padding_mask=~real)
    torch.testing.assert_close(block(x, real[:, None, None])[real], wanted[real], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("published", [True, False])
def test_attention_in_training_is_that_in_use(causal, published, monkeypatch):
    """With dropout the weights are made by hand; nothing dropped, they must be those of the fused kernel."""
    monkeypatch.setattr(transformer, "dropout", lambda x, p, training: x)
    torch.manual_seed(1)
    net = Transformer(replace(SHAPE, causal=causal, published=published, dropout=0.5))
    x, lengths = torch.randn(3, 6, 8), torch.tensor([6, 3, 1])
    real = torch.arange(6) < lengths[:, None]
    in_training, in_use = net.train()(x, lengths), net.eval()(x, lengths)
    torch.testing.assert_close(in_training[real], in_use[real], rtol=1e-5, atol=1e-6)


def test_published_blocks_ask_with_the_norm_and_are_answered_by_the_input():
    """pmixer/SASRec.pytorch and the authors' code: n = norm(x); n + attention(n, x, x); then norm(.) + forward(.)."""
    torch.manual_seed(2)
    shape = replace(SHAPE, published=True, heads=1)
    block, x = Block(shape), torch.randn(2, 6, 8)
    attention = nn.MultiheadAttention(8, 1, batch_first=True)
    attention.in_proj_weight.data.copy_(block.qkv.weight)
    attention.in_proj_bias.data.copy_(block.qkv.bias)
    attention.out_proj.load_state_dict(block.out.state_dict())
    asked = block.norm_attention(x)
    seen, _ = attention(asked, x, x, attn_mask=torch.full((6, 6), -torch.inf).triu(1), need_weights=False)
    second = block.norm_forward(asked + seen)
    wanted = second + block.second(torch.relu(block.first(second)))
    torch.testing.assert_close(block(x), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_rows_of_padding_alone_have_finite_states(training):
    net = Transformer(replace(SHAPE, causal=False, dropout=0.1)).train(training)
    assert net(torch.randn(2, 6, 8), torch.tensor([0, 0])).isfinite().all()


# -- sizes and dropout -----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_there_are_as_many_blocks_as_named_and_each_takes_part(blocks):
    torch.manual_seed(3)
    net = Transformer(replace(SHAPE, blocks=blocks)).eval()
    assert len(net.blocks) == blocks
    x, lengths = torch.randn(3, 6, 8), torch.tensor([6, 3, 2])
    before = net(x, lengths)
    for block in net.blocks:
        for weight in (block.qkv.weight, block.first.weight):
            kept = weight.clone()
            weight.mul_(-1)
            assert not torch.allclose(net(x, lengths), before, atol=1e-4)
            weight.copy_(kept)
    assert torch.equal(net(x, lengths), before)


@torch.no_grad()
def test_sizes_are_those_of_the_shape():
    net = Transformer(replace(SHAPE, length=9, inner=20, std=0.5))
    assert net.position.weight.shape == (9, 8)
    assert float(net.position.weight.std()) == pytest.approx(0.5, rel=0.3)
    block = net.blocks[0]
    assert block.first.weight.shape == (20, 8)
    assert block.second.weight.shape == (8, 20)
    assert Shape(8, 1, 1, 6, 0.0, 8).std == 0.02  # small: the first states are the items' vectors
    drawn = Block(replace(SHAPE, published=True, std=0.5, dim=64, inner=64))
    for layer in (drawn.qkv, drawn.out, drawn.first, drawn.second):
        assert float(layer.weight.std()) == pytest.approx(0.5, rel=0.1)
        assert not layer.bias.any()


def inputs_of(net: nn.Module, part: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What ``part`` of a transformer or a block is given when ``net`` reads ``x`` (B, L, d)."""
    seen: list[torch.Tensor] = []
    handle = part.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    net(x, torch.full((len(x),), x.shape[1])) if isinstance(net, Transformer) else net(x)
    handle.remove()
    return seen[0]


def drop_places(net: Transformer, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The five tensors that dropout has just passed over, each without an element that is 0 of itself.

    Sequences are of one place, which looks at itself with weight 1, so that a dropped weight leaves zeros alone.
    """
    block = net.blocks[0]
    between = []
    handle = block.norm_forward.register_forward_pre_hook(lambda module, given: between.append(given[0]))
    out = block(x)
    handle.remove()
    with torch.no_grad():
        block.first.bias.fill_(100.0)  # all that the feed-forward layer's ReLU is given is above 0
    return {
        "embeddings": inputs_of(net, block, x),
        "attention weights": inputs_of(block, block.out, x)[..., 0],
        "attention": between[0] - x,
        "inner": inputs_of(block, block.second, x),
        "feed-forward": out - between[0],
    }


@torch.no_grad()
@pytest.mark.parametrize("rate", [0.125, 0.5])
def test_dropout_drops_its_share_at_each_place_and_only_in_training(rate):
    torch.manual_seed(4)
    net = Transformer(replace(SHAPE, blocks=1, heads=1, dropout=rate))
    x = 1 + torch.rand(4000, 1, 8)
    for name, values in drop_places(net.train(), x).items():
        assert float((values.abs() < 1e-6).float().mean()) == pytest.approx(rate, abs=0.03), name
    for name, values in drop_places(net.eval(), x).items():
        assert values.abs().min() > 1e-8, name
    assert not torch.equal(net.train()(x, torch.ones(4000, dtype=torch.int64)), net(x, torch.ones(4000).long()))
    assert torch.equal(net.eval()(x, torch.ones(4000, dtype=torch.int64)), net(x, torch.ones(4000).long()))
