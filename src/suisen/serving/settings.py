"""How the server runs: one frozen object, its bounds checked where it is made."""

from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from suisen.errors import InputError
from suisen.parameters import parameters

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Count = Annotated[int, Field(gt=0, strict=True)]
MAX_PRICE, BATCHED = 2_000_000, 30
"""Units of ``serving.pricing``; how many times as much a batch may cost."""
STATE_BYTES = ROW_BYTES = 256 << 20


@parameters
class Settings:
    """Options of the server; none but ``state_bytes``, ``blocklist`` and ``rules`` changes an answer."""

    deadline_s: Seconds = 1.0
    """Seconds until a request that has no answer yet is refused with 503."""
    max_wait: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False, strict=True)] = 0.5
    """Share of that time that may pass before a request is computed: one that would wait longer is refused with 503 at
    once."""
    max_queries: Count = 8192
    """Most queries that wait or are computed, in the event loop and on each thread; further ones are refused with
    503."""
    max_price: Count = MAX_PRICE
    """Most units of price of a request; one above it is refused with 422, and so is a batch above 30 times that.  A
    unit is about a microsecond of one core (``docs/serving.md``)."""
    queries_per_batch: Count = 32
    """Most queries per call of the model on the thread beside the event loop.  More are slower each: candidates of 32
    lists (500 × 80 floats each) are 5 MB, about what a core's caches hold."""
    queries_per_turn: Count = 60
    """Most queries per call of the answer plan; between two calls the event loop reads and writes."""
    front: Literal["fast", "asgi"] = "fast"
    """What speaks HTTP: ``fast``, our own protocol, which the limits below hold for; ``asgi``, uvicorn."""
    max_body_bytes: Count = 1 << 20
    """Largest body of a request."""
    max_url_bytes: Count = 8 << 10
    """Longest URL of a request."""
    max_header_bytes: Count = 16 << 10
    """Most bytes of a request's headers."""
    first_byte_s: Seconds = 10.0
    """Most seconds from a connection to the first byte of its first request."""
    header_s: Seconds = 10.0
    """Most seconds from a request's first byte to the end of its headers."""
    body_s: Seconds = 30.0
    """Most seconds from there to the end of its body, and most in which a client takes nothing of its answer."""
    keep_alive_s: Seconds = 75.0
    """Seconds after which a connection without a request is closed; longer than balancers keep theirs, so that it is
    never the server who closes one under a request."""
    max_connections: Count = 10_000
    """Most open connections; further ones are refused with 503."""
    max_connections_per_address: Count | None = None
    """Most of them from one address (of IPv6: one network of 64 bits); none: no more than are still free, so that one
    address cannot take the last.  Behind a balancer all come from its own: give as many as ``max_connections``."""
    api_keys: Path | None = None
    """File of the keys that are taken (``suisen keys new`` makes its lines); it is read again when it changes."""
    api_key: str | None = field(default=None, repr=False)
    """One key, for everything but ``/admin``; give it in the environment as SUISEN_API_KEY: a command line can be read
    by every user of the machine."""
    insecure: bool = False
    """Listen on an address that other machines reach, or for the admin's requests, though no key is asked for."""
    rate_per_address: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)] | None = None
    """Most requests per second of one address that comes without a key; none: any; health is not counted."""
    burst_per_address: Count = 100
    """Most of them at once."""
    cors_origin: tuple[str, ...] = ()
    """Origins of pages that may ask from a browser, like https://shop.example; *: all."""
    trusted_keys: Path | None = None
    """File or folder of public keys, of ``suisen bundle keygen``, of which one must have signed what is served; none:
    nobody need have."""
    private_dir: Path | None = None
    """Folder in which the server keeps the copy of the bundle that it serves from; none: where temporary files lie."""
    log_dir: Path | None = None
    """Folder of the event log; None: events are refused (``serve`` puts it beside the bundle)."""
    impressions: bool = False
    """Log the lists that were answered, too."""
    log: str | None = None
    """Where the log goes beside its folder: kafka://host:9092/topic (docs/serving.md); none: nowhere."""
    spool_bytes: Count = 1 << 30
    """Bytes of the log that may wait for the broker; beyond it events are refused with 503 and lists are not logged."""
    durable: Literal["os", "disk", "broker"] = "os"
    """What 202 says of events: they are with the operating system (and outlive the process), on the disk (and outlive
    a power cut), or in Kafka (which ``log`` names)."""
    log_max_bytes: Count | None = None
    """Size above which a file of the log is rotated; none: never."""
    log_max_age: Seconds | None = None
    """Seconds of one file of the log, counted from 1970: with 86400 each day (UTC) has its own; none: no matter."""
    log_keep: Count | None = None
    """Rotated files that are kept, of each log; none: all."""
    repeat_ids: Annotated[int, Field(ge=0, strict=True)] = 100_000
    """Ids of events that are remembered, the newest, so that none counts twice; 250 bytes each, in every worker."""
    repeat_s: Seconds = 86_400.0
    """Seconds for which they are."""
    state_bytes: Annotated[int, Field(ge=0, strict=True)] = STATE_BYTES
    """Memory for what users did since the bundle was made, about 460 bytes each; beyond it those who were longest
    neither heard nor asked of are answered from the bundle again; 0: events are written and nothing else."""
    row_bytes: Annotated[int, Field(ge=0, strict=True)] = ROW_BYTES
    """Memory for what was computed of users who asked, about 2,400 bytes each (``docs/serving.md``); beyond it those
    who were longest not asked for are computed again when they are; 0: everybody is, at each query."""
    warm_s: Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)] = 0.5
    """Most seconds before the server is ready in which that is computed of the users who acted last."""
    probe_share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)] = 0.01
    """Most of a core that is spent on watching the quality of live answers: one a second at most is answered again by
    the precise way, and scores are compared with the bundle's own; 0: nothing is."""
    users: str | None = None
    """Redis that servers on several hosts share what visitors did in: redis://host:port/db, rediss:// with TLS, or
    unix:///path; none: this server's memory alone.  A password in SUISEN_USERS_PASSWORD is seen by nobody."""
    users_timeout_s: Seconds = 0.01
    """Seconds for a round trip to it, 0.005 to 0.02 in one network; what is later answers from what is at hand."""
    users_ttl_s: Annotated[float, Field(ge=1, le=1e9, allow_inf_nan=False, strict=True)] = 7 * 86_400.0
    """Seconds after a visitor's last event in which it keeps their events, and rows since they were computed."""
    otel: bool = False
    """Send a span of each request to OpenTelemetry (extra ``otel``); its OTEL_* variables say where to."""
    access_log: bool = False
    """One log line per request."""
    admin_port: Annotated[int, Field(ge=0, le=65_535, strict=True)] | None = None
    """Port of the admin listener, which changes versions and blocks items; 0: a free one; none: there is none."""
    admin_key: str | None = field(default=None, repr=False)
    """One key for the admin listener; give it in the environment as SUISEN_ADMIN_KEY.  Keys of ``api_keys`` that are
    allowed ``admin`` do as well."""
    admin_host: str = "127.0.0.1"
    """Address of the admin listener."""
    watch: str | None = None
    """Folder, or prefix of an object store like s3://bucket/models (extra ``remote``), whose newest bundle answers from
    when it appears; one that cannot be served is told of and left."""
    blocklist: Path | None = None
    """File of items that no list may hold: one id a line, JSON or CSV; it is read again when it changes."""
    rules: Path | None = None
    """Rules of the last stage, .toml or .json, in place of those of the bundle (docs/rules.md); read whenever a version
    is loaded."""
    former_s: Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)] = 600.0
    """Seconds that a version stays loaded after another took its place, so that one can go back at once; its memory is
    in use so long."""
    drain_s: Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)] = 1.0
    """Seconds between SIGTERM, when ready turns to 503, and the closing of the port: let balancers see it."""
    grace_s: Seconds = 30.0
    """Most seconds that running requests get to finish."""


def check_admin(settings: Settings) -> None:
    """Raises InputError where an admin listener would ask nobody for a key, and nobody said that it may."""
    if settings.admin_port is not None and not (settings.api_keys or settings.admin_key or settings.insecure):
        raise InputError(
            f"admin_port = {settings.admin_port} is where models are changed, and no key is asked for there: give "
            "admin_key= from the environment (SUISEN_ADMIN_KEY), or api_keys= with a key allowed admin, or say "
            "insecure=True"
        )


def keyed(settings: Settings) -> bool:
    """Whether it is said who may ask: whoever has a key, or everybody."""
    return settings.api_keys is not None or settings.api_key is not None or settings.insecure
