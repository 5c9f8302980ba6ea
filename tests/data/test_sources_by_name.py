"""What is peculiar to each data set by name, on its made-up sample; and real files where they are."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from suisen.data.dataset import Dataset
from suisen.data.ordered import OrderedLog
from suisen.data.sources import SOURCES, load
from suisen.data.sources.download import Unreachable, WebFile
from suisen.data.splits import ClickRatio, Given, LeaveLast, Sessions
from suisen.errors import InputError
from tests.helpers import raw_items

DATA = Path(__file__).parents[3] / "shared" / "data"
DAY = 86_400 * 10**6


def sample(name, folder, layout=0):
    """The log of a data set's made-up sample."""
    for file, data in SOURCES[name].layouts[layout].sample.items():
        (folder / file).write_bytes(data)
    return load(name, folder)


def test_every_data_set_of_the_issue_is_there():
    assert set(SOURCES) >= {
        "amazon-beauty", "yoochoose", "diginetica", "gowalla", "yelp2018", "amazon-book", "lastfm-1k", "hetrec-lastfm",
        "book-crossing", "steam", "hm", "mind", "frappe", "criteo", "avazu",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["gowalla", "yelp2018", "amazon-book", "frappe"])
def test_a_published_split_is_kept(tmp_path, name):
    log = sample(name, tmp_path)
    split = Given().split(OrderedLog.of(log))
    assert split.test.protocol.startswith("split given")
    assert split.facts["train_events"] == log.parts[0]
    if name == "frappe":
        assert sorted(split.test.labels.tolist()) == [[0.0], [1.0]]
        assert log.events["label"].to_list() == [1, 0, 0, 1, 0]
    else:
        assert split.facts["test_events"] == 3
        assert split.order == "random"  # the items of a line are a set


def test_sets_without_times_are_no_sequences(tmp_path):
    log = sample("gowalla", tmp_path)
    assert not log.ordered
    assert "drawn at random" in Dataset.of(log).split(LeaveLast(test=1, valid=0)).test.protocol


def test_yoochoose(tmp_path):
    log = sample("yoochoose", tmp_path)
    assert log.events["user"].null_count() == 4
    assert log.events["time"][0] == 1396867869277000
    assert log.events["category"].to_list() == ["0", "S", "3", "0"]
    split = Dataset.of(log).split(Sessions(test=0.5, valid=0))
    assert [raw_items(split.train, row) for row in split.test.truth.tolist()] == [[214536500]]


def test_diginetica(tmp_path):
    log = sample("diginetica", tmp_path)
    assert log.events["user"].to_list() == [None, None, 7]
    assert log.events["time"].to_list()[:2] == [1462752000 * 10**6 + ms * 1000 for ms in (526309, 1031018)]
    data = Dataset.of(log)
    assert [raw_items(data, row) for row in data.histories.tolist() if row] == [[81766], [81766, 31331]]


def test_lastfm_takes_names_with_quotes_and_artists_without_an_id(tmp_path):
    log = sample("lastfm-1k", tmp_path)
    assert log.events["item"].to_list() == ["f1b1", "Nobody", "f1b1"]
    data = Dataset.of(log)
    assert data.titles(data.items.dense(["f1b1"])) == ['Deep "D" Dish']
    assert log.users.rows() == [("user_000001", "m", None, "Japan"), ("user_000002", "f", 24, None)]


def test_hetrec_has_weights_and_no_times(tmp_path):
    log = sample("hetrec-lastfm", tmp_path)
    assert log.events["weight"].to_list() == [13883.0, 11690.0, 7.0]
    assert log.items["artist"].to_list() == ["Duran Duran", 'The "Weird" Band | live', "Nobody"]
    assert "hetrec-lastfm: 1 of 3 items have no events and are kept" in log.notes


@pytest.mark.parametrize("layout", [0, 1])
def test_amazon_with_and_without_its_metadata(tmp_path, layout):
    log = sample("amazon-toys", tmp_path, layout)
    assert log.events.select("user", "item", "time").row(0) == ("A1", "0001", 1252800000 * 10**6)
    if layout:
        assert log.items is None
    else:
        assert log.items["categories"].to_list() == [["Toys", "Dolls"], ["Toys", "Gifts"]]
        assert log.items["title"].to_list() == ["It's big", None]
    assert load("amazon-toys", tmp_path, positive_from=4).events["label"].to_list() == [1, 0, 1]


def test_steam_names_hold_quotes_of_both_kinds(tmp_path):
    log = sample("steam", tmp_path)
    assert log.events.select("user", "item").rows() == [("Chaos 'S'", 725280), ("It's me", 328100)]
    assert log.events["time"][0] % DAY == 0


def test_book_crossing_has_quotes_backslashes_and_semicolons(tmp_path):
    log = sample("book-crossing", tmp_path)
    assert log.items["title"].to_list() == ['Flesh &amp; "Tones"; a novel']
    assert log.users.rows() == [(276725, "usa", None), (276726, "france", 18)]
    assert "book-crossing: ratings of 0 are implicit ones" in log.notes


def test_hm_keeps_zeros_in_front_of_ids(tmp_path):
    log = sample("hm", tmp_path)
    assert log.events["item"].to_list() == ["0663713001"] * 2
    assert log.events["time"].to_list() == [1537401600 * 10**6, 1537401600 * 10**6 + DAY]
    kinds = {field.name: field.kind for field in Dataset.of(log).schema.item}
    assert kinds["colour"] == "categorical"


def test_mind(tmp_path):
    log = sample("mind", tmp_path)
    assert log.events["label"].to_list() == [1, 0, 1, 1, 0]
    assert log.items["title"].to_list() == ['The "Open"', "Two", "Three"]
    assert any("clicks of the histories have no times" in note for note in log.notes)


@pytest.mark.parametrize("name", ["criteo", "avazu"])
def test_advertisements_are_rows_of_guests(tmp_path, name):
    log = sample(name, tmp_path)
    assert log.events["label"].to_list() == [0, 1]
    assert log.events["user"].null_count() == 2
    assert log.events["item"].to_list() == ["any", "any"]
    split = Dataset.of(log).split(ClickRatio(test=0.5, valid=0, by="rows" if name == "criteo" else "time"))
    assert split.test.labels.tolist() == [[1.0]]
    if name == "avazu":
        assert log.events["time"].to_list() == [1413849600 * 10**6, 1413853200 * 10**6]


# -- archives and the cache --------------------------------------------------------------------------------------------


def test_a_tar_archive_is_read_as_it_lies(tmp_path):
    layout = SOURCES["lastfm-1k"].layouts[0]
    with tarfile.open(tmp_path / "lastfm-dataset-1K.tar.gz", "w:gz") as archive:
        for file, data in layout.sample.items():
            entry = tarfile.TarInfo(f"{layout.inside}{file}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    assert load("lastfm-1k", tmp_path).events.equals(load("lastfm-1k", tmp_path / "lastfm-dataset-1K.tar.gz").events)
    assert load("lastfm-1k", tmp_path).events.height == 3
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes((tmp_path / "lastfm-dataset-1K.tar.gz").read_bytes()[:200])
    with pytest.raises(InputError, match=r"cut\.tar\.gz: not the official layout of lastfm-1k, or damaged"):
        load("lastfm-1k", cut)


def test_files_may_be_packed_one_by_one(tmp_path):
    for file, data in SOURCES["gowalla"].layouts[0].sample.items():
        (tmp_path / f"{file}.gz").write_bytes(gzip.compress(data))
    assert load("gowalla", tmp_path).parts == (6, 6)


def test_several_files_are_fetched_into_a_folder_of_the_cache(tmp_path, monkeypatch):
    fetched = []

    def fetch(file, folder):
        fetched.append(file.url.rpartition("/")[2])
        if len(fetched) == 2:
            raise Unreachable("the connection broke")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file.file).write_bytes(SOURCES["gowalla"].layouts[0].sample[file.file])
        return folder / file.file

    monkeypatch.setattr(WebFile, "fetch", fetch)
    monkeypatch.setenv("SUISEN_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"gowalla: the connection broke; get https://raw\.github"):
        load("gowalla")
    log = load("gowalla")
    assert fetched == ["train.txt", "test.txt", "test.txt"]  # what came is not fetched again
    assert "publishes no checksum: only its length is verified" in log.notes[0]
    assert load("gowalla", download=False).events.equals(log.events)


def test_what_cannot_be_fetched_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SUISEN_HOME", str(tmp_path))
    with pytest.raises(
        InputError,
        match=r"hm: it cannot be fetched from here; get it by hand from https://www\.kaggle\.com/.* articles",
    ):
        load("hm")


# -- the real files ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (DATA / "gowalla").is_dir(), reason="the real Gowalla is not here")
def test_counts_of_the_real_gowalla():
    log = OrderedLog.of(load("gowalla", DATA / "gowalla"))
    assert (len(log.users) - 1, len(log.items) - 1, len(log.events)) == (29_858, 40_981, 1_027_370)
    assert log.log.parts == (810_128, 810_128)
