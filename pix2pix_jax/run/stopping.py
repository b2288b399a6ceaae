"""Stopping a run by a signal, between two steps."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class StopOnSignal:
  """Turns the first Ctrl-C, SIGTERM or SIGHUP (a closed terminal) into a request to stop after the running step.

  A second Ctrl-C stops at once. Signals that the program was started to ignore stay ignored: SIGHUP under `nohup`,
  Ctrl-C in a background job of a script.

  Attributes:
    asked: whether to stop.
  """

  SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

  def __enter__(self) -> StopOnSignal:
    self.asked = False
    self._old: dict[int, Any] = {}
    try:
      for number in self.SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
          self._old[number] = signal.signal(number, self._handle)
    except ValueError:  # not in the main thread: the notebook or server around us keeps its own handlers
      pass
    return self

  def _handle(self, number: int, frame: FrameType | None) -> None:
    if self.asked and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.asked = True

  def __exit__(self, *unused: object) -> None:
    for number, handler in self._old.items():
      signal.signal(number, handler)
