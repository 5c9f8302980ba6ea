"""``--split.test 0``: nothing is held out for test, by any rule."""

from dataclasses import replace

import pytest

from suisen.data.dataset import Dataset
from suisen.data.splits import ClickRatio, GlobalTime, LeaveLast, Ratio, Sessions
from suisen.data.synthetic import World

TIMES = [GlobalTime(test=None), GlobalTime(test=0), GlobalTime(test="0")]
CLICKS = [ClickRatio(test=0), ClickRatio(test=0, by="time")]
RULES = [LeaveLast(test=0), Ratio(test=0), Ratio(test=0, by="random"), Sessions(test=0), *TIMES, *CLICKS]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_what_valid_does_not_hold_is_learnt(rule):
    log = World(users=30, items=20, seed=0).generate().log
    if rule in CLICKS:
        log = replace(log, events=log.events.with_columns(label=log.events["row"] % 2))
    split = Dataset.of(log).split(rule)
    assert len(split.test) == 0
    assert len(split.valid) > 0
    assert split.facts["test_events"] == 0
    assert len(split.train.events) + split.facts["valid_events"] == log.events.height
    whole = Dataset.of(log).split(replace(rule, valid=None if isinstance(rule, GlobalTime) else 0))
    assert (len(whole.test), whole.valid, len(whole.train.events)) == (0, None, log.events.height)
