"""Items blocked while the server answers: by the admin listener, by a file, in every version."""

from __future__ import annotations

import json
import time

import pytest

from suisen.errors import InputError
from suisen.recommending import bundle
from suisen.serving.blocking import read
from tests.fitted import fitted
from tests.serving.test_admin import USERS, served


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return [bundle.save(fitted(name).system, folder / name) for name in ("mf", "ease")]


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("", set()),
        ("i001\n\n# all of it\n i002  # sold out\n", {"i001", "i002"}),
        ("\ufeffi001\r\n7\r\n", {"i001", "7"}),
        ('["i001", 7]', {"i001", "7"}),
        ('{"blocked": ["a"], "unavailable": [8]}', {"a", "8"}),
        ("item_id,status\na,blocked\nb,available\nc,unavailable\n", {"a", "c"}),
        ('title, item_id\n"x, y",a\n', {"a"}),
    ],
)
def test_files_of_several_kinds_are_read(tmp_path, text, items):
    (tmp_path / "list").write_text(text, encoding="utf-8")
    assert read(tmp_path / "list") == items


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"[1, 2", b'{"block": []}', b"item_id,status\na,gone\n"])
def test_files_that_cannot_be_read_are_named(tmp_path, data):
    (tmp_path / "list").write_bytes(data)
    with pytest.raises(InputError, match=r"blocklist = '.*list' cannot be read"):
        read(tmp_path / "list")


def told(admin, **message):
    status, answer = admin.call("POST", "/admin/blocklist", message)
    assert status == 200, answer
    return answer


def shown(caller):
    return {user: caller.items(user)[1] for user in USERS[:8]}


def test_the_admin_blocks_items_of_every_version_and_lists_stay_long(bundles, tmp_path):
    with served(bundles[0], log_dir=tmp_path) as (_, caller, admin):
        before = shown(caller)
        first = before["u0001"][:3]
        answer = told(admin, block=first[:2], unavailable=[first[2], "nothing"])
        assert (answer["blocked"], answer["in_force"], answer["unknown"]) == (sorted(first[:2]), 4, ["nothing"])
        assert answer["kept"]
        admin.asked("load", bundle=str(bundles[1]))
        for switched in (False, True):
            if switched:
                admin.asked("switch")
            for user, items in shown(caller).items():
                assert not set(items) & set(first)
                assert len(items) == len(before[user]) == 10
            status, ranked = caller.call("POST", "/v1/rank", {"queries": [{"user_id": "u0002", "items": first}]})
            assert status == 200
            assert sorted(ranked["answers"][0]["left_out"]) == sorted(first)
        admin.asked("rollback")
        told(admin, unblock=first[:2], available=[first[2]])
        assert shown(caller) == before
        told(admin, block=first)
    with served(bundles[0], log_dir=tmp_path) as (_, caller, admin):  # what was told outlives the server
        assert not set(shown(caller)["u0001"]) & set(first)
        assert admin.call("GET", "/admin/blocklist")[1]["blocked"] == sorted(first)
        told(admin, replace=True)
        assert shown(caller) == before


def test_a_file_is_in_force_within_a_second_of_its_change_and_a_broken_one_changes_nothing(bundles, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("")
    with pytest.raises(InputError, match="absent"), served(bundles[0], blocklist=tmp_path / "absent"):
        pass
    with served(bundles[0], blocklist=path) as (_, caller, admin):
        before = shown(caller)
        first = before["u0001"][:3]
        for text in ("\n".join(first), json.dumps(first)):
            path.write_text("")
            time.sleep(1)
            assert shown(caller) == before
            path.write_text(text)
            time.sleep(1)
            assert not set(shown(caller)["u0001"]) & set(first)
        path.write_text("[1,")
        time.sleep(1)
        assert not set(shown(caller)["u0001"]) & set(first)
        assert "list.txt" in admin.call("GET", "/admin/blocklist")[1]["file_error"]
        path.unlink()
        time.sleep(1)
        assert not set(shown(caller)["u0001"]) & set(first)


def test_a_whole_list_takes_the_place_of_what_was_told_beside_the_file(bundles, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("")
    with served(bundles[0], log_dir=tmp_path, blocklist=path) as (_, caller, admin):

        def put(**message):
            return admin.call("PUT", "/admin/blocklist", message)

        before = shown(caller)
        first = before["u0001"][:4]
        path.write_text(first[3])
        time.sleep(1)
        told(admin, block=[first[0]])
        for _ in range(2):  # the second changes nothing
            status, answer = put(blocked=[first[2], first[1]], unavailable=[first[1]])
            assert status == 200, answer
            assert (answer["blocked"], answer["unavailable"]) == (sorted(first[1:3]), [first[1]])
            assert (answer["in_force"], answer["pending"]) == (3, [])
            assert shown(caller)["u0001"][0] == first[0]  # told before, and not any more
            assert not set(shown(caller)["u0001"]) & set(first[1:])
        for message, said in (
            ({"blocked": []}, "unavailable is missing; it is required"),
            ({"unavailable": []}, "blocked is missing; it is required"),
            ({"blocked": [], "unavailable": [], "block": []}, "field = 'block' is unknown"),
            ({"blocked": list(range(100_001)), "unavailable": []}, "at most 100000 entries"),
            (
                {"blocked": list(range(60_000)), "unavailable": list(range(60_000))},
                "120,000 items are more than 100,000",
            ),
            ({"blocked": [""], "unavailable": []}, "at least 1 characters"),
        ):
            status, answer = put(**message)
            assert status == 422
            assert said in answer["detail"]
        assert admin.call("GET", "/admin/blocklist")[1]["in_force"] == 3
        assert put(blocked=[], unavailable=[])[1]["in_force"] == 1
        assert shown(caller)["u0001"][:3] == first[:3]
