"""Images as bytes: those that clients send, within limits that are checked before anything is decoded, and those that
they get.
"""

from collections.abc import Iterator
import contextlib
import io
import os
from pathlib import Path
import tempfile
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from pix2pix_jax.data import files
from pix2pix_jax.data.formats import pillow
from pix2pix_jax.data.resizing import resize_raw
from pix2pix_jax.errors import UsageError
from pix2pix_jax.output import counted
from pix2pix_jax.run import translation, viz
from pix2pix_jax.signals import Signal, Stack

MEMORY, MEMORY_BYTES = Path("/dev/shm"), 2**21
NAME = "The image"  # with which messages start, in place of a temporary path
SIGNATURES = {  # first bytes: suffix
  b"\x89PNG\r\n\x1a\n": ".png",
  b"II*\0": ".tif",
  b"MM\0*": ".tif",
  b"II+\0": ".tif",
  b"MM\0+": ".tif",
  b"\x93NUMPY": ".npy",
  b"\xff\xd8\xff": ".jpg",
  b"RIFF": ".webp",
  b"BM": ".bmp",
  b"GIF8": ".gif",
}


class Refused(UsageError):
  """A request that is not carried out.

  Attributes:
    status: the HTTP status that says why.
  """

  def __init__(self, status: int, message: str):
    super().__init__(message)
    self.status = status


class Format(NamedTuple):
  """A format of answers.

  Attributes:
    suffix: suffix of its files, with the dot.
    media_type: its media type.
    meaning: what it holds, for the documentation.
  """

  suffix: str
  media_type: str
  meaning: str


FORMATS = {
  "png": Format(".png", "image/png", "the values in 8 or 16 bits; classes as indices with a palette"),
  "png16": Format(".png", "image/png", "the same in 16 bits; an 8-bit value v becomes 257 · v"),
  "tiff": Format(".tif", "image/tiff", "the values; several samples become several images"),
  "npy": Format(".npy", "application/x-npy", "the values as (H, W, C); with samples=N, (N, H, W, C)"),
  "display": Format(".png", "image/png", "8-bit colours to look at: of depth, of quantities, of classes"),
}


def read(
  signal: Signal, content: bytes, *, max_pixels: int, size: tuple[int, int] | None = None, folder: Path | None = None
) -> np.ndarray:
  """The image in `content` as the model accepts it: (H, W, C), as `translation.read` returns it.

  Args:
    signal: the model's input.
    content: a PNG, TIFF, npy, JPEG, WebP, BMP or GIF of one image. Several inputs are one npy with their channels one
      after the other.
    max_pixels: the largest height · width.
    size: (height, width) to which the image is resized, cropped to these proportions around its centre; None: neither.
    folder: folder for a temporary file; None: the system's.

  Raises:
    Refused: another format, too many pixels, or several images.
    UsageError: damaged, or not what the model accepts.
  """
  suffix = next((suffix for start, suffix in SIGNATURES.items() if content.startswith(start)), None)
  if not content:
    raise Refused(400, f"{NAME} is empty (0 bytes). Send the bytes of a file as the body of the request.")
  if suffix is None or (isinstance(signal, Stack) and suffix != ".npy"):
    accepted = "an npy with the channels of all inputs" if isinstance(signal, Stack) else "PNG, TIFF, npy or JPEG"
    raise Refused(415, f"{NAME} is in none of the formats that are accepted. Send {accepted}.")
  with _temporary(suffix, folder or _folder_for(len(content))) as path:
    path.write_bytes(content)
    try:
      count, height, width, channels = files.claimed_size(path)
      values = height * width * max(1, channels / max(4, signal.raw_channels))
      if values > max_pixels:
        claim = f"{width}×{height} with {counted(channels, 'channel')}"
        raise Refused(413, f"{NAME} is {claim}; at most {max_pixels:,} pixels are accepted. Shrink it.")
      if count != 1:
        raise Refused(400, f"{NAME} holds {count} images. Send them one by one.")
      image = _joined(signal, path) if isinstance(signal, Stack) else translation.read(signal, path).images[0]
    except Refused:
      raise
    except UsageError as error:
      if isinstance(error.__cause__, UnidentifiedImageError):  # although it begins like one of the formats
        raise UsageError(f"{NAME} cannot be read: it is damaged or incomplete. Send the whole file.") from error
      if isinstance(error.__cause__, Image.DecompressionBombError):
        raise Refused(
          413, f"{NAME} claims to be huge; at most {max_pixels:,} pixels are accepted. Shrink it."
        ) from error
      raise UsageError(str(error).replace(str(path), NAME)) from error
  if image.shape[-1] != signal.raw_channels:
    raise UsageError(
      f"{NAME} has {image.shape[-1]} channels, but this model's input is: {signal.describe()}. Send such an image."
    )
  return image if size is None else resize_raw(signal, _cropped(image, size), size)


def _joined(signal: Stack, path: Path) -> np.ndarray:
  array = files.read(path)
  return signal.accept(array, str(path))


def _cropped(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """The largest part around the centre with the proportions of (height, width)."""
  height, width = image.shape[:2]
  scale = min(height / size[0], width / size[1])
  rows, columns = (max(1, round(side * scale)) for side in size)
  top, left = (height - rows) // 2, (width - columns) // 2
  return image[top : top + rows, left : left + columns]


def depth_scale(signal: Signal) -> float:
  """The factor from metres to the integers of a PNG."""
  return getattr(signal, "scale", 0) or files.KITTI_SCALE


def check_format(signal: Signal, name: str, samples: int) -> None:
  """Checks that answers can be sent in a format.

  Raises:
    Refused: no such format, or one that cannot hold the model's output.
  """
  if name not in FORMATS:
    raise Refused(400, f"format is {name!r}; it has to be one of {', '.join(FORMATS)}.")
  others = ", ".join(other for other in ("tiff", "npy") if other != name)
  if name in ("png", "png16") and not translation.fits_png(signal):
    raise Refused(400, f"PNG cannot hold this model's output ({signal.describe()}). Choose format=tiff or npy.")
  if name == "png16" and signal.kind == "classes":
    raise Refused(400, "Class indices are 8-bit numbers. Choose format=png.")
  if samples > 1 and FORMATS[name].suffix == ".png":
    raise Refused(400, f"A PNG holds one image, but samples is {samples}. Choose format={others}, or samples=1.")


def possible_formats(signal: Signal) -> list[str]:
  """The formats that can hold the model's output."""

  def holds(name: str) -> bool:
    try:
      check_format(signal, name, 1)
    except Refused:
      return False
    return True

  return [name for name in FORMATS if holds(name)]


def to_npy(array: np.ndarray) -> bytes:
  """An npy in C order, which every reader of the format expects."""
  buffer = io.BytesIO()
  np.save(buffer, np.ascontiguousarray(array))
  return buffer.getvalue()


def write(signal: Signal, results: np.ndarray, name: str, folder: Path | None = None) -> bytes:
  """Translations (samples, H, W, C) in a format that `check_format` has accepted."""
  first = results[0]
  if name == "npy":
    return to_npy(first if len(results) == 1 else results)
  if name == "tiff":
    with _temporary(".tif", folder) as path:
      if len(results) > 1:
        files.write_volume(path, results)
      else:
        translation.write(signal, path, results, translation.Content(results, first.shape[:2]))
      return path.read_bytes()
  array = viz.show(signal, first) if name == "display" else translation.as_integers(signal, first)
  if name == "png16" and array.dtype == np.uint8:
    array = array.astype(np.uint16) * 257
  palette = getattr(signal, "color_table", None) if name == "png" else None  # of classes
  return pillow.png(array, palette, is_quick=True)


@contextlib.contextmanager
def _temporary(suffix: str, folder: Path | None) -> Iterator[Path]:
  """A file that is removed afterwards."""
  handle, name = tempfile.mkstemp(suffix, "pix2pix_jax_", folder)
  os.close(handle)
  try:
    yield Path(name)
  finally:
    Path(name).unlink(missing_ok=True)


def _folder_for(size: int) -> Path | None:
  """Where a temporary file of so many bytes goes: small ones into memory, because disks take milliseconds to remove
  them. Containers often have 64 MiB there, which a few large ones would fill.
  """
  return MEMORY if size <= MEMORY_BYTES and os.access(MEMORY, os.W_OK) else None
