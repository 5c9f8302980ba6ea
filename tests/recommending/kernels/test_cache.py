"""Compiled code is kept by what all kernels' sources are."""

import shutil
from pathlib import Path

import pytest

numba = pytest.importorskip("numba")

from suisen.recommending.kernels import cache  # noqa: E402
from tests.test_extras import without  # noqa: E402


@pytest.fixture
def anywhere():
    """Lets the folder be asked for again."""
    cache.folder.cache_clear()
    yield
    cache.folder.cache_clear()


def test_any_change_of_any_source_gives_another_folder(tmp_path):
    for path in cache.SOURCES.glob("*.py"):
        shutil.copy(path, tmp_path)
    seen = {cache.digest_of(tmp_path)}
    assert seen == {cache.digest_of(cache.SOURCES)}
    for path in sorted(tmp_path.glob("*.py")):
        path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
        seen.add(cache.digest_of(tmp_path))
    (tmp_path / "scan.py").rename(tmp_path / "scanned.py")
    seen.add(cache.digest_of(tmp_path))
    assert len(seen) == len([*tmp_path.glob("*.py")]) + 2
    (tmp_path / "notes.txt").write_text("no source", encoding="utf-8")
    assert cache.digest_of(tmp_path) in seen


def test_numba_keeps_everything_else_where_it_did(monkeypatch, tmp_path, anywhere):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    @cache.compiled
    def twice(number):
        return 2 * number

    assert str(tmp_path) == numba.config.CACHE_DIR
    assert twice(4) == 8
    kept = [path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.nbi")]
    assert kept == [f"kernels-{cache.digest_of(cache.SOURCES)}"]


def test_the_first_folder_that_can_be_written_to(monkeypatch, tmp_path, anywhere):
    blocked = tmp_path / "a file"
    blocked.write_text("", encoding="utf-8")
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(cache, "_USER", tmp_path / "user")
    assert cache.folder().parent == Path(cache.__file__).parent / "__pycache__"
    cache.folder.cache_clear()
    digest = cache.digest_of(cache.SOURCES)
    monkeypatch.setattr(cache, "digest_of", lambda folder: digest)
    monkeypatch.setattr(cache, "SOURCES", blocked)
    assert cache.folder() == tmp_path / "user" / f"kernels-{digest}"
    cache.folder.cache_clear()
    monkeypatch.setattr(cache, "_USER", blocked)
    assert cache.folder() is None


def test_a_second_process_compiles_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    code = """
import numpy as np
from suisen.recommending.kernels.scan import partitioned
partitioned(np.arange(9), 9, 2)
print(dict(partitioned.stats.cache_hits), dict(partitioned.stats.cache_misses))
"""
    first, second = without(code=code), without(code=code)
    assert first.stdout.startswith("{} {"), first.stderr
    assert second.stdout.endswith("} {}\n"), second.stderr
