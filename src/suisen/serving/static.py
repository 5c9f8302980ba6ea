"""Pages as a listener sends them: under headers that let nothing but this server's own files run, style or be asked."""

from functools import cache
from importlib.resources import files

from suisen.serving.exchange import Reply

HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
        b"form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
"""No other page may frame it either."""


def sent(media_type: str, body: bytes) -> Reply:
    """A page, or a part of one, in UTF-8."""
    return Reply(200, f"{media_type}; charset=utf-8".encode(), body, HEADERS)


@cache
def sent_files(media_type: str, *names: str) -> Reply:
    """Files of the package, one behind the other; read once."""
    return sent(media_type, b"\n".join(files("suisen").joinpath(name).read_bytes() for name in names))
