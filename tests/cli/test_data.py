import gzip
import json

import pytest

from tests.cli.conftest import call, data_flags, refused


def inspect(shop, *words):
    flags = [word for word in data_flags(shop) if word not in ("--threads", "1")]
    return call("data", "inspect", *flags, *words).stdout


def test_inspect_shows_schema_facts_notes_and_split(shop):
    said = inspect(shop)
    assert "item   shelf  categorical  2: A, B" in said
    assert "item   name   text         shown to people, not to models" in said
    assert "events           480, of which 480 positives" in said
    assert "50.0000% are empty" not in said
    assert "split leave-last: LeaveLast(test=1, valid=1, valid_users=0, seed=0, by='time')" in said
    assert "my.csv: user = uid, item = sku, time = ts" in said


def test_inspect_as_json(shop):
    said = json.loads(inspect(shop, "--kind", "shelf=multi", "--split", "ratio", "--split.test", "0.5", "--json"))
    assert said["facts"]["events"] == 480
    assert said["facts"]["users"] == 40
    assert 0.1 <= said["facts"]["head_share"] <= 0.5
    assert said["facts"]["tail"][-1] == [1.0, 1.0]
    assert {"of": "item", "field": "shelf", "kind": "multi", "values": "2: A, B"} in said["schema"]
    assert said["split"]["facts"]["test_positives"] == 240


def test_inspect_says_what_to_look_at(shop, tmp_path):
    assert "test: fewer than 200: intervals are wide" in inspect(shop).partition("\nwhat to look at\n")[2]
    rows = [f"u{n % 9},i{n % 3},{n}" for n in range(60)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time", *rows, rows[0], "u1,,7"]))
    said = call("data", "inspect", tmp_path / "log.csv", "--bad-rows", "drop").stdout
    assert "repeats: people take things again" in said
    assert "reading: log.csv: 1 bad row dropped" in said
    assert "reading: log.csv: 1 rows repeat another" in said
    assert "times: events lie before 1990" in said
    plain = json.loads(call("data", "inspect", tmp_path / "log.csv", "--bad-rows", "drop", "--json").stdout)
    assert {(look["of"], look["level"]) for look in plain["look_at"]} >= {("repeats", "warn"), ("times", "bad")}


def test_inspect_shows_what_is_left_of_a_file_that_is_refused(tmp_path):
    (tmp_path / "log.csv").write_text("user,item,time\na,x,1500000000\n,y,1500000001\nb,x,1500000002\na,y,1500000003\n")
    said = call("data", "inspect", tmp_path / "log.csv").stdout
    assert "refused as it is, and read here without its bad rows\n  log.csv: 1 bad row, at line 3" in said
    assert "events           3" in said
    plain = json.loads(call("data", "inspect", tmp_path / "log.csv", "--json").stdout)
    assert plain["refused"].startswith("log.csv: 1 bad row")
    assert "1 bad row" in refused("data", "inspect", tmp_path / "log.csv", "--bad-rows", "refuse")
    (tmp_path / "log.csv").write_text("user,item,time\n,x,1500000000\n")
    assert "no event is left" in refused("data", "inspect", tmp_path / "log.csv")


PLAIN = "user,item,time\na,x,2012-04-03T18:00:09+02:00\nb,y,2012-05-03T18:00:09+02:00\n"


@pytest.mark.parametrize(
    ("name", "data", "words", "said"),
    [
        ("a.csv", PLAIN.encode(), [], ["read as csv; UTF-8; fields separated by ','; no quotes", "16:00:09"]),
        ("a.csv", b"\xef\xbb\xbf" + PLAIN.encode(), [], ["UTF-8 with a mark"]),
        ("a.csv.gz", gzip.compress(PLAIN.encode()), [], ["a.csv.gz: read as csv; UTF-8"]),
        ("a.tsv", PLAIN.replace(",", "\t").encode(), [], ["read as tsv", "separated by '\\t'"]),
        ("a.csv", PLAIN.replace(",", ";").encode(), [], ["separated by ';'"]),
        ("a.csv", PLAIN.replace(",", "!").encode(), ["--delimiter", "!"], ["separated by '!'"]),
        ("a.csv", PLAIN.replace("x", '"x"').encode(), [], ["quotes enclose fields"]),
        ("a.csv", PLAIN.replace("x", "caf\xe9").encode("latin-1"), ["--encoding", "latin-1"], ["LATIN-1"]),
        ("a.jsonl", b'{"user": "a", "item": "x"}\n{"user": "b", "item": "y"}\n', [], ["read as jsonl", "no order"]),
        ("a.csv", b"user,item,time\na,x,20140101\nb,y,20140102\n", [], ["dates written yyyymmdd", "1 Jan 2014"]),
        ("a.csv", b"user,item,time\n1.0,x,1500000000\n2,y,1500000100\n", [], ["'.0'", "seconds since 1970"]),
        ("a.csv", f"{PLAIN}a,x,2012-06-03T18:00:09+02:00\n".encode(), [], ["33.3% of the events (1) repeat"]),
    ],
)
def test_inspect_says_what_was_understood_of_a_file(name, data, words, said, tmp_path):
    (tmp_path / name).write_bytes(data)
    shown = spaced(call("data", "inspect", tmp_path / name, *words).stdout)
    assert all(part in shown for part in said), shown


def spaced(text):
    return " ".join(text.split())


@pytest.mark.parametrize("both", [["--events", "my.csv"], ["--data", "ml-100k"]])
def test_inspect_takes_one_name_of_the_data(shop, both):
    assert "name the data twice" in refused("data", "inspect", shop / "my.csv", *both)


def test_inspect_takes_a_data_set_by_name():
    assert "ml-100k is not in" in refused("data", "inspect", "ml-100k", "--data-dir", "nowhere")


def test_a_refused_split_is_said(tmp_path):
    (tmp_path / "one.csv").write_text("user,item,time\na,x,1\nb,y,2\n")
    assert "refused: only one event a user" in call("data", "inspect", "--events", tmp_path / "one.csv").stdout


def test_sessions_labels_and_weights_are_in_the_schema(tmp_path):
    rows = [f"u{n % 3},i{n % 4},{n},{n % 2},{1 + n % 5},s{n % 6}" for n in range(30)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time,label,weight,session", *rows]))
    words = ["--label", "label", "--weight", "weight", "--session", "session", "--split", "ratio"]
    said = call("data", "inspect", "--events", tmp_path / "log.csv", *words).stdout
    assert "event  label    label    15 positives of 30" in said
    assert "event  weight   weight   1.0 to 5.0" in said
    assert "event  session  session  6 different" in said


def test_fetch_lists_what_there_is(tmp_path):
    assert "ml-100k" in call("data", "fetch").stdout
    assert "did you mean 'ml-1m'" in refused("data", "fetch", "ml-1mm")
    assert "ml-100k is not in" in refused("data", "fetch", "ml-100k", "--data-dir", tmp_path)


def test_what_a_file_needs_is_said_with_the_flags_of_inspect(tmp_path):
    events, items = tmp_path / "e.csv", tmp_path / "i.xyz"
    events.write_text("user,item,ts\n1,7,04/03/2012\n2,8,05/03/2012\n")
    items.write_text("item,x\n7,1\n")
    said = refused("data", "inspect", "--events", str(events))
    assert "pass --time-format %d/%m/%Y" in said
    said = refused("data", "inspect", "--events", str(events), "--time", "none", "--item-features", str(items))
    assert "for the item table in --item-table" in said
    said = refused("data", "inspect", "--events", str(events), "--item-table", "delimeter=;")
    assert "--item-table = 'delimeter' is unknown; did you mean 'delimiter'?" in said
