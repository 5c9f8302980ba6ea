import numpy as np
import pytest

import suisen.retrieval.faiss as wrapped
from suisen.errors import BundleError, InputError
from suisen.retrieval import HNSW, IVFPQ, IVFSQ8, Flat, create_index
from suisen.retrieval.checks import checked_search
from tests.retrieval.conftest import clustered, excluded


@pytest.mark.parametrize("cls", [IVFSQ8, IVFPQ])
def test_small_catalogues_get_fewer_lists_or_a_refusal(cls, capfd):
    vectors, _ = clustered(n=1_000)
    index = create_index(cls())
    index.build(vectors)
    assert index.description["lists"] == 1_000 // 39  # fewer than 4 · √1000 = 126
    assert cls().lists is None
    larger = create_index(cls())
    larger.build(clustered(n=30_000, d=4)[0])
    assert larger.description["lists"] == round(4 * 30_000**0.5)
    assert capfd.readouterr() == ("", "")  # FAISS had nothing to warn of
    with pytest.raises(InputError, match=r"needs at least 1000 vectors, there are 999; use Exact\(\)"):
        index.build(vectors[:999])
    with pytest.raises(InputError, match=r"lists = 26 needs 1014 vectors.*there are 1000; .*give at most 25"):
        create_index(cls(lists=26)).build(vectors)


@pytest.mark.parametrize("settings", [IVFSQ8(probe=1), IVFPQ(probe=1, refine=1), HNSW(ef_search=1)])
def test_little_effort_still_gives_k(settings):
    vectors, queries = clustered(n=4_000)
    index = create_index(settings)
    index.build(vectors)
    ids, _ = index.search(queries, 400)
    assert (ids >= 0).all()
    assert all(len(set(row)) == 400 for row in ids.tolist())


def test_only_queries_that_lack_answers_are_asked_again(monkeypatch):
    vectors, queries = clustered(n=4_000)
    index = create_index(IVFSQ8(lists=100, probe=1))
    index.build(vectors)
    asked, scanned = [], []
    ask, scan = wrapped.FaissIndex._found, wrapped.scan
    monkeypatch.setattr(
        wrapped.FaissIndex, "_found", lambda self, r, rows, *rest: asked.append(len(rows)) or ask(self, r, rows, *rest)
    )
    monkeypatch.setattr(wrapped, "scan", lambda held, r: scanned.append(len(r.queries)) or scan(held, r))
    index.search(queries, 1)
    assert (asked, scanned) == ([len(queries)], [])
    asked.clear()
    everything = list(range(4_000))
    ids, _ = index.search(queries, 10, excluded([everything[:-10], *[[]] * (len(queries) - 1)]))
    assert sorted(ids[0].tolist()) == everything[-10:]
    assert asked == [len(queries) - 1]
    assert scanned == [1]


def test_a_query_that_excludes_much_is_scanned_and_not_fetched(monkeypatch):
    vectors, queries = clustered(n=4_000)
    index = create_index(HNSW())
    index.build(vectors)
    fetched, ask = [], wrapped.FaissIndex._found
    monkeypatch.setattr(
        wrapped.FaissIndex,
        "_found",
        lambda self, r, rows, fetch, *rest: fetched.append(fetch) or ask(self, r, rows, fetch, *rest),
    )
    gone = [list(range(most)) for most in (0, 900, 991, 2_500)]
    ids, _ = index.search(queries[:4], 10, excluded(gone))
    assert max(fetched) <= 1_000  # a quarter of the vectors
    assert all(len(set(row) - set(out)) == 10 for row, out in zip(ids.tolist(), gone, strict=True))


@pytest.mark.parametrize(("k", "asked"), [(10, True), (100, True), (150, False), (900, False)])
def test_a_search_that_would_visit_most_lists_is_a_scan(k, asked, monkeypatch):
    vectors, queries = clustered(n=4_000)
    index = create_index(IVFSQ8(lists=100, probe=2))
    index.build(vectors)
    made, params = [], wrapped.FaissIndex._params
    monkeypatch.setattr(wrapped.FaissIndex, "_params", lambda self, *rest: made.append(params(self, *rest)) or made[-1])
    index.search(queries, k)
    assert (made[0] is not None) is asked
    lists = wrapped.VECTORS_PER_RESULT * k * 100 // 4_000
    assert not asked or made[0].nprobe == max(2, lists)
    assert asked is (2 * lists <= 100)


@pytest.mark.parametrize("settings", [Flat(), HNSW(), IVFSQ8(), IVFPQ()])
def test_a_large_mask_is_seen_by_faiss_itself(settings, monkeypatch):
    vectors, queries = clustered(n=12_000, d=8)
    index = create_index(settings)
    index.build(vectors)
    allowed = np.arange(12_000) % 12 != 0
    monkeypatch.setattr(wrapped, "scan", None)  # no query needs it
    ids, _ = index.search(queries, 50, excluded([[1, 2]] * len(queries)), allowed)
    assert allowed[ids].all()
    truth = np.argsort(-np.where(allowed, queries @ vectors.T, -np.inf), axis=1)[:, :50]
    shared = [len(set(a) & set(b)) / 50 for a, b in zip(ids.tolist(), truth.tolist(), strict=True)]
    assert np.mean(shared) >= 0.85


def test_one_dimension_and_one_vector():
    index = create_index(Flat())
    index.build(np.array([[2.0]], dtype=np.float32))
    ids, scores = index.search(np.array([[3.0]], dtype=np.float32), 2)
    assert ids.tolist() == [[0, -1]]
    assert scores.tolist() == [[6.0, -np.inf]]


def test_settings_name_field_value_and_bound():
    with pytest.raises(InputError, match=r"HNSW: m = 1 should be greater than or equal to 4"):
        HNSW(m=1)
    with pytest.raises(InputError, match=r"HNSW parameter = 'ef_serch' is unknown; did you mean 'ef_search'\?"):
        HNSW(ef_serch=10)
    with pytest.raises(InputError, match=r"IVFPQ: refine = 'many'"):
        IVFPQ(refine="many")
    for cls in (IVFSQ8, IVFPQ):
        with pytest.raises(InputError, match="probe = 0 should be greater than or equal to 1"):
            cls(probe=0)


def test_an_index_has_lists_and_a_file_that_was_cut_says_so(tmp_path):
    with pytest.raises(InputError, match="lists = 0 should be greater than or equal to 1"):
        IVFSQ8(lists=0)
    vectors, _ = clustered(n=2_000)
    index = create_index(HNSW(ef_search=1))
    index.build(vectors)
    assert index._params(1, 50, 0, {}).efSearch == 100  # twice what is asked for, whatever was set
    assert index._params(4, 50, 7, {}).efSearch == 414
    index.save(tmp_path)
    file = next(path for path in tmp_path.iterdir() if path.suffix == ".faiss")
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(BundleError, match=r"cannot be read \(its end is missing\); save the bundle again"):
        wrapped._read(file)


def test_a_refined_search_fetches_twice_what_is_excluded():
    vectors, queries = clustered(n=8_000)
    index = create_index(IVFPQ(refine=4))
    index.build(vectors)
    search = checked_search(index.vectors, queries[:2], 10, excluded([[], list(range(30))]), None)
    fetched = {int(rows[0]): fetch for rows, fetch, _ in index._groups(search, np.arange(2))}
    assert fetched == {0: 40, 1: 100}
