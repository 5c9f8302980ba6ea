import json

import pytest

from tests.cli.conftest import call, refused


def test_similar_items_are_shown_with_titles(run_folder):
    said = call("similar", run_folder, "--item", "A-1", "-k", "3").stdout
    assert said.splitlines()[0].startswith("like A-1 (映画")
    assert said.splitlines()[1].split() == ["rank", "item", "title", "score"]
    assert len(said.splitlines()) == 5


def test_json_has_the_same_for_several_items(run_folder):
    entries = json.loads(call("similar", run_folder, "--item", "A-1", "--item", "B-2", "-k", "4", "--json").stdout)
    assert [entry["item_id"] for entry in entries["similar"]] == ["A-1", "B-2"]
    for entry in entries["similar"]:
        assert [item["rank"] for item in entry["items"]] == [1, 2, 3, 4]
        assert entry["item_id"] not in [item["item_id"] for item in entry["items"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--item", "A-99"], "item 'A-99' is unknown"), ([], "give --item ID"), (["--item", "A-1", "-k", "0"], "k = 0")],
)
def test_what_cannot_be_answered_is_one_line(run_folder, words, message):
    assert message in refused("similar", run_folder, *words)
