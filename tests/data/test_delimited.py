"""Records, line numbers and malformed records against the standard library's parser."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suisen.data import records
from suisen.data.delimited import read_delimited
from suisen.errors import InputError

cell = st.text('ab,;"\n é日', max_size=5)
tables = st.integers(2, 4).flatmap(lambda width: st.lists(st.lists(cell, min_size=width, max_size=width), max_size=6))


def written(rows, delimiter=",", newline="\n"):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator=newline).writerows(rows)
    return out.getvalue()


def header(width):
    return [f"c{i}" for i in range(width)]


def slow_lines(text, delimiter):
    reader, lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), []
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return lines[1:]
        if row:
            lines.append(line)


@given(
    tables, st.sampled_from(",;\t"), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.sampled_from([3, 7, 1 << 20])
)
def test_reads_what_csv_wrote_with_its_line_numbers(rows, delimiter, newline, ended, chunk):
    width = len(rows[0]) if rows else 2
    text = written([header(width), *rows], delimiter, newline)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "BYTES_PER_CHUNK", chunk)
        got = read_delimited("x.csv", (text if ended else text.removesuffix(newline)).encode(), delimiter)
    assert got.frame.rows() == [tuple(value or None for value in row) for row in rows]
    assert got.lines.to_list() == slow_lines(text, delimiter)
    assert got.malformed == ()


@given(st.lists(st.integers(1, 6), min_size=1, max_size=20), st.integers(1, 5))
def test_counts_records_of_a_wrong_width(widths, right):
    rows = [["v"] * width for width in widths]
    got = read_delimited("x.csv", written([header(right), *rows]).encode(), ",")
    assert got.lines.to_list() == [i for i, width in enumerate(widths, start=2) if width == right]
    found = {fault.reason: fault.lines.to_list() for fault in got.malformed}
    many = [i for i, width in enumerate(widths, start=2) if width > right]
    few = [i for i, width in enumerate(widths, start=2) if width < right]
    assert found == {kind: lines for kind, lines in (("too many fields", many), ("too few fields", few)) if lines}


def test_a_quoted_newline_belongs_to_its_field():
    got = read_delimited("x.csv", b'a,b\n1,"two\nlines"\n\n3,4\n', ",")
    assert got.frame.rows() == [("1", "two\nlines"), ("3", "4")]
    assert got.lines.to_list() == [2, 5]


def test_a_quote_inside_unquoted_text_is_text():
    got = read_delimited("x.csv", b'a,b\n1,5" pipe\n2,"x, y"\n3\n', ",")
    assert got.frame.rows() == [("1", '5" pipe'), ("2", "x, y")]
    assert [(fault.reason, fault.lines.to_list()) for fault in got.malformed] == [("too few fields", [4])]


def test_text_behind_a_closed_quote_is_malformed():
    got = read_delimited("x.csv", b'a,b\n1,"x"y\n2,z\n', ",", '"')
    assert got.frame.rows() == [("2", "z")]
    assert [(fault.reason, fault.lines.to_list()) for fault in got.malformed] == [("misplaced quotes", [2])]


def test_without_quoting_a_quote_is_text():
    got = read_delimited("x.tsv", b'a\tb\n1\t"x\n2\ty\n', "\t", "none")
    assert got.frame.rows() == [("1", '"x'), ("2", "y")]


def test_a_delimiter_of_two_signs():
    got = read_delimited("x.dat", "a::b\n1::x: y, é\n".encode(), "::")
    assert got.frame.rows() == [("1", "x: y, é")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\n\r\n\n", "x.csv is empty; give a header and at least one row"),
        (b"a,b\r1,2\r", "lines end in a carriage return alone"),
        (b"a,b,a\n1,2,3\n", "the header names 'a' twice"),
        (
            b"a,b\n1,2\n3,caf\xe9\n",
            r"line 3 is not UTF-8; it looks like latin-1 or cp1252 or cp1250; pass encoding=\"latin-1\"",
        ),
    ],
)
def test_refuses(data, message):
    with pytest.raises(InputError, match=message):
        read_delimited("x.csv", data, ",")


@pytest.mark.parametrize(("data", "line"), [(b'a,b\n1,"open\n2,3\n', 2), (b'a,b\n5" x,1\n1,"open\n2,3\n', 3)])
def test_a_quote_that_is_never_closed_is_malformed_where_quotes_enclose_fields(data, line):
    assert [fault.lines.to_list() for fault in read_delimited("x.csv", data, ",", '"').malformed] == [[line]]
    assert read_delimited("x.csv", data, ",").frame.height == data.count(b"\n") - 1


def test_a_header_with_misplaced_quotes_is_refused_where_quotes_enclose_fields():
    with pytest.raises(InputError, match="in the header, line 1, a quoted name is followed by text"):
        read_delimited("x.csv", b'"a"x,b\n1,2\n', ",", '"')
