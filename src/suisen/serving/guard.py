"""Who may ask, and how often: what is checked of a request before its body is read."""

from suisen.serving.cors import Cors
from suisen.serving.exchange import Exchange
from suisen.serving.keys import Keys, Scope
from suisen.serving.limits import Limits
from suisen.serving.problems import Refusal
from suisen.serving.settings import Settings
from suisen.serving.siblings import Group
from suisen.serving.telemetry import Telemetry


class Guard:
    """The keys, rates and origins of one server.  What is not set costs nothing; a key 4 µs, a rate 3 more."""

    def __init__(
        self, settings: Settings, telemetry: Telemetry, group: Group | None = None, keys: Keys | None = None
    ) -> None:
        """``group``: the workers that share the rates; ``keys``: others than those of the settings.

        Raises InputError where keys or origins are of no use.
        """
        self.keys = Keys(settings.api_keys, settings.api_key) if keys is None else keys
        self.cors = Cors(settings.cors_origin) if settings.cors_origin else None
        self.asks = bool(self.keys) or settings.rate_per_address is not None
        """Whether ``check`` is to be called."""
        self._settings, self._telemetry = settings, telemetry
        self._limits = Limits(group)
        self._limits.know(self.keys.names)

    def look(self) -> None:
        """Reads the keys again where their file changed."""
        if self.keys.look():
            self._limits.know(self.keys.names)

    def check(self, exchange: Exchange, scope: Scope) -> None:
        """Refuses a request without a key that may do this (401, 403), and one too many (429)."""
        try:
            if self.keys:
                key = self.keys.check(exchange.headers, scope)
                exchange.key = key.name
                if key.rate is not None:
                    exchange.added += self._limits.key(key.name, key.rate, key.burst)
            elif self._settings.rate_per_address is not None:
                rate, burst = self._settings.rate_per_address, self._settings.burst_per_address
                exchange.added += self._limits.address(exchange.address, rate, burst)
        except Refusal as refusal:
            if refusal.code == "rate_limited":
                self._telemetry.rate_limited.labels(exchange.key).inc()
            else:
                self._telemetry.unauthorized.inc()
            raise
