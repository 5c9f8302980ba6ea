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


def test_rows_of_padding_alone_have_finite_states():
    net = Transformer(replace(SHAPE, causal=False)).eval()
    assert net(torch.randn(2, 6, 8), torch.tensor([0, 0])).isfinite().all()
