"""The public names of the indexes: frozen parameters with their bounds, each written once."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from suisen.parameters import parameters


@parameters
class Exact:
    """Every inner product, on torch: the right choice up to some 100,000 items.  Memory: 4·n·d bytes."""

    kind: ClassVar[str] = "exact"


@parameters
class Flat:
    """Every inner product, on FAISS.  Memory: 4·n·d bytes."""

    kind: ClassVar[str] = "flat"


@parameters
class HNSW:
    """A graph of neighbours (Malkov & Yashunin 2018).  Memory: (4·d + 8·m)·n bytes."""

    kind: ClassVar[str] = "hnsw"
    m: Annotated[int, Field(ge=4, le=128)] = 32
    """Neighbours of a vector in the graph; twice as many at the lowest level."""
    ef_construction: Annotated[int, Field(ge=8, le=4096)] = 200
    """Candidates looked at when a vector is added: the higher, the better and slower the build."""
    ef_search: Annotated[int, Field(ge=1, le=16384)] = 128
    """Candidates kept in a search, at least 2·k: the higher, the better and slower."""


@parameters
class IVFSQ8:
    """Lists around centroids, one byte a dimension, answers re-scored with the vectors.  Memory: (5·d + 8)·n bytes,
    of which 4·d·n are memory-mapped after loading and touched only for the candidates.
    """

    kind: ClassVar[str] = "ivf-sq8"
    lists: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Number of lists; None = min(4·√n, n / 39)."""
    probe: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    """Lists looked into in a search; more where these hold fewer than 16·k vectors on average."""


@parameters
class IVFPQ:
    """Lists around centroids, product-quantised to 4 bits for each 2 dimensions and scanned in registers (André et al.
    2015), the best re-scored with the vectors.  Memory: (4.25·d + 8)·n bytes, of which 4·d·n are memory-mapped after
    loading and touched only for the candidates.
    """

    kind: ClassVar[str] = "ivf-pq"
    lists: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Number of lists; None = min(4·√n, n / 39)."""
    probe: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    """Lists looked into in a search; more where these hold fewer than 16·k vectors on average."""
    refine: Annotated[int, Field(ge=1, le=64)] = 4
    """refine · k candidates of the quantised scan are re-scored with the vectors."""


IndexSettings = Exact | Flat | HNSW | IVFSQ8 | IVFPQ
