"""Raw picture files and value ranges: reading with errors that name the file, and [-1, 1] from what was read."""

from pathlib import Path
import re

import numpy as np
from PIL import Image

from pix2pix_jax import depth
from pix2pix_jax.errors import UsageError


def read_rgb(path: Path) -> np.ndarray:
  """The picture as uint8 (H, W, 3)."""
  return read_image(path, lambda image: image.convert("RGB"))


def read_image(path: Path, convert=lambda image: image) -> np.ndarray:
  """The picture as an array, after `convert`; a damaged or missing file raises a UsageError with its name."""
  try:
    with Image.open(path) as image:
      return np.asarray(convert(image))
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise UsageError(
      f"{path} cannot be read as a picture ({error}). It may be damaged or half downloaded: "
      "replace it, or remove it from the folder."
    ) from error


def numeric_order(paths) -> list[Path]:
  """Sorted with numbers in names compared as numbers: 2.jpg before 10.jpg."""
  return sorted(paths, key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", Path(p).name)])


def normalise(picture: np.ndarray, depth_range: tuple[float, float]) -> np.ndarray:
  """What a reader gives → float32 for the networks.

  Integers map from their full range and float32 metres from `depth_range` to [-1, 1]; a bool mask becomes 0 and 1.
  """
  if picture.dtype == np.bool_:
    return picture.astype(np.float32)
  if np.issubdtype(picture.dtype, np.integer):
    return picture.astype(np.float32) * np.float32(2 / np.iinfo(picture.dtype).max) - 1
  return depth.encode(picture, depth_range)


def denormalise(picture: np.ndarray, dtype: str, depth_range: tuple[float, float]) -> np.ndarray:
  """The inverse: [-1, 1] → integers of `dtype`, rounded, or float32 metres."""
  if dtype == "float32":
    return depth.decode(picture, depth_range)
  largest = np.iinfo(dtype).max
  return np.round((np.clip(picture, -1, 1).astype(np.float64) + 1) / 2 * largest).astype(dtype)
