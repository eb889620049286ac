"""Resumable stages: each writes into a folder named by a key of all it depends on, and is skipped once that is done."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revelio_fast import __version__
from revelio_fast.atomic import atomic_write_json

DONE = "stage.json"


@dataclass(frozen=True)
class Stage:
    """A finished stage: its folder, the key of its inputs, its output and the seconds of the run that finished it."""

    name: str
    folder: Path
    key: str
    output: dict[str, Any]
    seconds: float
    skipped: bool


def content_key(inputs: Mapping[str, Any]) -> str:
    """Return a digest of JSON values and of this package's version, whatever the order of their names."""
    text = json.dumps({"revelio_fast": __version__, **inputs}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Stages:
    """Runs the stages of one output folder.

    A stage whose inputs changed gets another folder; nothing is overwritten or deleted, and going back to earlier
    settings finds their results again. A stage that was killed runs again in its own folder, where the extraction and
    the trainers continue from their own checkpoints.

    Parameters
    ----------
    root : Path
        The run's output folder.
    progress : bool
        Print one line for each stage.
    """

    def __init__(self, root: Path, progress: bool = True) -> None:
        self.root = root
        self.progress = progress
        self.finished: list[Stage] = []

    def run(
        self, name: str, folder: str, inputs: Mapping[str, Any], work: Callable[[Path], dict[str, Any] | None]
    ) -> Stage:
        """Do `work` unless it is done, now or by an earlier run.

        Parameters
        ----------
        name : str
            For the reader.
        folder : str
            Relative to the root; the first letters of the key are added.
        inputs : mapping
            All the result depends on, as JSON values; of another stage, its key.
        work : callable
            Gets the folder and returns its output as JSON values.
        """
        key = content_key({"stage": folder, **inputs})
        for stage in self.finished:
            if stage.key == key:
                return stage
        where = self.root / f"{folder}-{key[:8]}"
        done = _read_done(where / DONE, key)
        if done is not None:
            stage = Stage(name, where, key, done["output"], done["seconds"], True)
            self.say(f"done before: {name}")
        else:
            self.say(name)
            where.mkdir(parents=True, exist_ok=True)
            started = time.perf_counter()
            output = work(where) or {}
            seconds = round(time.perf_counter() - started, 3)
            atomic_write_json(
                where / DONE,
                {"name": name, "key": key, "seconds": seconds, "inputs": dict(inputs), "output": output},
            )
            # Read back, so that a first run and a rerun hand on the same values.
            output = json.loads((where / DONE).read_text(encoding="utf-8"))["output"]
            stage = Stage(name, where, key, output, seconds, False)
        self.finished.append(stage)
        return stage

    def say(self, text: str) -> None:
        """Print a line about the progress of the run to stderr."""
        if self.progress:
            print(f"[revelio-fast] {text}", file=sys.stderr, flush=True)


def _read_done(path: Path, key: str) -> dict[str, Any] | None:
    try:
        done = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return done if isinstance(done, dict) and done.get("key") == key else None
