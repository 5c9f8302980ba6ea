"""Finds the endpoints of a path."""

from collections.abc import Sequence
from typing import Any

from suisen.errors import unknown
from suisen.serving.contract import Endpoint
from suisen.serving.exchange import Exchange
from suisen.serving.problems import Refusal


class Preflight(Exception):
    """A browser asks beforehand what a page may ask for."""

    def __init__(self, methods: str) -> None:
        """``methods``: those of the path."""
        super().__init__(methods)
        self.methods = methods


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
            exchange.route = exact[method].path
            return exact[method]
        head, slash, last = exchange.path.rpartition("/")
        by_method = {**(self._table.get((head + slash, True), {}) if last else {}), **exact}
        exchange.segment = last
        if not by_method:
            raise Refusal("not_found", str(unknown("path", exchange.path[:80], self._paths)))
        exchange.route = by_method[method if method in by_method else next(reversed(by_method))].path
        if method not in by_method:
            allowed = ", ".join(each for name in by_method for each in (["GET", "HEAD"] if name == "GET" else [name]))
            if exchange.method == "OPTIONS" and b"access-control-request-method" in exchange.headers:
                raise Preflight(allowed)
            raise self.no_method(exchange, allowed)
        return by_method[method]

    @staticmethod
    def no_method(exchange: Exchange, allowed: str) -> Refusal:
        """The refusal (405) of a method that is none of those ``allowed``."""
        said = f"method = {exchange.method!r} is not known here; {exchange.path[:80]} takes {allowed}"
        return Refusal("method_not_allowed", said, ((b"allow", allowed.encode()),))
