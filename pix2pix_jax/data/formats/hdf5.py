"""Named data sets in HDF5 files, read by h5py."""

from pathlib import Path

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
    found = {}

    def visit(name, item) -> None:
      if isinstance(item, h5py.Dataset) and item.shape and item.dtype.kind in "buif":
        found[name] = item

    file.visititems(visit)
    name = named.choose(path, {name: item.shape for name, item in found.items()}, (key or "").strip("/") or None)
    limits.check_claim(found[name].nbytes, size)
    return found[name][()]
