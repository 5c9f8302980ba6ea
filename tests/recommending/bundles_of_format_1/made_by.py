"""Made with the version before: python this.py OUT (format 1)."""

import dataclasses
import json
import sys
from pathlib import Path

import polars as pl
import torch

import suisen as su
from suisen.data.dataset import Dataset
from suisen.data.synthetic import World
from suisen.models import MODELS
from suisen.pipeline.recommender import Recommender
from suisen.pipeline.two_stage import ListOptions

torch.set_num_threads(1)
out = Path(sys.argv[1])
log = World(users=24, items=40, dim=4, groups=3, sessions=3, events=4, seed=3).generate().log
events = log.events.drop("session").with_columns(
    pl.when(pl.col("row") % 3 == 0).then(pl.lit("phone")).otherwise(pl.lit("desk")).alias("device")
)
spell = {
    "user": pl.format("u{}", pl.col("user").cast(pl.String).str.zfill(4)).alias("user"),
    "item": pl.format("i{}", pl.col("item").cast(pl.String).str.zfill(3)).alias("item"),
}
events = events.with_columns(spell["user"], spell["item"])
log = type(log)(
    events,
    log.users.with_columns(spell["user"]),
    log.items.with_columns(spell["item"]).with_columns(pl.format("日本 «{}»", "title").alias("title")),
    {**log.kinds, "device": "categorical"},
)
train = Dataset.of(log).split(su.LeaveLast(test=1)).train
recs = {
    "ease-deepfm": Recommender(
        su.EASE(l2=20.0),
        su.DeepFM(dim=4, hidden=(8,), epochs=2, batch_size=64),
        candidates=15,
        seed=1,
        lists=ListOptions(candidates=15),
    ),
    "two-tower-hnsw": Recommender(
        su.TwoTower(dim=8, hidden=(8,), epochs=2, batch_size=64), candidates=15, seed=1, index=su.HNSW()
    ),
    "ials-sasrec": Recommender(
        su.IALS(dim=4, epochs=2), su.SASRec(dim=8, epochs=1, blocks=1, heads=1, length=10), candidates=15, seed=1
    ),
    "wide-deep": Recommender(None, su.WideDeep(dim=4, hidden=(8,), epochs=1, batch_size=64), seed=1),
}
asks = [
    dict(users=["u0003", "u0011"]),
    dict(history=["i003", "i007"]),
    dict(users=["u0003"], exclude=["i001"], diversity=0.3),
    dict(users=["nobody"], context={"device": "phone"}),
]
for name, rec in recs.items():
    rec.fit(train)
    rec.save(out / name, metrics={"ndcg@10": 0.5})
    rec = su.load(out / name)
    answers = [
        dict(ask=ask, rows=rec.recommend(k=5, unknown="popular", at=1_800_000_000_000_000, **ask).to_dicts())
        for ask in asks
    ]
    answers.append(dict(similar="i003", rows=rec.similar_items(["i003"], 4).to_dicts()))
    (out / f"{name}.json").write_text(json.dumps(answers, ensure_ascii=False, indent=1))
names = {}
schema = train.schema
for name, model in MODELS.items():
    made = model()
    net = made.build(schema)
    names[name] = {
        "hyper": dataclasses.asdict(made),
        "weights": {k: list(v.shape) for k, v in net.state_dict().items()},
    }
(out / "weights.json").write_text(json.dumps(names, indent=0))
