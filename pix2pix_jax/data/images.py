"""Reading raw picture files, with errors that name the file."""

from pathlib import Path
import re

import numpy as np
from PIL import Image

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
    raise UsageError(f"{path} cannot be read as a picture ({error}). It may be damaged or half downloaded: "
                     "replace it, or remove it from the folder.") from error


def numeric_order(paths) -> list[Path]:
  """Sorted with numbers in names compared as numbers: 2.jpg before 10.jpg."""
  return sorted(paths, key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", Path(p).name)])
