"""What every data set of ``SOURCES`` promises: a new line there is tested here by itself, on its layouts' samples."""

from __future__ import annotations

import re
import zipfile
from dataclasses import replace

import polars as pl
import pytest

from suisen.data.dataset import Dataset
from suisen.data.log import Col
from suisen.data.ordered import OrderedLog
from suisen.data.sources import SOURCES, download
from suisen.data.sources.contract import RATING, Layout, Source
from suisen.data.sources.download import Unreachable, WebFile, WheelFile
from suisen.errors import InputError
from tests.helpers import same

ALL = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
LAYOUTS = pytest.mark.parametrize(
    ("source", "layout"),
    [
        pytest.param(source, layout, id=f"{name}-{i}")
        for name, source in SOURCES.items()
        for i, layout in enumerate(source.layouts)
    ],
)


def fill(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in files.items():
        (folder / file).write_bytes(data)
    return folder


def pack(path, layout: Layout, files=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for file, data in (layout.sample if files is None else files).items():
            archive.writestr(f"{layout.inside}{file}", data)
    return path


@ALL
def test_it_says_what_it_is_and_where_it_comes_from(source: Source):
    assert SOURCES[source.name] is source
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", source.name)
    assert source.description
    assert source.licence
    assert source.layouts
    assert source.downloads or re.fullmatch(r"https?://\S+", source.page)
    for file in source.downloads:
        assert file.file
        assert "/" not in file.file
        assert "verified" in file.said
        if isinstance(file, WebFile):
            assert file.url.startswith("https://")
            assert re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}|https://\S+|", file.checksum)
        if isinstance(file, WheelFile):
            assert re.fullmatch(r"[\w-]+==[\w.]+", file.requirement)
            assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)


def test_no_two_sources_share_a_file_of_the_cache():
    files = [file.file for source in SOURCES.values() for file in source.downloads]
    assert len(files) == len(set(files))


@LAYOUTS
def test_its_sample_is_a_log(source: Source, layout: Layout, tmp_path):
    log = source.log(fill(tmp_path, layout.sample))
    events = log.events
    assert events.height >= 2
    assert [name for name in events.columns if name in set(Col)] == [name for name in Col if name in events.columns]
    assert {Col.USER, Col.ITEM, Col.ROW} <= set(events.columns)
    assert events[Col.ROW].to_list() == list(range(events.height))
    assert events[Col.ITEM].null_count() == 0
    if Col.TIME in events.columns:  # microseconds, between 1980 and 2100
        assert events.schema[Col.TIME] == pl.Int64
        assert events[Col.TIME].is_between(315_532_800 * 10**6, 4_102_444_800 * 10**6).all()
    for owner, table in ((Col.USER, log.users), (Col.ITEM, log.items)):
        if table is not None:
            assert table.columns[0] == owner
            assert table[owner].is_unique().all()
            assert table.schema[owner] == events.schema[owner]
    assert all(note.startswith(f"{source.name}: ") for note in log.notes)
    features = [name for table in (log.users, log.items) if table is not None for name in table.columns[1:]]
    assert set(log.kinds) <= {*features, *log.context_columns}


@LAYOUTS
def test_its_sample_is_a_data_set(source: Source, layout: Layout, tmp_path):
    log = source.log(fill(tmp_path, layout.sample))
    data = Dataset.of(log)
    assert len(data.events) == log.events.height
    assert data.schema.n_items - 1 >= log.events[Col.ITEM].n_unique()
    assert len(data.titles(data.items.dense(log.events[Col.ITEM]))) == log.events.height
    assert same(OrderedLog.of(log).log, data.log)


@LAYOUTS
def test_folder_archive_and_cache_give_the_same_log(source: Source, layout: Layout, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "digest_of", lambda path, algorithm: _wheels(source))
    file = source.downloads[0].file if source.downloads else ""
    if file.removesuffix(".gz") in {"", *layout.sample}:  # a data set of one file is no archive
        file = f"{source.name}.zip"
    expected = source.log(fill(tmp_path / "folder", layout.sample))
    places = [fill(tmp_path / "own" / source.name, layout.sample).parent, pack(tmp_path / "zip" / file, layout)]
    for place in (*places, tmp_path / "zip"):
        found = source.find(place)
        assert found is not None
        log = source.log(found)
        assert same(replace(log, notes=()), replace(expected, notes=()))
    assert source.find(tmp_path / "zip") == tmp_path / "zip" / file


def _wheels(source: Source) -> str:
    return next((file.sha256 for file in source.downloads if isinstance(file, WheelFile)), "")


@LAYOUTS
def test_ratings_become_labels_where_there_are_ratings(source: Source, layout: Layout, tmp_path):
    place = fill(tmp_path, layout.sample)
    ratings = source.read(place).events
    if RATING not in ratings.columns:
        with pytest.raises(InputError, match=f"{source.name} has no ratings that positive_from could judge"):
            source.log(place, positive_from=4)
        return
    labels = source.log(place, positive_from=4).events[Col.LABEL]
    assert labels.to_list() == [int(rating >= 4) for rating in ratings[RATING]]
    assert 0 < labels.sum() < labels.len()  # the sample shows both
    assert RATING not in source.log(place).events.columns


@LAYOUTS
def test_a_lost_an_empty_and_a_wrong_file_are_refused_by_name(source: Source, layout: Layout, tmp_path):
    for file in layout.sample:
        rest = {name: data for name, data in layout.sample.items() if name != file}
        whole = any(set(other.sample) <= set(rest) for other in source.layouts)  # what is left is another layout
        if not whole:
            assert source.find(fill(tmp_path / f"without-{file}", rest)) is None
        for i, damage in enumerate((b"", b"\x00\xff\x00\xff", b"1\n")):
            place = fill(tmp_path / f"{i}-{file}", {**layout.sample, file: damage})
            with pytest.raises(InputError, match=rf"{source.name}.*fetch it anew"):
                source.log(place)
        if not whole:
            with pytest.raises(InputError, match=f"{source.name}, or damaged .*fetch it anew"):
                source.log(pack(tmp_path / f"without-{file}.zip", layout, rest))


@ALL
def test_downloads_are_tried_in_their_order(source: Source, tmp_path, monkeypatch):
    def unreachable(file, folder):
        raise Unreachable(f"{file.file} cannot be reached")

    if not source.downloads:
        with pytest.raises(InputError, match=f"{source.name}: it cannot be fetched from here; get it by hand from"):
            source.fetch(tmp_path)
        assert source.page in source.advice
        return
    for cls in {type(file) for file in source.downloads}:
        monkeypatch.setattr(cls, "fetch", unreachable)
    with pytest.raises(InputError) as refused:
        source.fetch(tmp_path)
    order = [str(refused.value).index(f"{file.file} cannot be reached") for file in source.downloads]
    assert order == sorted(order)
    assert str(refused.value).endswith(f"; {source.advice}")
    assert source.downloads[0].origin in source.advice

    last = source.downloads[-1]
    monkeypatch.setattr(
        type(last), "fetch", lambda file, folder: folder / file.file if file is last else unreachable(file, folder)
    )
    place, note = source.fetch(tmp_path)
    assert place == tmp_path / last.file
    assert note.endswith(last.said)
    assert note.count("cannot be reached") == len(source.downloads) - 1
