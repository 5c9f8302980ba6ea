"""A bundle of several sources over HTTP: the answers of the library, and who they come from."""

from __future__ import annotations

import json

import pytest

from suisen.models import EASE, FM, IALS
from suisen.pipeline.recommender import Recommender
from suisen.recommending import bundle
from suisen.serving.pricing import Prices
from suisen.serving.settings import Settings
from tests.fitted import UNIONS, fitted, small_split
from tests.serving.client import Client


@pytest.mark.parametrize("name", UNIONS)
def test_what_is_served_is_what_the_library_recommends(name, tmp_path):
    rec = fitted(name)
    system = bundle.load(rec.save(tmp_path / "b"))
    users = ["u0001", "u0007", "u0033"]
    with Client(lambda: system, Settings(deadline_s=60.0)) as client:
        asked = {"queries": [{"user_id": user} for user in users], "k": 7}
        answers = client.post("/v1/recommend", asked).json["answers"]
        told = client.get("/v1/bundle").json
    wanted = rec.recommend(users, 7)
    for user, answer in zip(users, answers):
        mine = wanted.filter(wanted["user_id"] == user)
        assert [item["item_id"] for item in answer["items"]] == mine["item_id"].to_list()
        assert [item["score"] for item in answer["items"]] == pytest.approx(mine["score"].to_list(), abs=1e-4)
    assert told["retriever"] is None
    assert ", ".join(one["source"] for one in told["sources"]) == name.partition(" + ")[0]
    assert (told["plan"], told["on_torch"]) == (None, "several sources are merged on torch")
    json.dumps(told)


def test_sources_are_named_with_their_quotas_and_one_source_too():
    rec = Recommender([IALS(dim=4, epochs=1), EASE(), IALS(dim=2, epochs=1)], quotas={"ials-2": 9}, candidates=20)
    system = rec.fit(small_split().train).system
    several = [("ials", 0), ("ease", 0), ("ials-2", 9)]
    for each, wanted in ((system, several), (fitted("ease + fm").system, [("ease", 0)])):
        with Client(lambda system=each: system, Settings(deadline_s=60.0)) as client:
            told = client.get("/v1/bundle").json["sources"]
        assert [(one["source"], one["quota"]) for one in told] == wanted
        assert told[0]["name"] == told[0]["source"]
        assert told[0]["hyper"]


def test_several_sources_cost_more_than_one():
    from suisen.recommending.queries import RecommendOptions
    from suisen.serving.messages import Query

    train, query = small_split().train, [Query(user_id="u0001")]
    one, two = (
        Prices(Recommender(sources, FM(dim=2, epochs=1), candidates=20).fit(train).system)
        for sources in ([EASE()], [EASE(), IALS(dim=4, epochs=1)])
    )
    assert one.lists(query, RecommendOptions(k=5)) < two.lists(query, RecommendOptions(k=5))
    assert one.ranked(RecommendOptions(k=5)) == two.ranked(RecommendOptions(k=5)) == 20
