"""The service that people write first: FastAPI, faiss.IndexFlatIP, DeepFM in eager torch; the same bundle and request.

    python -m serving.naive BUNDLE PORT WORKERS

It is no straw man.  User vectors, the fields of users and those of items are computed when it starts, so that a request
is: one exact search, what the user has seen taken out, 500 candidates, 10 fields × 16 numbers of each put side by side,
three layers, the FM's sum over pairs, top 10.  What it lacks is what nobody writes at first: int8, the split of the
first layer, batches across requests, a state that events change, logs and metrics.  ``agrees`` holds its lists to those
of the package before it serves, so that both do the same work.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
import torch.nn.functional as F
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from suisen.recommending import bundle
from suisen.recommending.answering import answer
from suisen.recommending.queries import RawQueries, RecommendOptions

CHECKED = 20
"""Users whose lists are compared before the first request."""


@dataclass
class Linear:
    """A layer with batch norm folded in, as every export to serving does."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(n, out) of (n, in)."""
        return F.relu(F.linear(x, self.weight, self.bias))


class Naive:
    """Everything in arrays, one request at a time."""

    @torch.no_grad()
    def __init__(self, system: Any) -> None:
        self.store, engine = system.store, system.engine
        net, self.candidates = engine.ranker, engine.candidates
        self.items = engine.retriever.item_vectors().float().numpy()
        self.index = faiss.IndexFlatIP(self.items.shape[1])
        self.index.add(self.items[1:])
        users = torch.arange(len(self.store.users))
        contexts = [self.store.contexts(some, 0) for some in users.split(1_000)]
        self.queries = torch.cat([engine.retriever.query_vectors(one) for one in contexts]).float().numpy()
        self.seen = [row.tolist() for row in self._histories()]
        core, deep = net.core, net.deep
        sides = [core.context.with_inside(one, 0.0, lambda _: slice(1, None)) for one in contexts]
        self.user_linear = torch.cat([fields[:, :, 0].sum(1) + _or_zero(inside) for fields, inside in sides])
        self.user_fields = torch.cat([fields[:, :, 1:] for fields, _ in sides])  # (users, F, k)
        ids = torch.arange(len(self.store.items))
        fields, inside = core.item.with_inside(*net.rows(ids), 0.0, lambda _: slice(1, None))
        self.item_linear, self.item_fields = fields[:, :, 0].sum(1) + _or_zero(inside), fields[:, :, 1:]
        self.pair, self.bias = core.pair, core.bias
        self.layers = list(_layers(deep))
        self.out = net.out.weight[0]
        self.raw = self.store.items.raw_ids.to_list()
        self.titles = self.store.title_list

    def _histories(self) -> list[np.ndarray]:
        every = self.store.histories
        return np.split(every.values.numpy(), every.offsets.numpy()[1:-1])

    @torch.inference_mode()
    def answer(self, user: int, k: int) -> tuple[list[int], list[float]]:
        """Dense items and scores of a dense user."""
        gone = set(self.seen[user])
        scores, found = self.index.search(self.queries[user : user + 1], self.candidates + len(gone))
        kept = [(one, s) for one, s in zip((found[0] + 1).tolist(), scores[0].tolist(), strict=True) if one not in gone]
        items = torch.tensor([one for one, _ in kept[: self.candidates]])
        value = torch.tensor([s for _, s in kept[: self.candidates]])
        n = len(items)
        standard = (value - value.mean()) / value.std(correction=0).clamp(min=1e-6)
        pair = torch.stack([standard, -torch.log2(torch.arange(1, n + 1).float()) / 8], 1)  # (n, 2)
        fields = torch.cat([self.user_fields[user].expand(n, -1, -1), self.item_fields[items]], 1)  # (n, F, k)
        x = torch.cat([fields.flatten(1), pair], 1)
        for layer in self.layers:
            x = layer(x)
        extra = pair.unsqueeze(2) * self.pair[:, 1:]  # (n, 2, k)
        whole = torch.cat([fields, extra], 1)
        pairs = 0.5 * (whole.sum(1).square().sum(1) - whole.square().sum((1, 2)))
        linear = self.user_linear[user] + self.item_linear[items] + pair @ self.pair[:, 0] + self.bias
        total = x @ self.out + pairs + linear
        best = total.topk(min(k, n))
        return items[best.indices].tolist(), best.values.tolist()


def _or_zero(inside: torch.Tensor | None) -> torch.Tensor | float:
    return 0.0 if inside is None else inside


def _layers(deep: Any) -> Any:
    """The layers over the whole input, put together again from ``SplitMLP``'s parts."""
    weight = torch.cat([deep.from_context, deep.from_item, deep.from_pair], 1)
    parts = [(weight, deep.bias), *((layer.weight, layer.bias) for layer in deep.upper)]
    for depth, (one, bias) in enumerate(parts):
        if deep.norms is None:
            yield Linear(one, bias)
            continue
        norm = deep.norms[depth]
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        yield Linear(one * scale[:, None], bias * scale + norm.bias - norm.running_mean * scale)


def agrees(system: Any, naive: Naive, users: int = CHECKED, k: int = 10) -> float:
    """Mean share of the package's lists that the naive service gives, too; ties and rounding leave it just below 1."""
    raw = system.store.users.raw_ids.head(users).to_list()
    ours = answer(system, RawQueries(raw), RecommendOptions(k)).items.tolist()
    dense = system.store.users.dense(raw).tolist()
    shares = [len(set(a) & set(naive.answer(user, k)[0])) / k for user, a in zip(dense, ours, strict=True)]
    return sum(shares) / len(shares)


class Query(BaseModel):
    """One user."""

    user_id: str


class Request(BaseModel):
    """As the package's server takes it."""

    queries: list[Query]
    k: int = 10


class Item(BaseModel):
    """A place of a list."""

    item_id: str | int
    score: float
    rank: int
    title: str


class Answer(BaseModel):
    """A list."""

    user_id: str
    items: list[Item]


class Answers(BaseModel):
    """In the order of the queries."""

    answers: list[Answer]


def app_of(place: str) -> Any:
    """The application."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    system = bundle.load(Path(place))
    naive = Naive(system)
    share = agrees(system, naive)
    if share < 0.99:
        raise RuntimeError(f"the naive service agrees with the package in {share:.3f} of its items only")
    app = FastAPI()

    @app.get("/ready")
    def ready() -> dict[str, float]:
        return {"agrees": share, "pid": os.getpid()}

    def one(query: Query, k: int) -> Answer:
        user = int(system.store.users.dense([query.user_id])[0])
        if not user:
            raise HTTPException(404, "unknown user")
        found = zip(*naive.answer(user, k), strict=True)
        items = [
            Item(item_id=naive.raw[item - 1], score=score, rank=rank, title=naive.titles[item])
            for rank, (item, score) in enumerate(found, start=1)
        ]
        return Answer(user_id=query.user_id, items=items)

    @app.post("/v1/recommend")
    def recommend(request: Request) -> Answers:
        return Answers(answers=[one(query, request.k) for query in request.queries])

    return app


def listening(port: int) -> socket.socket:
    """A socket of this process alone on a port that its siblings listen on, too."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    return made


def main() -> int:
    """Serves with uvicorn, uvloop and httptools; WORKERS processes on one port, the kernel spreads connections."""
    place, port, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    children = [
        subprocess.Popen([sys.executable, "-m", "serving.naive", place, str(port), "1"]) for _ in range(1, workers)
    ]
    app = app_of(place)
    config = uvicorn.Config(app, loop="uvloop", http="httptools", access_log=False, log_level="error", backlog=4096)
    try:
        uvicorn.Server(config).run(sockets=[listening(port)])
    finally:
        for child in children:
            child.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
