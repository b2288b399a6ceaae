"""NumPy files, .npy and .npz."""

import math
from pathlib import Path
from typing import IO
import zipfile

import numpy as np

from pix2pix_jax.data.formats import limits, named
from pix2pix_jax.errors import UsageError

SIGNATURE = b"\x93NUMPY"
ZIP_SIGNATURE = b"PK\x03\x04"


def read(path: Path, size: int) -> np.ndarray:
  """The array of an .npy file, without pickles, and without allocating what a damaged header claims."""
  with path.open("rb") as file:
    _header(path, file, size)
    file.seek(0)
    return np.load(file, allow_pickle=False)


def shape(path: Path, size: int) -> tuple[int, ...]:
  """The shape of the array of an .npy file, from its header."""
  with path.open("rb") as file:
    return _header(path, file, size)


def read_member(path: Path, key: str | None) -> np.ndarray:
  """One array of an .npz archive: the one named `key`, or the only image.

  Raises:
    UsageError: see `named.choose`; or the array holds no numbers.
  """
  with zipfile.ZipFile(path) as archive:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if _is_array(info)}
    if not members:
      raise ValueError("it is a zip archive without arrays")
    shapes = {}
    for name, info in members.items():
      with archive.open(info) as file:
        shapes[name] = _header(path, file, info.file_size)
    info = members[named.choose(path, shapes, key)]
    limits.check_claim(info.file_size, info.compress_size)
    with archive.open(info) as file:
      return np.lib.format.read_array(file, allow_pickle=False)


def _is_array(info: zipfile.ZipInfo) -> bool:
  return info.filename.endswith(".npy")


def _header(path: Path, file: IO[bytes], size: int) -> tuple[int, ...]:
  """The shape in a header; what follows must hold that many numbers."""
  version = np.lib.format.read_magic(file)
  if version > (2, 0):
    raise ValueError(f"version {version} of the format is for structured arrays")
  read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
  shape, _, dtype = read_header(file)
  if dtype.hasobject or dtype.kind not in "buif":
    raise UsageError(f"{path} holds {dtype}; an image holds integers, bool or floats. Convert it.")
  needed = math.prod(shape) * dtype.itemsize
  if min(shape, default=0) < 0 or needed > size - file.tell():
    raise ValueError(
      f"its header promises {needed} bytes for the shape {shape}, but only {size - file.tell()} bytes follow"
    )
  return shape


def write(path: Path, array: np.ndarray) -> None:
  with path.open("wb") as file:
    np.save(file, array)
