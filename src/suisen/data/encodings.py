"""The text of a file, whatever it was written in → UTF-8 bytes."""

from typing import Literal

from suisen.errors import InputError, unknown

Encoding = Literal["utf-8", "shift-jis", "latin-1"]
CODECS = {"utf-8": "utf-8", "shift-jis": "cp932", "latin-1": "latin-1"}
"""cp932 is Shift-JIS as it is met: with the vendor's characters."""


def as_utf8(name: str, data: bytes, encoding: Encoding) -> bytes:
    """The text as UTF-8 without a byte-order mark; UTF-8 itself is checked where it is parsed."""
    if encoding not in CODECS:
        raise unknown("encoding", encoding, CODECS)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{name} is UTF-16; write it as UTF-8")
    if encoding == "utf-8":
        return data.removeprefix(b"\xef\xbb\xbf")
    try:
        return data.decode(CODECS[encoding]).encode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f'{name}: line {line} is not {encoding}; pass encoding="utf-8" or write it anew') from None
