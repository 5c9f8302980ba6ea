"""Exports: what graphs and arrays answer on ONNX Runtime is what networks and engine answer on torch."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.data.ragged import Ragged
from suisen.errors import InputError
from suisen.models import MODELS, RANKERS, RETRIEVERS
from suisen.models.bert4rec import with_mask
from suisen.models.contract import Retriever
from suisen.models.layers import inside_pairs, pooled
from suisen.models.lightgcn import hop
from suisen.pipeline.recommender import Recommender
from suisen.recommending.answering import answer
from suisen.recommending.exporting import check, export, exported, graphs
from suisen.recommending.exporting.boxes import Boxed
from suisen.recommending.queries import RawQueries, RecommendOptions
from suisen.recommending.rules.declared import Rules
from suisen.recommending.sources import PAIR, pair_features
from tests.fitted import fitted, small_split
from tests.models.toys import asked, bound, checkerboard

ROOT = Path(__file__).parents[2]
SMALL = {
    "sasrec": {"dim": 8, "length": 6, "heads": 2}, "gru4rec": {"dim": 8, "length": 6, "layers": 2},
    "bert4rec": {"dim": 8, "length": 6}, "two-tower": {"dim": 8, "hidden": (16,), "half_life": 2.0},
    "neumf": {"gmf_dim": 4, "mlp_dim": 4, "hidden": (8,)}, "popularity": {},
    "wide-deep": {"dim": 4, "crosses": (("user", "item"), ("history", "item")), "hidden": (8,)},
    **{name: {"dim": 4, "hidden": (16, 8)} for name in ("mlp", "deepfm", "dnn", "dcn-v2")},
}  # fmt: skip
VECTORS = [name for name, cls in RETRIEVERS.items() if name not in ("ease", "item-knn", "ials")]
ids = st.lists(st.lists(st.integers(1, 6), max_size=7), min_size=1, max_size=5)


def boxed(rows, width=7):
    """The same rows in a box."""
    return Boxed.of_box(Ragged.of(rows).padded(width))


def same(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


# -- rows in boxes -----------------------------------------------------------------------------------------------------


@given(ids, st.integers(1, 8))
@settings(deadline=None)
def test_the_last_of_a_box_are_the_last_of_its_rows(rows, most):
    wanted, found = Ragged.of(rows).last(most), boxed(rows).last(most)
    assert found.lengths.tolist() == wanted.lengths.tolist()
    longest = int(wanted.lengths.max())
    assert found.padded()[:, :longest].tolist() == wanted.padded(longest).tolist()
    assert found.mask(9).tolist() == wanted.mask(9).tolist()
    assert found.padded(9).tolist() == wanted.padded(9).tolist()
    times = torch.arange(sum(map(len, rows)), dtype=torch.int64)
    along = Ragged.of(rows).with_values(times)
    box = boxed(rows).with_values(along.padded(7).reshape(-1)).last(most).padded()
    assert box[:, :longest].tolist() == along.last(most).padded(longest).tolist()


@given(ids, st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_sums_over_a_box_are_those_over_its_rows(rows, seed):
    table = torch.randn((8, 3), generator=torch.Generator().manual_seed(seed))
    flat, box = Ragged.of(rows), boxed(rows)
    same(pooled(box, table), pooled(flat, table))
    same(inside_pairs(box, table, pooled(box, table)), inside_pairs(flat, table, pooled(flat, table)))
    odd = flat.unique().keep(flat.unique().values % 2 > 0)
    odd_box = box.unique().keep(box.unique().values % 2 > 0)
    assert odd_box.lengths.tolist() == odd.lengths.tolist()
    weights = replace(odd, weights=odd.beside(odd.lengths.float().rsqrt()))
    same(hop(replace(odd_box, weights=odd_box.beside(odd_box.lengths.float().rsqrt())), table), hop(weights, table))
    wanted = with_mask(flat, 9)
    assert with_mask(box, 9).padded().tolist() == wanted.padded(8).tolist()
    assert with_mask(box, 9).lengths.tolist() == wanted.lengths.tolist()


@given(ids)
@settings(deadline=None)
def test_weights_stay_beside_what_they_weigh(rows):
    flat = Ragged.of(rows)
    age = flat.lengths[flat.rows()] - 1 - flat.places()
    flat = replace(flat, weights=torch.exp2(-age / 0.01))  # beyond float32 where a place holds nothing
    box = boxed(rows)
    age = box.lengths[box.rows()] - 1 - box.places()
    box = replace(box, weights=torch.exp2(-age / 0.01))
    table = torch.arange(24, dtype=torch.float32).view(8, 3)
    same(pooled(box, table), pooled(flat, table))
    same(pooled(box.last(2), table), pooled(flat.last(2), table))


# -- every model as a graph --------------------------------------------------------------------------------------------


@torch.no_grad()
def network(name):
    """A network of random weights, ready to answer."""
    data = checkerboard()
    torch.manual_seed(3)
    schema = replace(data.schema, pair=PAIR if name in RANKERS else ())
    usual = {"dim": 4} if "dim" in {field.name for field in fields(MODELS[name])} else {}
    net = bound(MODELS[name](**SMALL.get(name, usual)).build(schema), data)
    net.prepare(data)
    for weights in net.parameters():
        weights.add_(0.2 * torch.randn(weights.shape))
    return net.eval().requires_grad_(False), data


def questions(data):
    """Whole histories, one context alone, and nobody at all; longer than any graph was traced with."""
    everybody = asked(data)
    nobody = torch.zeros(2, dtype=torch.int64)
    return [everybody, everybody.take(torch.tensor([4])), everybody.recent(2), asked(data, nobody)]


def run(path, graph, tensors):
    """What ONNX Runtime makes of them."""
    runtime = pytest.importorskip("onnxruntime", reason="ONNXRUNTIME IS NOT INSTALLED: nothing is shown about exports")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == graph.inputs
    given = {}
    for each in session.get_inputs():
        value = tensors[each.name]
        if graph.history is not None and each.name.startswith("history"):
            kept = Ragged.of([[item for item in row if item] for row in tensors["history"].tolist()]).last(
                graph.history
            )
            assert each.name == "history", "no network reads times yet"
            value = kept.padded(each.shape[1] if isinstance(each.shape[1], int) else max(1, int(kept.lengths.max())))
        given[each.name] = value.numpy()
    return torch.from_numpy(session.run(None, given)[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", VECTORS)
def test_a_query_graph_gives_the_query_vectors(name, tmp_path):
    net, data = network(name)
    graph = graphs.write_query(net, data.schema, tmp_path / "query.onnx", name)
    for contexts in questions(data):
        same(run(tmp_path / "query.onnx", graph, graphs.tensors_of(contexts)), net.query_vectors(contexts))
    reads = {"popularity": set(), "mf": {"user"}, "gmf": {"user"}, "lightgcn": {"user", "history"}}
    reads |= {name: {"history"} for name in ("sasrec", "gru4rec", "bert4rec")}
    if name in reads:
        assert set(graph.inputs) <= reads[name] | {"user"}
        assert reads[name] <= set(graph.inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", RANKERS)
def test_a_rankers_graphs_give_its_states_and_scores(name, tmp_path):
    net, data = network(name)
    if net.no_graph:
        with pytest.raises(InputError, match=name):
            graphs.check(net, name)
        return
    graph = graphs.write_context(net, data.schema, tmp_path / "context.onnx", name)
    states = net.item_state(torch.arange(data.schema.n_items))
    pairs = None
    for contexts in questions(data):
        wanted = net.context_state(contexts)
        same(run(tmp_path / "context.onnx", graph, graphs.tensors_of(contexts)), wanted)
        if pairs is None:
            sizes = wanted.shape[1], states.shape[1], len(PAIR)
            pairs = graphs.write_combine(net, *sizes, tmp_path / "combine.onnx", name)
        items = states[torch.randint(len(states), (len(contexts), 9))]  # (B, C, s)
        features = torch.randn((*items.shape[:2], len(PAIR)))
        given = {"context": wanted, "item": items, "pair": features}
        same(run(tmp_path / "combine.onnx", pairs, given), net.combine(wanted, items, features))


def test_a_graph_leaves_out_what_it_does_not_read(tmp_path):
    net, data = network("two-tower")
    graphs.write_query(net, data.schema, tmp_path / "query.onnx", "two-tower")
    onnx = pytest.importorskip("onnx")
    held = onnx.load(tmp_path / "query.onnx", load_external_data=False).graph.initializer
    weights = net.state_dict()
    of_items = sum(each.numel() for key, each in weights.items() if key.startswith("item"))
    assert of_items > 500
    assert sum(prod(each.dims) for each in held) <= sum(each.numel() for each in weights.values()) - of_items + 50


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ease", "deepfm", "ease + fm"])
def test_what_has_no_graph_is_refused_by_name(name, tmp_path):
    with pytest.raises(InputError, match=re.escape(name.partition(" + ")[0])) as told:
        check(fitted(name).system)
    assert "\n" not in str(told.value)


def test_features_of_the_pair_are_refused_by_name():
    models = MODELS["mf"](dim=4, epochs=1), MODELS["fm"](dim=4, epochs=1)
    rec = Recommender(models[0], models[1], candidates=20, pair_features=["history_length"]).fit(small_split().train)
    with pytest.raises(InputError, match=r"mf \+ fm cannot be exported: features of the pair \(history_length\)"):
        check(rec.system)


def test_several_sources_are_refused():
    models = [MODELS["mf"](dim=4, epochs=1), MODELS["popularity"]()]
    rec = Recommender(models, candidates=20).fit(small_split().train)
    with pytest.raises(InputError, match="mf, popularity cannot be exported: several sources"):
        check(rec.system)


def test_rules_are_not_left_out_in_silence():
    rules = Rules.of({"pin": [{"name": "first", "item": "i001", "position": 1}]})
    with pytest.raises(InputError, match="mf cannot be exported: its rules"):
        check(replace(fitted("mf").system, rules=rules))


def test_the_guide_names_every_model_that_cannot_be_exported():
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    (told,) = re.findall(r"^Cannot be exported: (.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    wanted = set()
    for name in MODELS:
        net, _ = network(name)
        without = name in RETRIEVERS and not isinstance(net, Retriever)
        if without or any(getattr(part, "no_graph", "") for part in net.modules()):
            wanted.add(name)
    assert set(re.findall(r"`([a-z0-9-]+)`", told)) & set(MODELS) == wanted


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else than an export"):
        export(fitted("mf").system, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


# -- whole systems -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["two-tower + deepfm", "sasrec", "mf", "ials", "two-tower + ials"])
def both(request, tmp_path_factory):
    """A system, and what reads its export."""
    pytest.importorskip("onnxruntime", reason="ONNXRUNTIME IS NOT INSTALLED: nothing is shown about exports")
    system = fitted(request.param).system
    done = export(system, tmp_path_factory.mktemp("export") / "out")
    assert done.judged > 50
    assert done.identical == 1.0
    return system, exported.Exported(done.folder)


def lists_of(system, users, histories=None, k=10, **more):
    """(items, scores) of each query, by the engine."""
    brought = None if histories is None else [None if row is None else list(row) for row in histories]
    options = RecommendOptions(k, unknown="popular", **more)
    found = answer(system, RawQueries(users, history=brought), options)
    items = [system.store.items.raw(row[row > 0].numpy()).to_list() for row in found.items]
    return items, [row[row > -torch.inf].tolist() for row in found.scores], found.by


def equal(found, wanted):
    items, scores, by = wanted
    assert found.items == items
    assert found.by == by
    for ours, theirs in zip(found.scores, scores, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


def test_every_user_gets_the_engines_list(both):
    system, reader = both
    users = system.store.users.raw_ids.to_list()
    for k in (1, 10, 200):
        equal(reader.answer(users, k=k), lists_of(system, users, k=k))
    equal(reader.answer(users[:1]), lists_of(system, users[:1]))
    equal(reader.answer(users, exclude_seen=False), lists_of(system, users, exclude_seen=False))


def test_histories_that_are_brought_take_the_stored_ones_place(both):
    system, reader = both
    items = system.store.items.raw_ids.to_list()
    users = [system.store.users.raw_ids[3], None, system.store.users.raw_ids[5], None, "nobody", None]
    histories = [items[:4], items[10:13], None, ["unheard of"], None, [items[7], "unheard of", items[7]]]
    equal(reader.answer(users, histories), lists_of(system, users, histories))


def test_nobody_asks(both):
    _, reader = both
    assert reader.answer([]) == ([], [], [])


def test_pair_features_are_the_engines():
    scores = torch.randn((4, 6)).sort(1, descending=True).values
    known = torch.arange(6) < torch.tensor([[6], [3], [1], [0]])
    scores = torch.where(known, scores, -torch.inf)
    same(torch.from_numpy(exported.pair_features(scores.numpy(), known.numpy())), pair_features(scores, known))


def test_equal_scores_go_to_the_lower_number():
    scores = np.array([[1.0, 3.0, 3.0, -0.0, 0.0, 3.0, -np.inf]], dtype=np.float32)
    found, values = exported._best(scores.copy(), 6, exported.Rows.of([[2]]))
    assert found.tolist() == [[3, 6, 1, 4, 5, 0]]
    assert values.tolist() == [[3.0, 3.0, 1.0, 0.0, 0.0, -np.inf]]


def test_lists_that_differ_are_no_export(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(exported, "pair_features", lambda scores, known: np.zeros((*scores.shape, 2), np.float32))
    with pytest.raises(InputError, match=r"two-tower \+ deepfm cannot be exported: .* lists are the bundle's"):
        export(fitted("two-tower + deepfm").system, tmp_path / "out")
    assert not list(tmp_path.iterdir())


READ = """
import json, sys
sys.path.insert(0, sys.argv[1])
from exported import Exported
reader = Exported(sys.argv[1])
told = reader.answer(json.loads(sys.argv[2]), k=5)
assert not {"torch", "suisen", "polars"} & set(sys.modules), "it needs more than it says"
print(json.dumps([told.items, told.by]))
"""


@pytest.mark.parametrize("kind", ["text", "int"])
def test_the_copied_reader_needs_numpy_and_onnxruntime_alone(kind, tmp_path):
    pytest.importorskip("onnxruntime")
    system = fitted("mf", kind).system
    export(system, tmp_path / "out")
    again = export(system, tmp_path / "out")  # an older export is replaced
    assert not [path for path in tmp_path.iterdir() if path.name != "out"]
    users = [str(user) for user in system.store.users.raw_ids.head(4)] + ["nobody"]
    users += ["0" + users[0]] if kind == "int" else []  # 07 is 7
    words = [sys.executable, "-P", "-c", READ, str(again.folder), json.dumps(users)]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=tmp_path, timeout=120, env=env)
    items, by = json.loads(done.stdout)
    wanted = lists_of(system, users, k=5)
    assert items == [[str(item) for item in row] for row in wanted[0]]
    assert by == wanted[2]
