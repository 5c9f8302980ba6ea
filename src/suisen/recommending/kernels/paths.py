"""Which instructions the kernels run on: asked of the processor when it is first needed, not of the build machine."""

from functools import cache
from importlib.util import find_spec

from suisen.errors import InputError, missing_extra, unknown

NEEDS = {
    "vnni": frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"}),
    "avx2": frozenset({"avx2", "fma"}),
    "plain": frozenset[str](),
}
"""What a processor must have for each path, the fastest first.  ``plain`` is torch and NumPy and needs nothing."""
PATHS = tuple(NEEDS)


@cache
def paths_here() -> tuple[str, ...]:
    """The paths that this machine can run, the fastest first; the same for the life of the process."""
    has = _features()
    return tuple(path for path, needs in NEEDS.items() if path == "plain" or (has is not None and needs <= has))


def path_of(wanted: str | None = None) -> str:
    """The path that kernels run on: the fastest of this machine, or the one that is wanted.

    Raises InputError for one that is unknown or that the processor lacks; MissingExtra where numba is not installed.
    """
    if wanted is None:
        return paths_here()[0]
    if wanted not in PATHS:
        raise unknown("path", wanted, PATHS)
    if wanted in paths_here():
        return wanted
    if find_spec("numba") is None:
        raise missing_extra("numba", "serve")
    has = _features()
    if has is None:
        raise InputError(f"path = {wanted!r} is compiled, and numba is told not to; unset NUMBA_DISABLE_JIT")
    lacks = ", ".join(sorted(NEEDS[wanted] - has))
    raise InputError(f"path = {wanted!r} needs {lacks}, which this processor lacks; this machine can: {paths_here()}")


def _features() -> frozenset[str] | None:
    """What the processor that numba compiles for has; None where nothing can be compiled."""
    if find_spec("numba") is None:
        return None
    from numba import config
    from numba.core.registry import cpu_target

    if config.DISABLE_JIT:
        return None
    flags = (
        cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    )  # what it is told, or what the processor has
    return frozenset(flag[1:] for flag in flags if flag.startswith("+"))
