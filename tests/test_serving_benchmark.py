"""benchmarks/serving in small: the generator, the naive service, the runner with a real server, and the page."""

import json
import socketserver
import sys
import threading
from argparse import Namespace
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tools")]

import serving_page  # noqa: E402
from figures import filled  # noqa: E402
from serving.bench import QUICK_FILE, Bench  # noqa: E402

import suisen as su  # noqa: E402
from serving import generate, naive, run, worlds  # noqa: E402
from suisen.recommending.answering import answer  # noqa: E402
from suisen.recommending.queries import RawQueries, RecommendOptions  # noqa: E402

USERS = [str(number) for number in range(1, 41)]


# -- the generator ----------------------------------------------------------------------------------------------------


def answer_to(body: bytes, k: int = 10) -> dict:
    """A good answer to a request."""
    user = json.loads(body)["queries"][0]["user_id"]
    items = [{"item_id": n, "score": -float(n), "rank": n, "title": ""} for n in range(1, k + 1)]
    return {"answers": [{"user_id": user, "items": items}]}


@contextmanager
def toy(reply):
    """The port of a toy server, and the requests that it saw.

    It answers with what ``reply(number, body)`` gives: (status, answer), None closes, () says nothing.
    """
    seen = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            while head := b"".join(iter(lambda: self.rfile.readline().removesuffix(b"\r\n"), b"")):
                body = self.rfile.read(int(head.partition(b"content-length: ")[2]))
                seen.append(body)
                found = reply(len(seen), body)
                if found is None:
                    return
                if found:
                    sent = json.dumps(found[1]).encode()
                    whole = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (found[0], len(sent), sent)
                    self.wfile.write(whole[:30])
                    self.wfile.flush()
                    self.wfile.write(whole[30:])

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda *_: None  # a client that has gone
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_address[1], seen
        finally:
            server.shutdown()
            thread.join()


def test_an_open_loop_sends_what_is_due_to_another_user_each_time():
    with toy(lambda number, body: (200, answer_to(body))) as (port, seen):
        found = generate.run(generate.Load(port, USERS, seconds=0.2, rate=400, connections=4, extra={"precise": True}))
    assert found["sent"] == found["answered"] == found["judged"] == len(seen) == 80
    assert found["lost"] == found["wrong"] == found["refused"] == 0
    asked = [json.loads(body) for body in seen]
    assert sorted(one["queries"][0]["user_id"] for one in asked[:40]) == sorted(USERS)
    assert all(one["precise"] is True and one["k"] == 10 for one in asked)
    assert 0 < found["ms"]["p50"] <= found["ms"]["p99"] <= found["ms"]["max"]
    assert found["generator_us"] > 0


def test_a_latency_counts_from_when_the_request_was_due():
    """One connection, and an answer 50 ms late: what was due meanwhile waits, and its wait is latency."""
    held = threading.Event()

    def reply(number, body):
        if number == 1:
            held.wait(0.3)
        return 200, answer_to(body)

    load = generate.Load(0, USERS, seconds=0.1, rate=100, arrivals="even", connections=1)
    with toy(reply) as (port, _):
        found = generate.run(generate.Load(**{**vars(load), "port": port}))
    assert found["answered"] == 10
    assert found["ms"]["p50"] > 200
    assert found["late_ms"]["p50"] > 150


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (lambda number, body: (503, {}), {"refused": 20, "answered": 0}),
        (lambda number, body: None, {"lost": 20, "broken": 20}),
        (lambda number, body: (200, answer_to(body, 9)), {"wrong": 20, "answered": 20}),
        (lambda number, body: (200, answer_to(b'{"queries":[{"user_id":"other"}]}')), {"wrong": 20}),
        (lambda number, body: (200, {"answers": []}), {"wrong": 20}),
    ],
)
def test_what_is_no_good_answer_is_counted(reply, said):
    with toy(reply) as (port, _):
        found = generate.run(generate.Load(port, USERS, seconds=0.1, rate=200, connections=2))
    assert {name: found[name] for name in said} == said


def test_what_is_never_answered_is_lost(monkeypatch):
    monkeypatch.setattr(generate, "PATIENCE_S", 0.2)
    with toy(lambda number, body: () if number % 2 else (200, answer_to(body))) as (port, _):
        found = generate.run(generate.Load(port, USERS, seconds=0.1, rate=100, connections=40))
        closed = generate.run(generate.Load(port, USERS, seconds=0.2, connections=4))
    assert found["lost"] == 5
    assert found["answered"] == 5
    assert closed["lost"] > 0


def test_a_closed_loop_ends_after_the_most():
    with toy(lambda number, body: (200, answer_to(body))) as (port, seen):
        found = generate.run(generate.Load(port, USERS, seconds=30, connections=3, most=50))
    assert 50 <= found["answered"] == len(seen) <= 52


def test_orders_ranks_and_doubles_are_judged():
    good = answer_to(b'{"queries":[{"user_id":"7"}]}')
    assert generate.wrong("7", 10, json.dumps(good).encode()) == ""
    for change in ({"item_id": 2}, {"score": -9.5}, {"rank": 3}):
        bad = json.loads(json.dumps(good))
        bad["answers"][0]["items"][0] |= change
        assert generate.wrong("7", 10, json.dumps(bad).encode())


@pytest.mark.parametrize("arrivals", ["poisson", "even"])
def test_due_times_have_the_rate(arrivals):
    times = generate.due_times(generate.Load(0, [], seconds=4, rate=1000, arrivals=arrivals))
    assert len(times) == 4000
    assert np.all(np.diff(times) >= 0)
    assert times[-1] == pytest.approx(4, rel=0.1)


# -- what is measured ------------------------------------------------------------------------------------------------


def test_the_naive_service_makes_the_lists_of_the_package():
    plan = worlds.Plan("w", 60, 300, 4, 3, 4, worlds.two_tower(8, 1), worlds.deepfm(1, (16, 8)), 100, candidates=50)
    system = worlds.recommender_of(plan, 20.0, ROOT).system
    ranker = system.engine.ranker
    assert ranker.core.context.count + ranker.core.item.count == worlds.FIELDS
    service = naive.Naive(system)
    assert naive.agrees(system, service, 60) > 0.99
    raw = system.store.users.raw_ids.to_list()
    ours = answer(system, RawQueries(raw), RecommendOptions(10)).scores.numpy()

    def furthest():
        return max(
            np.abs(np.array(service.answer(user, 10)[1]) - row).max()
            for user, row in zip(system.store.users.dense(raw).tolist(), ours)
        )

    assert furthest() < 1e-4
    service.item_fields = service.item_fields.flip(0)  # other items
    assert furthest() > 1e-3


def test_a_plan_is_known_by_what_it_is_trained_from():
    one, other = worlds.world_plan(quick=True), worlds.world_plan(quick=True)
    assert one.key == other.key != worlds.world_plan(quick=False).key
    assert one.key != worlds.Plan(**{**vars(one), "retriever": su.TwoTower(dim=16)}).key


def test_what_is_kept_is_made_once_and_whole(tmp_path):
    made = []

    def make(place):
        made.append(place)
        place.mkdir()
        if len(made) == 1:
            raise RuntimeError("no disk")

    with pytest.raises(RuntimeError, match="no disk"):
        worlds.kept(tmp_path / "a" / "b", make)
    assert not (tmp_path / "a" / "b").exists()
    assert worlds.kept(tmp_path / "a" / "b", make) == worlds.kept(tmp_path / "a" / "b", make)
    assert len(made) == 2


@pytest.mark.slow
def test_the_runner_measures_a_real_server_in_small(tmp_path):
    """Trains, lays out, starts a server, asks it in an open loop, leaves records; a part that fails says so."""
    assert run.main(["--quick", "--part", "open", "--folder", str(tmp_path), "--rounds", "1"]) == 0
    lines = [json.loads(line) for line in (tmp_path / QUICK_FILE).read_text().splitlines()]
    opened = [line for line in lines if line["what"] == "open"]
    assert {line["rate"] for line in opened} == {1_000, 10_000, 12_000}
    assert all(line["answered"] and not line["wrong"] and line["server_cpu_s"] > 0 for line in opened)
    assert [line["what"] for line in lines][-1] == "done"
    assert all(line["quick"] for line in lines)


def test_a_part_that_fails_is_recorded_and_the_status_says_so(tmp_path, monkeypatch, capsys):
    def fails(bench):
        raise ValueError("no such luck")

    monkeypatch.setattr(type(run.PARTS["k6"]), "run", lambda part, bench: fails(bench))
    words = ["--quick", "--here", "--part", "k6", "--folder", str(tmp_path)]
    assert run.main(words) == 1
    (line,) = [json.loads(line) for line in (tmp_path / QUICK_FILE).read_text().splitlines()]
    assert line["what"] == "failed"
    assert "no such luck" in line["error"]


# -- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def recorded(tmp_path):
    """Writes records of a part's run; the folder of results."""

    def write(part, *lines, done=True, run="1", quick=False):
        options = Namespace(
            quick=quick, rounds=1, folder=tmp_path, data_dir=tmp_path, results=tmp_path / serving_page.FILE
        )
        bench = Bench(part, options)
        bench.run = run
        for line in lines:
            bench.record(**line)
        if done:
            bench.record("done")
        return tmp_path

    return write


def closed(side, per_cpu, **more):
    ms = {"p50": 1.0, "p90": 2.0, "p95": 2.5, "p99": 3.0, "p99.9": 4.0}
    return {
        "what": "closed", "side": side, "connections": 64, "per_cpu_s": per_cpu, "answered_per_s": 9.0, "cores": 1.5,
        "ms": ms, "lost": 0, "refused": 0, "wrong": 0, "workers": 2, "sent": 100, "generator_us": 15.0, **more,
    }  # fmt: skip


def test_without_records_nothing_is_a_number(tmp_path):
    for name, figure in serving_page.FIGURES.items():
        text = figure(tmp_path)
        assert "ot measured yet" in text, name
        assert "Machine" not in text, name


@pytest.mark.parametrize(
    ("ours", "said"), [(8_100, "stretch reached"), (6_600, "| 6,600 | reached"), (5_000, "| 5,000 | **missed**")]
)
def test_verdicts_are_read_from_medians(recorded, ours, said):
    folder = recorded("ratio", *(closed("suisen", ours + n) for n in (-50, 0, 900)), closed("naive", 200))
    text = serving_page.goals(folder)
    assert said in text
    assert f"{ours / 200:.1f}x" in text
    assert "| naive | 64 | 200 |" in serving_page.beside(folder)


def test_runs_that_did_not_end_and_quick_ones_are_left_out(recorded):
    recorded("ratio", closed("suisen", 7_000), closed("naive", 100))
    recorded("ratio", closed("suisen", 1), done=False, run="2")
    folder = recorded("ratio", closed("suisen", 2), run="3", quick=True)
    assert "| 7,000 | reached" in serving_page.goals(folder)


@pytest.mark.parametrize(
    ("lost", "p99", "said"), [(0, 5.0, "stretch reached"), (1, 5.0, "**missed**"), (0, 25.0, "**missed**")]
)
def test_open_loop_needs_every_answer_in_time(recorded, lost, p99, said):
    lines = [
        closed("", 1, what="open", rate=rate, lost=lost, ms={"p50": 1, "p90": 1.5, "p95": 2, "p99": p99, "p99.9": 30})
        for rate in (1_000, 10_000, 12_000)
    ]
    folder = recorded("open", *lines)
    row = next(line for line in serving_page.goals(folder).splitlines() if "two cores in all" in line)
    assert said in row
    assert f"{lost} of 100 not answered" in row
    assert "| 10,000 | 1.0 | 1.5 |" in serving_page.rates(folder)


def test_marks_are_filled_again_the_same(tmp_path):
    page = serving_page.PAGE.read_text(encoding="utf-8")
    new = filled(page, serving_page.FIGURES, tmp_path)
    assert filled(new, serving_page.FIGURES, tmp_path) == new
