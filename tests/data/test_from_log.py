"""``suisen.data.from_log``: events joined to the lists that they answer."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.data import from_log as from_log_module
from suisen.data import training_log
from suisen.data.dataset import Dataset
from suisen.data.from_log import Options, from_log
from suisen.errors import InputError
from suisen.experiments.logged import Logged

START = datetime(2026, 12, 1, tzinfo=UTC)


def at(seconds):
    return (START + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def event(seconds=0, *, user="7", item="3", request=None, **more):
    """A line of the events' log; one of an older server where it has no event_id."""
    line = {"user_id": user, "session_id": None, "item_id": item, "event": "view", "time": at(seconds)}
    return line | {"request_id": request, "position": None} | more


def shown(request, items, seconds=0, *, user="7", **more):
    line = {"request_id": request, "time": at(seconds), "version": "v1", "user_id": user, "answered_by": "ease"}
    places = {
        "item_id": items,
        "position": list(range(1, len(items) + 1)),
        "score": [1.0 / n for n in range(1, len(items) + 1)],
    }
    return line | places | more


def write(path, *lines, end="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + end)


def made(folder, tmp_path, **options):
    """The whole log as one table, and what was told."""
    out = tmp_path / "training.parquet"
    written, notes = from_log([str(folder)], out, Options(**options))
    assert written == out
    return pl.read_parquet(out), "\n".join(notes)


@pytest.fixture
def log(tmp_path):
    return tmp_path / "events"


# -- joining ----------------------------------------------------------------------------------------------------------


def test_an_event_has_the_columns_of_the_list_that_it_answers(log, tmp_path):
    write(log / "impressions.jsonl", shown("r1", ["1", "3"], arm="B", propensity=[0.9, 0.25]), shown("r2", ["3"]))
    write(log / "events.jsonl", event(5, request="r1", event_id="a", value=2.5, price=1, quantity=2))
    table, notes = made(log, tmp_path)
    assert table.columns == list(training_log.EVENT_COLUMNS)
    (row,) = table.rows(named=True)
    assert (row["position"], row["score"], row["arm"], row["propensity"]) == (2, 0.5, "B", 0.25)
    assert (row["version"], row["answered_by"], row["shown"]) == ("v1", "ease", True)
    assert (row["value"], row["price"], row["quantity"]) == (2.5, 1.0, 2)
    assert row["shown_at"] == START
    assert "1 of 1 events answer an item of a list" in notes


def test_events_that_answer_nothing_are_kept_and_counted_by_reason(log, tmp_path):
    write(log / "impressions.jsonl", shown("r1", ["1", "3"]), shown("r8", ["3"], user="8"))
    write(
        log / "events.jsonl",
        event(1, position=4),
        event(2, request="gone"),
        event(3, request="r1", item="99"),
        event(4, request="r8"),
    )
    table, notes = made(log, tmp_path)
    assert table["shown"].to_list() == [False] * 4
    assert table["position"].to_list() == [4, None, None, None]
    assert "1 of 4 events name no request" in notes
    assert "1 of 4 events name a request whose list is not there" in notes
    assert "2 of 4 events name an item that the list did not show, or another user's list" in notes


def test_of_a_batch_the_list_of_the_events_own_user_or_session_is_answered(log, tmp_path):
    lists = [shown("b", ["9", "3"], user="8"), shown("b", ["3", "9"], user="7")]
    lists += [shown("b", ["5", "6", "3"], user=None, session_id=name) for name in ("s", "t")]
    write(log / "impressions.jsonl", *lists)
    write(
        log / "events.jsonl",
        event(1, request="b", user="7"),
        event(2, request="b", user="8"),
        event(3, request="b", user=None, session_id="t", item="6"),
    )
    table, _ = made(log, tmp_path)
    assert table["position"].to_list() == [1, 2, 2]
    rows, _ = made(log, tmp_path, rows="impressions")
    assert rows.filter(pl.col("label") == 1).select("user_id", "session_id", "item_id").rows() == [
        ("8", None, "3"),
        ("7", None, "3"),
        (None, "t", "6"),
    ]


def test_a_row_per_shown_item_tells_the_first_event_that_makes_its_label(log, tmp_path):
    write(log / "impressions.jsonl", shown("r1", ["1", "3", "5"], propensity=[0.5, 0.5, 1.0], arm="A"))
    write(
        log / "events.jsonl",
        event(9, request="r1", event="purchase", value=3.0, event_id="c"),
        event(5, request="r1", event_id="b"),
        event(7, request="r1", item="1", event_id="d"),
    )
    table, notes = made(log, tmp_path, rows="impressions")
    assert table.columns == list(training_log.IMPRESSION_COLUMNS)
    assert table["label"].to_list() == [1, 1, 0]
    assert table["events"].to_list() == [1, 2, 0]
    assert table["event_id"].to_list() == ["d", "b", None]
    assert "1 of 3 events answer an item that another event answered" in notes
    table, _ = made(log, tmp_path, rows="impressions", labels=("purchase",))
    assert table["label"].to_list() == [0, 1, 0]
    assert table["event_id"].to_list() == ["d", "c", None]
    assert table["value"].to_list() == [None, 3.0, None]
    log_of_policy = Logged.read(
        table.with_columns(pi=pl.lit(0.5)), reward="label", propensity="propensity", target="pi"
    )
    assert log_of_policy.weight.tolist() == [1.0, 1.0, 0.5]


def test_a_type_that_no_event_has_is_told(log, tmp_path):
    write(log / "impressions.jsonl", shown("r1", ["3"]))
    write(log / "events.jsonl", event(request="r1"))
    assert "no event is of the type 'purchse'" in made(log, tmp_path, rows="impressions", labels=("purchse",))[1]
    with pytest.raises(InputError, match="--label view needs --rows impressions"):
        Options(labels=("view",))


def test_a_clock_that_is_behind_is_told(log, tmp_path):
    write(log / "impressions.jsonl", shown("r1", ["3"], seconds=10))
    write(log / "events.jsonl", event(5, request="r1"))
    table, notes = made(log, tmp_path)
    assert table["shown"].to_list() == [True]
    assert "1 of 1 events are earlier than the list that they answer" in notes


# -- the same event, once ---------------------------------------------------------------------------------------------


def test_an_event_counts_once_by_its_id_or_else_by_who_what_which_and_when(log, tmp_path):
    ids = [event(1, event_id="a"), event(2, event_id="a", event="buy"), event(1, event_id="b")]
    old = [
        event(1),
        event(1),
        event(1, user="8"),
        event(1, event="buy"),
        event(2),
        event(1, item="4"),
        event(1, session_id="s"),
    ]
    write(log / "events.jsonl", *ids)
    write(log / "events.jsonl.1", *old)
    write(log / "impressions.jsonl", *[shown("r", ["1", "2"])] * 3)
    table, notes = made(log, tmp_path)
    assert table["event_id"].to_list() == ["a", "b"] + [None] * 6
    assert "2 repeated events counted once" in notes
    assert "2 repeated lists counted once" in notes


# -- lines that are none ----------------------------------------------------------------------------------------------

FAULTS = {
    "": "no JSON",
    '{"user_id": "7", "item': "no JSON",
    "[" * 2_000: "no JSON",
    "[1]": "no object",
    json.dumps(event() | {"time": "yesterday"}): "no event: time is no time",
    json.dumps(event() | {"time": 7}): "no event: time is no time",
    json.dumps(event() | {"item_id": None}): "no event: item_id is missing",
    json.dumps(event() | {"event": " "}): "no event: event is no text",
    json.dumps(event() | {"item_id": True}): "no event: item_id is no text",
    json.dumps(event() | {"item_id": "\ud800"}): "no event: item_id is no text",
    json.dumps(event() | {"user_id": None}): "no event: user_id and session_id are missing",
    json.dumps(event() | {"position": 1.5}): "no event: position is no whole number",
    json.dumps(event() | {"quantity": 2**63}): "no event: quantity is no whole number",
    json.dumps(event() | {"value": float("inf")}): "no event: value is no finite number",
    json.dumps(
        shown("r", ["1", "2"]) | {"score": [1.0]}
    ): "no list: its items, positions, scores and propensities are not as many",
    json.dumps(shown("r", ["1"]) | {"score": 1.0}): "no list: score is no list",
    json.dumps(shown("r", [None])): "no list: its items, positions, scores and propensities are not as many",
}


@pytest.mark.parametrize(("line", "why"), FAULTS.items())
def test_a_line_that_is_neither_event_nor_list_is_left_out_and_told(line, why, log, tmp_path):
    write(log / "events.jsonl", event(1), line, event(2))
    table, notes = made(log, tmp_path)
    assert table.height == 2
    assert f"1 line left out: {why} (first: events.jsonl at byte {len(json.dumps(event(1))) + 1:,})" in notes
    assert "3 lines read" in notes


def test_what_is_half_written_is_told_and_what_lacks_only_its_end_is_read(log, tmp_path):
    write(log / "events.jsonl", event(1), json.dumps(event(2))[:-9], end="")
    assert "1 line left out: no JSON" in made(log, tmp_path)[1]
    write(log / "a" / "events.jsonl", event(1), event(2), end="")
    assert made(log / "a", tmp_path)[0].height == 2


def test_ids_are_text_however_they_were_written(log, tmp_path):
    write(log / "events.jsonl", event(1, user=7, item=3), event(2, user="x7", item="3", more={"a": 1}))
    table, _ = made(log, tmp_path)
    assert table.select("user_id", "item_id").rows() == [("7", "3"), ("x7", "3")]


def test_a_log_without_events_and_what_is_no_log_are_refused(log, tmp_path):
    with pytest.raises(InputError, match="is no file and no folder"):
        from_log([str(log)], tmp_path / "t.parquet")
    log.mkdir()
    with pytest.raises(InputError, match=r"holds no events\.jsonl"):
        from_log([str(log)], tmp_path / "t.parquet")
    write(log / "events.jsonl", "no")
    with pytest.raises(InputError, match=r"no event and no list was found \(1 line left out"):
        from_log([str(log)], tmp_path / "t.parquet")
    assert not (tmp_path / "t.parquet").exists()


def test_a_packed_segment_is_read_and_what_was_moved_aside_is_not(log, tmp_path):
    write(log / "events.jsonl", event(1))
    write(log / "events.jsonl.torn", event(2))
    (log / "events.jsonl.2.gz").write_bytes(gzip.compress(json.dumps(event(3)).encode() + b"\n"))
    assert made(log, tmp_path)[0].height == 2
    (log / "events.jsonl.2.gz").write_bytes(b"no")
    with pytest.raises(InputError, match="no whole gzip file"):
        made(log, tmp_path)


# -- parts ------------------------------------------------------------------------------------------------------------


def parts(folder):
    """All rows of a folder of parts."""
    return pl.concat([pl.read_parquet(path) for path in sorted(folder.glob("*.parquet"))])


def test_the_next_run_goes_on_where_the_last_one_ended_whatever_the_files_are_called(log, tmp_path):
    out = tmp_path / "training"
    write(log / "events.jsonl", event(1, event_id="a"), event(2, event_id="b"), '{"half', end="")
    assert from_log([str(log)], out)[0] == out / "part-000001.parquet"
    assert from_log([str(log)], out)[0] is None
    data = (log / "events.jsonl").read_text().replace('{"half', json.dumps(event(3, event_id="c")) + "\n")
    (log / "events.jsonl").write_text(data)
    (log / "events.jsonl").rename(log / "events-20261201T000000Z-000001.jsonl")
    write(log / "events.jsonl", event(4, event_id="d"), event(1, event_id="a"))
    written, notes = from_log([str(log)], out)
    assert written is not None
    assert notes[0] == "3 lines read"
    assert "1 repeated events counted once" in notes
    assert parts(out)["event_id"].to_list() == ["a", "b", "c", "d"]
    assert len(Dataset.from_path(out, session="session_id").events) == 4


def test_a_file_that_was_emptied_or_begins_as_another_did_is_read_from_its_beginning(log, tmp_path):
    out = tmp_path / "training"
    write(log / "events.jsonl", event(1, event_id="a"), event(2, event_id="b"))
    from_log([str(log)], out)
    (log / "events.jsonl").write_text("")
    write(log / "events.jsonl", event(1, event_id="a"), event(9, event_id="z"), event(8, event_id="y"))
    from_log([str(log)], out)
    assert parts(out)["event_id"].to_list() == ["a", "b", "z", "y"]


def test_an_event_waits_for_its_list_and_a_list_for_its_events(log, tmp_path):
    by_event, by_item = tmp_path / "by-event", tmp_path / "by-item"

    def run(wait=60):
        options = [Options(rows=rows, wait=timedelta(seconds=wait)) for rows in ("events", "impressions")]
        return [from_log([str(log)], out, each)[0] for out, each in zip((by_event, by_item), options)]

    write(log / "impressions.jsonl", shown("r0", ["5"], 0))
    write(log / "events.jsonl", event(10, event_id="a", request="r1"), event(10, event_id="n"))
    assert run() == [by_event / "part-000001.parquet", None]  # "n" answers no list
    write(log / "impressions.jsonl", shown("r1", ["3", "4"], 9))
    assert run() == [by_event / "part-000002.parquet", None]
    write(log / "impressions.jsonl", shown("r2", ["3"], 200))
    assert run() == [None, by_item / "part-000003.parquet"]
    write(log / "events.jsonl", event(210, event_id="c", request="r1", item="4"))  # late: its list is closed
    run(0)
    events = parts(by_event)
    assert events.select("event_id", "shown").rows() == [("n", False), ("a", True), ("c", False)]
    items = parts(by_item)
    assert items.select("request_id", "item_id", "label").rows() == [
        ("r0", "5", 0),
        ("r1", "3", 1),
        ("r1", "4", 0),
        ("r2", "3", 0),
    ]


def test_where_no_list_is_kept_no_event_waits(log, tmp_path):
    write(log / "events.jsonl", event(1, event_id="a", request="r"))
    assert from_log([str(log)], tmp_path / "out")[0] is not None


def test_a_run_that_was_killed_is_repeated_without_loss_or_double(log, tmp_path, monkeypatch):
    out = tmp_path / "training"
    write(log / "events.jsonl", event(1, event_id="a"))
    from_log([str(log)], out)
    write(log / "events.jsonl", event(2, event_id="b"))
    with monkeypatch.context() as patch:
        patch.setattr("suisen.data.from_log.Memory.save", lambda *given: 1 / 0)  # part written, memory not
        with pytest.raises(ZeroDivisionError):
            from_log([str(log)], out)
    write(log / "events.jsonl", event(3, event_id="c"))
    from_log([str(log)], out)
    assert parts(out)["event_id"].to_list() == ["a", "b", "c"]


def test_a_folder_of_other_rows_and_a_damaged_memory_are_refused(log, tmp_path):
    write(log / "events.jsonl", event(1, event_id="a"))
    from_log([str(log)], tmp_path / "out")
    with pytest.raises(InputError, match="holds a row per event; give --rows events or another folder"):
        from_log([str(log)], tmp_path / "out", Options(rows="impressions"))
    (tmp_path / "out" / ".from-log" / "state.json").write_text("{}")
    with pytest.raises(InputError, match="is damaged"):
        from_log([str(log)], tmp_path / "out")
    with pytest.raises(InputError, match=r"-o .*events\.jsonl is a file; name a \.parquet file, or a folder"):
        from_log([str(log)], log / "events.jsonl")


# -- any log ----------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["1", "2", "x", "é"])
LISTS = st.lists(
    st.builds(
        lambda request, items, user, seconds: shown(
            request, items, seconds, user=user, session_id=None if user else "s"
        ),
        st.sampled_from(["r1", "r2", "r3"]),
        st.lists(NAMES, unique=True, max_size=3),
        st.none() | NAMES,
        st.integers(0, 90),
    ),
    max_size=6,
)
EVENTS = st.lists(
    st.builds(
        lambda seconds, user, item, request, own: event(
            seconds, user=user, session_id=None if user else "s", item=item, request=request, event_id=own
        ),
        st.integers(0, 90),
        st.none() | NAMES,
        NAMES,
        st.none() | st.sampled_from(["r1", "r2", "r3", "r4"]),
        st.none() | st.sampled_from("abcde"),
    ),
    min_size=1,
    max_size=12,
)


def answered(one, lists):
    """The rule, in plain words: places of the (list, position) that an event may answer, the best first."""
    found = []
    for number, each in enumerate(lists):
        if one["request_id"] == each["request_id"] and one["item_id"] in each["item_id"]:
            if one["user_id"] and each["user_id"] and one["user_id"] != each["user_id"]:
                continue
            same = (one["user_id"] is not None and one["user_id"] == each["user_id"]) * 2
            same += one["session_id"] is not None and one["session_id"] == each["session_id"]
            found.append((-same, number, each["item_id"].index(one["item_id"]) + 1))
    return min(found)[1:] if found else None


def once(lines, key):
    kept = {}
    for line in lines:
        kept.setdefault(key(line), line)
    return list(kept.values())


def name_of(one):
    return one["event_id"] or json.dumps([one[name] for name in training_log.WITHOUT_ID])


@settings(deadline=None, max_examples=60)
@given(EVENTS, LISTS)
def test_every_log_is_joined_by_the_rule_and_in_parts_as_in_one(tmp_path_factory, events, lists):
    folder = tmp_path_factory.mktemp("any")
    log = folder / "log"
    kept, every = once(events, name_of), once(lists, json.dumps)
    expected = [answered(one, every) for one in kept]
    for line in lists:
        write(log / "impressions.jsonl", line)
    for line in events:
        write(log / "events.jsonl", line)
        from_log([str(log)], folder / "parts", Options(wait=timedelta(seconds=1000)))
    from_log([str(log)], folder / "parts", Options(wait=timedelta(0)))
    table, _ = made(log, folder)
    assert [position for _, position in map(lambda place: place or (0, None), expected)] == table["position"].to_list()
    assert parts(folder / "parts").sort(training_log.EVENT_COLUMNS).equals(table.sort(training_log.EVENT_COLUMNS))
    items, _ = made(log, folder, rows="impressions")
    assert items["label"].sum() == len({place for place in expected if place})
    assert items.height == sum(len(each["item_id"]) for each in every)


def test_a_file_that_is_rotated_while_it_is_read_is_read_whole(log, tmp_path, monkeypatch):
    write(log / "a.jsonl", event(0))
    write(log / "events.jsonl", event(1), event(2))
    before = from_log_module._lines_of

    def rotated(path, *given):
        if path.name == "a.jsonl":
            (log / "events.jsonl").rename(log / "events-20261201T000000Z-000001.jsonl")
            write(log / "events.jsonl", event(3))
        yield from before(path, *given)

    monkeypatch.setattr(from_log_module, "_lines_of", rotated)
    assert made(log, tmp_path)[0]["time"].to_list() == [START + timedelta(seconds=n) for n in (0, 3, 1, 2)]


def test_many_lines_become_tables_on_the_way(log, tmp_path, monkeypatch):
    monkeypatch.setattr("suisen.data.served.ROWS", 3)
    write(log / "events.jsonl", *(event(n) for n in range(10)))
    assert made(log, tmp_path)[0].height == 10
