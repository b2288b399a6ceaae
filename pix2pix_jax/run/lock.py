"""The lock of a workdir: two runs that write to one at the same time would destroy each other's checkpoints.

The operating system releases the lock however the process ends, also after `kill -9` or a power cut; the file
`run.lock`, which names the holder, may stay behind without effect. On a network file system, runs on several
machines exclude each other if it has locks between machines, as NFS does unless it is mounted with `nolock` or
`local_lock`; where there are no locks at all, a line says so, and the run starts.
"""

from collections.abc import Iterator
import contextlib
import datetime
import errno
import os
from pathlib import Path
import socket
import sys

from pix2pix_jax import output
from pix2pix_jax.errors import UsageError, reason

FILE = "run.lock"
_BYTE = 1 << 30  # on Windows, a locked byte cannot be read by others, so it lies beyond the text


@contextlib.contextmanager
def held(workdir: Path, *, by_this_process: bool = True) -> Iterator[None]:
  """Holds the lock of an existing workdir.

  Args:
    workdir: folder of the run.
    by_this_process: False in all processes of a run but one; nothing is locked.

  Raises:
    UsageError: another run holds it.
  """
  if not by_this_process:
    yield
    return
  path = Path(workdir) / FILE
  descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
  try:
    try:
      _lock(descriptor)
    except OSError as error:
      if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
        raise UsageError(
          f"--workdir {workdir} is in use by another run{_holder(path)}. Wait until it ends or stop it; to train at "
          "the same time, choose another --workdir."
        ) from None
      output.say(f"Warning: {path} cannot be locked ({reason(error)}). Do not start a second run in this workdir.")
    os.ftruncate(descriptor, 0)
    started = f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z}"
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}, started at {started}\n".encode())
    yield
  finally:
    os.close(descriptor)


def _holder(path: Path) -> str:
  """For example " (process 1234 on host, started at …)"; empty if it has not written its name."""
  text = path.read_text(encoding="utf-8", errors="replace").strip()
  return f" ({text})" if text else ""


def _lock(descriptor: int) -> None:
  """Locks an open file without waiting; closing it, or the end of the process, releases the lock."""
  if sys.platform == "win32":
    import msvcrt

    os.lseek(descriptor, _BYTE, os.SEEK_SET)
    msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    os.lseek(descriptor, 0, os.SEEK_SET)
  else:
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
