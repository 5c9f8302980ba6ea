"""The text of a file, whatever it was written in → UTF-8 bytes."""

import codecs
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from encodings.aliases import aliases

from suisen.errors import InputError, unknown

CODECS: Mapping[str, tuple[str, ...]] = {
    "utf-8": ("utf_8", "utf_8_sig", "ascii"), "utf-16": ("utf_16",), "utf-16-le": ("utf_16_le",),
    "utf-16-be": ("utf_16_be",), "latin-1": ("latin_1",), "iso-8859-2": ("iso8859_2",),
    "iso-8859-15": ("iso8859_15",), "cp1250": ("cp1250",), "cp1251": ("cp1251",), "cp1252": ("cp1252",),
    "cp1253": ("cp1253",), "cp1254": ("cp1254",), "cp1255": ("cp1255",), "cp1256": ("cp1256",),
    "cp1257": ("cp1257",), "cp1258": ("cp1258",), "cp874": ("cp874", "tis_620"), "cp850": ("cp850",),
    "cp866": ("cp866",), "koi8-r": ("koi8_r",), "koi8-u": ("koi8_u",), "mac-roman": ("mac_roman",),
    "shift-jis": ("cp932", "shift_jis"), "euc-jp": ("euc_jp",), "gb18030": ("gb18030", "gbk", "gb2312"),
    "big5": ("big5", "cp950", "big5hkscs"), "euc-kr": ("cp949", "euc_kr"),
}  # fmt: skip
"""Encoding → the codecs that are tried, in order: cp932 is Shift-JIS as it is met, with the vendor's characters."""
SAMPLE = 1 << 18
"""Bytes, from the first line that is not UTF-8, by which the encoding is guessed."""
MANY = 20
"""More bytes beyond ASCII than are UTF-8 by chance."""
EVERYDAY: Mapping[str, tuple[str, Iterable[int]]] = {
    "euc-kr": ("euc_kr", range(0xB0, 0xC9)), "shift-jis": ("cp932", (0x82, 0x83, *range(0x88, 0x98))),
    "gb18030": ("gbk", range(0xB0, 0xD8)), "euc-jp": ("euc_jp", (0xA4, 0xA5, *range(0xB0, 0xD0))),
    "big5": ("big5", range(0xA4, 0xC7)), "cp1251": ("cp1251", range(0xC0, 0x100)),
    "koi8-r": ("koi8_r", range(0xC0, 0x100)), "cp1252": ("cp1252", range(0x80, 0x100)),
    "cp1250": ("cp1250", range(0x80, 0x100)),
}  # fmt: skip
"""Encoding → the codec and the first bytes of its everyday letters, which each standard has in one block."""
LATIN = {"cp1251": False, "koi8-r": False, "cp1252": True, "cp1250": True}
"""Encoding of one byte a letter → whether words are ASCII letters with a few others among them."""


def _plain(name: str) -> str:
    return "".join(sign for sign in name.lower() if sign.isalnum())


def encoding_named(name: str) -> str:
    """The key of ``CODECS`` that any usual spelling means: utf8, UTF_8, utf-8-sig, sjis, windows-1252, …

    Raises InputError for an encoding that is not known.
    """
    spelt = {_plain(codec): key for key, names in CODECS.items() for codec in (key, *names)}
    spelt |= {_plain(other): spelt[_plain(codec)] for other, codec in aliases.items() if _plain(codec) in spelt}
    spelt["windows31j"] = "shift-jis"
    if _plain(name) not in spelt:
        raise unknown("encoding", name, CODECS)
    return spelt[_plain(name)]


def as_utf8(name: str, data: bytes, encoding: str) -> bytes:
    """The text as UTF-8 without a byte-order mark; UTF-8 itself is checked where it is parsed (``decoded``).

    A byte-order mark wins over ``encoding``.  Raises InputError for an unknown encoding and for bytes that are not of
    the encoding given, or that are UTF-8 where another one is.
    """
    chosen = encoding_named(encoding)
    if data.startswith(codecs.BOM_UTF8):
        return data[3:]
    chosen = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else chosen
    if chosen == "utf-8":
        if data[:200].count(0) * 4 > len(data[:200]):
            raise InputError(f'{name} looks like UTF-16 without a mark; pass encoding="utf-16-le" or "utf-16-be"')
        return data
    with suppress(UnicodeDecodeError):  # by chance a few bytes may be UTF-8 too, not many
        if len(data) - len(data.decode()) > MANY:
            raise InputError(f"{name} is UTF-8, not {chosen}; leave encoding= out")
    for codec in CODECS[chosen]:
        with suppress(UnicodeError):
            return data.decode(codec).encode()
    try:
        return data.decode(CODECS[chosen][0]).encode()
    except UnicodeError as error:
        line = data.count(b"\n", 0, getattr(error, "start", 0)) + 1
        raise InputError(f'{name}: line {line} is not {chosen}; pass encoding="utf-8" or write it anew') from None


def decoded(name: str, data: bytes) -> str:
    """The text of UTF-8 bytes.  Raises InputError naming the first bad line and the likely encoding."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        start = data.rfind(b"\n", 0, error.start) + 1
        line = data.count(b"\n", 0, start) + 1
        damaged = start - len(data[:start].decode()) > MANY  # the lines before it are UTF-8, and more than ASCII
        near = [] if damaged else likely(data[start : start + SAMPLE])
        mend = "mend that line or write the file anew"
        if near:
            mend = f'it looks like {" or ".join(near)}; pass encoding="{near[0]}"'
        raise InputError(f"{name}: line {line} is not UTF-8; {mend}") from None


# -- which encoding is it? ---------------------------------------------------------------------------------------------


def likely(data: bytes) -> list[str]:
    """Encodings that the bytes look like; several where they fit alike; none where nothing fits.

    Each encoding is tried on the lines that are not ASCII; the one wins whose text has the largest share of everyday
    characters.
    """
    lines = [line for line in data.split(b"\n") if not line.isascii()]
    whole = b"\n".join(lines[:-1] if len(lines) > 1 and len(data) >= SAMPLE else lines)
    scores = {name: round(_everyday(whole, name), 1) for name in EVERYDAY}
    found = [name for name, score in scores.items() if score == max(scores.values()) >= 0.5]
    same = found[:1] == ["cp1252"] and not re.search(rb"[\x80-\x9f]", whole)
    return ["latin-1", *found] if same else found


def _everyday(data: bytes, name: str) -> float:
    """Share of the letters beyond ASCII that are everyday ones; of one byte: in words of one case behind the first."""
    codec, first = EVERYDAY[name]
    try:
        words = re.findall(r"[^\W\d_]+" if name in LATIN else r"[^\W\d_]", data.decode(codec))
    except UnicodeDecodeError:
        return 0.0
    words = [word for word in words if not word.isascii()]
    good = [word for word in words if all(sign.isascii() or sign.encode(codec)[0] in first for sign in word)]
    if name in LATIN:
        good = [word for word in good if word[1:].islower() or (word.isupper() and len(word) > 1)]
        good = [word for word in good if any(map(str.isascii, word)) == LATIN[name]]
    return sum(map(len, good)) / max(sum(map(len, words)), 1)
