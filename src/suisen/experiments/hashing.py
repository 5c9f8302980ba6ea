"""From (salt, unit) to a number in [0, 1) that is the same in every language: three public functions, stated here.

**suisen-1** is MurmurHash3 x86 32-bit (Appleby, public domain), which every language has::

    seed = murmur3_32(UTF-8 of the salt, 0)
    u    = murmur3_32(UTF-8 of the unit, seed) / 2^32

**growthbook-2** is GrowthBook's public "hash v2", FNV-1a 32-bit twice, so that its clients assign the same::

    n = fnv1a_32(decimal digits of fnv1a_32(salt + unit)) mod 10,000
    u = n / 10,000

**growthbook-1** is its older "hash v1", for experiments that started under it, and for its namespaces::

    u = fnv1a_32(unit + salt) mod 1,000 / 1,000

Its draws by two salts are not independent: what two salts have in common ends the text, and FNV-1a mixes its last
characters little.  GrowthBook made v2 for that; start nothing new with v1.

A unit that is a number is hashed as its decimal text.  As in JavaScript, FNV-1a takes UTF-16 code units, which are the
bytes for all of ASCII.  ``vectors.json``, beside this file, holds numbers to test a client against.

Whole columns are hashed in chunks: the texts of a chunk become a matrix of bytes, padded with zeros, and each
step of the hash is one operation over a column of that matrix.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from suisen.errors import InputError, unknown

Hash = Literal["suisen-1", "growthbook-2", "growthbook-1"]
HASHES: tuple[Hash, ...] = ("suisen-1", "growthbook-2", "growthbook-1")
SIZES: dict[str, int] = {"suisen-1": 2**32, "growthbook-2": 10_000, "growthbook-1": 1_000}
"""How many numbers each can give."""
UNITS_PER_CHUNK = 16_384
"""Units that are hashed in one piece: their matrices stay in the cache."""
BYTES_PER_CHUNK = 2**21
"""Largest padded matrix; a chunk whose longest unit makes it larger is halved."""
BASIS, PRIME = 0x811C9DC5, 0x01000193
WORD = 0xFFFFFFFF
U32 = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float64]


def murmur3_32(data: bytes, seed: int = 0) -> int:
    """MurmurHash3 x86 32-bit of ``data``.

    >>> hex(murmur3_32(b"The quick brown fox jumps over the lazy dog", 0x9747B28C))
    '0x2fa826cd'
    """
    h, whole = seed, len(data) // 4 * 4
    for start in range(0, whole, 4):
        h ^= _scrambled(int.from_bytes(data[start : start + 4], "little"))
        h = (_rotated(h, 13) * 5 + 0xE6546B64) & WORD
    h ^= _scrambled(int.from_bytes(data[whole:], "little")) ^ len(data)
    h = ((h ^ h >> 16) * 0x85EBCA6B) & WORD
    h = ((h ^ h >> 13) * 0xC2B2AE35) & WORD
    return h ^ h >> 16


def fnv1a_32(text: str, state: int = BASIS) -> int:
    """FNV-1a 32-bit of the UTF-16 code units of ``text``, from ``state`` on.

    >>> hex(fnv1a_32("foobar"))
    '0xbf9cf968'
    """
    units = text.encode("utf-16-le", "surrogatepass")
    for low, high in zip(units[::2], units[1::2], strict=True):
        state = ((state ^ (low | high << 8)) * PRIME) & WORD
    return state


def hashed_one(salt: str, unit: str | int, how: str = "suisen-1") -> float:
    """The number in [0, 1) of one unit.

    >>> hashed_one("seed", "a", "growthbook-2")
    0.0505
    """
    if how == "suisen-1":
        return murmur3_32(str(unit).encode(), murmur3_32(salt.encode())) / 2**32
    if how == "growthbook-2":
        return fnv1a_32(str(fnv1a_32(f"{salt}{unit}"))) % 10_000 / 10_000
    if how == "growthbook-1":
        return fnv1a_32(f"{unit}{salt}") % 1_000 / 1_000
    raise unknown("hash", how, HASHES)


def hashed(salt: str, units: pl.Series, how: str = "suisen-1") -> Floats:
    """(n,) numbers in [0, 1): ``hashed_one`` of every unit.  ``units`` are text without nulls (``as_units``)."""
    out: Floats = hashed_by([salt], units, how)[0]
    return out


def hashed_by(salts: Sequence[str], units: pl.Series, how: str = "suisen-1") -> Floats:
    """(salts, n): ``hashed`` by each salt; what does not depend on the salt is done once."""
    if how not in HASHES:
        raise unknown("hash", how, HASHES)
    out, size = np.empty((len(salts), len(units))), SIZES[how]
    for start, part in _chunks(units):
        for place, row in enumerate(_HASHED[how](part, salts)):
            out[place, start : start + len(part)] = (row if size == 2**32 else row % np.uint32(size)) / float(size)
    return out


def as_units(units: Any, name: str = "unit") -> pl.Series:
    """A column of units (Polars, Arrow or a list of text or integers) as text.

    Raises InputError for a type that is no id, for nulls and for empty ids.
    """
    if isinstance(units, str):
        raise InputError(f"{name} = {units!r} is one unit; give a column of them")
    try:
        column = units if isinstance(units, pl.Series) else pl.Series(name, units)
    except (TypeError, pl.exceptions.PolarsError):
        raise InputError(f"{name} is no column of units; give text or integers, one kind for all") from None
    if column.dtype != pl.String:
        if not (column.dtype.is_integer() or column.dtype in (pl.Categorical, pl.Enum, pl.Null)):
            raise InputError(f"{name} holds {column.dtype}; units are text or integers")
        column = column.cast(pl.String)
    if missing := column.null_count():
        raise InputError(f"{name} holds {missing} nulls; a unit without an id cannot be assigned, leave it out")
    if empty := int((column == "").sum()):
        raise InputError(f"{name} holds {empty} empty ids; a unit without an id cannot be assigned, leave it out")
    return column


def _chunks(units: pl.Series) -> Iterator[tuple[int, pl.Series]]:
    for start in range(0, len(units), UNITS_PER_CHUNK):
        yield from _halved(start, units.slice(start, UNITS_PER_CHUNK))


def _halved(start: int, part: pl.Series) -> Iterator[tuple[int, pl.Series]]:
    """One very long unit would make the matrix of its whole chunk as wide as itself."""
    longest: Any = part.str.len_bytes().max()
    if len(part) == 1 or len(part) * longest <= BYTES_PER_CHUNK:
        yield start, part
        return
    half = len(part) // 2
    yield from _halved(start, part.slice(0, half))
    yield from _halved(start + half, part.slice(half))


def _murmur3(units: pl.Series, salts: Sequence[str]) -> Iterator[U32]:
    """(n,) MurmurHash3 of each text, by each salt's seed; words of four bytes, little endian, lie in rows."""
    sizes = units.str.len_bytes().to_numpy().astype(np.uint32)
    data = np.frombuffer(units.str.join("").item().encode(), np.uint8)
    width = (int(sizes.max()) // 4 + 1) * 4
    words = np.ascontiguousarray(_padded(data, sizes, width).view("<u4").T).astype(np.uint32, copy=False)
    words *= np.uint32(0xCC9E2D51)
    _rotate(words, 15, np.empty_like(words))
    words *= np.uint32(0x1B873593)  # padding is scrambled to 0, and so leaves h as it is
    for salt in salts:
        yield _murmur3_of_words(words, sizes, murmur3_32(salt.encode()))


def _murmur3_of_words(words: U32, sizes: U32, seed: int) -> U32:
    h = np.full(len(sizes), seed, np.uint32)
    spare, whole = np.empty_like(h), sizes // np.uint32(4)
    least = int(whole.min())
    for place, word in enumerate(words):
        h ^= word
        stirred = h if place < least else h.copy()
        _rotate(stirred, 13, spare)
        stirred *= np.uint32(5)
        stirred += np.uint32(0xE6546B64)
        if place >= least:
            np.copyto(h, stirred, where=whole > place)
    h ^= sizes
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h ^= h >> np.uint32(shift)
        h *= np.uint32(factor)
    return h ^ h >> np.uint32(16)


def _salt_first(units: pl.Series, salts: Sequence[str]) -> Iterator[U32]:
    """(n,) FNV-1a of the decimal digits of FNV-1a of salt + text, by each salt."""
    for h in _fnv1a(units, [fnv1a_32(salt) for salt in salts]):
        yield _fnv1a_of_digits(h)


def _unit_first(units: pl.Series, salts: Sequence[str]) -> Iterator[U32]:
    """(n,) FNV-1a of text + salt, by each salt."""
    (begun,) = _fnv1a(units, [BASIS])
    for salt in salts:
        h = begun.copy()
        for code in np.frombuffer(salt.encode("utf-16-le", "surrogatepass"), "<u2"):
            h ^= code
            h *= np.uint32(PRIME)
        yield h


def _fnv1a(units: pl.Series, states: Sequence[int]) -> Iterator[U32]:
    """(n,) FNV-1a of each text, from each state on."""
    sizes = units.str.len_bytes().to_numpy().astype(np.uint32)
    text = units.str.join("").item()
    if text.isascii():
        data: npt.NDArray[Any] = np.frombuffer(text.encode(), np.uint8)
    else:
        beyond = units.str.count_matches(r"[\x{10000}-\x{10FFFF}]")
        sizes = (units.str.len_chars() + beyond).to_numpy().astype(np.uint32)
        data = np.frombuffer(text.encode("utf-16-le"), "<u2")
    columns = np.ascontiguousarray(_padded(data, sizes, int(sizes.max())).T)
    least = int(sizes.min())
    factors = {at: np.where(sizes > at, np.uint32(PRIME), np.uint32(1)) for at in range(least, len(columns))}
    for state in states:
        h = np.full(len(units), state, np.uint32)
        for place, column in enumerate(columns):
            h ^= column
            h *= factors.get(place, np.uint32(PRIME))
        yield h


def _fnv1a_of_digits(numbers: U32) -> U32:
    """(n,) FNV-1a of the numbers as decimal text; leading zeros are no part of it."""
    digits, rest, tens = np.empty((10, len(numbers)), np.uint32), numbers.copy(), np.empty_like(numbers)
    for place in range(9, -1, -1):
        np.floor_divide(rest, np.uint32(10), out=tens)
        np.multiply(tens, np.uint32(10), out=digits[place])
        np.subtract(rest, digits[place], out=digits[place])
        rest, tens = tens, rest
    digits += np.uint32(ord("0"))
    h = np.full(len(numbers), BASIS, np.uint32)
    for place, digit in enumerate(digits):
        h ^= digit
        h *= np.uint32(PRIME)
        if place < 9:  # so far only zeros: begin anew
            np.copyto(h, np.uint32(BASIS), where=numbers < np.uint32(10 ** (9 - place)))
    return h


def _padded(data: npt.NDArray[Any], sizes: U32, width: int) -> npt.NDArray[Any]:
    """(n, width): row i is the next ``sizes[i]`` elements of ``data``, then zeros."""
    out = np.zeros((len(sizes), width), data.dtype)
    out[np.arange(width, dtype=np.uint32) < sizes[:, None]] = data
    return out


def _rotate(values: U32, left: int, spare: U32) -> None:
    np.left_shift(values, np.uint32(left), out=spare)
    np.right_shift(values, np.uint32(32 - left), out=values)
    np.bitwise_or(values, spare, out=values)


def _rotated(value: int, left: int) -> int:
    return (value << left | value >> 32 - left) & WORD


def _scrambled(word: int) -> int:
    return (_rotated(word * 0xCC9E2D51 & WORD, 15) * 0x1B873593) & WORD


_HASHED = {"suisen-1": _murmur3, "growthbook-2": _salt_first, "growthbook-1": _unit_first}
