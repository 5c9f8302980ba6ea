import re
from types import SimpleNamespace

import pytest

from suisen.models import EASE, RETRIEVERS, SECOND_STAGES, DeepFM
from suisen.runs.config import settings_in
from suisen.runs.facts import advice, data_facts, fact_lines, facts_of
from suisen.training.options import Curve, EpochRow
from tests.helpers import make_data


def curve(metrics, best, stopped="no better validation metric in 2 epochs"):
    rows = [EpochRow(place, 1.0, metric, 0.1, 10.0) for place, metric in enumerate(metrics, 1)]
    return Curve(rows, best, None if metrics[0] is None else metrics[best - 1], stopped)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (curve([0.2, 0.1, 0.1], 1), "the best of 3 epochs was epoch 1"),
        (curve([0.1, 0.2, 0.1, 0.1], 2), "the best of 4 epochs was epoch 2"),
        (curve([0.1, 0.2, 0.3, 0.1], 3), ""),
        (curve([0.1, 0.2], 2, "all 2 epochs done"), ""),
        (curve([None, None, None], 2), ""),
        (Curve(), ""),
    ],
)
def test_a_stage_that_was_best_at_once_says_what_to_try(found, said):
    lines = advice(SimpleNamespace(curves={"retriever": [], "ranker": [found]}, retriever=EASE(), ranker=DeepFM()))
    assert len(lines) == bool(said)
    if said:
        assert lines[0].startswith(f"ranker: {said}")
        assert f"--ranker.learning-rate {DeepFM().learning_rate / 3:.1g}, more --ranker.dropout" in lines[0]


def test_only_settings_that_the_model_has_are_named():
    found = curve([0.2, 0.1, 0.1], 1)
    models = [*RETRIEVERS.items(), *SECOND_STAGES.items()]
    for name, model in models:
        for line in advice(SimpleNamespace(curves={"ranker": [found]}, retriever=None, ranker=model())):
            known = {setting.flag for setting in settings_in("ranker" if name in SECOND_STAGES else "retriever", name)}
            named = set(re.findall(r"--[a-z.0-9-]+", line))
            assert named <= {flag.replace("--retriever", "--ranker") for flag in known}, name


@pytest.mark.parametrize(("again", "share"), [(0, "0.0%"), (1, "25.0%"), (3, "50.0%")])
def test_the_share_of_repeats_is_said(again, share):
    data = make_data(user=[*"aab", *"a" * again], item=[*"xyx", *"x" * again], time=range(3 + again))
    facts = data_facts(data)
    assert facts["repeats"] == again
    assert dict(fact_lines(facts))["repeats"].startswith(f"{share} of the events ({again})")


def test_items_that_were_only_shown_have_events():
    data = make_data(user=[*"aabb"], item=[*"xyxz"], time=range(4), label=[1, 0, 1, 0])
    assert sorted(facts_of("log", data, {}).item_counts) == [1, 1, 2]
