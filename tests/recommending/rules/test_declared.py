"""Rules as files and mappings state them."""

from __future__ import annotations

import json

import pytest

from suisen.errors import InputError
from suisen.recommending.rules.declared import MOST_RULES, Cap, Pin, Require, Rules

TOML = """
[[require]]
name = "in stock"
expression = "in_stock == true"

[[boost]]
name = "new"
ranks = 5
half_life = "7d"

[[cap]]
name = "two per artist"
column = "artist"
most = 2
first = 10

[[pin]]
name = "campaign"
item = "sku9"
position = 1
"""


def test_toml_json_mappings_and_objects_say_the_same(tmp_path):
    (tmp_path / "rules.toml").write_text(TOML, encoding="utf-8")
    rules = Rules.of(tmp_path / "rules.toml")
    assert [rule.name for rule in rules.all] == ["in stock", "new", "two per artist", "campaign"]
    assert rules.kinds == {"in stock": "require", "new": "boost", "two per artist": "cap", "campaign": "pin"}
    (tmp_path / "rules.json").write_text(json.dumps(rules.to_json()), encoding="utf-8")
    assert Rules.of(str(tmp_path / "rules.json")) == Rules.of(rules.to_json()) == Rules.of(rules) == rules
    assert hash(rules) == hash(Rules.of(rules.to_json()))
    same = Rules(
        require=[Require(name="in stock", expression="in_stock == true")],
        boost=rules.boost,
        cap=(Cap(name="two per artist", column="artist", most=2, first=10),),
        pin=(Pin(name="campaign", item="sku9", position=1),),
    )
    assert same == rules
    assert not Rules()
    assert Rules.of(None) == Rules() == Rules.of({})


def test_the_reserve_is_what_the_stages_are_asked_for():
    assert Rules().reserve(10, 500) == 10
    assert Rules.of({"pin": [{"name": "p", "item": 1, "position": 1}]}).reserve(10, 500) == 10
    capped = Rules.of({"cap": [{"name": "c", "column": "x", "most": 1}]})
    assert (capped.reserve(10, 500), capped.reserve(900, 500)) == (500, 900)


CAP = {"name": "c", "column": "artist", "most": 1}
PIN = {"name": "p", "item": "a", "position": 1}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"caps": [CAP]}, "rules: kind of rule = 'caps' is unknown; did you mean 'cap'"),
        ({"cap": CAP}, r"rules: cap = .* must be a list of rules, \[\[cap\]\] in TOML"),
        ({"cap": ["artist"]}, "must be a list of rules"),
        ({"cap": [CAP, {"name": "d", "most": 1}]}, r"rules: cap 2 \(d\) lacks column; give name, column, most, first"),
        ({"cap": [{"column": "artist", "most": 1}]}, "rules: cap 1 lacks name"),
        ({"cap": [{**CAP, "most": 0}]}, r"rules: cap 1 \(c\): most = 0 should be greater than or equal to 1"),
        ({"cap": [{**CAP, "most": 2.5}]}, "most = 2.5"),
        ({"cap": [{**CAP, "most": True}]}, "most = True"),
        ({"cap": [{**CAP, "colum": 1}]}, "parameter = 'colum' is unknown; did you mean 'column'"),
        ({"cap": [{**CAP, "name": ""}]}, "name = ''"),
        ({"cap": [{**CAP, "name": "a\nb"}]}, "name = 'a"),
        ({"cap": [CAP, CAP]}, "the name 'c' stands twice"),
        ({"cap": [CAP], "pin": [{**PIN, "name": "c"}]}, "the name 'c' stands twice"),
        ({"pin": [PIN, {"name": "q", "item": "b", "position": 1}]}, "the position '1' stands twice"),
        ({"pin": [PIN, {"name": "q", "item": "a", "position": 2}]}, "the item 'a' stands twice"),
        ({"require": [{"name": "r", "expression": "a = 1"}]}, "rule 'r': 'a = 1': '=' at character 3"),
        ({"cap": [{**CAP, "name": f"c{n}"} for n in range(MOST_RULES + 1)]}, "33 are more than 32"),
        (7, "rules = 7 are none"),
        ([CAP], "are none; give a .toml or .json file"),
    ],
)
def test_mistakes_name_the_rule_and_the_mend(rules, message):
    with pytest.raises(InputError, match=message):
        Rules.of(rules)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("absent.toml", None, r"rules = '.*absent.toml' cannot be read \(No such file"),
        ("a.toml", "[[cap", "cannot be read .* write TOML"),
        ("a.json", "[1,", "cannot be read .* or JSON in a .json file"),
        ("a.json", "[1]", r"holds \[1\], not an object"),
        ("a.toml", "# " + "x" * (1 << 20), "more than 1,048,576 bytes"),
        ("a.toml", "[[cap]]\nname = 'c'\nmost = 1\n", r"rules = '.*a.toml': cap 1 \(c\) lacks column"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        Rules.of(tmp_path / name)
