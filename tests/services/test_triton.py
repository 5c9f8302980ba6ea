"""A real tritonserver answers from an exported repository as the bundle does: 1,000 users, histories, strangers."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from suisen.data.dataset import Dataset
from suisen.data.synthetic import World
from suisen.models import DeepFM, TwoTower
from suisen.pipeline.recommender import Recommender
from suisen.pipeline.two_stage import RankerLists
from suisen.recommending.answering import answer
from suisen.recommending.engine import Filters
from suisen.recommending.exporting import export
from suisen.recommending.queries import RawQueries, RecommendOptions
from tests.services.triton import Triton, environment

USERS, BATCH, K = 1_000, 50, 10


@pytest.fixture(scope="module")
def system():
    environment()
    data = Dataset.of(World(users=1_250, items=250, groups=8, sessions=3, events=4, seed=11).generate().log)
    models = TwoTower(dim=16, hidden=(16,), epochs=1), DeepFM(dim=8, hidden=(32, 16), epochs=1)
    lists = RankerLists(most_questions=1_000)
    return Recommender(models[0], ranker=models[1], candidates=100, seed=2, lists=lists).fit(data).system


@pytest.fixture(scope="module")
def triton(system, tmp_path_factory):
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("triton")
    export(system, folder / "models", to="triton", name="shop")
    server = Triton(folder / "models", folder)
    try:
        server.start(60)
        until = time.monotonic() + 60
        while not server.ready("shop"):
            assert time.monotonic() < until, server.log.read_text(errors="replace")[-3000:]
            time.sleep(0.2)
        yield server
    finally:
        server.stop()


def text(rows):
    return "BYTES", rows


def items_of(found):
    return [[item for item in row if item] for row in found["item_id"]]


def wanted(system, users, histories=None, k=K):
    found = answer(system, RawQueries(users, history=histories), RecommendOptions(k, unknown="popular"))
    return [[str(item) for item in system.store.items.raw(row[row > 0].numpy())] for row in found.items], found.by


def test_a_thousand_users_get_the_engines_lists(system, triton):
    users = system.store.trained_users.nonzero().squeeze(1)[:USERS]
    contexts = system.store.contexts(users, 0)
    lists, scores = system.engine.lists(contexts, K, Filters(contexts.history))
    raw = [str(user) for user in system.store.users.raw(users.numpy())]
    assert len(raw) == USERS
    for start in range(0, USERS, BATCH):
        found = triton.infer("shop", user_id=text([[user] for user in raw[start : start + BATCH]]))
        rows = slice(start, start + BATCH)
        assert items_of(found) == [[str(item) for item in system.store.items.raw(row.numpy())] for row in lists[rows]]
        for ours, theirs in zip(found["score"], scores[rows].tolist(), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
        assert {row[0] for row in found["answered_by"]} == {"model"}
    told = re.findall(r'^nv_inference_count\{model="shop",version="1"\} (\d+)', triton.scraped(), re.MULTILINE)
    assert int(told[0]) >= USERS
    assert re.search(r'^nv_inference_request_success\{model="shop",version="1"\} [1-9]', triton.scraped(), re.MULTILINE)


def test_single_requests_at_once_get_their_own_lists(system, triton):
    users = system.store.trained_users.nonzero().squeeze(1)[:64]
    raw = [str(user) for user in system.store.users.raw(users.numpy())]
    lists, _ = wanted(system, system.store.users.raw(users.numpy()).to_list())
    lengths = [K, 3, K, 1] * 16
    ask = lambda user, k: triton.infer("shop", user_id=text([[user]]), k=("INT32", [[k]]))  # noqa: E731
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, raw, lengths))
    assert [items_of(one)[0] for one in found] == [row[:k] for row, k in zip(lists, lengths, strict=True)]


def test_histories_and_strangers(system, triton):
    items = [str(item) for item in system.store.items.raw_ids]
    found = triton.infer("shop", history=text([items[:3], [items[9], "", ""]]))
    assert items_of(found) == wanted(system, [None, None], [items[:3], [items[9]]])[0]
    found = triton.infer("shop", user_id=text([["a stranger"]]), k=("INT32", [[400]]))
    lists, by = wanted(system, ["a stranger"], k=400)
    assert items_of(found) == lists
    assert len(found["item_id"][0]) == 400
    assert [row[0] for row in found["answered_by"]] == by


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ({"k": ("INT32", [[5]])}, "nobody is asked for; give user_id, history or both"),
        ({"user_id": ("BYTES", [["1"]]), "k": ("INT32", [[0]])}, "k = 0 must be from 1 to 10000"),
        ({"user_id": ("BYTES", [["1"], ["2"]]), "k": ("INT32", [[1], [2]])}, "k differs between the rows"),
    ],
)
def test_mistakes_are_told(triton, inputs, why):
    with pytest.raises(ValueError, match=re.escape(why)):
        triton.infer("shop", **inputs)
