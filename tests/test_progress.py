"""Progress where stderr is no terminal: a line now and then, nothing for short work."""

from __future__ import annotations

import io
import sys

import pytest

from revelio_fast import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def bar(seconds_between: float, monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, steps: int = 100) -> str:
    """What a bar of some steps writes, with a clock that moves on by so much at each."""
    now = [0.0]
    monkeypatch.setattr(sys, "stderr", stream)
    made = progress.tqdm(total=steps, desc="work", unit="image", file=stream)
    made._time = lambda: now[0]
    made.start_t = made.last_print_t = 0.0
    for _ in range(steps):
        now[0] += seconds_between
        made.update()
    made.close()
    return stream.getvalue()


def test_a_log_gets_a_line_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = bar(1.0, monkeypatch, io.StringIO()).split("\n")
    shown = [line for line in lines if line]
    assert 3 <= len(shown) <= 5 and all(line.startswith("work:") and "\r" not in line for line in shown)
    assert "100/100" in shown[-1]


def test_short_work_is_silent_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bar(0.1, monkeypatch, io.StringIO()).strip() == ""


def test_a_terminal_gets_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\r" in bar(1.0, monkeypatch, Terminal())
