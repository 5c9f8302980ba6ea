"""Finds the endpoints of a path."""

from collections.abc import Sequence
from typing import Any

from suisen.errors import unknown
from suisen.serving.contract import Endpoint
from suisen.serving.exchange import Exchange
from suisen.serving.problems import Refusal


class Routes:
    """Endpoints by path and method."""

    def __init__(self, endpoints: Sequence[Endpoint[Any]]) -> None:
        self._table: dict[tuple[str, bool], dict[str, Endpoint[Any]]] = {}
        for endpoint in endpoints:
            self._table.setdefault((endpoint.prefix, bool(endpoint.variable)), {})[endpoint.method] = endpoint
        self._paths = [endpoint.path for endpoint in endpoints]

    def find(self, exchange: Exchange) -> Endpoint[Any]:
        """The endpoint of a request, whose last segment it sets.  Refuses unknown paths (404) and methods (405).

        A path that is written out goes before one with a variable, method by method.
        """
        method = "GET" if exchange.method == "HEAD" else exchange.method
        exact = self._table.get((exchange.path, False), {})
        if method in exact:
            return exact[method]
        head, slash, last = exchange.path.rpartition("/")
        by_method = {**(self._table.get((head + slash, True), {}) if last else {}), **exact}
        exchange.segment = last
        if not by_method:
            raise Refusal("not_found", str(unknown("path", exchange.path[:80], self._paths)))
        if method not in by_method:
            allowed = ", ".join(each for name in by_method for each in (["GET", "HEAD"] if name == "GET" else [name]))
            raise Refusal(
                "method_not_allowed",
                f"method = {exchange.method!r} is not known here; {exchange.path[:80]} takes {allowed}",
                ((b"allow", allowed.encode()),),
            )
        return by_method[method]
