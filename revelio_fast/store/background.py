"""A thread that reads or writes while others compute: calls in order, few waiting, errors handed back."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import TypeVar

import torch

AHEAD = 2
Result = TypeVar("Result")


class Background:
    """Runs calls one after another in a thread of its own, for the length of a ``with`` block.

    In that thread torch computes with one thread: a second team of OpenMP threads would fight the caller's for the
    cores.

    The end of the block waits for all calls, after an exception, too: what was computed is kept. An interrupt while
    it waits drops the calls that have not begun. The first exception of a call ends the work: the calls after it are
    dropped, and the next `submit`, or else the end of the block, raises it.

    Parameters
    ----------
    name : str
        Of the thread.
    ahead : int
        Calls that may wait; `submit` waits for a place.
    """

    def __init__(self, name: str, ahead: int = AHEAD):
        self._calls: queue.Queue[Callable[[], object] | None] = queue.Queue(ahead)
        self._error: BaseException | None = None
        self._dropping = False
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def submit(self, call: Callable[[], object]) -> None:
        """Run `call` after those submitted before.

        Raises
        ------
        BaseException
            What an earlier call raised.
        """
        if self._error is not None:
            raise self._error
        self._calls.put(call)

    def ask(self, call: Callable[[], Result]) -> Future[Result]:
        """Run `call` after those submitted before; what it returns or raises is the future's, and ends nothing."""
        future: Future[Result] = Future()

        def answer() -> None:
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)

        self.submit(answer)
        return future

    def _work(self) -> None:
        # The first use of torch in a thread sets the thread's own count to the last one set anywhere: use it first.
        torch.get_num_threads()
        torch.set_num_threads(1)
        self._ready.set()
        while (call := self._calls.get()) is not None:
            if self._error is None and not self._dropping:
                try:
                    call()
                except BaseException as error:
                    self._error = error
            # A batch of maps is large: it must not live on until the next call comes.
            del call

    def __enter__(self) -> Background:
        threads = torch.get_num_threads()
        self._thread.start()
        self._ready.wait()
        torch.set_num_threads(threads)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._end()
        except BaseException:
            self._dropping = True
            self._end()
            raise
        if kind is None and self._error is not None:
            raise self._error

    def _end(self) -> None:
        if self._thread.is_alive():
            self._calls.put(None)
        self._thread.join()
