"""Named data sets in HDF5 files, read by h5py."""

from pathlib import Path
from typing import Any

import numpy as np

from pix2pix_jax.data.formats import extras, limits, named

SIGNATURE = b"\x89HDF\r\n\x1a\n"


def read(path: Path, size: int, key: str | None) -> np.ndarray:
  """One data set: the one named `key` (with its groups, as in `frames/depth`), or the only image.

  Raises:
    UsageError: see `named.choose`.
  """
  h5py = extras.load("h5py", str(path))
  with h5py.File(path, "r") as file:
    found: dict[str, Any] = {}

    def visit(name, item) -> None:
      if isinstance(item, h5py.Dataset) and item.shape and item.dtype.kind in "buif":
        found[name] = item

    file.visititems(visit)
    name = named.choose(path, {name: item.shape for name, item in found.items()}, (key or "").strip("/") or None)
    return whole(found[name], size)


def whole(dataset: Any, size: int) -> np.ndarray:
  """A data set in memory.

  Args:
    dataset: of h5py.
    size: bytes of its file.

  Raises:
    ValueError: it claims more than the file can hold, or its numbers lie in other files.
  """
  check(dataset, size)
  return dataset[()]


def check(dataset: Any, size: int) -> None:
  """Checks a data set before it is read, as `whole` does."""
  if dataset.external or dataset.is_virtual:
    raise ValueError(f"the numbers of {dataset.name} lie in another file; copy them into this one")
  limits.check_claim(dataset.nbytes, size)


def get(file: Any, name: str) -> Any:
  """The data set of a name in the file itself; None if there is none, or only a link to another file."""
  h5py = extras.load("h5py", "HDF5")
  link = file.get(name, getlink=True)
  found = None if link is None or isinstance(link, h5py.ExternalLink) else file.get(name)
  return found if isinstance(found, h5py.Dataset) and found.file == file else None
