"""Freezing a plan: once, found again, and what was changed after."""

import json
from datetime import UTC, datetime

import pytest

from suisen.data.durations import moment
from suisen.errors import InputError
from suisen.experiments.frozen import Change, Frozen, changes, freeze, frozen_path, moving, read_frozen
from suisen.experiments.plan import Plan, fingerprint_of, load

TOML = 'name = "x"\nprimary = "m"\nalpha = 0.05\n[arms]\ncontrol = 0.5\na = 0.3\nb = 0.2\n[metrics.m]\nkind = "count"\n'
START = datetime(2024, 5, 1, tzinfo=UTC)


@pytest.fixture
def path(tmp_path):
    made = tmp_path / "x.toml"
    made.write_text(TOML, encoding="utf-8")
    return made


def plan(**changed):
    return Plan.of(
        {"name": "x", "arms": {"control": 0.5, "a": 0.5}, "primary": "m", "metrics": {"m": {"kind": "count"}}} | changed
    )


def test_a_frozen_plan_lies_beside_its_file_and_is_read_back(path):
    made = freeze(path, at=START)
    assert frozen_path(path) == path.with_name("x.frozen.json")
    assert read_frozen(frozen_path(path)) == made
    assert made.plan == load(path)
    assert made.frozen_at == "2024-05-01T00:00:00Z"
    assert made.fingerprint == load(path).fingerprint()
    assert made.changes(load(path)) == ()


def test_freezing_again_leaves_it_and_freezing_a_changed_plan_is_refused(path):
    first = freeze(path, at=START)
    assert freeze(path) == first
    path.write_text(TOML.replace("0.05", "0.1"), encoding="utf-8")
    with pytest.raises(
        InputError, match=r"frozen at 2024-05-01T00:00:00Z and changed since \(alpha: planned 0.05, now 0.1"
    ):
        freeze(path)


def test_changes_are_named_field_by_field(path):
    frozen = freeze(path, at=START)
    text = TOML.replace("0.05", "0.1").replace("[metrics.m]", '[metrics.more]\nkind = "ctr"\n[metrics.m]')
    path.write_text(text, encoding="utf-8")
    found = frozen.changes(load(path))
    assert Change("alpha", 0.05, 0.1) in found
    assert [str(change) for change in found] == [
        "alpha: planned 0.05, now 0.1", 'metrics.more: planned nothing, now {"kind": "ctr"}'
    ]  # fmt: skip
    assert moving(frozen.plan, load(path)) == ()


def test_a_table_that_came_or_went_is_one_change():
    looks = plan(sequential={"kind": "always-valid", "tune": 700}, equivalence={"m": {"margin": 0.1}})
    assert [str(change) for change in changes(plan(), looks)] == [
        'equivalence.m: planned nothing, now {"margin": 0.1}', 'sequential: planned nothing, now {"tune": 700}'
    ]  # fmt: skip
    assert Change("sequential", {"tune": 700}, None) in changes(looks, plan())
    again = plan(sequential={"kind": "always-valid", "tune": 800}, equivalence={"m": {"margin": 0.1}})
    assert changes(looks, again) == (Change("sequential.tune", 700, 800),)


def test_the_order_of_arms_is_a_change_that_moves_units():
    found = changes(plan(), plan(arms={"a": 0.5, "control": 0.5}))
    assert found == (Change("arms (order of the buckets)", ["control", "a"], ["a", "control"]),)
    assert moving(plan(), plan(arms={"a": 0.5, "control": 0.5})) == found


@pytest.mark.parametrize(
    ("changed", "moves"),
    [
        ({"unit": "session"}, True),
        ({"name": "y"}, True),
        ({"name": "y", "salt": "x"}, False),
        ({"salt": "y"}, True),
        ({"assignment": {"hash": "growthbook-2"}}, True),
        ({"assignment": {"layer": "home"}}, True),
        ({"assignment": {"holdout": 0.1}}, True),
        ({"assignment": {"ramp": {"2024-05-01": 0.5}}}, False),
        ({"assignment": {"overrides": {"1": "a"}}}, False),
        ({"alpha": 0.1}, False),
    ],
)
def test_what_moves_units_is_told_from_what_does_not(changed, moves):
    assert changes(plan(), plan(**changed))
    assert bool(moving(plan(), plan(**changed))) == moves


def test_a_frozen_plan_that_was_edited_is_refused(path):
    freeze(path, at=START)
    place = frozen_path(path)
    made = json.loads(place.read_text(encoding="utf-8"))
    made["plan"]["alpha"] = 0.2
    place.write_text(json.dumps(made), encoding="utf-8")
    with pytest.raises(InputError, match=r"x.frozen.json was edited after it was frozen: its hash is \w+…, not \w+…"):
        read_frozen(place)


def test_a_plan_frozen_before_a_field_was_known_has_not_changed(path):
    freeze(path, at=START)
    place = frozen_path(path)
    made = json.loads(place.read_text(encoding="utf-8"))
    del made["plan"]["columns"]["event_id"]
    made["fingerprint"] = fingerprint_of(made["plan"])
    place.write_text(json.dumps(made), encoding="utf-8")
    assert read_frozen(place).changes(load(path)) == ()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"plan": 5, "fingerprint": "", "frozen_at": ""}', "\udcff"])
def test_what_is_no_frozen_plan_is_refused(path, text):
    place = frozen_path(path)
    place.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"x.frozen.json is no frozen plan"):
        read_frozen(place)


def test_a_frozen_plan_that_is_not_there_is_named(path):
    with pytest.raises(InputError, match=r"x.frozen.json does not exist; freeze the plan at the start"):
        read_frozen(frozen_path(path))


# -- when it was frozen -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("2024-04-30T23:00:00Z", ""),
        ("2024-05-01T00:00:00Z", ""),
        ("2024-05-01T09:00:00+09:00", ""),
        ("2024-05-03T00:00:00Z", "plan frozen at 2024-05-03T00:00:00Z, after the first exposure "
         "(2024-05-01T00:00:00Z), so what was seen until then may be in it"),
        ("2026-01-01T00:00:00Z", "plan frozen at 2026-01-01T00:00:00Z, after the last event (2024-05-15T00:00:00Z), "
         "so nothing shows what was planned before the data were seen"),
    ],
)  # fmt: skip
def test_a_plan_that_was_frozen_after_data_were_seen_says_so(at, said):
    first, last = moment("first", "2024-05-01", 0), moment("last", "2024-05-15", 0)
    assert Frozen(plan(), "", at).late(first, last) == said
    assert Frozen(plan(), "", at).late(None, None) == ""
