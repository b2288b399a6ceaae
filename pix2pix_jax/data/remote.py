"""Folders in buckets: gs://, s3:// and the other file systems of fsspec.

The libraries behind most formats read local files only. Raw files are therefore mirrored into the user's cache before a
reader looks at them, and prepared data is written there and uploaded, for other computers to download.
"""

from collections.abc import Iterator
import contextlib
import datetime
import os
from pathlib import Path, PurePosixPath
from typing import Any
import zlib

import fsspec

from pix2pix_jax import output
from pix2pix_jax.data import files, shards
from pix2pix_jax.data.shards import INDEX
from pix2pix_jax.data.source import user_cache
from pix2pix_jax.errors import URL, UsageError

BATCH = 64  # files that are downloaded together; an interrupted download resumes after the last batch
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")  # names of the time of a change, and of
_CONTENTS = ("etag", "ETag", "md5Hash", "content_hash", "blob_id")  # what identifies a content


def is_url(place: str | Path) -> bool:
  """Whether a place is a URL, not a path."""
  return bool(URL.match(str(place)))


@contextlib.contextmanager
def _opened(url: str, field: str) -> Iterator[tuple[Any, str]]:
  """The file system of a URL, and the path in it; what goes wrong in the block is one message."""
  try:
    system, path = fsspec.url_to_fs(url)
    yield system, path.rstrip("/")
  except UsageError:
    raise
  except ImportError as error:
    raise UsageError(f"{field} is {url}: {error}. Or mount it, and give the path of a folder.") from error
  except Exception as error:  # the network, a service or the disk may raise anything
    raise UsageError(
      f"{field} is {url}, which failed ({type(error).__name__}: {str(error)[:300]}). Check the URL, your credentials "
      "and the disk; or mount it, and give the path of a folder."
    ) from error


def mirror(url: str) -> Path:
  """The local copy of a folder of raw files, brought up to date: what is new or has changed is downloaded, and what is
  gone is deleted. Its files have the times of the originals.

  Raises:
    UsageError: the folder is empty, or it cannot be read.
  """
  folder = user_cache() / "mirrors" / _below(url)
  with _opened(url, "data.source_dir") as (system, root):
    listing = _list(system, root)
    if not listing:
      raise UsageError(f"data.source_dir {url} does not exist, or holds no files.")
    with shards.locked(folder):
      missing = {name: info for name, info in listing.items() if _state(folder / name) != _wanted(info)}
      if missing:
        gib = sum(info["size"] or 0 for info in missing.values()) / 2**30
        output.say(f"Downloading {output.counted(len(missing), 'file')} ({gib:.3g} GiB) from {url} to {folder}.")
        _download(system, missing, folder)
      for path in [path for path in folder.rglob("*") if path.is_file() and not files.is_junk(path.name)]:
        if path.relative_to(folder).as_posix() not in listing:
          path.unlink()
    return folder


def _below(url: str) -> Path:
  """A place for a URL below a folder: gs/bucket/raw."""
  scheme, _, rest = url.partition(":")
  parts = [part for part in rest.split("/") if part]
  if ".." in parts:
    raise UsageError(f"data.source_dir is {url}; write it without '..'.")
  return Path(scheme, *parts)


def _list(system: Any, root: str) -> dict[str, dict[str, Any]]:
  """The files below a folder by their names, without what operating systems leave behind."""
  found = {}
  for path, info in system.find(root, detail=True).items():
    name = path.removeprefix(root).lstrip("/")
    parts = PurePosixPath(name).parts
    if info["type"] != "file" or not name or name.endswith("/") or any(map(files.is_junk, parts)):
      continue
    found[name] = info
  return found


def _wanted(info: dict[str, Any]) -> tuple[int, int]:
  """Size and time in seconds of a file in a listing; for the time, a checksum stands in where there is none."""
  changed = next((info[name] for name in _TIMES if info.get(name)), None)
  if changed is None:
    return info["size"], zlib.crc32(str([info.get(name) for name in _CONTENTS]).encode())
  if isinstance(changed, str):
    changed = datetime.datetime.fromisoformat(changed)
  return info["size"], int(changed.timestamp() if isinstance(changed, datetime.datetime) else changed)


def _state(path: Path) -> tuple[int, int] | None:
  """The same of a local file; None if there is none."""
  try:
    state = path.stat()
  except OSError:
    return None
  return state.st_size, int(state.st_mtime)


def _download(system: Any, found: dict[str, dict[str, Any]], folder: Path) -> None:
  names = list(found)
  for start in range(0, len(names), BATCH):
    batch = names[start : start + BATCH]
    parts = [folder / f"{name}.part" for name in batch]
    for part in parts:
      part.parent.mkdir(parents=True, exist_ok=True)
    system.get([found[name]["name"] for name in batch], list(map(str, parts)))
    for name, part in zip(batch, parts):
      _, changed = _wanted(found[name])
      os.utime(part, (changed, changed))
      part.replace(folder / name)


def download(url: str, folder: Path) -> None:
  """Fetches prepared data from a URL to a local folder, if it is there and complete, and not here.

  Raises:
    UsageError: it cannot be read.
  """
  with _opened(url, "data.prepared_dir") as (system, root), shards.locked(folder):
    if folder.exists() or not system.exists(f"{root}/{INDEX}"):
      return
    output.say(f"Downloading prepared data from {url} to {folder}.")
    part = folder.with_name(f"incomplete.{os.getpid()}_{folder.name}")
    _download(system, _list(system, root), part)
    part.replace(folder)


def upload(folder: Path, url: str, *, replace: bool = False) -> None:
  """Copies prepared data from a local folder to a URL; unless `replace` is set, only if it is not there. Its index is
  the last file, so what has one is complete.

  Raises:
    UsageError: it cannot be written.
  """
  with _opened(url, "data.prepared_dir") as (system, root):
    if system.exists(f"{root}/{INDEX}"):
      if not replace:
        return
      system.rm(root, recursive=True)
    output.say(f"Uploading prepared data to {url}.")
    system.makedirs(root, exist_ok=True)
    names = sorted((path.name for path in folder.iterdir() if path.is_file()), key=lambda name: (name == INDEX, name))
    for name in names:
      system.put_file(str(folder / name), f"{root}/{name}")
