"""Saved here, loaded there: the same bits, and every kind of damage is named."""

from __future__ import annotations

import json
import os
import shutil
import stat
import struct

import polars as pl
import pytest
import torch

import suisen
from suisen.data.batch import Candidates
from suisen.data.dataset import Dataset
from suisen.data.ragged import Ragged
from suisen.errors import BundleError
from suisen.models import EASE, IALS, MF
from suisen.pipeline.recommender import Recommender
from suisen.recommending import bundle, planning
from suisen.recommending.engine import Filters
from suisen.recommending.kernels import paths_here
from suisen.retrieval import HNSW, IVFPQ, IVFSQ8, Exact, Flat
from tests.fitted import EVERY, fitted, small_split
from tests.helpers import make_data, make_log


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A two-stage bundle with an index.  Not to be changed: copy it."""
    return fitted("two-tower + deepfm").save(tmp_path_factory.mktemp("saved") / "bundle")


@pytest.fixture
def place(saved, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(saved, tmp_path / "bundle")


def rewritten(place, **changes):
    """The manifest with other values, and a hash that fits them."""
    path = place / "manifest.json"
    manifest = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    manifest["sha256"] = bundle._digest(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")


# -- there and back ----------------------------------------------------------------------------------------------------


def same_bits(one, two):
    """Scores and lists of both, at equal batch shapes."""
    contexts = small_split().test.contexts
    items = torch.arange(1, 21).expand(len(contexts), -1)
    assert torch.equal(one.score(contexts, Candidates(items)), two.score(contexts, Candidates(items)))
    filters = Filters(contexts.history)
    for diversity in (0.0, 0.4):
        for a, b in zip(*(r.engine.lists(contexts, 9, filters, diversity) for r in (one, two)), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("ids", ["text", "int"])
def test_every_model_comes_back_bit_for_bit(name, ids, tmp_path):
    rec = fitted(name, ids)
    back = Recommender.load(rec.save(tmp_path / "b"))
    if ids == "text":
        same_bits(rec, back)
    users = rec.store.users.raw_ids.head(5).to_list()
    assert back.recommend(users, 20).equals(rec.recommend(users, 20))
    if not name.startswith("popularity"):  # it refuses
        asked = ["i004"] if ids == "text" else [4]
        assert back.similar_items(asked, 5).equals(rec.similar_items(asked, 5))
    assert (back.retriever, back.ranker) == (rec.retriever, rec.ranker)
    assert (back.name, back.candidates, back.seed) == (rec.name, rec.candidates, rec.seed)
    assert back.system.notes == rec.system.notes
    assert back.store.fingerprint() == rec.store.fingerprint()
    for part in (back.engine.retriever, back.engine.ranker):
        for tensor in [] if part is None else [*part.parameters(), *part.buffers()]:
            assert not tensor.is_meta
            assert not tensor.requires_grad
        assert part is None or not part.training


INDEXES = [Exact(), Flat(), HNSW(m=8, ef_construction=40), IVFSQ8(lists=20, probe=4), IVFPQ(lists=20, probe=4)]


@pytest.mark.parametrize("index", INDEXES, ids=lambda index: index.name)
@pytest.mark.parametrize("ranker", [None, "fm"])
def test_every_index_comes_back(index, ranker, tmp_path):
    from suisen.data.synthetic import World
    from suisen.recommending import parity
    from tests.fitted import RANKERS

    world = World(users=120, items=1100, groups=3, sessions=12, events=8, skew=0.0, seed=5)
    rec = Recommender(IALS(dim=8, epochs=2), RANKERS.get(ranker), candidates=80, index=index)
    rec.fit(Dataset.of(world.generate().log))
    place = rec.save(tmp_path / "b")
    back = Recommender.load(place)
    users = list(range(1, 30))
    assert back.recommend(users, 20).equals(rec.recommend(users, 20))
    assert back.engine.index.description == rec.engine.index.description
    assert back.system.index_recall == rec.system.index_recall
    assert rec.system.index_recall == 1.0 if index.exact else 0.3 < rec.system.index_recall <= 1.0
    parity.check(back.system, bundle.fixture(place))
    assert list((place / "index").iterdir())


def test_loading_draws_nothing(saved):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    Recommender.load(saved)
    assert torch.equal(torch.get_rng_state(), state)


def test_guests_odd_ids_and_lists_of_features(tmp_path):
    log = make_log(
        users={"user": ["Ⅷ", "b|c", "nobody"], "likes": [["x", "y"], [], ["é"]], "age": [None, 3.5, 8.0]},
        items={"item": ["ä", "日本", "c", "never"], "title": [f"«{i}» 題" for i in range(4)],
               "tags": ["p|q", "q", None, "p"]},
        kinds={"title": "text", "tags": "multi"},
        user=["Ⅷ", "Ⅷ", None, None, "b|c", "b|c", None], item=["ä", "日本", "ä", "c", "c", "ä", "日本"],
        session=[1, 1, 2, 2, 3, 3, 4], time=list(range(7)),
    )  # fmt: skip
    rec = Recommender(EASE(l2=1.0)).fit(Dataset.of(log))
    back = Recommender.load(rec.save(tmp_path / "b"))
    for user in ("Ⅷ", "b|c"):
        assert back.recommend([user], 5, exclude_seen=False).equals(rec.recommend([user], 5, exclude_seen=False))
    assert back.store.title_list == ["", "«0» 題", "«1» 題", "«2» 題", "«3» 題"]
    assert back.store.titles(torch.tensor([2, 1])) == ["«1» 題", "«0» 題"]
    assert back.store.histories.tolist() == rec.store.histories.tolist() == [[], [1, 2], [3, 1], []]
    assert torch.equal(back.store.history_times, rec.store.history_times)
    for one, two in (
        (back.store.user_features, rec.store.user_features),
        (back.store.item_features, rec.store.item_features),
    ):
        assert torch.equal(one.categorical, two.categorical)
        assert torch.equal(one.numeric, two.numeric)
        assert [bag.tolist() for bag in one.multi] == [bag.tolist() for bag in two.multi]
    assert "Ⅷ" in (tmp_path / "b" / "parity.json").read_text(encoding="utf-8")


def test_without_time_and_without_tables(tmp_path):
    data = make_data(user=[1, 1, 2, 2], item=[5, 6, 5, 7])
    rec = Recommender(MF(dim=2, epochs=1)).fit(data)
    back = Recommender.load(rec.save(tmp_path / "b"))
    assert back.recommend([1, 2], 5).equals(rec.recommend([1, 2], 5))
    assert not back.store.has_time
    assert back.store.history_times.tolist() == rec.store.history_times.tolist()
    assert back.store.title_list == ["", "5", "6", "7"]


def test_the_manifest_says_what_there_is(saved):
    manifest = json.loads((saved / "manifest.json").read_text(encoding="utf-8"))
    rec = fitted("two-tower + deepfm")
    assert manifest["format"] == bundle.FORMAT
    assert manifest["suisen"] == suisen.__version__
    assert manifest["retriever"]["name"] == "two-tower"
    assert manifest["retriever"]["hyper"]["dim"] == 8
    assert manifest["ranker"]["name"] == "deepfm"
    assert manifest["candidates"] == 30
    assert manifest["data"] == {
        "fingerprint": rec.store.fingerprint(), "users": 62, "items": 81,
        "events": int(rec.store.item_counts.sum()), "has_time": True,
    }  # fmt: skip
    assert manifest["index"]["name"] == "exact"
    files = {str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file()} - {"manifest.json"}
    assert set(manifest["files"]) == files
    assert {name for name in files if not name.startswith("plan/")} == {
        "retriever.safetensors", "ranker.safetensors", "users.arrow", "items.arrow", "parity.json", "index/vectors.npy",
    }  # fmt: skip
    if paths_here() == ("plain",):
        assert manifest["plan"] == {"torch": planning.NO_PATH}
    else:
        assert (manifest["plan"]["candidates"], manifest["plan"]["ranker"]) == ("compiled", "compiled")
        assert {"plan/candidates/tiles.npy", "plan/ranker/rows.npy"} <= files
    assert Recommender.load(saved).system.version.startswith("two-tower+deepfm-")


def test_metrics_and_the_run_are_kept(tmp_path):
    facts = {"metrics": {"ndcg@10": {"value": 0.25, "protocol": "leave last out"}}, "run": {"seed": 3, "folds": {1: 2}}}
    place = fitted("ease").save(tmp_path / "b", **facts)
    manifest = bundle.read_manifest(place)
    assert manifest["metrics"] == facts["metrics"]
    assert manifest["run"] == {"seed": 3, "folds": {"1": 2}}


def test_a_run_folder_will_do(saved, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(saved, run / "bundle")
    for load in (Recommender.load, suisen.load):
        assert load(str(run)).recommend(["u0001"], 3).equals(fitted("two-tower + deepfm").recommend(["u0001"], 3))
    assert bundle.fixture(run) == bundle.fixture(saved)
    with pytest.raises(BundleError, match=r"holds no bundle \(manifest.json is missing\); give a bundle or a run"):
        Recommender.load(tmp_path)


def test_another_user_may_read_it_where_the_umask_lets_them(saved):
    os.umask(umask := os.umask(0))
    for path in [saved, *saved.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_no_pickle(saved):
    """No file is one, none holds one, and no code of ours reads one."""
    for path in saved.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not data.startswith((b"\x80", b"PK\x03\x04")), path  # pickle, or the archive torch.save writes
            assert b"cbuiltins" not in data
            assert b"torch._utils" not in data
    source = "".join(path.read_text(encoding="utf-8") for path in (bundle_source().parent).glob("*.py"))
    for word in ("import pickle", "torch.load(", "torch.save(", 'eval("', "exec("):
        assert word not in source


def bundle_source():
    from pathlib import Path

    return Path(bundle.__file__)


# -- damage ------------------------------------------------------------------------------------------------------------

FILES = [
    "retriever.safetensors",
    "ranker.safetensors",
    "users.arrow",
    "items.arrow",
    "parity.json",
    "index/vectors.npy",
]


@pytest.mark.parametrize("file", FILES)
def test_a_missing_cut_or_altered_file_is_named(place, file):
    path = place / file
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(BundleError, match=f"{file} is damaged: its SHA-256"):
        Recommender.load(place)
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    with pytest.raises(BundleError, match=f"{file} is damaged: its SHA-256"):
        Recommender.load(place)
    path.unlink()
    with pytest.raises(BundleError, match=f"{file} is missing; copy the bundle again"):
        Recommender.load(place)


@pytest.mark.parametrize("file", ["retriever.safetensors", "users.arrow", "items.arrow", "index/vectors.npy"])
@pytest.mark.parametrize("garbage", [b"", b"nonsense" * 40, struct.pack("<Q", 2**40) + b"{}"])
def test_a_file_that_was_written_wrongly_is_named_too(place, file, garbage):
    """The hash fits, the content does not."""
    (place / file).write_bytes(garbage)
    manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
    rewritten(place, files={**manifest["files"], file: bundle._sha256(place / file)})
    with pytest.raises(BundleError, match=str(place)):
        Recommender.load(place)


def test_weights_of_another_model_are_refused(place):
    manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
    hyper = {**manifest["retriever"]["hyper"], "dim": 9}
    rewritten(place, retriever={"name": "two-tower", "hyper": hyper})
    with pytest.raises(BundleError, match=r"retriever.safetensors does not fit the model .*size mismatch"):
        Recommender.load(place)
    rewritten(place, retriever={"name": "three-tower", "hyper": {}})
    with pytest.raises(BundleError, match=r"manifest.json does not fit its files \(model = 'three-tower' is unknown"):
        Recommender.load(place)
    rewritten(place, retriever={"name": "two-tower", "hyper": {"dims": 3}})
    with pytest.raises(BundleError, match=r"manifest.json does not fit its files \(TwoTower parameter = 'dims'"):
        Recommender.load(place)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"format": "new", "files": {}}',
        '{"format": 1, "files": 3}',
        '{"format": 1}',
        "\x00",
    ],
)
def test_a_garbled_manifest_is_named(place, text):
    (place / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(BundleError, match=r"manifest.json is damaged"):
        Recommender.load(place)


def test_a_manifest_that_was_edited_or_is_newer_is_refused(place):
    path = place / "manifest.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"candidates": 30', '"candidates": 31'), encoding="utf-8")
    with pytest.raises(BundleError, match=r"manifest.json is damaged: its SHA-256 is not what it says of itself"):
        Recommender.load(place)
    path.write_text(text.replace(f'"format": {bundle.FORMAT}', '"format": 99'), encoding="utf-8")
    with pytest.raises(BundleError, match=r"manifest.json: format = 99 is newer than 2, .* upgrade"):
        Recommender.load(place)
    path.write_bytes(b"\xff\xfe" + text.encode())
    with pytest.raises(BundleError, match=r"manifest.json is damaged \(UnicodeDecodeError"):
        Recommender.load(place)
    rewritten_without = {name: value for name, value in json.loads(text).items() if name not in ("encoders", "sha256")}
    path.write_text(json.dumps({**rewritten_without, "sha256": bundle._digest(rewritten_without)}), encoding="utf-8")
    with pytest.raises(BundleError, match=r"manifest.json does not fit its files \('encoders'\)"):
        Recommender.load(place)


# -- saving ------------------------------------------------------------------------------------------------------------


def test_a_new_bundle_takes_the_place_of_an_old_one(tmp_path):
    place = fitted("ease").save(tmp_path / "deep" / "b")
    (place / "left over").write_text("of the old one", encoding="utf-8")
    fitted("mf").save(place)
    assert Recommender.load(place).name == "mf"
    assert not (place / "left over").exists()
    assert [path.name for path in place.parent.iterdir()] == ["b"]
    assert place.stat().st_mode & 0o055 == place.parent.stat().st_mode & 0o055  # whoever may enter here may read there


def test_a_link_is_followed(tmp_path):
    (tmp_path / "v1").mkdir()
    (tmp_path / "current").symlink_to("v1", target_is_directory=True)
    fitted("ease").save(tmp_path / "current")
    assert (tmp_path / "current").is_symlink()
    assert Recommender.load(tmp_path / "v1").name == "ease"


def test_something_else_is_never_overwritten(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("ten years of work", encoding="utf-8")
    (tmp_path / "file").write_text("a file", encoding="utf-8")
    for name in ("b", "file"):
        with pytest.raises(BundleError, match="holds something else than a bundle; save to another folder"):
            fitted("ease").save(tmp_path / name)
    assert (tmp_path / "b" / "thesis.txt").read_text(encoding="utf-8") == "ten years of work"
    (tmp_path / "empty").mkdir()
    fitted("ease").save(tmp_path / "empty")
    assert Recommender.load(tmp_path / "empty").name == "ease"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "empty", "file"]


@pytest.mark.parametrize("where", ["save_file", "_items", "_sha256"])
def test_what_fails_half_way_leaves_nothing_behind(tmp_path, monkeypatch, where):
    place = fitted("mf").save(tmp_path / "b")

    def broken(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(bundle, where, broken)
    for target in (place, tmp_path / "new"):
        with pytest.raises(OSError, match="no space left"):
            fitted("ease").save(target)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert Recommender.load(place).name == "mf"


def test_an_old_bundle_comes_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    from pathlib import Path

    place = fitted("mf").save(tmp_path / "b")
    rename = Path.rename

    def stubborn(self, target):
        if ".new-" in self.name:
            raise PermissionError("not today")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stubborn)
    with pytest.raises(PermissionError, match="not today"):
        fitted("ease").save(place)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert Recommender.load(place).name == "mf"


def test_a_bundle_that_is_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    place = fitted("mf").save(tmp_path / "b")
    read, calls = bundle.read_manifest, []

    def slow(folder):
        calls.append(folder)
        if len(calls) == 1:  # between the manifest and the files another bundle takes the place
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            fitted("ease").save(folder)
            name = next(iter(manifest["files"]))
            raise BundleError(f"{folder / name} is damaged")
        return read(folder)

    monkeypatch.setattr(bundle, "read_manifest", slow)
    assert Recommender.load(place).name == "ease"
    assert len(calls) == 2


def test_only_what_is_fitted_is_saved(tmp_path):
    with pytest.raises(suisen.InputError, match="not fitted"):
        Recommender(EASE()).save(tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_list_columns_hold_ragged_rows():
    rows = Ragged.of([[], [3, 1], [], [2]])
    column = bundle._list_column("x", rows)
    assert column.to_list() == [[], [3, 1], [], [2]]
    assert column.dtype == pl.List(pl.Int64)
    assert bundle._list_column("x", Ragged.empty(3)).to_list() == [[], [], []]
