"""The processes of a run on many hosts: how they join, wait for each other, and leave together.

Every process reports to the others once a second, through the key-value store of `jax.distributed`, that it is alive. A
thread reads these reports. It ends its process with a message as soon as another process fails, and within `LOST_AFTER`
seconds if another one is killed or its host disappears: the alternative would be to wait for it in a collective
operation, forever. The store is in process 0. If that one dies, JAX may be faster than the thread and abort the others,
with a message of its own. With a single process, every function here does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import functools
import json
import os
import sys
import threading
import time
import traceback
from typing import Any

import jax
from jax.experimental import multihost_utils

from pix2pix_jax import output
from pix2pix_jax.errors import UsageError, few

LOST_AFTER = 20  # seconds without a report, after which a process counts as lost
LOST = 75  # exit status after the loss of another process (EX_TEMPFAIL): start the same command again
_READING = 3  # seconds in which every process has read a report
_FOREVER_MS = 1000 * 3600 * 24 * 20  # no limit for a barrier: failures end the process in other ways
_ALIVE, _FAILED = "alive", "failed"


def is_main() -> bool:
  """Whether this is process 0, which alone prepares data, prints, and writes what is not a checkpoint."""
  return jax.process_index() == 0


def join(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
  """Connects this process with the others of its run. Has to come before JAX computes anything.

  Args:
    coordinator: HOST:PORT, where process 0 listens; with None for all three, the cluster's manager is asked (Slurm,
      TPU, Kubernetes).
    num_processes: number of processes of the run.
    process_id: number of this process, from 0.

  Raises:
    UsageError: no other process can be reached.
  """
  # On CPUs a process waits only 30 s for the others, who may be compiling, drawing samples or writing to a slow disk.
  patience = f"--xla_cpu_collective_timeout_seconds={_FOREVER_MS // 1000}"
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {patience}".strip()
  # With recoverability, a lost process does not abort the others: the watch ends them with a message.
  jax.config.update("jax_enable_recoverability", True)
  jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from `StopOnSignal`
  try:
    jax.distributed.initialize(coordinator, num_processes, process_id, heartbeat_timeout_seconds=LOST_AFTER)
  except (RuntimeError, ValueError) as error:
    reason = " ".join(str(error).split()).rstrip(".")
    raise UsageError(
      f"--distributed: the processes cannot be connected ({reason}). They are found automatically on Slurm, TPU and "
      "Kubernetes; elsewhere, give each process --coordinator=HOST:PORT, --num_processes=N and --process_id=I. Leave "
      "the flag out for a single process."
    ) from error
  if not is_main():
    output.be_quiet()
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("pix2pix_jax")  # connects the devices while all processes are here


@contextlib.contextmanager
def main_first(name: str) -> Iterator[None]:
  """Runs the block on process 0, then on the others at once: they find what process 0 has written."""
  if not is_main():
    wait_for_all(name)
  yield
  if is_main():
    wait_for_all(name)


def wait_for_all(name: str) -> None:
  """Returns when every process has come here, however long that takes."""
  if watch := _watch():
    watch.client.wait_at_barrier(f"pix2pix_jax/{name}", _FOREVER_MS)


def require_equal(settings: dict[str, Any]) -> None:
  """Compares settings with those of process 0.

  Raises:
    UsageError: names what differs.
  """
  if not (watch := _watch()):
    return
  key, mine = "pix2pix_jax/settings", json.loads(json.dumps(settings, default=list))
  if is_main():
    watch.client.key_value_set(key, json.dumps(mine))
  main = json.loads(watch.client.blocking_key_value_get(key, _FOREVER_MS))
  differing = [
    f"{name} is {mine.get(name)!r} here and {main.get(name)!r} there"
    for name in main | mine
    if mine.get(name) != main.get(name)
  ]
  if differing:
    raise UsageError(
      f"Process {jax.process_index()} was started with other settings, or sees other data, than process 0: "
      f"{few(differing)}. Start every process with the same command."
    )
  wait_for_all("settings")  # so that nothing is written before all have compared


@contextlib.contextmanager
def leaving_together() -> Iterator[None]:
  """Ends the run on all processes: at the end of the block, or when an exception leaves it on any of them.

  Process 0 leaves last, because it holds the store: the others end here, with `os._exit`.
  """
  try:
    try:
      yield
    except KeyboardInterrupt as stop:
      if stop.args:  # told, and the same on all processes
        _leave(130)
      raise
    _leave(0)
  except BaseException as error:
    if not (watch := _watch()) or watch.has_left:
      raise
    text, status = _explain(error)
    watch.fail(text, status)
    if is_main():
      raise
    if status == 1:
      traceback.print_exc()
    output.say(f"error: {text}", error=True)
    os._exit(status)


def _leave(status: int) -> None:
  """Waits for the other processes to come here too; all but process 0 exit."""
  wait_for_all("end")
  if watch := _watch():
    watch.has_left = True
    watch.stop()
    if not is_main():
      sys.stdout.flush()
      os._exit(status)


def _explain(error: BaseException) -> tuple[str, int]:
  """A line about the exception that ended a process, and the process's exit status."""
  if isinstance(error, UsageError):
    return str(error), 2
  if isinstance(error, KeyboardInterrupt):
    return "it was interrupted.", 130
  return f"{type(error).__name__}: {error}", 1


class _Watch:
  """Reports that this process is alive, and ends it if another one is not; see the module's docstring.

  Attributes:
    client: of JAX's coordination service.
    has_left: whether all processes have ended their run.
  """

  def __init__(self):
    from jax._src import distributed  # there is no public way to its key-value store

    self.client: Any = distributed.global_state.client
    self._index, self._count = jax.process_index(), jax.process_count()
    self.has_left = False
    self._stopped = threading.Event()
    self._reports = 0
    self._heard = dict.fromkeys(range(self._count), time.monotonic())
    self._read = dict.fromkeys(range(self._count), 0)  # reports of each process
    self._report(_ALIVE)
    self._thread = threading.Thread(target=self._run, daemon=True, name="pix2pix_jax processes")
    self._thread.start()

  def _report(self, kind: str, **more: Any) -> None:
    self._reports += 1
    report = json.dumps({"kind": kind, "number": self._reports, **more})
    self.client.key_value_set(f"pix2pix_jax/processes/{self._index}", report, allow_overwrite=True)

  def _run(self) -> None:
    numbers: dict[int, int] = {}
    while not self._stopped.wait(1):
      try:
        self._report(_ALIVE)
        found = self.client.key_value_dir_get("pix2pix_jax/processes/")
      except jax.errors.JaxRuntimeError:  # the store is in process 0
        if not self._stopped.wait(2):
          self._lose("Process 0 was lost")
        return
      for key, text in found:
        index, report = int(key.rpartition("/")[2]), json.loads(text)
        if report["kind"] == _FAILED:
          self._end(f"Process {index} ended: {report['text']}", report["status"])
        if numbers.get(index) != report["number"]:
          numbers[index], self._heard[index] = report["number"], time.monotonic()
          self._read[index] += 1
      for index, last in self._heard.items():
        if time.monotonic() - last > LOST_AFTER:
          self._lose(f"Process {index} was lost: no sign of life for {LOST_AFTER} s")

  def _lose(self, what: str) -> None:
    self._end(f"{what}. This process stops as well. Run the same command on every host to resume.", LOST)

  def _end(self, text: str, status: int) -> None:
    if self._stopped.is_set():
      return
    output.say(f"error: {text}", error=True)
    if self._index == 0:
      time.sleep(_READING)
    os._exit(status)  # the main thread may wait in a collective operation, from which nothing wakes it

  def fail(self, text: str, status: int) -> None:
    """Tells the other processes why this one ends."""
    if status == 1:  # if the reason is that another process is gone, the watch notices, and ends this one
      before = dict(self._read)
      while any(self._read[index] < before[index] + 2 for index in before):  # the next may have been written before
        time.sleep(0.1)
    self.stop()
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # the store may be gone already
      self._report(_FAILED, text=text, status=status)
      if self._index == 0:
        time.sleep(_READING)

  def stop(self) -> None:
    """Ends the watch; from now on, other processes may leave."""
    self._stopped.set()
    self._thread.join()


@functools.cache
def _watch() -> _Watch | None:
  return _Watch() if jax.process_count() > 1 else None
