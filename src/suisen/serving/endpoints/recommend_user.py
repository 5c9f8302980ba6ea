"""``GET /v1/recommend/{user}``: the short form of ``POST /v1/recommend`` for one user."""

from suisen.serving.contract import Endpoint, Pending
from suisen.serving.endpoints.recommend import CODES, RecommendAnswer, listed
from suisen.serving.exchange import Exchange
from suisen.serving.messages import ListOptions, Query
from suisen.serving.service import Service


def recommend_user(service: Service, exchange: Exchange, message: ListOptions) -> Pending:
    """The list of one user."""
    return listed(service, exchange, [Query(user_id=exchange.id_in_path())], message.options())


ENDPOINT = Endpoint(
    "GET",
    "/v1/recommend/{user}",
    recommend_user,
    takes=ListOptions,
    answers=RecommendAnswer,
    codes=CODES,
    notes="With unknown = error a user that the model cannot answer is refused (code unanswerable).",
)
