"""FM: Rendle's equation as a double loop over the expanded vector; its cost; its loss."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from suisen.data.batch import Batch, Candidates, Contexts, Features, Field, Schema
from suisen.data.ragged import Ragged, offsets_of
from suisen.models import FM
from suisen.models.contract import ItemTable
from suisen.models.fm import own_pairs
from suisen.models.layers import IdEmbedding
from suisen.models.losses import softmax_lists
from tests.models.toys import asked, bound, checkerboard

PAIR = ("a", "b")


def net_of(pair=PAIR, **hyper):
    torch.manual_seed(0)
    data = checkerboard()
    schema = Schema(**{**vars(data.schema), "pair": pair})
    net = bound(FM(**{"dim": 3, "history": 4, **hyper}).build(schema), data)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return net.double().eval()


SCHEMA = {
    "user": (Field("u", "categorical", 4), Field("n", "numeric"), Field("m", "multi", 6)),
    "context": (Field("q", "multi", 5), Field("x", "numeric"), Field("c", "categorical", 3)),
}


def features(fields, rows: int, seed: int) -> Features:
    """Random features: some codes unknown, some bags empty, some with weights, some naming a code twice."""
    rng = torch.Generator().manual_seed(seed)
    draw = lambda size, *shape: torch.randint(0, size, shape, generator=rng)  # noqa: E731
    codes = [draw(field.size, rows) for field in fields if field.kind == "categorical"]
    bags = []
    for field in (field for field in fields if field.kind == "multi"):
        lengths = draw(5, rows)
        values = draw(field.size, int(lengths.sum()))
        bags.append(Ragged(values, offsets_of(lengths), 0.5 + torch.rand(len(values), generator=rng)))
    numbers = torch.randn(rows, sum(field.kind == "numeric" for field in fields), generator=rng)
    return Features(torch.stack(codes, 1), numbers, tuple(bags))


def rich_schema(pair=()) -> Schema:
    """A schema with every kind of field on every side."""
    return Schema(9, 12, **SCHEMA, item=SCHEMA["user"], pair=pair)


def rich_net(pair=(), model=FM, **hyper):
    """A model over ``rich_schema`` with random weights, in double precision."""
    torch.manual_seed(0)
    schema = rich_schema(pair)
    net = model(**{"dim": 3, "history": 4, "recent": 2, **hyper}).build(schema)
    net.schema = schema
    trained = torch.ones(schema.n_items, dtype=torch.bool)
    trained[[0, 5]] = False
    net.bind(ItemTable(features(schema.item, schema.n_items, 7), trained))
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    with torch.no_grad():
        for table in net.modules():
            if isinstance(table, IdEmbedding):
                table.weight[0] = 0  # unknown
    return net.double().eval()


def rich_question(repeat: bool, rows: int = 5, width: int = 4):
    """Contexts with every kind of feature, candidates and pair features."""
    schema = rich_schema()
    rng = torch.Generator().manual_seed(3)
    past = Ragged.of(
        [[3, 5, 3, 3, 3], [], [2, 2], [1, 4, 0, 7], [6]] if repeat else [[3, 5, 4, 1, 2], [], [2], [7], [6]]
    )
    contexts = Contexts(
        torch.tensor([1, 0, 3, 8, 2]), features(schema.user, rows, 1), features(schema.context, rows, 2),
        torch.zeros(rows, dtype=torch.int64), past, torch.zeros_like(past.values),
    )  # fmt: skip
    items = torch.randint(1, schema.n_items, (rows, width), generator=rng)
    return contexts, items, torch.randn(rows, width, len(PAIR), generator=rng, dtype=torch.float64)


def question(rows: int = 3, width: int = 4):
    data = checkerboard()
    contexts = asked(data).take(torch.arange(rows))
    rng = torch.Generator().manual_seed(1)
    items = torch.randint(1, data.schema.n_items, (rows, width), generator=rng)
    return contexts, items, torch.randn(rows, width, len(PAIR), generator=rng, dtype=torch.float64)


@given(fields=st.integers(1, 7), dim=st.integers(1, 5), seed=st.integers(0, 3))
def test_pairs_in_linear_time_are_the_double_loop(fields, dim, seed):
    vectors = torch.randn(2, fields, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    pairs, total = own_pairs(vectors)
    wanted = [sum((v[f] @ v[g] for f, g in combinations(range(fields), 2)), torch.zeros(())) for v in vectors]
    torch.testing.assert_close(pairs[:, 0], torch.stack(wanted).double())
    torch.testing.assert_close(total, vectors.sum(1))


def coordinates(fields, encoder, features, row):
    """What Rendle's x holds of one row of features: (x_i, [w_i, v_i]), one a code, a number or a code of a bag."""
    kinds = [field.kind for field in fields]
    starts = encoder.starts.tolist()
    for place in range(kinds.count("categorical")):
        code = int(features.categorical[row, place])
        if code:
            yield 1.0, encoder.categorical[starts[place] + code]
    for place in range(kinds.count("numeric")):
        yield features.numeric[row, place].double(), encoder.numeric[place]
    for bag, table in zip(features.multi, encoder.multi):
        weights = torch.ones(len(bag.values)) if bag.weights is None else bag.weights
        span = slice(int(bag.offsets[row]), int(bag.offsets[row + 1]))
        yield from shares_of(bag.values[span].tolist(), weights[span].tolist(), table.weight)


def shares_of(codes, weights, table):
    """(share, row) of each different code of a bag."""
    mass = {}
    for code, weight in zip(codes, weights):
        if code:
            mass[code] = mass.get(code, 0.0) + weight
    total = sum(mass.values())
    for code, weight in mass.items():
        yield weight / total, table[code]


def expanded(net, contexts, items, extra, b, c):
    """The coordinates of the whole expanded vector of context b and its candidate c."""
    core = net.core
    user, item = int(contexts.user[b]), int(net.items.known(items[b, c]))
    yield float(user > 0), core.context.user.weight[user]
    yield from coordinates(net.schema.user, core.context.fields, contexts.user_features, b)
    yield from coordinates(net.schema.context, core.context.request, contexts.context_features, b)
    past = contexts.history.tolist()[b]
    for span, table in zip(core.context.spans, core.context.history):
        yield from shares_of(past[-span:], [1.0] * span, table.weight)
    yield float(item > 0), core.item.item.weight[item]
    yield from coordinates(net.schema.item, core.item.fields, net.items.features, int(items[b, c]))
    for k in range(len(core.pair)):
        yield extra[b, c, k], core.pair[k]


def rendle(bias, terms):
    """Equation 1 of Rendle 2010, as a double loop."""
    score = bias + sum(x * row[0] for x, row in terms)
    for (x, one), (y, other) in combinations(terms, 2):
        score = score + x * y * (one[1:] @ other[1:])
    return score


@torch.no_grad()
@pytest.mark.parametrize("pair", [PAIR, ()])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("repeat", [False, True])
def test_score_is_the_double_loop_over_the_expanded_vector(pair, dtype, repeat):
    net = rich_net(pair).to(dtype)
    contexts, items, extra = rich_question(repeat)
    extra = extra.to(dtype)
    scores = net.score(contexts, Candidates(items, extra if pair else None))
    for b in range(items.shape[0]):
        for c in range(items.shape[1]):
            terms = list(expanded(net, contexts, items, extra, b, c))
            if dtype == torch.float32:  # the loop itself is exact, so that only the score's rounding is seen
                terms = [(x if isinstance(x, float) else x.double(), row.double()) for x, row in terms]
            wanted = rendle(net.core.bias.double(), terms)
            assert float(scores[b, c]) == pytest.approx(float(wanted), rel=1e-6, abs=1e-6)


@torch.no_grad()
def test_shared_candidates_score_like_each_context_s_own():
    net = rich_net(())
    contexts, items, _ = rich_question(True)
    one = net.combine(net.context_state(contexts), net.item_state(items[0])[None], None)
    torch.testing.assert_close(one, net.score(contexts, Candidates(items[:1].expand(len(contexts), -1))))


def test_hidden_features_take_their_inner_pairs_along():
    """With everything hidden nothing but the histories, the requests and the item is left in training."""
    net = rich_net((), hide_ids=0.999999).train()
    contexts, _, _ = rich_question(False)
    bare = replace(
        contexts, user=torch.zeros_like(contexts.user), user_features=Features.missing(net.schema.user, len(contexts))
    )
    torch.testing.assert_close(net.context_state(contexts), net.eval().context_state(bare))


class Elements(TorchDispatchMode):
    """Counts the numbers that all operations write: the operations of an elementwise machine."""

    def __torch_dispatch__(self, kind, types, args=(), kwargs=None):
        out = kind(*args, **(kwargs or {}))
        self.count = getattr(self, "count", 0) + sum(
            part.numel() for part in (out if isinstance(out, (tuple, list)) else (out,)) if torch.is_tensor(part)
        )
        return out


def operations(fields: int, dim: int) -> int:
    with Elements() as counted, torch.no_grad():
        own_pairs(torch.ones(8, fields, dim))
    return counted.count


def test_cost_is_linear_in_fields_and_in_dim():
    """Equal steps cost equal amounts; the double loop's steps would grow."""
    by_fields = [operations(n, 16) for n in (10, 20, 30, 40)]
    by_dim = [operations(20, k) for k in (10, 20, 30, 40)]
    for counts in (by_fields, by_dim):
        steps = [b - a for a, b in pairwise(counts)]
        assert steps[0] > 0
        assert len(set(steps)) == 1


@torch.no_grad()
def test_every_field_counts():
    """What the double loop runs over is there: id, feature and history of the context; id and features of the item."""
    net = net_of()
    spans = sum(span > 0 for span in (net.model.history, net.model.recent))
    assert net.core.context.count == 1 + 1 + 0 + spans
    assert net.core.item.count == 1 + 3


def test_the_norm_is_over_all_tables():
    net = net_of(l2=0.5)
    contexts, items, extra = question()
    labels = torch.zeros(items.shape, dtype=torch.float64)
    labels[:, 0] = 1
    weights = torch.ones_like(labels)
    weights[0, 3] = 0
    batch = Batch(contexts, Candidates(items, extra), labels, weights)
    bare = softmax_lists(net.score(contexts, batch.candidates), labels, weights)
    squares = sum(float(w.detach().square().sum()) for name, w in net.named_parameters() if name != "core.bias")
    assert float(net(batch).detach()) == pytest.approx(float(bare.detach()) + 0.25 * squares, rel=1e-6)
