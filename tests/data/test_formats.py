"""Files of each format say the same; damaged ones are named."""

import gzip
import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suisen.data.formats import beside, raw_of_path
from suisen.data.raw import FileOptions, raw_of_frame
from suisen.errors import InputError

TABLE = pl.DataFrame({"uid": ["u1", "u2"], "sku": ['a "b", c', "日本"], "n": ["1", None]})


def file_of(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.jsonl", "x.parquet", "x.arrow", "x.csv.gz", "x.ndjson.gz"])
def test_every_format_reads_the_same(tmp_path, name):
    path = tmp_path / name.removesuffix(".gz")
    writers = {
        ".csv": TABLE.write_csv,
        ".tsv": lambda p: TABLE.write_csv(p, separator="\t"),
        ".jsonl": TABLE.write_ndjson,
        ".ndjson": TABLE.write_ndjson,
        ".parquet": TABLE.write_parquet,
        ".arrow": TABLE.write_ipc,
    }
    writers[path.suffix](path)
    if name.endswith(".gz"):
        path = file_of(tmp_path, name, gzip.compress(path.read_bytes()))
    raw = raw_of_path(path)
    assert raw.frame.equals(TABLE)
    assert raw.name == name
    first = 2 if "sv" in name else 1
    assert raw.places.to_list() == [first, first + 1]


def test_an_arrow_stream_is_read_as_well(tmp_path):
    TABLE.write_ipc_stream(tmp_path / "x.arrow")
    assert raw_of_path(tmp_path / "x.arrow").frame.equals(TABLE)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "shift-jis", "latin-1"])
def test_encodings(tmp_path, encoding):
    title = "Café" if encoding == "latin-1" else "表示ソ"  # the second bytes of these are a backslash in Shift-JIS
    path = file_of(tmp_path, "x.csv", f"uid,sku\nu1,{title}\n".encode("cp932" if encoding == "shift-jis" else encoding))
    options = FileOptions(encoding=encoding.removesuffix("-sig"))
    assert raw_of_path(path, options).frame.rows() == [("u1", title)]


def test_the_delimiter_is_found_where_the_header_leaves_no_doubt(tmp_path):
    raw = raw_of_path(file_of(tmp_path, "x.csv", "uid;sku\nu1;a,b\n"))
    assert raw.frame.rows() == [("u1", "a,b")]
    assert raw.notes == ("x.csv: fields are separated by ';' (the header has no ',')",)
    assert raw_of_path(file_of(tmp_path, "x.csv", "uid|sku;x\nu1|a\n")).frame.columns == ["uid|sku;x"]


def test_recbole_atomic_files(tmp_path):
    path = file_of(tmp_path, "x.inter", 'user_id:token\ttags:token_seq\tr:float\tv:float_seq\n1\ta  "b\t3\t1 2\n')
    raw = raw_of_path(path)
    assert raw.frame.rows() == [("1", ["a", '"b'], "3")]
    assert raw.kinds == {"user_id": "categorical", "tags": "multi", "r": "numeric"}
    assert raw.notes == ("x.inter: column 'v' (float_seq) is not used: no model reads sequences of numbers",)
    with pytest.raises(InputError, match="'user_id' is no header of an atomic file"):
        raw_of_path(file_of(tmp_path, "y.inter", "user_id\titem_id:token\n1\t2\n"))


def test_the_files_beside_an_atomic_file(tmp_path):
    path = file_of(tmp_path, "x.inter", "")
    assert beside(path, ".user") is None
    users, items = file_of(tmp_path, "x.user", ""), file_of(tmp_path, "x.item.gz", "")
    assert (beside(path, ".user"), beside(f"{path}.gz", ".item")) == (users, items)
    assert beside(tmp_path / "x.csv", ".user") is None


records = st.dictionaries(st.sampled_from("abc"), st.text('x\n"日', max_size=3), min_size=1)


@given(st.lists(st.one_of(records, st.sampled_from(["", " ", "[1]", "{", "3", '{"a":}'])), min_size=1))
def test_json_lines_and_their_numbers(tmp_path_factory, lines):
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path = file_of(tmp_path_factory.mktemp("json"), "x.jsonl", text)
    good = [(number, line) for number, line in enumerate(lines, start=1) if isinstance(line, dict)]
    bad = [number for number, line in enumerate(lines, start=1) if isinstance(line, str) and line.strip()]
    if not good and not bad:
        with pytest.raises(InputError, match=r"x\.jsonl is empty"):
            raw_of_path(path)
        return
    raw = raw_of_path(path)
    got = [{key: value for key, value in row.items() if value is not None} for row in raw.frame.to_dicts()]
    assert got == [line for _, line in good]
    assert raw.places.to_list() == [number for number, _ in good]
    assert [fault.lines.to_list() for fault in raw.malformed] == ([bad] if bad else [])


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.csv", b"", "x.csv is empty; give a header"),
        ("x.xls", b"x", "x.xls: no format is known by '.xls'"),
        ("x", b"x", "x: no format is known by 'no suffix'"),
        ("x.parquet", b"PAR1", "x.parquet is no whole parquet file"),
        ("x.arrow", b"ARROW1", "x.arrow is no whole arrow file"),
        ("x.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0)[:-4], "x.csv.gz is no whole gzip file"),
        ("x.csv", "a,b\n1,2\n".encode("utf-16-le"), "x.csv looks like UTF-16 without a mark"),
    ],
)
def test_refuses_files(tmp_path, name, data, message):
    with pytest.raises(InputError, match=message):
        raw_of_path(file_of(tmp_path, name, data))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "shift-jos"}, "encoding = 'shift-jos' is unknown; did you mean 'shift-jis'"),
        ({"encoding": "shift-jis"}, "line 2 is not shift-jis"),
        ({"format": "cvs"}, "format = 'cvs' is unknown; did you mean 'csv'"),
        ({"delimiter": '"'}, "cannot stand between fields"),
    ],
)
def test_refuses_options(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        raw_of_path(file_of(tmp_path, "x.csv", b"a,b\n1,\x81\n"), FileOptions(**options))


def test_refuses_paths(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.csv is no file"):
        raw_of_path(tmp_path / "nowhere.csv")
    with pytest.raises(InputError, match="is a folder without Parquet files; give a file"):
        raw_of_path(tmp_path)
    with pytest.raises(InputError, match="events = 3 is no table"):
        raw_of_frame("events", 3)


def test_a_json_field_of_two_types_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="field 'a' changes its type from line to line"):
        raw_of_path(file_of(tmp_path, "x.jsonl", '{"a": 1}\n{"a": {"b": 1}}\n'))
