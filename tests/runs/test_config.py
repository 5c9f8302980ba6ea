from dataclasses import fields
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suisen.data.encode import Encoder
from suisen.errors import InputError
from suisen.runs.config import SECTIONS, flags_of, merged, read_file, resolve, settings_in, with_epochs, written
from suisen.training.options import RunOptions

BASE = {"data": {"events": "my.csv", "user": "uid"}, "retriever": {"name": "mf", "dim": "8"}, "run": {"threads": 1}}


def test_a_resolved_file_makes_the_same_configuration(tmp_path):
    raw = {
        **BASE,
        "data": {"events": "my.csv", "kinds": "age=numeric", "context": "a,b", "time": "none", "delimiter": "\\t"},
        "ranker": {"name": "deepfm", "hidden": "16,8"},
        "split": {"name": "sessions", "test": "0.2", "valid": "none"},
        "index": {"name": "hnsw", "m": "16"},
        "run": {"clip": "none", "metrics": "ndcg@5,hr@5"},
    }
    config = resolve(raw)
    assert config.reading == {"kinds": {"age": "numeric"}, "context": ("a", "b"), "time": None, "delimiter": "\t"}
    assert (config.split.test, config.split.valid, config.index.m, config.run.clip) == (0.2, None, 16, None)
    path = tmp_path / "config.toml"
    path.write_text(config.toml(), encoding="utf-8")
    again = resolve(read_file(path))
    assert again == config
    assert again.toml() == config.toml()


def test_everything_is_written_out():
    tables = resolve({**BASE, "ranker": {"name": "fm"}}).tables()
    assert tables["split"] == {"name": "leave-last", "test": 1, "valid": 1, "valid_users": 0, "seed": 0, "by": "time"}
    assert tables["retriever"]["learning_rate"] == resolve(BASE).retriever.learning_rate
    assert tables["run"]["patience"] == 5
    assert set(tables["lists"]) == {"share", "most_questions", "learnt"}


def test_flags_win_over_the_file():
    said = []
    out = merged(BASE, {"retriever": {"dim": "16"}, "run": {"seed": "3"}}, said.append)
    assert out["retriever"] == {"name": "mf", "dim": "16"}
    assert out["run"] == {"threads": 1, "seed": "3"}
    assert said == []


def test_parameters_of_another_choice_go_and_are_said():
    said = []
    out = merged(BASE, {"retriever": {"name": "ease"}, "data": {"name": "ml-100k"}}, said.append)
    assert out["retriever"] == {"name": "ease"}
    assert out["data"] == {"name": "ml-100k"}
    assert said == [
        "[data] of the file is for another choice and not used: events, user",
        "[retriever] of the file is for another choice and not used: dim",
    ]
    assert merged({"data": {"name": "ml-1m"}}, {"data": {"events": "x"}}, said.append)["data"] == {"events": "x"}


def test_epochs_go_where_there_are_epochs():
    raw = {"retriever": {"name": "ease"}, "ranker": {"name": "fm", "epochs": 9}}
    assert with_epochs(raw, 2, {}) == {"retriever": {"name": "ease"}, "ranker": {"name": "fm", "epochs": 2}}
    assert with_epochs(raw, 2, {"ranker__epochs": "9"}) == raw
    assert with_epochs(raw, None, {}) == raw


def test_only_given_flags_count():
    assert flags_of({"data__user": "u", "data__item": None, "data__context": (), "out": "x"}) == {"data": {"user": "u"}}
    assert flags_of({"ranker__hidden": ("8", "4")}) == {"ranker": {"hidden": ["8", "4"]}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"retriever": {"name": "mff"}}, "retriever = 'mff' is unknown; did you mean 'mf'"),
        ({"retriever": {"name": "mf", "dims": 3}}, r"\[retriever\] key = 'dims' is unknown; did you mean 'dim'"),
        ({"retriever": {"name": "mf", "dim": 0}}, "MF: dim = 0 should be greater than or equal to 1"),
        ({"retriever": {"name": "mf", "dim": "x"}}, r"retriever.dim = 'x' must be a whole number"),
        ({"run": {"sed": 1}}, "did you mean 'seed'"),
        ({"ranker": {"hidden": "3"}}, "ranker.hidden needs --ranker NAME; known: mlp, neumf, "),
        ({"retriever": {}}, "no model is named; pass --retriever"),
        ({"data": {}}, "neither --data nor --events is given"),
        ({"data": {"name": "ml-100k", "events": "x"}}, "both --data and --events are given"),
        ({"data": {"name": "ml-100"}}, "did you mean 'ml-100k'"),
        ({"data": {"name": "ml-100k", "user": "u"}}, "data.user goes with --events FILE"),
        ({"data": {"events": "x", "k_core": -1}}, "k_core = -1 must be 0 or more"),
        ({"split": {"name": "leave-last", "test": -1}}, "LeaveLast: test = -1 must be at least 0"),
        ({"index": {"name": "hsnw"}}, "did you mean 'hnsw'"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(InputError, match=message):
        resolve({**BASE, **change})


def test_the_split_has_a_default_that_takes_parameters():
    assert resolve({**BASE, "split": {"test": "2"}}).split.test == 2


def test_settings_of_a_run_are_the_trainers_options_and_six_more():
    keys = {setting.key for setting in settings_in("run")}
    given_by_launchers = {"checkpoint", "resume", "stage", "prefix", "callbacks"}
    assert keys == {each.name for each in fields(RunOptions)} - given_by_launchers | {
        "candidates",
        "quotas",
        "threads",
        "metrics",
        "exclude_seen",
        "pair_features",
        "final",
        "rules",
    }
    assert [setting.key for setting in settings_in("run") if not setting.doc] == []
    run = resolve({**BASE, "run": {"patience": "3", "clip": "none"}}).run
    assert isinstance(run, RunOptions)
    assert (run.patience, run.clip, run.device) == (3, None, RunOptions().device)


def test_every_setting_of_a_section_is_a_flag_of_its_own():
    for sections in (SECTIONS, (*SECTIONS, "tune")):
        flags = [setting.flag for section in sections for setting in settings_in(section)]
        assert len(flags) == len(set(flags))


def test_sections_of_a_file_are_checked(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("[retreiver]\nname = 'ease'\n")
    with pytest.raises(InputError, match=r"section = 'retreiver' is unknown; did you mean 'retriever'"):
        read_file(path)
    path.write_text("seed = 3\n")
    with pytest.raises(InputError, match="section = 'seed' is unknown"):
        read_file(path)
    path.write_text("run = 3\n")
    with pytest.raises(InputError, match=r"run = 3 must be a section, \[run\]"):
        read_file(path)


# -- the file ----------------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
times = st.datetimes(timezones=st.none() | st.just(UTC) | st.just(timezone(timedelta(hours=9))))
leaves = texts | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.dates() | times
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(texts, values, max_size=4), max_size=len(SECTIONS)), texts)
def test_what_is_written_is_read_back_equal(tmp_path_factory, tables, head):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    wanted = dict(zip(SECTIONS, tables, strict=False))
    path.write_bytes(written(wanted, "".join(filter(str.isprintable, head)) + "\nand more").encode())
    assert read_file(path) == wanted


def test_awkward_values_are_read_back_equal(tmp_path):
    tricky = [
        '"',
        "\\",
        "\\u0041",
        "\n\t\r\x00\x1f\x7f",
        "'''",
        '"""',
        "# no comment",
        "[run]",
        "a = 1",
        "é 水仙 🎉",
        "",
    ]
    tables = {
        "data": {"events": 'C:\\new\\"my" events.csv', "context": tricky, "kinds": {text: text for text in tricky}},
        "run": {"clip": 1e-300, "average": 0.1 + 0.2, "seed": -(2**63), "max_seconds": float("inf"), "": {"a.b": {}}},
        "split": {"day": date(2024, 2, 29), "at": datetime(2024, 5, 1, 12, 30, 15, 250_000, tzinfo=UTC)},
    }
    path = tmp_path / "c.toml"
    path.write_text(written(tables, "two\nlines"), encoding="utf-8", newline="")
    assert read_file(path) == tables
    assert path.read_text(encoding="utf-8").startswith("# two\n# lines\n")


def test_files_that_are_no_toml_are_named(tmp_path):
    bad = tmp_path / "bad.toml"
    bad.write_text("a = \n")
    with pytest.raises(InputError, match=r"bad\.toml is no TOML: .*line 1"):
        read_file(bad)
    with pytest.raises(InputError, match="does not exist; give a TOML file"):
        read_file(tmp_path / "none.toml")


def test_a_run_fits_features_once_on_train_alone(tmp_path, monkeypatch):
    path = tmp_path / "e.csv"
    rows = [f"{user},{item},{time},tv" for user in "ab" for item, time in (("x", 1), ("y", 2), ("z", 3))]
    path.write_text("\n".join(["user,item,time,device", *rows]))
    config = resolve({"data": {"events": str(path), "context": "device"}}, models=False)
    fitted, fit = [], Encoder.fit
    monkeypatch.setattr(Encoder, "fit", lambda frame, *args: fitted.append(frame) or fit(frame, *args))
    data = config.data()
    assert fitted == []
    assert data.size == "2 users, 3 items, 6 events"
    split = config.cut(data)
    assert [frame.columns for frame in fitted] == [["device"]]
    assert fitted[0].height == len(split.train.events) == 2


def test_rules_of_a_run_stand_in_its_recommender(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules.toml").write_text('[[cap]]\nname = "c"\ncolumn = "artist"\nmost = 2\n', encoding="utf-8")
    config = resolve({**BASE, "run": {"rules": "rules.toml"}})
    assert config.run.rules == str(tmp_path / "rules.toml")  # means the same from any folder
    assert [rule.name for rule in config.recommender().rules.all] == ["c"]
    assert not resolve(BASE).recommender().rules
    with pytest.raises(InputError, match=r"rules = '.*absent.toml' cannot be read"):
        resolve({**BASE, "run": {"rules": "absent.toml"}}).check()
