"""Which path runs: asked of the processor, forced, and without numba."""

import pytest

from suisen.errors import InputError
from suisen.recommending.kernels import PATHS, paths, paths_here
from suisen.recommending.kernels.paths import path_of
from tests.test_extras import without

AVX2 = frozenset({"avx2", "fma", "sse2"})
VNNI = AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"}


@pytest.fixture
def processor(monkeypatch):
    """Sets what the processor has; None: nothing can be compiled."""

    def has(features):
        monkeypatch.setattr(paths, "_features", lambda: features)
        paths_here.cache_clear()

    yield has
    paths_here.cache_clear()


@pytest.mark.parametrize(
    ("features", "here"),
    [
        (VNNI, ("vnni", "avx2", "plain")),
        (VNNI - {"avx512vl"}, ("avx2", "plain")),
        (AVX2, ("avx2", "plain")),
        (frozenset({"neon"}), ("plain",)),
        (None, ("plain",)),
    ],
)
def test_the_fastest_path_that_the_processor_can_run(processor, features, here):
    processor(features)
    assert paths_here() == here
    assert path_of() == here[0]
    assert [path_of(path) for path in here] == list(here)


def test_a_path_that_the_processor_lacks_is_refused_by_what_is_missing(processor):
    processor(VNNI - {"avx512vnni", "avx512bw"})
    with pytest.raises(InputError, match="path = 'vnni' needs avx512bw, avx512vnni, which this processor lacks"):
        path_of("vnni")
    processor(None)
    with pytest.raises(InputError, match="path = 'avx2' is compiled, and numba is told not to"):
        path_of("avx2")
    with pytest.raises(InputError, match="path = 'vnnii' is unknown; did you mean 'vnni'"):
        path_of("vnnii")


def test_this_machine_is_asked_what_numba_compiles_for(monkeypatch):
    numba = pytest.importorskip("numba")
    features = paths._features()
    assert features
    assert not any(feature.startswith(("+", "-")) for feature in features)
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)
    assert paths._features() is None


def test_paths_are_named_in_order_and_the_last_runs_everywhere():
    assert PATHS == ("vnni", "avx2", "plain")
    assert paths_here()[-1] == "plain"


SMALL = """
import numpy as np
from suisen.recommending.kernels import Quantised, candidates, path_of
vectors = np.arange(24, dtype=np.float32).reshape(8, 3)
table = Quantised.of(vectors)
print(candidates(table, vectors[:1], 2)[0].tolist())
"""


def test_without_numba_the_plain_path_runs_and_the_others_name_the_extra():
    code = f"{SMALL}print(path_of())\npath_of('avx2')"
    done = without("numba", code=code)
    assert done.stdout == "[[7, 6]]\nplain\n"
    assert "MissingExtra: numba is not installed; run: pip install 'suisen[serve]'" in done.stderr


def test_nothing_of_numba_is_imported_before_a_path_is_asked_for():
    code = """
import sys
import suisen.serving.app, suisen.recommending.engine, suisen.recommending.kernels
print({"numba", "llvmlite"} & set(sys.modules))
"""
    assert without(code=code).stdout == "set()\n"


def test_compiled_for_the_processor_that_numba_is_told_and_kept_nowhere(monkeypatch):
    if "avx2" not in paths_here():
        pytest.skip("this machine cannot run avx2")
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+sse2,+avx,+avx2,+fma")
    code = f"import suisen.recommending.kernels.cache as kept\nkept.folder = lambda: None\n{SMALL}print(path_of())"
    done = without(code=code)
    assert done.stdout == "[[7, 6]]\navx2\n", done.stderr
