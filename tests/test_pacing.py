"""What a log is told of long work: each kind at once, how far it is now and then."""

from __future__ import annotations

import pytest

from aded_cli import pacing


def test_a_log_is_told_each_kind_of_work_and_now_and_then_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr(pacing.time, "monotonic", lambda: clock[0])
    said: list[str] = []
    say = pacing.paced(said.append)
    for i in range(1, 6):
        say(f"timing: {i} of 5")
        clock[0] += 4.0
    say("probing")
    say("probing")
    say("probing: 1 of 9")
    assert said == ["timing: 1 of 5", "timing: 4 of 5", "probing"]
