"""Folders of prepared data: checked when they are opened, and locked while they are written.

A folder is whole if its index can be read and every shard holds as many records as the index says. ArrayRecord guards
the records themselves by checksums, which are verified whenever one is read (`PreparedSource`).
"""

from collections.abc import Callable, Iterator
import contextlib
import os
from pathlib import Path
import shutil

import tensorflow_datasets as tfds

from pix2pix_jax import output
from pix2pix_jax.data.source import Damaged, first_line, import_tensorflow
from pix2pix_jax.errors import UsageError, few, reason

try:
  import fcntl
except ImportError:  # Windows, where two processes may do the same work; the later one takes the files of the other
  fcntl = None  # type: ignore[assignment]

INDEX = "dataset_info.json"
LOCK = ".lock"
UNFINISHED = "incomplete.*"  # TFDS's names for folders that it has not renamed yet


def find(folder: Path, make_builder: Callable[[], tfds.core.DatasetBuilder]) -> tfds.core.DatasetBuilder | None:
  """The builder of prepared data; None if there is none.

  Raises:
    Damaged: it is not whole.
    UsageError: it cannot be read.
  """
  try:
    with os.scandir(folder) as entries:
      found = {entry.name for entry in entries if entry.is_file()}
    for name in found:
      (folder / name).open("rb").close()
  except FileNotFoundError:
    return None
  except OSError as error:
    raise UsageError(
      f"Prepared data, {error.filename}, cannot be read ({reason(error)}). Make it readable, or set data.prepared_dir "
      "to another folder."
    ) from error
  if INDEX not in found:
    raise Damaged(folder, f"{INDEX} is missing")
  try:
    builder = make_builder()
  except UsageError:
    raise
  except Exception as error:  # the parser of a damaged file may raise anything
    raise Damaged(folder, f"{INDEX} cannot be read") from error
  expected = {
    os.path.basename(path): count
    for split in builder.info.splits.values()
    for path, count in zip(split.filepaths, split.shard_lengths, strict=True)
  }
  if missing := expected.keys() - found:
    raise Damaged(folder, f"{few(sorted(missing))} missing")
  if unlisted := {name for name in found if f".{builder.info.file_format.value}-" in name} - expected.keys():
    raise Damaged(folder, f"{INDEX} lacks {few(sorted(unlisted))}")
  for name, count in expected.items():
    _check_shard(folder / name, count)
  if not expected:
    raise Damaged(folder, f"{INDEX} lists no shards")
  return builder


def _check_shard(path: Path, count: int) -> None:
  if ".array_record-" not in path.name:
    return  # the records of other formats are read into memory, and counted then
  from array_record.python import array_record_module

  try:
    reader = array_record_module.ArrayRecordReader(os.fspath(path))
    found = reader.num_records()
    reader.close()
  except RuntimeError as error:
    if "() failed:" in str(error):  # of the operating system, which says nothing about the content
      raise UsageError(f"Prepared data, {path}, cannot be read ({first_line(error)}). Try again.") from error
    raise Damaged(path.parent, f"{path.name} cannot be read ({first_line(error)})") from error
  if found != count:
    raise Damaged(path.parent, f"{path.name} holds {output.counted(found, 'record')}, but {INDEX} says {count:,}")


def write(
  folder: Path,
  builder: tfds.core.DatasetBuilder,
  make_builder: Callable[[], tfds.core.DatasetBuilder],
  settings: tfds.download.DownloadConfig,
) -> tfds.core.DatasetBuilder:
  """Prepares data in a folder that does not exist, and returns its builder, with the `notes` of the preparation.

  Raises:
    UsageError: as the reader; or the disk is full, or the folder cannot be written.
  """
  try:
    builder.download_and_prepare(download_config=settings)
    finished = find(folder, make_builder)
  except UsageError:
    raise
  except Exception as error:
    if not fcntl and (other := find(folder, make_builder)):
      return other  # another process was faster, with the same content
    raise _explained(error, folder) from error
  assert finished is not None
  finished.notes = getattr(builder, "notes", [])
  return finished


def _explained(error: Exception, folder: Path) -> Exception:
  """What to tell about an error of preparation: that of a disk names the place; others are faults of this program."""
  if isinstance(error, OSError):
    place, why = error.filename or folder, reason(error)
  elif (
    "() failed:" in str(error)  # by ArrayRecord's writer
    or isinstance(error, import_tensorflow().errors.ResourceExhaustedError)
  ):
    place, why = folder, first_line(error).rpartition("() failed: ")[2]
  else:
    return error
  return UsageError(
    f"Preparation stopped at {place} ({why}). Nothing half written is kept. If the disk is full, free space; or set "
    "data.prepared_dir to a folder on another one."
  )


# --- One process at a time


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
  """Lets one process at a time into the block for a folder of prepared data; others wait, and say so.

  At the beginning, removes what killed processes left behind in all folders beside it.

  Raises:
    UsageError: nothing can be written there.
  """
  lock = folder.parent / LOCK
  try:
    try:
      descriptor = _acquire(lock, wait=False)
    except BlockingIOError:
      output.say(f"Another process is preparing this data in {folder}; waiting for it.")
      descriptor = _acquire(lock, wait=True)
  except OSError as error:
    raise UsageError(
      f"{error.filename or folder} cannot be written ({reason(error)}). Set data.prepared_dir to a folder of your own."
    ) from error
  try:
    if descriptor is not None:
      _remove_all(folder.parent.glob(UNFINISHED))
      _clean_siblings(folder.parent)
    yield
  finally:
    if descriptor is not None:
      _release(lock, descriptor)


def _clean_siblings(folder: Path) -> None:
  """Removes unfinished data beside a locked folder, of other settings or other files, that no process is writing."""
  for other in {path.parent for path in folder.parent.glob(f"*/{UNFINISHED}")} - {folder}:
    with contextlib.suppress(OSError):
      if (descriptor := _acquire(other / LOCK, wait=False)) is not None:
        _remove_all(other.glob(UNFINISHED))
        _release(other / LOCK, descriptor)


def _remove_all(folders: Iterator[Path]) -> None:
  for folder in folders:
    shutil.rmtree(folder, ignore_errors=True)


def remove(folder: Path) -> None:
  """Deletes prepared data, while the folder is locked.

  Raises:
    UsageError: that is not possible.
  """
  try:
    shutil.rmtree(folder)
  except OSError as error:
    raise UsageError(f"{error.filename or folder} cannot be deleted ({reason(error)}). Delete it yourself.") from error


def _acquire(path: Path, *, wait: bool) -> int | None:
  """A descriptor of the locked file, whose folder is created; None if the file system has no locks.

  The holder deletes the file in the end; a lock on a file that is not there any more does not count.

  Raises:
    BlockingIOError: another process holds it, and `wait` is off.
    OSError: nothing can be written there.
  """
  while fcntl:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:  # the holder has just removed the folder
      continue
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
      if os.path.samestat(os.fstat(descriptor), os.stat(path)):
        return descriptor
    except BlockingIOError:
      os.close(descriptor)
      raise
    except FileNotFoundError:
      pass
    except OSError:
      os.close(descriptor)
      return None
    os.close(descriptor)
  path.parent.mkdir(parents=True, exist_ok=True)
  return None


def _release(path: Path, descriptor: int) -> None:
  """Deletes the locked file, and its folder if nothing else is in it."""
  with contextlib.suppress(OSError):
    path.unlink()
    path.parent.rmdir()
  os.close(descriptor)
