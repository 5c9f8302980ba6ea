"""What is known of published data sets besides their readers: ``published.toml``, and made-up files in ``samples/``."""

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from suisen.data.log import Kind
from suisen.data.sources.contract import Files, Layout, Source, Tables
from suisen.data.sources.download import Download, WebFile, WebFolder

HERE = Path(__file__).parent
FACTS: Mapping[str, Any] = tomllib.loads((HERE / "published.toml").read_text(encoding="utf-8"))


def sample_of(folder: str) -> dict[str, bytes]:
    """The files of a folder in ``samples/``, by their names."""
    return {path.name: path.read_bytes() for path in sorted((HERE / "samples" / folder).iterdir())}


Reader = Callable[[Files], Tables]
Copies = tuple[Download, ...]


def published(
    name: str,
    read: Reader,
    *others: Layout,
    sample: Mapping[str, bytes] | None = None,
    copies: Copies = (),
    kinds: Mapping[str, Kind] | None = None,
) -> Source:
    """The data set of that name: its facts, its reader, further layouts and downloads (``copies``)."""
    facts = FACTS[name]
    end, urls = facts.get("checksum"), facts.get("urls", ())
    files = tuple(WebFile(url, url + end if end else "", facts["publisher"]) for url in urls)
    downloads: Copies = (WebFolder(name, files),) if len(files) > 1 else files
    official = Layout(sample or sample_of(facts.get("sample", name)), read, facts.get("inside", ""))
    return Source(
        name=name,
        description=facts["description"],
        licence=facts["licence"],
        downloads=(*downloads, *copies),
        page=facts.get("page", ""),
        layouts=(official, *others),
        kinds={**facts.get("kinds", {}), **(kinds or {})},
    )
