"""The writing thread: order, bound, the first error as it was, nothing lost at the end of a block."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from revelio_fast.store import Background


def test_calls_run_in_order_in_one_other_thread() -> None:
    done: list[int] = []
    threads = set()

    def call(number: int) -> None:
        time.sleep(0.001 * (number % 3))
        done.append(number)
        threads.add(threading.current_thread().name)

    with Background("writer") as writing:
        for number in range(20):
            writing.submit(lambda number=number: call(number))
    assert done == list(range(20)) and threads == {"writer"}
    assert "writer" not in {thread.name for thread in threading.enumerate()}


def test_submit_waits_for_a_place() -> None:
    gate, done = threading.Event(), []
    with Background("writer", ahead=2) as writing:
        writing.submit(lambda: gate.wait(10))
        submitted = []

        def more() -> None:
            for number in range(4):
                writing.submit(lambda number=number: done.append(number))
                submitted.append(number)

        other = threading.Thread(target=more)
        other.start()
        other.join(0.2)
        # The first is in hand and two wait: the third of the four finds no place.
        assert other.is_alive() and len(submitted) <= 2 and not done
        gate.set()
        other.join(10)
    assert done == [0, 1, 2, 3]


class DiskFull(OSError):
    pass


def test_the_first_error_comes_back_as_it_was_and_ends_the_work() -> None:
    error, done = DiskFull("no space"), []

    def fail() -> None:
        raise error

    with pytest.raises(DiskFull) as caught, Background("writer") as writing:
        writing.submit(lambda: done.append(1))
        writing.submit(fail)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            writing.submit(lambda: done.append(2))
    assert caught.value is error and time.monotonic() < deadline and done == [1]


def test_an_error_of_the_last_call_comes_at_the_end() -> None:
    with pytest.raises(ZeroDivisionError), Background("writer") as writing:
        writing.submit(lambda: 1 / 0)


def test_an_exception_in_the_block_waits_for_what_was_submitted() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), Background("writer") as writing:
        for number in range(3):
            writing.submit(lambda number=number: (time.sleep(0.05), done.append(number)))
        raise KeyboardInterrupt
    assert done == [0, 1, 2]


def test_an_interrupt_while_waiting_drops_what_has_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, gate, done = threading.Event(), threading.Event(), []
    writing = Background("writer", ahead=3)

    def slow() -> None:
        begun.set()
        gate.wait(10)
        done.append("slow")

    real = writing._thread.join

    def interrupted() -> None:
        monkeypatch.setattr(writing._thread, "join", lambda: (gate.set(), real()))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), writing:
        writing.submit(slow)
        writing.submit(lambda: done.append("dropped"))
        assert begun.wait(10)
        monkeypatch.setattr(writing._thread, "join", interrupted)
    assert done == ["slow"] and not writing._thread.is_alive()


def test_torch_computes_with_one_thread_there_and_as_before_here() -> None:
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        with Background("writer") as writing:
            writing.submit(lambda: seen.append((torch.ones(1 << 20).sum().item(), torch.get_num_threads())))
            assert torch.get_num_threads() == 3
            other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
            other.start()
            other.join()
    finally:
        torch.set_num_threads(before)
    assert sorted(seen, key=str) == [(float(1 << 20), 1), 3]
