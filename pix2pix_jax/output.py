"""Output that never stops a program: a closed pipe or terminal costs the words, not the work."""

from collections.abc import Iterator
import contextlib
import io
import os
import sys
import time
from typing import Any, TextIO

from tqdm import tqdm


def say(text: str, *, error: bool = False) -> None:
  """Prints a line to standard output, or to standard error, above a progress bar if there is one.

  A stream that nobody reads any more (`| head`, an interrupted `| tee`, a closed terminal) is silenced.
  Characters that the stream's encoding lacks become question marks.
  """
  stream = sys.stderr if error else sys.stdout
  if stream is None or (_quiet and not error):  # None: started with the stream closed
    return
  encoding = getattr(stream, "encoding", None) or "utf-8"
  try:
    tqdm.write(text.encode(encoding, "replace").decode(encoding), file=stream)
    stream.flush()
  except (OSError, ValueError):  # a broken pipe, or a closed file
    silence(stream)


_verbose = False  # like the level of a log
_quiet = False


def be_quiet() -> None:
  """Makes `say` print only errors, for the rest of the process: on all processes of a distributed run but the first."""
  global _quiet
  _quiet = True


def be_verbose() -> None:
  """Makes `stage` print, for the rest of the process (`--verbose`)."""
  global _verbose
  _verbose = True


def is_verbose() -> bool:
  """Whether `be_verbose` was called."""
  return _verbose


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
  """Prints how long the block took, if the output is verbose."""
  begin = time.perf_counter()
  yield
  if _verbose:
    say(f"{name} took {time.perf_counter() - begin:.2f} s.")


def counted(number: int, noun: str) -> str:
  """For example "1 image" or "2,500 images"."""
  return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
  """For example "45 s", "2.5 min", "12 min" or "2 h 5 min"."""
  if seconds < 119.5:
    return f"{seconds:.0f} s"
  minutes = round(seconds / 60)
  if minutes < 10:
    return f"{seconds / 60:.1f} min"
  return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def silence(stream: TextIO) -> None:
  """Discards everything that is written to a stream from now on."""
  nowhere = os.open(os.devnull, os.O_WRONLY)
  try:
    os.dup2(nowhere, stream.fileno())
  except (OSError, ValueError):  # not a file of the operating system, but for example a notebook's stream
    pass
  finally:
    os.close(nowhere)


class Unbreakable:
  """Wraps a stream so that `write` and `flush` never raise OSError or ValueError, but silence the stream instead."""

  def __init__(self, stream: TextIO):
    self._stream = stream

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)

  def write(self, text: str) -> int:
    try:
      return self._stream.write(text)
    except (OSError, ValueError):
      silence(self._stream)
      return len(text)

  def flush(self) -> None:
    try:
      self._stream.flush()
    except (OSError, ValueError):
      silence(self._stream)


@contextlib.contextmanager
def unbreakable() -> Iterator[None]:
  """Inside, no print, progress bar, log message or traceback can fail, whatever standard output and error are.

  They may be closed from the start (`>&-`), break (`| head`, a closed terminal), be full (`> /dev/full`), or have an
  encoding that lacks characters, such as those of some Windows code pages.
  """
  _fill_closed_descriptors()
  before = sys.stdout, sys.stderr
  for stream in before:
    if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
      stream.reconfigure(errors="replace")  # the second is what the locale "C" gives, and fails on "→" as well
  nowhere = open(os.devnull, "w", encoding="utf-8")
  sys.stdout, sys.stderr = (Unbreakable(stream or nowhere) for stream in before)
  try:
    yield
  finally:
    sys.stdout.flush()  # unflushed output could make the interpreter exit with status 120
    sys.stderr.flush()
    sys.stdout, sys.stderr = before
    nowhere.close()


def _fill_closed_descriptors() -> None:
  """Opens /dev/null in place of closed standard streams.

  Otherwise the next file that is opened, a checkpoint perhaps, would get their number, and libraries write to that.
  """
  for number in (0, 1, 2):
    try:
      os.fstat(number)
    except OSError:
      opened = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
      os.set_inheritable(opened, True)
