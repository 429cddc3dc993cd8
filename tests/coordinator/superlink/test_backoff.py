"""How long a service waits before it starts again."""

from tapestry_coordinator.superlink.backoff import Backoff


def test_pauses_double_to_a_minute_for_ever() -> None:
    backoff = Backoff(lambda: 0.0)
    pauses = [backoff.pause() for _ in range(2000)]
    assert pauses[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert set(pauses[8:]) == {60}


def test_after_an_attempt_that_lasted_they_begin_anew() -> None:
    now = 0.0
    backoff = Backoff(lambda: now)
    for lasted, pause in ((0, 1), (60, 2), (60, 4), (61, 1), (1, 2), (86_400, 1)):
        backoff.begin()
        now += lasted
        assert backoff.pause() == pause
