"""What a run says when its workdir can no longer be written: the disk is full or read-only, or the folder is gone."""

from collections.abc import Callable, Iterator
import contextlib
import errno
import gc
import inspect
import logging
import os
from pathlib import Path
import sys
from typing import Any
import warnings

from pix2pix_jax.errors import FULL, STORAGE, UsageError

_NUMBERS = STORAGE | {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}  # the last ones: someone else changed the workdir


@contextlib.contextmanager
def explained(workdir: Path) -> Iterator[None]:
  """Turns errors of the disk or the folder that a run writes to into one message; other errors pass.

  Raises:
    UsageError: what is wrong, and which checkpoint is intact.
  """
  message, before = "", _identity(Path(workdir))
  with quiet_tasks():
    try:
      yield
    except UsageError:
      raise
    except Exception as error:  # TensorStore and TensorFlow have their own types for errors of the disk
      message = _explain(error, Path(workdir), before)
      if not message:
        raise
    if message:
      gc.collect()  # the other writes of a checkpoint, now that the exception, which refers to them, is gone
  if message:
    raise UsageError(message)


def _is_no_exit(record: logging.LogRecord) -> bool:
  """False for what Orbax logs of its tasks, such as looking for the remains of killed saves, when the program exits."""
  return "cannot schedule new futures after" not in record.getMessage()


@contextlib.contextmanager
def quiet_tasks() -> Iterator[None]:
  """Silences what Orbax and asyncio print, besides raising an exception, when a part of a checkpoint fails."""
  silent = lambda record: record.name != "asyncio" and "orbax" not in record.pathname
  loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
  for logger in loggers:
    logger.addFilter(silent)
  if not isinstance(sys.unraisablehook, _Hook):  # it stays, because some tasks end long afterwards
    sys.unraisablehook = _Hook(sys.unraisablehook)
  logging.getLogger("absl").addFilter(_is_no_exit)  # stays, too
  try:
    with warnings.catch_warnings():
      warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
      yield
  finally:
    for logger in loggers:
      logger.removeFilter(silent)


class _Hook:
  """Leaves out what Python prints about tasks whose event loop has ended."""

  def __init__(self, hook: Callable[[Any], object]):
    self._hook = hook

  def __call__(self, found: Any) -> None:
    if not inspect.iscoroutine(found.object) and str(found.exc_value) != "Event loop is closed":
      self._hook(found)


def _identity(workdir: Path) -> tuple[int, int] | None:
  """What distinguishes a folder from another one of the same name; None if there is no such folder."""
  try:
    status = workdir.stat()
  except OSError:
    return None
  return status.st_dev, status.st_ino


def _explain(error: Exception, workdir: Path, before: tuple[int, int] | None) -> str:
  """The message about an error of the disk or the folder, which was `before`; empty for other errors."""
  if _identity(workdir) != before:  # Orbax may have created it again
    return (
      f"--workdir {workdir} was moved or removed while the run wrote to it. If it was moved, run the same command with "
      "the new --workdir to resume."
    )
  fault = next(filter(None, (_fault(each, workdir) for each in _chain(error))), None)
  if fault is None:
    return ""
  remedy = "Free space" if fault[0] in FULL else "Make it writable" if fault[0] in STORAGE else "Leave the folder alone"
  intact = _intact(workdir)
  return f"--workdir {workdir} cannot be written ({fault[1]}). {intact} {remedy} and run the same command to resume."


def _chain(error: BaseException) -> Iterator[BaseException]:
  """An exception and those that led to it."""
  seen: list[BaseException] = []
  pending: list[BaseException | None] = [error]
  while pending:
    each = pending.pop()
    if each is not None and not any(each is other for other in seen):
      seen.append(each)
      yield each
      pending += [each.__cause__, each.__context__]


def _fault(error: BaseException, workdir: Path) -> tuple[int, str] | None:
  """The number and the text of the operating system's error about a write to the workdir, if this is one."""
  if not isinstance(error, OSError):  # libraries in C++ pass on the text
    return next(((number, os.strerror(number)) for number in _NUMBERS if os.strerror(number) in str(error)), None)
  if error.errno is None or error.errno not in _NUMBERS or not _is_within(error.filename, workdir):
    return None
  text = os.strerror(error.errno)
  return error.errno, f"{text}: {error.filename}" if error.filename else text


def _is_within(filename: object, workdir: Path) -> bool:
  """Whether the file of an OSError lies in the workdir; those of writes to open files have no name."""
  if not isinstance(filename, str | bytes | os.PathLike):
    return True
  return Path(os.fsdecode(filename)).absolute().is_relative_to(workdir.absolute())


def _intact(workdir: Path) -> str:
  names = [path.name for path in (workdir / "checkpoints").glob("*")]
  steps = [int(name) for name in names if name.isascii() and name.isdigit()]
  return f"The checkpoint of step {max(steps)} is intact." if steps else "No checkpoint was saved yet."
