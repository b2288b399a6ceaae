"""Stopping a run by a signal, between two steps."""

from __future__ import annotations

import collections
import functools
import signal
import time
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

AGREEMENT = 2  # steps after which all processes know of a signal that one of them received
SAME_SIGNAL = 1.0  # seconds in which further SIGTERMs are the same one: some launchers forward it twice


class StopOnSignal:
  """Turns the first Ctrl-C, SIGTERM or SIGHUP (a closed terminal) into a request to stop after the running step.

  A second signal stops at once, without saving. Signals that the program was started to ignore stay ignored: SIGHUP
  under `nohup`, Ctrl-C in a background job of a script.

  Attributes:
    asked: whether to stop.
  """

  SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

  def __enter__(self) -> StopOnSignal:
    self.asked, self._when = False, 0.0
    self._shared: collections.deque[jax.Array] = collections.deque()
    self._old: dict[int, Any] = {}
    try:
      for number in self.SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
          self._old[number] = signal.signal(number, self._handle)
    except ValueError:  # not in the main thread: the notebook or server around us keeps its own handlers
      pass
    return self

  def _handle(self, number: int, frame: FrameType | None) -> None:
    if self.asked and (number == signal.SIGINT or time.monotonic() - self._when > SAME_SIGNAL):
      raise KeyboardInterrupt
    self.asked, self._when = True, time.monotonic()

  def agreed(self, split_rows: jax.sharding.NamedSharding) -> bool:
    """Whether to stop after this step. Has to be called once in every step.

    With several processes, it is True in the same step on all of them, `AGREEMENT` steps after the first signal.

    Args:
      split_rows: the sharding of a batch over all devices (`Experiment.split_rows`).
    """
    if jax.process_count() > 1:
      flags = np.full(jax.local_device_count(), self.asked)
      asked = jax.make_array_from_process_local_data(split_rows, flags)
      self._shared.append(_any(asked, jax.sharding.NamedSharding(split_rows.mesh, jax.sharding.PartitionSpec())))
      if len(self._shared) <= AGREEMENT:
        return False
      self.asked |= (agreed := bool(self._shared.popleft()))
      return agreed
    return self.asked

  def __exit__(self, *unused: object) -> None:
    for number, handler in self._old.items():
      signal.signal(number, handler)


@functools.partial(jax.jit, static_argnums=1)
def _any(flags: jax.Array, replicated: jax.sharding.NamedSharding) -> jax.Array:
  return jax.lax.with_sharding_constraint(jnp.any(flags), replicated)
