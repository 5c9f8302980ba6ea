"""Whatever files with digests that are right say: the bundle answers as it did, or a BundleError says why not."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import os
import shutil
from contextlib import suppress

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from suisen.errors import BundleError
from suisen.models import ItemKNN
from suisen.pipeline.recommender import Recommender
from suisen.pipeline.two_stage import RankerLists
from suisen.recommending import bundle, manifest, parity
from suisen.recommending.kernels import paths_here
from suisen.retrieval import HNSW, IVFSQ8
from tests.fitted import fitted, small_split


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A bundle with two stages and an index.  Not to be changed."""
    return fitted("two-tower + deepfm").save(tmp_path_factory.mktemp("saved") / "bundle")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One that loads fast, whose manifest is spoilt in its place."""
    return fitted("mf").save(tmp_path_factory.mktemp("small") / "bundle")


@pytest.fixture
def place(saved, tmp_path):
    """A copy that may be spoilt."""
    return shutil.copytree(saved, tmp_path / "bundle")


def manifest_of(place):
    return json.loads((place / "manifest.json").read_text(encoding="utf-8"))


def write(place, said):
    """The manifest, with a digest that is right."""
    said = {**said, "sha256": manifest.digest(said)} if isinstance(said, dict) else said
    (place / "manifest.json").write_text(json.dumps(said), encoding="utf-8")


def resigned(place):
    """The digests of all listed files as they are now."""
    said = manifest_of(place)
    write(place, {**said, "files": {name: manifest.sha256_of(place / name) for name in said["files"]}})


def loads(place):
    """As a server does: loaded, and the parity fixture replayed."""
    rec = Recommender.load(place)
    parity.check(rec.system, bundle.fixture(place))
    assert rec.recommend(rec.store.users.raw_ids.head(3).to_list(), 5).height == 15
    return rec


def refused(place, match):
    with pytest.raises(BundleError, match=match):
        loads(place)


# -- the manifest ------------------------------------------------------------------------------------------------------

EXTREMES = [
    None, True, False, 0, 1, -1, 2, 7, 1.9, 0.5, -0.0, 2**31, 2**63, 2**64, 10**30, 1e308, "", "0", "mf", "exact",
    "é\x00", "../parity.json", "/etc/passwd", [], {}, [[]], [None], {"": None}, {"name": "mf", "hyper": {}},
    "0" * 64, [1, "a"],
]  # fmt: skip


def places_in(value, path=()):
    """Every path in a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places_in(each, (*path, key))


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_value_may_be_any_other(small, data):
    before = (small / "manifest.json").read_bytes()
    said = json.loads(before)
    *path, last = data.draw(st.sampled_from([path for path in places_in(said) if path]))
    at = said
    for key in path:
        at = at[key]
    how = data.draw(st.sampled_from(["set", "set", "set", "drop", "twice"]))
    if how == "drop":
        del at[last]
    elif how == "twice" and isinstance(at, list):
        at.append(copy.deepcopy(at[last]))
    elif how == "twice":
        at[f"{last}s"] = at[last]
    else:
        at[last] = data.draw(st.sampled_from(EXTREMES))
    try:
        write(small, said)
        loads(small)
    except BundleError as error:
        assert str(error).isprintable()  # noqa: PT017 - either way is right
    finally:
        (small / "manifest.json").write_bytes(before)


@pytest.mark.parametrize("value", [0, -1, True, False, 1.0, 1.9, "2", None, [2], 2**70])
def test_a_format_is_a_whole_number_that_is_known(place, value):
    write(place, {**manifest_of(place), "format": value})
    refused(place, r"manifest.json.*format = ")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[" * 100_000, "RecursionError|nested"),
        ('{"a":' * 100_000, "RecursionError|nested"),
        ("[" * 60 + "]" * 60, "nested deeper than 32"),
        ('{"format": 2, "seed": NaN}', "no finite number"),
        ('{"format": 2, "seed": -Infinity}', "no finite number"),
        ('{"format": 2, "seed": 1e999}', "no finite number"),
        ('{"format": 2, "seed": ' + "9" * 10_000 + "}", "ValueError"),
        ('{"format": 2, "format": 2}', "stands twice"),
        ('{"format": 2, "notes": ["\\ud800"]}', "UnicodeEncodeError"),
        ('"text"', "not an object"),
    ],
)
def test_json_that_is_no_manifest(place, text, what):
    (place / "manifest.json").write_text(text, encoding="utf-8")
    refused(place, f"manifest.json is damaged.*({what})")


def test_a_manifest_has_a_bounded_size(place, monkeypatch):
    monkeypatch.setattr(manifest, "MOST_BYTES", 1000)
    refused(place, "more than 1000 bytes")


@pytest.mark.parametrize(
    "name", ["/etc/hostname", "../other/x", "plan/../../x", "plan//x", "./parity.json", "plan\\x", "C:/x", "plan/", "x"]
)
def test_files_are_plain_names_of_files_that_such_a_bundle_has(place, name):
    said = manifest_of(place)
    write(place, {**said, "files": {**said["files"], name: "0" * 64}})
    refused(place, r"manifest.json is damaged: files names .*; copy the bundle again")


@pytest.mark.parametrize("name", ["parity.json", "users.arrow", "ranker.safetensors", "index/vectors.npy"])
def test_files_name_all_that_is_read(place, name):
    said = manifest_of(place)
    files = {other: value for other, value in said["files"].items() if other != name}
    write(place, {**said, "files": files})
    refused(place, f"files does not name {name}")
    write(place, {**said, "files": {}})
    refused(place, "files = {} ")


def test_no_file_leads_out_of_the_bundle(place, tmp_path):
    outside = tmp_path / "elsewhere"
    shutil.move(place / "users.arrow", outside)
    (place / "users.arrow").symlink_to(outside)
    refused(place, r"users.arrow is a link that leads out of the bundle")


def test_files_that_would_be_read_are_listed(place):
    (place / "README").write_text("of no harm", encoding="utf-8")
    loads(place)
    (place / "index" / "other.npy").write_bytes(b"x")
    refused(place, r"index/other.npy is none of the bundle's files")


@pytest.mark.parametrize(
    ("name", "value"),
    [("fingerprint", "1-1-0"), ("users", 61), ("items", 80), ("events", 1)],
)
def test_what_it_says_of_the_data_is_compared_with_the_tables(place, name, value):
    said = manifest_of(place)
    write(place, {**said, "data": {**said["data"], name: value}})
    refused(place, f"data.{name} = {value!r}, the tables say")


@pytest.mark.skipif(paths_here() == ("plain",), reason="no plan is made here")
def test_a_plan_runs_at_a_speed_of_its_own(place):
    said = manifest_of(place)
    spoilt = {**said["plan"], "speed": {**said["plan"]["speed"], "cut": 10**6}}
    write(place, {**said, "plan": spoilt})
    refused(place, r"plan.speed = .*is none of this plan's")


# -- the parity fixture ------------------------------------------------------------------------------------------------


def spoil_parity(place, change):
    rows = json.loads((place / "parity.json").read_text(encoding="utf-8"))
    (place / "parity.json").write_text(json.dumps(change(rows)), encoding="utf-8")
    resigned(place)


def every(**fields):
    return lambda rows: [{**row, **fields} for row in rows]


PARITIES = {
    "none": lambda rows: [],
    "an object": lambda rows: {},
    "nothing": lambda rows: None,
    "one": lambda rows: rows[:1],
    "one, again and again": lambda rows: rows[-1:] * 9,
    "a row that is none": lambda rows: [*rows, 3],
    "wide": every(tolerance=1e9),
    "wider than a score": every(tolerance=1.5),
    "negative": every(tolerance=-1.0),
    "exact": every(tolerance=0.0),
    "not a number": every(tolerance=float("nan")),
    "infinite": every(tolerance=float("inf")),
    "text": every(tolerance="0.1"),
    "more than all": every(least_found=1.5),
    "less than none": every(least_found=-0.5),
    "no bounds of the plan's": every(fast={}),
    "wide for the plan": every(fast={"least_found": 0.5, "tolerance": 1e9}),
    "no items": every(items=[], scores=[]),
    "fewer scores": every(scores=[1.0]),
    "unknown items": every(items=["nobody's"], scores=[1.0]),
    "an item twice": lambda rows: [{**row, "items": [row["items"][0]] * 10} for row in rows],
    "items of another type": every(items=[[1]], scores=[1.0]),
    "unknown users": lambda rows: [{**row, "user": "stranger"} if row.get("user") else row for row in rows],
    "both": every(history=["i001"], user="u0001"),
    "another field": every(more=1),
    "no time": lambda rows: [{key: value for key, value in row.items() if key != "at"} for row in rows],
    "a time beyond all": every(at=2**70),
    "wrong answers": lambda rows: [{**row, "items": row["items"][::-1]} for row in rows],
}


@pytest.mark.parametrize("what", PARITIES)
def test_a_parity_fixture_that_proves_nothing_is_refused(place, what):
    spoil_parity(place, PARITIES[what])
    refused(place, "parity")


def test_histories_do_not_stand_in_for_users(place):
    def histories(rows):
        return rows[-1:] + [{**rows[-2], "history": [f"i{n:03}"]} for n in range(1, 9)]

    spoil_parity(place, histories)
    refused(place, r"parity.json asks for 0 users of 6")


@pytest.mark.parametrize("content", [b"", b"[", b"\xff", b"[" * 100_000, b'[{"user": 1e999}]'])
def test_a_parity_fixture_that_is_no_json_is_named(place, content):
    (place / "parity.json").write_bytes(content)
    resigned(place)
    refused(place, "parity.json is damaged")


# -- tables, weights, indexes ------------------------------------------------------------------------------------------


def raw(values):
    return pl.Series("__raw", values)


USERS = {
    "no history": lambda t: t.drop("__history"),
    "histories of texts": lambda t: t.with_columns(pl.col("__history").cast(pl.List(pl.String))),
    "small histories": lambda t: t.with_columns(pl.col("__history").cast(pl.List(pl.Int32))),
    "items beyond the table": lambda t: t.with_columns(pl.col("__history").list.eval(pl.element() + 1000)),
    "item 0": lambda t: t.with_columns(pl.col("__history").list.eval(pl.element() * 0)),
    "negative items": lambda t: t.with_columns(pl.col("__history").list.eval(-pl.element())),
    "nulls in histories": lambda t: t.with_columns(
        pl.col("__history").list.eval(pl.when(pl.element() > 3).then(pl.element()))
    ),
    "times of others": lambda t: t.with_columns(pl.col("__times").list.head(1)),
    "no row": lambda t: t.head(0),
    "fewer rows": lambda t: t.head(9),
    "an id for row 0": lambda t: t.with_columns(raw([f"u{n}" for n in range(t.height)])),
    "an id twice": lambda t: t.with_columns(raw([None, *["u1"] * (t.height - 1)])),
    "an id that is null": lambda t: t.with_columns(raw([None, None, *[f"u{n}" for n in range(t.height - 2)]])),
    "ids that are fractions": lambda t: t.with_columns(raw([None, *[n + 0.5 for n in range(t.height - 1)]])),
    "other ids": lambda t: t.with_columns(raw([None, *[f"v{n}" for n in range(t.height - 1)]])),
    "trained in words": lambda t: t.with_columns(pl.lit("yes").alias("__trained")),
    "trained unknown": lambda t: t.with_columns(pl.lit(None, dtype=pl.Boolean).alias("__trained")),
}
ITEMS = {
    "negative counts": lambda t: t.with_columns(pl.col("__count") - 50),
    "counts in halves": lambda t: t.with_columns(pl.col("__count") / 2),
    "no counts": lambda t: t.drop("__count"),
    "fewer rows": lambda t: t.head(9),
}


@pytest.mark.parametrize(("file", "what"), [("users", name) for name in USERS] + [("items", name) for name in ITEMS])
def test_tables_that_do_not_fit(place, file, what):
    path = place / f"{file}.arrow"
    table = (USERS if file == "users" else ITEMS)[what](pl.read_ipc(path))
    path.unlink()
    table.write_ipc(path)
    resigned(place)
    refused(place, r"(users|items).arrow does not fit the bundle: column|manifest.json does not fit its files \(data")


def test_bytes_of_a_table_that_are_others(place):
    """Offsets, lengths and types of the Arrow file itself: each answers or is named, none ends the process."""
    rng = np.random.default_rng(0)
    for file in ("users.arrow", "items.arrow"):
        content = (place / file).read_bytes()
        for at in rng.integers(0, len(content), 30):
            spoilt = bytearray(content)
            spoilt[at] ^= 0xFF
            (place / file).write_bytes(spoilt)
            resigned(place)
            with suppress(BundleError):
                loads(place)
        (place / file).write_bytes(content)


WEIGHTS = {
    "NaN": lambda w: {name: torch.full_like(t, torch.nan) if t.is_floating_point() else t for name, t in w.items()},
    "infinity": lambda w: {name: t / 0 + torch.inf if t.is_floating_point() else t for name, t in w.items()},
    "doubles": lambda w: {name: t.double() for name, t in w.items()},
    "integers": lambda w: {name: t.to(torch.int32) for name, t in w.items()},
    "fewer rows": lambda w: {name: t.reshape(-1)[:1].clone() for name, t in w.items()},
    "another name": lambda w: {f"{name}s": t for name, t in w.items()},
    "none": lambda w: {},
}


@pytest.mark.parametrize("what", WEIGHTS)
@pytest.mark.parametrize("stage", ["retriever", "ranker"])
def test_weights_that_no_training_ends_with(place, stage, what):
    path = place / f"{stage}.safetensors"
    weights = {name: value.clone() for name, value in load_file(path).items()}
    path.unlink()
    save_file(WEIGHTS[what](weights), path)
    resigned(place)
    refused(place, f"{stage}.safetensors does not fit the model")


def test_weights_of_a_size_that_nobody_has(place):
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}}).encode()
    (place / "retriever.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    resigned(place)
    refused(place, "retriever.safetensors does not fit the model")


def test_neighbours_that_are_no_items(tmp_path):
    place = Recommender(ItemKNN(neighbours=5)).fit(small_split().train).save(tmp_path / "b")
    path = place / "retriever.safetensors"
    good = {name: value.clone() for name, value in load_file(path).items()}
    for name, value, what in (("targets", 10**6, "targets are not all ids"), ("offsets", -5, "offsets do not rise")):
        path.unlink()
        save_file({**good, name: torch.full_like(good[name], value)}, path)
        resigned(place)
        refused(place, f"does not fit the model .{what}")


@pytest.mark.parametrize("change", ["nan", "rows", "columns", "doubles", "pickled"])
def test_vectors_that_are_not_the_models(place, change):
    path = place / "index" / "vectors.npy"
    vectors = np.load(path)
    made = {"nan": vectors * np.nan, "rows": vectors[:9], "columns": vectors[:, :3], "doubles": vectors.astype(float)}
    said = manifest_of(place)
    path.unlink()
    if change == "pickled":
        stream = io.BytesIO()
        np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        path.write_bytes(stream.getvalue())
    else:
        np.save(path, made[change])
        n, d = made[change].shape
        write(place, {**said, "index": {**said["index"], "n": n, "d": d}})
    resigned(place)
    refused(place, "index")


@pytest.mark.skipif(paths_here() == ("plain",), reason="no plan is made here")
@pytest.mark.parametrize("file", ["candidates/order", "candidates/slots", "ranker/shape", "ranker/widths"])
@pytest.mark.parametrize("value", [-1, 2**30])
def test_tables_that_compiled_code_would_follow_anywhere(place, file, value):
    path = place / "plan" / f"{file}.npy"
    table = np.load(path)
    table[-1] = value
    path.unlink()
    np.save(path, table)
    resigned(place)
    refused(place, "plan|shape|widths")


@pytest.mark.skipif(paths_here() == ("plain",), reason="no plan is made here")
def test_a_rankers_tables_are_of_the_ranker(place):
    """Rows as long as before, but compiled code would read them, and those of contexts, at other places."""
    folder = place / "plan" / "ranker"
    shape, steps = np.load(folder / "shape.npy"), np.load(folder / "steps.npy")
    assert shape[1] == 2
    made = {"shape": shape + np.array([1, -1, 0]), "steps": np.append(steps, np.float32(1))}
    for name, table in made.items():
        (folder / f"{name}.npy").unlink()
        np.save(folder / f"{name}.npy", table)
    resigned(place)
    refused(place, r"plan/ranker.*the ranker has|records.npy")


@pytest.mark.parametrize("index", [HNSW(m=8, ef_construction=40), IVFSQ8(lists=20, probe=4)], ids=lambda i: i.name)
def test_an_index_whose_links_lead_astray(index, tmp_path):
    """FAISS reads what it is given, so that positions are checked before they are followed."""
    from suisen.retrieval import create_index, open_index
    from suisen.retrieval.faiss import INDEX_FILE

    own = create_index(index)
    own.build(np.random.default_rng(0).normal(size=(1500, 8)).astype(np.float32))
    own.save(tmp_path)
    open_index(own.description, tmp_path)
    content = (tmp_path / INDEX_FILE).read_bytes()
    stray = np.array([2**30, 2**30], dtype=np.int32 if index.name == "hnsw" else np.int64).tobytes()
    at = int(len(content) * 0.4)
    at -= at % len(stray)
    noticed = 0
    for place in range(at, len(content) - len(stray) * 8, len(content) // 12):
        spoilt = content[:place] + stray * 8 + content[place + len(stray) * 8 :]
        os.unlink(tmp_path / INDEX_FILE)
        (tmp_path / INDEX_FILE).write_bytes(spoilt)
        try:
            found = open_index(own.description, tmp_path)
            ids, _ = found.search(np.ones((4, 8), dtype=np.float32), 20)
            assert ids.max() < 1500
        except BundleError:
            noticed += 1
    assert noticed


def test_it_knows_the_settings_of_lists():
    assert set(manifest.Lists.model_fields) == {field.name for field in dataclasses.fields(RankerLists)}


def test_what_is_saved_is_read_whatever_its_metrics_are(tmp_path):
    place = fitted("mf").save(tmp_path / "b", metrics={"ndcg@10": float("nan")}, run={"seconds": [float("inf"), 1.0]})
    assert manifest_of(place)["metrics"] == {"ndcg@10": None}
    assert manifest_of(place)["run"] == {"seconds": [None, 1.0]}
    assert Recommender.load(place).name == "mf"
