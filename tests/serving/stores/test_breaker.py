from __future__ import annotations

from suisen.serving.stores.breaker import FAILURES, FIRST_PAUSE_S, LONGEST_PAUSE_S, Breaker


def test_it_is_open_until_a_probe_closes_it_and_opens_after_failures_in_a_row():
    told = []
    breaker = Breaker(told.append)
    assert (breaker.closed, told) == (False, [False])
    breaker.close()
    for _ in range(5):
        for _ in range(FAILURES - 1):
            breaker.failed()
        breaker.succeeded()
    assert breaker.closed
    for _ in range(FAILURES):
        breaker.failed()
    assert (breaker.closed, told) == (False, [False, True, False])
    breaker.failed()
    assert told == [False, True, False]  # told of changes alone


def test_pauses_double_up_to_a_bound_and_servers_do_not_probe_in_step():
    shortest, longest = Breaker(lambda closed: None, lambda: 0.0), Breaker(lambda closed: None, lambda: 1.0)
    for _ in range(12):
        one, other = shortest.pause(), longest.pause()
        assert other == 3 * one
    assert (one, other) == (LONGEST_PAUSE_S / 2, LONGEST_PAUSE_S * 1.5)
    shortest.close()
    assert shortest.pause() == FIRST_PAUSE_S / 2
