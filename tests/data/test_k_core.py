import pytest
from hypothesis import given
from hypothesis import strategies as st

from suisen.data.dataset import Dataset
from suisen.data.k_core import k_core
from suisen.errors import InputError
from tests.helpers import logs, make_log


def fewer(events, users, items):
    """The events whose user and item have enough positives among them."""
    count = lambda name, e: sum(o.get("label", 1) for o in events if o[name] == e[name])  # noqa: E731
    return [e for e in events if count("user", e) >= users and count("item", e) >= items]


@given(log=logs(), users=st.integers(0, 3), items=st.integers(0, 3))
def test_k_core_is_the_fixed_point_of_dropping(log, users, items):
    left = log.events.to_dicts()
    while (kept := fewer(left, users, items)) != left:
        left = kept
    if not left:
        with pytest.raises(InputError, match=r"k_core\(users=\d, items=\d\) leaves nothing; ask for fewer"):
            k_core(log, users, items)
        return
    core = k_core(log, users, items)
    assert set(core.log.events["row"]) == {e["row"] for e in left}
    lost = [log.events.height - len(left)]
    lost += [log.events[name].n_unique() - len({e[name] for e in left}) for name in ("user", "item")]
    text = f"k-core (users {users}, items {items}) dropped {lost[0]} events, {lost[1]} users, {lost[2]} items"
    assert core.log.notes == (text,)


def test_what_falls_out_of_the_events_falls_out_of_the_tables():
    log = make_log(
        user=["a", "a", "b"],
        item=[1, 1, 2],
        users={"user": ["b", "a"], "age": [1.5, 2.5]},
        items={"item": [1, 2, 3], "kind": ["x", "y", "z"]},
    )
    core = k_core(Dataset.of(log), users=2, items=2)
    assert core.users.raw_ids.to_list() == ["a"]
    assert core.items.raw_ids.to_list() == [1]
    assert core.user_features.numeric.shape[0] == 2
    assert k_core(log, users=1, items=1).items.raw_ids.to_list() == [1, 2]
