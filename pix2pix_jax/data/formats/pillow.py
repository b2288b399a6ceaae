"""Formats that Pillow reads, and PNG of every form it writes."""

from collections.abc import Callable
import functools
import io
import math
from pathlib import Path
import struct
from typing import Any
import zlib

import numpy as np
from PIL import Image, ImageFile

from pix2pix_jax.data.formats import limits
from pix2pix_jax.errors import UsageError

# TGA has no signature, so its suffix decides.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "ICO", "PCX", "QOI")
PNG_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels: colour type (PNG specification, section 11.2.1)
ORIENTATION_TAG = 274  # EXIF and TIFF


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
  """Undoes an EXIF orientation, 1 to 8; any other value counts as 1 (EXIF 2.32, section 4.6.4)."""
  if orientation in (5, 6, 7, 8):
    array = array.swapaxes(0, 1)
  if orientation in (3, 4, 7, 8):
    array = array[::-1]
  if orientation in (2, 3, 6, 7):
    array = array[:, ::-1]
  return array


@functools.cache
def _formats() -> list[str]:
  """The formats in `FORMATS` that this build of Pillow has."""
  Image.init()
  return [name for name in FORMATS if name in Image.OPEN]


def read(path: Path, head: bytes, colors: bool) -> np.ndarray:
  """The upright image of a file that starts with `head`, at least 26 bytes."""
  with Image.open(path, formats=["TGA"] if path.suffix.lower() == ".tga" else _formats()) as image:
    limits.check_claim(image.width * image.height * len(image.getbands()), path.stat().st_size)
    if image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: a photograph with previews or a depth map
      frames = getattr(image, "n_frames", "several")
      raise UsageError(f"{path} is an animation of {frames} frames; save each frame as a file of its own.")
    if image.format == "PNG" and head[24:26] in (b"\x10\x02", b"\x10\x04", b"\x10\x06"):  # 16 bits, several channels
      array = _wide_png(path, head[25])
    elif image.format == "PPM" and image.mode == "RGB" and _is_wide_ppm(image):
      array = _wide_ppm(path, image)
    elif image.format == "JPEG2000" and len(image.getbands()) > 1 and _jpeg2000_bits(path) > 8:
      raise UsageError(
        f"{path} has more than 8 bits a channel, which JPEG 2000 files lose here. Save it as PNG or TIFF."
      )
    else:
      array = pixels(image, colors)
    return upright(array, _orientation(image))


def claimed_size(path: Path) -> tuple[int, int, int]:
  """(height, width, channels) by the header."""
  with Image.open(path, formats=["TGA"] if path.suffix.lower() == ".tga" else _formats()) as image:
    return image.height, image.width, len(image.getbands())


def _orientation(image: Image.Image) -> int:
  try:
    return image.getexif().get(ORIENTATION_TAG, 1)
  except Exception:  # damaged metadata; viewers show such an image as it is stored
    return 1


def pixels(image: Image.Image, colors: bool) -> np.ndarray:
  """A Pillow image without palette, single bits or inks."""
  if image.mode == "P" and not colors:
    return np.asarray(image)
  if image.mode in ("P", "PA"):
    image = image.convert("RGBA" if image.mode == "PA" or image.has_transparency_data else "RGB")
  elif image.mode == "LAB":
    image = _lab_to_rgb(image)
  elif image.mode in ("CMYK", "YCbCr", "HSV", "RGBX"):
    image = image.convert("RGB")
  elif image.mode == "1":
    image = image.convert("L")
  elif image.mode in ("La", "RGBa"):
    image = image.convert("LA" if image.mode == "La" else "RGBA")
  wide_grey = image.mode == "I" and image.format in (
    "PNG",
    "PPM",
    "JPEG2000",
  )  # unsigned 16 bits, in Pillow's older mode
  return np.asarray(image).astype(np.uint16) if wide_grey else np.asarray(image)


def palette(path: Path) -> tuple[tuple[int, int, int], ...]:
  """The colours of a palette image, also in TIFF; empty for other images."""
  with Image.open(path, formats=[*_formats(), "TIFF", "TGA"]) as image:
    values = (image.getpalette("RGB") or []) if image.mode in ("P", "PA") else []
  return tuple(zip(values[::3], values[1::3], values[2::3]))


def _lab_to_rgb(image: Image.Image) -> Image.Image:
  from PIL import ImageCms  # an optional part of Pillow

  lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
  converted = ImageCms.applyTransform(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))
  assert converted is not None  # only in-place conversions return None
  return converted


def _wide_png(path: Path, color_type: int) -> np.ndarray:
  """uint16 (H, W, 2 to 4) of a PNG; Pillow alone would keep only the high bytes."""
  opening = lambda: Image.open(path, formats=["PNG"])
  if color_type == 4:  # grey and alpha of 16 bits are four bytes, like RGBA of 8
    with opening() as image:
      return _decode(image, "RGBA").view(">u2")
  return two_bytes(opening, "RGB" if color_type == 2 else "RGBA", high=";16B", low=";16L")


def two_bytes(opening: Callable[[], ImageFile.ImageFile], mode: str, high: str, low: str) -> np.ndarray:
  """uint16 from two passes, one for each byte: Pillow has no mode for several 16-bit channels, but can read
  either byte."""
  halves = []
  for byte in (high, low):
    with opening() as image:
      halves.append(_decode(image, mode + byte).astype(np.uint16))
  return halves[0] << 8 | halves[1]


def _decode(image: ImageFile.ImageFile, rawmode: str) -> np.ndarray:
  """The array of an opened image whose stored bytes are interpreted as `rawmode`."""
  tile: Any = image.tile[0]
  args = rawmode if isinstance(tile[3], str) else (rawmode, *tile[3][1:])
  parts: Any = (*tile[:3], args)
  image.tile = [type(tile)(*parts) if hasattr(tile, "_fields") else parts]
  return np.array(image)


def _is_wide_ppm(image: ImageFile.ImageFile) -> bool:
  tile: Any = image.tile[0]
  return tile[0].startswith("ppm") and tile[3][1] > 255


def _wide_ppm(path: Path, image: ImageFile.ImageFile) -> np.ndarray:
  """uint16 (H, W, 3) of a binary PPM with more than 8 bits, scaled to the full range as Pillow does for greys."""
  tile: Any = image.tile[0]
  name, _, offset, (_, largest) = tile
  if name != "ppm":
    raise UsageError(f"{path} is a text PPM of more than 8 bits. Save it as PNG or TIFF.")
  shape = (image.height, image.width, 3)
  values = np.fromfile(path, ">u2", math.prod(shape), offset=offset).reshape(shape).astype(np.float64)
  return np.minimum(np.round(values * (65535 / largest)), 65535).astype(np.uint16)


def _jpeg2000_bits(path: Path) -> int:
  """Bits of the first channel, from the size marker of the code stream (ISO 15444-1, A.5.1)."""
  with path.open("rb") as file:
    head = file.read(2**16)
  return (head[head.index(b"\xff\x4f\xff\x51") + 42] & 127) + 1


# --- Writing


def write(path: Path, array: np.ndarray) -> None:
  """PNG of uint8 or uint16 (H, W, 1 to 4)."""
  path.write_bytes(png(array))


def write_indexed(path: Path, indices: np.ndarray, palette: np.ndarray) -> None:
  """Indices (H, W, 1) of the colours of a palette, uint8 (n, 3)."""
  path.write_bytes(png(indices, palette))


def png(array: np.ndarray, palette: np.ndarray | None = None, *, is_quick: bool = False) -> bytes:
  """A PNG of uint8 or uint16 (H, W, 1 to 4), or of indices of a palette's colours, uint8 (n, 3).

  `is_quick` compresses runs of equal bytes only. For photographs, this takes half the time or less, and loses little.
  """
  if array.dtype == np.uint16:
    return _png_of_16_bits(array, zlib.Z_RLE if is_quick else zlib.Z_DEFAULT_STRATEGY)
  flat = np.ascontiguousarray(array[..., 0] if array.shape[-1] == 1 else array)
  image = Image.fromarray(flat) if palette is None else Image.fromarray(flat, "P")
  if palette is not None:
    image.putpalette(palette.tobytes())
  buffer = io.BytesIO()
  image.save(buffer, "PNG", compress_type=zlib.Z_RLE if is_quick else -1)  # -1: what Pillow finds best
  return buffer.getvalue()


def _png_of_16_bits(array: np.ndarray, strategy: int) -> bytes:
  """A PNG of several 16-bit channels, which Pillow cannot write. Each row gets the filter with the smallest bytes
  (section 12.7).
  """
  height, width, channels = array.shape
  raw = array.astype(">u2").reshape(height, -1).view(np.uint8)
  left, above = np.zeros_like(raw), np.zeros_like(raw)
  left[:, 2 * channels :] = raw[:, : -2 * channels]
  above[1:] = raw[:-1]
  rows = np.stack([raw, raw - left, raw - above])  # filters 0, 1 and 2
  chosen = np.abs(rows.view(np.int8).astype(np.int16)).sum(-1).argmin(0)
  filtered = np.concatenate([chosen.astype(np.uint8)[:, None], rows[chosen, np.arange(height)]], axis=1)
  compressor = zlib.compressobj(6, strategy=strategy)
  data = compressor.compress(filtered.tobytes()) + compressor.flush()
  header = struct.pack(">IIBBBBB", width, height, 16, PNG_COLOR_TYPES[channels], 0, 0, 0)
  pieces = [data[start : start + 2**30] for start in range(0, len(data), 2**30)]
  chunks = [(b"IHDR", header), *((b"IDAT", piece) for piece in pieces), (b"IEND", b"")]
  return b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    for name, content in chunks
  )
