"""Popularity counts positives of train, nothing else."""

from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given

from suisen.data.dataset import Dataset
from suisen.models import Popularity
from suisen.training.trainer import fit
from tests.helpers import in_order, logs
from tests.models.toys import asked


@given(log=logs())
def test_counts_of_positives(log):
    data = Dataset.of(log)
    net, curves = fit(Popularity(), data)
    wanted = Counter(event["item"] for event in in_order(log) if event.get("label", 1))
    items = data.items.raw_ids.to_list()
    scores = net.score_all(asked(data))
    assert curves == []
    for row in scores:
        assert row.tolist() == [0, *(float(wanted[item]) for item in items)]
    assert torch.equal(net.query_vectors(asked(data)), torch.ones(len(scores), 1))
