"""A trace of some of a worker's steps, by torch's profiler; chrome://tracing and Perfetto open it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from cliploom import storage


class Profile:
    """Records the steps first to last, both included, and tells of the file.

    Args:
        steps: (first, last), counted from 1 as in progress lines; nothing is recorded without them.
        folder: URI that the trace is written to.
        written: gets the trace's URI.
    """

    def __init__(self, steps: tuple[int, int] | None, folder: str, written: Callable[[str], None]) -> None:
        self._first, self._last = steps or (0, 0)
        self._folder, self._written = folder, written
        self._profiler: torch.profiler.profile | None = None

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """The block takes the step `number`."""
        if number == self._first:
            self._profiler = torch.profiler.profile()
            self._profiler.start()
        yield
        if self._profiler and number == self._last:
            self._profiler.stop()
            self._write()
            self._profiler = None

    def _write(self) -> None:
        assert self._profiler
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, f"trace-steps-{self._first}-{self._last}.json.gz")
            self._profiler.export_chrome_trace(str(file))
            uri = storage.join(self._folder, file.name)
            storage.upload(file, uri)
        self._written(uri)
