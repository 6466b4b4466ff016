"""A progress line with the time left: redrawn in a terminal and in a notebook, sparse in a log file."""

from __future__ import annotations

import sys
import time
from typing import TextIO


def duration(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


class ProgressLine:
    """Call it with the number of steps done and what to show; it draws at most a few times a second."""

    def __init__(self, total: int, label: str, *, start: int = 0, stream: TextIO | None = None) -> None:
        self.total, self.label, self.start = total, label, start
        self.stream = sys.stderr if stream is None else stream
        # what a notebook's kernel puts in place of a terminal; that the module is loaded says nothing
        self.live = self.stream.isatty() or type(self.stream).__module__.startswith("ipykernel.")
        self.interval = 0.2 if self.live else 30.0
        self.began = self.drawn = time.monotonic()

    def due(self, done: int) -> bool:
        """Whether a call now would draw: reading a loss from a GPU only then keeps the GPU busy."""
        return done >= self.total or time.monotonic() - self.drawn >= self.interval

    def __call__(self, done: int, **values: float) -> None:
        if not self.due(done):
            return
        self.drawn = time.monotonic()
        rate = (done - self.start) / max(self.drawn - self.began, 1e-9)
        left = duration((self.total - done) / rate) if rate > 0 else "?"
        shown = "".join(f"  {name} {value:.4f}" for name, value in values.items())
        text = f"{self.label} {done}/{self.total} {100 * done // self.total:3d} %{shown}  {rate:.1f}/s  {left} left"
        self.stream.write(f"\r{text:<100}" if self.live else text + "\n")
        self.stream.flush()

    def close(self) -> None:
        """End the line, where it is redrawn and was drawn."""
        if self.live and self.drawn > self.began:
            self.stream.write("\n")
            self.stream.flush()
