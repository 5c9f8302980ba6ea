"""The manifest of a bundle: its schema, checked whole before anything that it says is used.

``read`` decodes the bytes once, within bounds of size and nesting, and holds every field to ``Manifest``; ``verify``
holds the files to what it says of them.  What the bytes are signed with is ``suisen.recommending.signing``'s affair.
"""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from suisen.arguments import shown
from suisen.errors import BundleError, one_line
from suisen.recommending.place import MANIFEST

FORMAT = 2
"""1: the context features were called request features (``encoders.request``, crosses of ``request.device``)."""
MOST_BYTES = 256 << 20
"""Of a manifest: vocabularies of millions of values fit."""
DEPTH = 32
"""Deepest nesting of lists and objects."""
PARITY, PAIRS = "parity.json", "pairs.safetensors"
SOURCES = "sources"
"""Folder of the folders of several sources."""
MENDED = "copy the bundle again"
WHOLE = 2**63 - 1
PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
NAME = re.compile(rf"{PART}(/{PART})*")
"""A relative path with / between its parts: neither ``..`` nor a drive can be written so."""
UNLISTED = ("index", "plan", SOURCES)
"""Folders whose files are read where they are found: one that the manifest does not list is refused."""

Count = Annotated[int, Field(ge=0, le=WHOLE)]
Positive = Annotated[int, Field(ge=1, le=WHOLE)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Word = Annotated[str, StringConstraints(max_length=100_000)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
STRICT = ConfigDict(strict=True, extra="forbid", frozen=True)


class _Part(BaseModel):
    """Fields of exactly these types: 1 is no 1.0 that stands for true, and no field is unknown."""

    model_config = STRICT


class Described(_Part):
    """A model; its hyper-parameters are checked by the model itself."""

    name: Word
    hyper: dict[str, Any]


class SourceFields(_Part):
    """One of several sources; see ``suisen.recommending.sources``."""

    name: Annotated[str, StringConstraints(pattern=rf"^{PART}$", max_length=100)]
    model: Described
    index: dict[str, Word | Count | None] | None


class Counted(_Part):
    """What the bundle knows of the data; compared with its tables once they are read."""

    fingerprint: Word
    users: Count
    items: Positive
    events: Count
    has_time: bool


class EncodedColumn(_Part):
    """What was learnt of a feature column: ``suisen.data.encode.Column``."""

    name: Word
    kind: Literal["categorical", "numeric", "multi", "text"]
    vocabulary: list[str]
    mean: Finite
    scale: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    separator: Annotated[str, StringConstraints(min_length=1)] = "|"


def _distinct(given: Any) -> Any:
    names = [one.get("name") for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    if any(names.count(name) > 1 for name in names):
        raise ValueError("names a column twice")
    for one in given if isinstance(given, list) else []:
        words = one.get("vocabulary") if isinstance(one, dict) else None
        if isinstance(words, list) and len({str(word) for word in words}) < len(words):
            raise ValueError("has a value twice in a vocabulary")
    return given


Sources = Annotated[list[SourceFields], Field(min_length=2)]
Columns = Annotated[list[EncodedColumn], BeforeValidator(_distinct)]


class Encoders(_Part):
    """Of the three tables."""

    user: Columns
    item: Columns
    context: Columns


class SpeedFields(_Part):
    """``suisen.recommending.kernels.Speed``."""

    rescore: bool
    cut: Count
    quantised: bool
    finish: Count


class Agreed(_Part):
    """``suisen.recommending.plan.Agreement``."""

    identical: Share
    overlap: Share
    ndcg: Share
    precise_ndcg: Share
    queries: Count


class PlanFields(_Part):
    """A plan of the format that is read."""

    format: int
    candidates: Literal["torch", "compiled"]
    read: Share
    ranker: Literal["torch", "compiled"] | None
    best: Count
    speed: SpeedFields
    long_speed: SpeedFields
    long_identical: Share
    agreement: Agreed
    path: Word
    measured_on: Word


class Lists(_Part):
    """``suisen.pipeline.two_stage.RankerLists``; a field that is missing has the default there."""

    share: Share = 0.0
    most_questions: Count = 0
    candidates: Count = 0
    learnt: Count = 0
    history: Count = 0
    exclude_seen: bool = True


class Manifest(_Part):
    """All fields, in this format's words; what older versions did not write has a default."""

    sha256: Sha256
    format: int
    suisen: Word
    created: Word
    libraries: dict[str, Word]
    retriever: Described | None
    ranker: Described | None
    candidates: Positive
    seed: Annotated[int, Field(ge=0, lt=2**64)]
    data: Counted
    encoders: Encoders
    index: dict[str, Word | Count | None] | None
    index_recall: Share | None
    notes: list[Word]
    exclude_seen: bool = True
    epochs: dict[str, list[Count]] = {}
    lists: Lists = Lists()
    pair_features: list[Word] = []
    """Names of the features of pairs beside the retrieval's, in the order in which the ranker reads them."""
    refitted: Word = ""
    sources: Sources | None = None
    """In place of the retriever, where there are several."""
    quotas: dict[str, Count] = {}
    rules: dict[str, list[dict[str, Any]]] = {}
    metrics: dict[str, Any] = {}
    run: dict[str, Any] = {}
    plan: dict[str, Any] | None = None
    files: Annotated[dict[str, Sha256], Field(min_length=1)]


# -- decoding ----------------------------------------------------------------------------------------------------------


def read(place: Path) -> tuple[dict[str, Any], bytes]:
    """The manifest in ``place``, checked whole, and its bytes.  Raises BundleError naming the field and its value."""
    path = place / MANIFEST
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise BundleError(f"{path} is damaged ({type(error).__name__}: {error}); {MENDED}") from None
    return checked(content, path), content


def checked(content: bytes, path: Path) -> dict[str, Any]:
    """The manifest that the bytes are; ``path`` is what errors name.  Raises BundleError."""
    manifest = decoded(content, path)
    if not isinstance(manifest, dict):
        raise BundleError(f"{path} is damaged (it holds {shown(manifest)}, not an object); {MENDED}")
    version = manifest.get("format")
    if type(version) is not int or version < 1:
        raise BundleError(f"{path} is damaged: format = {shown(version)} is no whole number from 1 on; {MENDED}")
    if version > FORMAT:
        raise BundleError(
            f"{path}: format = {version} is newer than {FORMAT}, the newest this Suisen reads; upgrade it"
        )
    if not isinstance(manifest.get("files"), dict):
        raise BundleError(f"{path} is damaged: files = {shown(manifest.get('files'))} is no object; {MENDED}")
    if manifest.get("sha256") != digest(manifest):
        raise BundleError(f"{path} is damaged: its SHA-256 is not what it says of itself; {MENDED}")
    manifest = of_this_format(manifest, path)
    held_to(Manifest, manifest, path)
    if manifest.get("sources") and manifest["retriever"] is not None:
        raise BundleError(f"{path} is damaged: it has a retriever, and sources in place of it; {MENDED}")
    _check_files(manifest, path)
    if manifest.get("plan") is not None:
        _check_plan(manifest["plan"], path)
    return manifest


def decoded(content: bytes, path: Path) -> Any:
    """JSON of bounded size and depth, without NaN, infinite numbers, repeated names and texts that are no Unicode."""
    if len(content) > MOST_BYTES:
        raise BundleError(f"{path} is damaged: it has more than {MOST_BYTES} bytes; {MENDED}")
    try:
        value = json.loads(
            content.decode("utf-8"), object_pairs_hook=_object, parse_constant=_number, parse_float=_number
        )
        _check_depth(value)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is damaged ({type(error).__name__}: {one_line(str(error))}); {MENDED}") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return out


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _check_depth(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(DEPTH):
        texts = [one for one in level if isinstance(one, str)]
        "".join(texts).encode("utf-8")  # half of a surrogate pair is no text: UnicodeEncodeError is a ValueError
        inner = [one for one in level if isinstance(one, dict | list)]
        level = [each for one in inner for each in ([*one, *one.values()] if isinstance(one, dict) else one)]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {DEPTH}")


def finite(value: Any) -> Any:
    """Plain data with null in place of every float that JSON does not know: NaN, infinity."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def digest(manifest: dict[str, Any]) -> str:
    """SHA-256 of all that the manifest says beside it."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def held_to(kind: Any, value: Any, path: Path) -> None:
    """Raises BundleError naming the first field of ``value`` that is not as the type says."""
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise BundleError(
                f"{path} does not fit its files ({name!r}): it is missing; save the bundle again"
            ) from None
        said = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
        what = f"{one_line(name)} = {shown(first['input'])} {said[:1].lower()}{said[1:]}"
        raise BundleError(f"{path} is damaged: {what}; {MENDED}") from None


# -- what older formats said -------------------------------------------------------------------------------------------


def of_this_format(manifest: dict[str, Any], path: Path) -> dict[str, Any]:
    """An older manifest in this format's words."""
    if manifest["format"] >= FORMAT:
        return manifest
    try:
        encoders = dict(manifest["encoders"])
        encoders["context"] = encoders.pop("request")
        models = {name: _renamed(manifest[name]) for name in ("retriever", "ranker")}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{path} does not fit its files ({error}); save the bundle again") from None
    return {**manifest, "encoders": encoders, **models}


def _renamed(described: dict[str, Any] | None) -> dict[str, Any] | None:
    """A format-1 model whose declared crosses name ``request.device``, not ``context.device``."""
    if described is None or "crosses" not in described["hyper"]:
        return described
    crosses = [[name.replace("request.", "context.") for name in cross] for cross in described["hyper"]["crosses"]]
    return {**described, "hyper": {**described["hyper"], "crosses": crosses}}


# -- files -------------------------------------------------------------------------------------------------------------


INDEX_FILES = {
    "exact": ("vectors.npy",),
    "flat": ("index.faiss",),
    "hnsw": ("index.faiss",),
    "ivf-sq8": ("vectors.npy", "index.faiss"),
    "ivf-pq": ("vectors.npy", "index.faiss"),
}
"""What each index of ours saves; one that somebody adds saves what it likes."""


def needed(manifest: dict[str, Any]) -> set[str]:
    """Names of the files that a bundle of these models and this index cannot do without."""
    names = {PARITY, "users.arrow", "items.arrow"}
    names |= {f"{stage}.safetensors" for stage in ("retriever", "ranker") if manifest[stage] is not None}
    names |= {PAIRS} if manifest.get("pair_features") else set()
    for folder, index in _indexes(manifest):
        names |= {f"{folder}index/{name}" for name in INDEX_FILES.get(_kind_of(index), ())}
    return names | {f"{SOURCES}/{one['name']}/retriever.safetensors" for one in manifest.get("sources") or ()}


def _indexes(manifest: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The folder, with / behind it, and the description of every index."""
    own = [("", manifest["index"])]
    own += [(f"{SOURCES}/{one['name']}/", one["index"]) for one in manifest.get("sources") or ()]
    return [(folder, index) for folder, index in own if index]


def _kind_of(index: dict[str, Any]) -> str:
    return str(index.get("name", index.get("kind")))


def _check_files(manifest: dict[str, Any], path: Path) -> None:
    files, wanted = manifest["files"], needed(manifest)
    others = [folder for folder, index in _indexes(manifest) if _kind_of(index) not in INDEX_FILES]
    free = ("plan/", *(f"{folder}index/" for folder in others))
    for name in files:
        if NAME.fullmatch(name) is None:
            what = "is no plain relative path with / between its parts"
            raise BundleError(f"{path} is damaged: files names {shown(name)}, which {what}; {MENDED}")
        if name not in wanted and not name.startswith(free):
            raise BundleError(f"{path} is damaged: files names {shown(name)}, which no such bundle has; {MENDED}")
    if lacking := sorted(wanted - set(files)):
        raise BundleError(f"{path} is damaged: files does not name {lacking[0]}; {MENDED}")


def _check_plan(plan: dict[str, Any], path: Path) -> None:
    """A reason why there is none, or a description; one of another format is not read."""
    if "torch" in plan:
        held_to(dict[str, Word], {"torch": plan["torch"]}, path)
    elif type(plan.get("format")) is not int:
        raise BundleError(f"{path} is damaged: plan.format = {shown(plan.get('format'))} is no whole number; {MENDED}")


def verify(place: Path, files: dict[str, str]) -> None:
    """Holds the files in ``place`` to their SHA-256.  Raises BundleError naming one that is missing or differs, leads
    out of the folder, or lies in a folder of the bundle and is not listed.
    """
    inside = place.resolve()
    for name, expected in files.items():
        file = within(place / name, inside)
        if sha256_of(file) != expected:
            raise damaged(file)
    for folder in UNLISTED:
        for file in sorted((place / folder).rglob("*")):
            if not file.is_dir() and file.relative_to(place).as_posix() not in files:
                raise BundleError(f"{file} is none of the bundle's files; remove it, or {MENDED}")


def within(file: Path, inside: Path) -> Path:
    """The file itself.  Raises BundleError where it is missing, or a link that leads out of the folder ``inside``."""
    if not file.is_file():
        raise BundleError(f"{file} is missing; {MENDED}")
    if not file.resolve().is_relative_to(inside):
        raise BundleError(f"{file} is a link that leads out of the bundle; copy the bundle with its files")
    return file


def damaged(file: Path) -> BundleError:
    """The error for content that is not what the manifest says."""
    return BundleError(f"{file} is damaged: its SHA-256 is not the manifest's; {MENDED}")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
