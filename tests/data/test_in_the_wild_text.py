"""Text files as people have them: quotes that are text, tokens of missing values, no header, any encoding."""

import csv
import re
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suisen.data.encodings import CODECS, likely
from suisen.data.raw import NULLS
from suisen.errors import InputError
from tests.helpers import read_path

HOSTILE = "ab ,;\t|\n\"'\\éß日本 .-"


def file_of(folder, name, text, encoding="utf-8"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


def noted(log, words):
    return any(words in note for note in log.notes)


# -- the same log whatever wrote it ------------------------------------------------------------------------------------

word = st.text(HOSTILE, min_size=1, max_size=12).filter(lambda text: text.strip() and text not in NULLS)
frames = st.lists(st.tuples(word, word, st.integers(10**8, 2 * 10**9)), min_size=1, max_size=8).map(
    lambda rows: pl.DataFrame(rows, schema={"user": pl.String, "item": pl.String, "time": pl.Int64}, orient="row")
)


def by_csv(frame, path, delimiter, quoting):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=quoting)
        writer.writerows([frame.columns, *frame.rows()])


WRITERS = {
    "minimal.csv": lambda frame, path: by_csv(frame, path, ",", csv.QUOTE_MINIMAL),
    "minimal.tsv": lambda frame, path: by_csv(frame, path, "\t", csv.QUOTE_MINIMAL),
    "all.csv": lambda frame, path: by_csv(frame, path, ",", csv.QUOTE_ALL),
    "texts.csv": lambda frame, path: by_csv(frame, path, ";", csv.QUOTE_NONNUMERIC),
    "polars.csv": lambda frame, path: frame.write_csv(path),
    "polars.tsv": lambda frame, path: frame.write_csv(path, separator="\t"),
    "pandas.csv": lambda frame, path: frame.to_pandas().to_csv(path, index=False),
    "pandas.tsv": lambda frame, path: frame.to_pandas().to_csv(path, index=False, sep="\t"),
    "lines.jsonl": lambda frame, path: frame.write_ndjson(path),
    "table.parquet": lambda frame, path: frame.write_parquet(path),
}


@pytest.mark.parametrize("name", WRITERS)
@given(frame=frames)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_frame_with_hostile_text_comes_back_as_the_same_log(tmp_path, name, frame):
    path = tmp_path / name
    WRITERS[name](frame, path)
    delimiter = ";" if name == "texts.csv" else None
    log = read_path(path, delimiter=delimiter, time_unit="s")
    assert log.events.select("user", "item").rows() == frame.select("user", "item").rows()
    assert log.events["time"].to_list() == [time * 10**6 for time in frame["time"]]


# -- quotes that are text ----------------------------------------------------------------------------------------------

STRAYS = ['12" single', '"Weird" Al', '"Open', 'Close"', '"', 'a "b" c', "5'10\"", '"a" and "b"', 'x""y', 'C:\\"']


def joined(rows, delimiter):
    return "\n".join(delimiter.join(row) for row in rows) + "\n"


def wild(titles, place, swapped=False):
    """Rows of user, item and time with a title at a place; ``swapped``: the titles are the items."""
    rows = [["user", "item", "time"]]
    rows += [[f"u{i % 7}", f"i{i % 5}", str(1_600_000_000 + i)] for i in range(len(titles))]
    rows[0].insert(place, "title")
    for row, title in zip(rows[1:], titles, strict=True):
        row.insert(place, title)
    if swapped:
        rows[0] = [{"title": "item", "item": "other"}.get(name, name) for name in rows[0]]
    return rows


@given(
    st.lists(st.one_of(st.sampled_from(STRAYS), st.just("plain"), st.just("plain")), min_size=2, max_size=40),
    st.integers(0, 3),
    st.sampled_from(",\t"),
    st.booleans(),
)
def test_every_physical_row_is_kept(tmp_path_factory, titles, place, delimiter, swapped):
    rows = wild(titles, place, swapped)
    name = "x.tsv" if delimiter == "\t" else "x.csv"
    log = read_path(file_of(tmp_path_factory.mktemp("wild"), name, joined(rows, delimiter)))
    assert log.events.height == len(titles)
    if swapped:
        assert log.events["item"].to_list() == titles
    assert ('"' in "".join(titles)) == noted(log, "quotes")


def test_a_quote_that_opens_and_another_that_closes_swallow_no_rows(tmp_path):
    titles = ["plain"] * 30
    titles[3], titles[20] = '"Open', '12"'
    for place in range(4):
        log = read_path(file_of(tmp_path, "x.csv", joined(wild(titles, place), ",")))
        assert log.events.height == 30
        assert noted(log, "x.csv: quotes are part of the text (first at line 5)")


def test_a_record_over_several_lines_stays_one(tmp_path):
    text = 'user,item,review\nu1,i1,"good, cheap\nand, in short, red"\nu2,i2,fine\n'
    log = read_path(file_of(tmp_path, "x.csv", text))
    assert log.events["item"].to_list() == ["i1", "i2"]
    assert noted(log, "x.csv: quotes enclose fields, 1 over several lines (first at line 2)")


def test_lines_of_a_text_that_have_the_width_of_a_row_stay_one_record(tmp_path):
    rows = [f"u{i},fine,i{i}" for i in range(9)]
    text = "\n".join(["user,review,item", *rows, 'u7,"so, \nit is, well",i3', ""])
    log = read_path(file_of(tmp_path, "x.csv", text), context=["review"])
    assert log.events.height == 10
    assert log.events["review"][9] == "so, \nit is, well"


def test_rows_between_stray_quotes_beside_quoted_rows(tmp_path):
    text = 'user,item,title\nu1,i1,"a, b"\nu2,i2,"Open\nu3,i3,x\nu4,i4,12"\nu5,i5,y\n'
    log = read_path(file_of(tmp_path, "x.csv", text), context=["title"])
    assert log.events["title"].to_list() == ["a, b", '"Open', "x", '12"', "y"]


def test_quoted_rows_beside_stray_quotes(tmp_path):
    text = 'user,item,title\nu1,i1,"a, b"\nu2,i2,"Weird" Al\nu3,i3,"Open\nu4,i4,"two\nlines, and "\nu5,i5,12"\n'
    log = read_path(file_of(tmp_path, "x.csv", text))
    assert log.events["user"].to_list() == ["u1", "u2", "u3", "u4", "u5"]
    assert noted(log, "quotes enclose fields, and are part of the text in 2 lines (first at line 3)")


def test_quotes_that_are_doubled_beside_stray_ones(tmp_path):
    log = read_path(file_of(tmp_path, "x.csv", 'user,item\nu1,"a ""b"""\nu2,12" x\nu3,"Weird" Al\n'))
    assert log.events["item"].to_list() == ['a "b"', '12" x', '"Weird" Al']
    assert noted(log, "quotes enclose fields, and are part of the text in 1 line (first at line 4)")


def test_names_in_quotes_with_a_quote_inside(tmp_path):
    log = read_path(file_of(tmp_path, "x.csv", '"user","item"\n"u1","5" pipe"\n"u2","b"\n'))
    assert log.events.select("user", "item").rows() == [("u1", '5" pipe'), ("u2", "b")]


def test_a_row_that_fits_no_reading_is_refused_with_its_line(tmp_path):
    text = 'user,item,title\nu1,i1,"a, b\nu2,i2,"c, d"\n'
    with pytest.raises(InputError, match="1 bad row, at line 2: a quoted field is followed by text or never closed"):
        read_path(file_of(tmp_path, "x.csv", text))


def test_backslashes_that_escape_quotes(tmp_path):
    text = 'user,item,title\nu1,i1,"say \\"hi\\", now"\nu2,\\N,"b\\\\"\n'
    path = file_of(tmp_path, "x.csv", text.replace("\\N", "i2"))
    log = read_path(path, context=["title"])
    assert log.events["title"].to_list() == ['say "hi", now', "b\\"]
    assert noted(log, 'x.csv: a backslash escapes quotes (quote="backslash")')
    null = file_of(tmp_path, "y.csv", text)
    with pytest.raises(InputError, match=r"at line 3: item = '\\\\N' stands for a missing value"):
        read_path(null, quote="backslash")


@pytest.mark.parametrize(
    ("quote", "item"), [("none", '"a"'), ('"', "a"), ("'", '"a"'), ("backslash", "a"), ("auto", "a")]
)
def test_quote_as_it_is_given(tmp_path, quote, item):
    log = read_path(file_of(tmp_path, "x.csv", "user,item,z\nu1,\"a\",'b'\n"), quote=quote, context=["z"])
    assert log.events["item"].to_list() == [item]
    assert log.events["z"].to_list() == ["b" if quote == "'" else "'b'"]


def test_an_unknown_quote_is_refused(tmp_path):
    with pytest.raises(InputError, match="quote = 'nome' is unknown; did you mean 'none'"):
        read_path(file_of(tmp_path, "x.csv", "user,item\n1,2\n"), quote="nome")


# -- missing values and numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", NULLS)
@pytest.mark.parametrize("column", ["user", "item"])
def test_a_token_of_a_missing_value_is_no_id(tmp_path, token, column):
    row = f"{token},8" if column == "user" else f"3,{token}"
    path = file_of(tmp_path, "x.csv", f"user,item,age\n1,7,30\n{row},31\n2,9,32\n")
    said = f"x.csv: 1 bad row, at line 3: {column} = {token!r} stands for a missing value (null_values=)"
    with pytest.raises(InputError, match=re.escape(said)):
        read_path(path)
    log = read_path(path, bad_rows="drop")
    assert log.events[column].to_list() == ([1, 2] if column == "user" else [7, 9])
    assert noted(log, f"x.csv: read as missing: 1 {token!r} in {column}")
    assert token in read_path(path, null_values=()).events[column].to_list()


@pytest.mark.parametrize("token", [*NULLS, "", ".5", "+3", "5.", " 7", "-.25", "1e3"])
def test_a_column_of_numbers_stays_one(tmp_path, token):
    log = read_path(file_of(tmp_path, "x.csv", f"user,item,age\nu1,i1,30\nu2,i2,{token}\nu3,i3,2.5\n"), context=["age"])
    assert log.events.schema["age"] == pl.Float64
    value = log.events["age"][1]
    assert value is None if token in (*NULLS, "") else value == float(token)


def test_other_words_for_missing_values(tmp_path):
    path = file_of(tmp_path, "x.csv", "user,item,age\nu1,NA,?\nu2,i2,3\n")
    log = read_path(path, null_values=["?"], context=["age"])
    assert log.events["item"].to_list() == ["NA", "i2"]
    assert log.events["age"].to_list() == [None, 3]


# -- spaces ------------------------------------------------------------------------------------------------------------


def test_spaces_as_in_the_header(tmp_path):
    text = 'user, item ,time\nu1 , i1, 5\nu2,"i, 2 ",6\nu3,  a b  ,7\n'
    log = read_path(file_of(tmp_path, "x.csv", text), time_unit="s")
    assert log.events.select("user", "item").rows() == [("u1", "i1"), ("u2", "i, 2 "), ("u3", "a b")]
    assert noted(log, "x.csv: spaces around 7 names and values are left out")
    kept = read_path(file_of(tmp_path, "y.csv", "user,item\nu1, i1\nu2, i2\n"))
    assert kept.events["item"].to_list() == [" i1", " i2"]
    assert noted(kept, "y.csv: every value of item begins with a space, which is kept")


# -- no header ---------------------------------------------------------------------------------------------------------

ROWS = "196\t242\t3\t881250949\n186\t302\t3\t891717742\n22\t377\t1\t878887116\n"


@pytest.mark.parametrize("delimiter", ["\t", ",", "::", ";", "|", " "])
@pytest.mark.parametrize("suffix", [".txt", ".dat", ".csv"])
def test_a_file_without_a_header(tmp_path, delimiter, suffix):
    if (suffix, delimiter) == (".csv", " "):
        return
    path = file_of(tmp_path, f"x{suffix}", ROWS.replace("\t", delimiter))
    log = read_path(path, columns=["user", "item", "rating", "ts"], time_unit="s", label="rating", positive_from=2)
    assert log.events.select("user", "item", "label").rows() == [(196, 242, 1), (186, 302, 1), (22, 377, 0)]
    if (suffix, delimiter) != (".csv", ","):
        assert noted(log, f"fields are separated by {delimiter!r}")
    by_place = read_path(path, user="1", item="2", time="4", time_unit="s")
    assert by_place.events.select("user", "item").rows() == [(196, 242), (186, 302), (22, 377)]
    assert noted(by_place, "line 1 is read as data, the columns are called 1 to 4")


def test_a_row_is_not_taken_for_a_header_in_silence(tmp_path):
    path = file_of(tmp_path, "x.tsv", ROWS)
    with pytest.raises(
        InputError, match="line 1 looks like data: name the columns of a file without a header with col"
    ):
        read_path(path)
    with pytest.raises(InputError, match=r"user = 'uid' is no column of x.tsv.*line 1 looks like data"):
        read_path(path, user="uid", item="iid")
    with pytest.raises(InputError, match=r"columns: ann, tea; pass user=; is line 1 data\? name the columns"):
        read_path(file_of(tmp_path, "z.csv", "ann,tea\nbob,cup\n"))
    with pytest.raises(InputError, match=r"names '3' twice.*a file without a header needs columns="):
        read_path(file_of(tmp_path, "y.tsv", "3\t3\t5\n4\t4\t6\n"))


def test_columns_that_do_not_fit(tmp_path):
    with pytest.raises(InputError, match=r"columns = user, item: 2 names, and line 1 of x\.tsv has 4 fields"):
        read_path(file_of(tmp_path, "x.tsv", ROWS), columns=["user", "item"])
    with pytest.raises(InputError, match="line 1 is a header with the names of columns="):
        read_path(file_of(tmp_path, "y.csv", "User,Item\n1,2\n"), columns=["user", "item"])
    with pytest.raises(InputError, match="columns = 'user,item' is one text; give a list"):
        read_path(file_of(tmp_path, "y.csv", "User,Item\n1,2\n"), columns="user,item")


def test_roles_by_position_in_a_file_with_a_header(tmp_path):
    log = read_path(file_of(tmp_path, "x.csv", "who,what\nann,tea\n"), user="1", item="2")
    assert log.events.select("user", "item").rows() == [("ann", "tea")]
    assert noted(log, "x.csv: line 1 is read as the header")
    log = read_path(file_of(tmp_path, "y.csv", "u1,i1,tea\nu2,i2,cup\n"), user="1", item="2")
    assert log.events["user"].to_list() == ["u1", "u2"]


# -- encodings ---------------------------------------------------------------------------------------------------------

SAID = {
    "cp1251": "Война и мир;Преступление и наказание", "koi8-r": "Война и мир;Мастер и Маргарита",
    "cp1252": "Amélie – the film;Über uns", "latin-1": "Amélie;Señorita", "cp1250": "Łódź;Příliš žluťoučký kůň",
    "shift-jis": "千と千尋の神隠し;表示ソ", "euc-jp": "千と千尋の神隠し;ナルト", "gb18030": "霸王别姬;我不是药神",
    "big5": "臥虎藏龍;這是一個測試", "euc-kr": "기생충;한국 영화", "utf-8": "Ünï;日本",
}  # fmt: skip
SPELT = {
    "utf-8": ["utf8", "UTF-8", "utf_8", "utf-8-sig", "UTF8"], "shift-jis": ["sjis", "cp932", "Shift_JIS"],
    "latin-1": ["latin1", "ISO-8859-1"], "gb18030": ["gbk", "GB2312"], "cp1252": ["windows-1252"],
    "cp1251": ["Windows-1251"], "big5": ["cp950"], "euc-kr": ["cp949", "euckr"],
}  # fmt: skip


@pytest.mark.parametrize("encoding", SAID)
def test_an_encoding_by_every_usual_spelling_and_in_the_error(tmp_path, encoding):
    items = SAID[encoding].split(";")
    path = file_of(
        tmp_path, "x.csv", joined([["user", "item"], *(["u", item] for item in items)], ","), CODECS[encoding][0]
    )
    for name in [encoding, *SPELT.get(encoding, [])]:
        assert read_path(path, encoding=name).events["item"].to_list() == items
    if encoding != "utf-8":
        with pytest.raises(
            InputError, match=f"x.csv: line 2 is not UTF-8; it looks like .*{encoding}.*; pass encoding="
        ):
            read_path(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_byte_order_mark_says_it(tmp_path, encoding):
    path = file_of(tmp_path, "x.csv", "user,item\nu1,日本\n", encoding)
    assert read_path(path).events["item"].to_list() == ["日本"]


def test_one_damaged_line_does_not_make_another_encoding(tmp_path):
    whole = "user,item\n" + "u1,日本語の題名\n" * 9
    with pytest.raises(InputError, match="line 11 is not UTF-8; mend that line"):
        read_path(file_of(tmp_path, "x.csv", whole.encode() + b"u2,caf\xe9\n"))


@pytest.mark.parametrize("encoding", ["latin-1", "cp1251", "shift-jis", "gbk"])
def test_utf_8_is_not_read_as_something_else(tmp_path, encoding):
    path = file_of(tmp_path, "x.csv", "user,item\n" + "u1,Amélie à Zürich: 東京\n" * 9)
    with pytest.raises(InputError, match=r"x\.csv is UTF-8, not .*; leave encoding= out"):
        read_path(path, encoding=encoding)


def test_nothing_is_guessed_of_noise():
    assert likely(bytes(range(128, 256))) == []
    with pytest.raises(InputError, match="encoding = 'utf-9' is unknown; did you mean 'utf-8'"):
        read_path(Path("nowhere.csv"), encoding="utf-9")


def test_a_table_without_a_header_loses_no_row_in_silence(tmp_path):
    events = file_of(tmp_path, "e.csv", "user,item\nu1,1\nu1,2\n")
    items = file_of(tmp_path, "u.item", "1|Toy Story|1995\n2|GoldenEye|1996\n")
    with pytest.raises(InputError, match=r"line 1 looks like data \(1, Toy Story, 1995\); .*item_table="):
        read_path(events, item_features=items, item_table={"format": "text"})
    table = {"format": "text", "columns": ["item", "title", "year"]}
    log = read_path(events, item_features=items, item_table=table, titles="title")
    assert log.items.rows() == [(1, "Toy Story", 1995), (2, "GoldenEye", 1996)]
