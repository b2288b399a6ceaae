"""Image files: one reader and one writer for every command, so that training and translation see the same numbers.

`read` returns what the file holds, in its own number type, upright and without palettes, inks or inverted greys. The
meaning of the numbers is determined elsewhere (`pix2pix_jax.signals`). `write` stores arrays without loss: `read`
returns the same bits. Imports neither TensorFlow nor JAX.
"""

from collections.abc import Callable, Iterable
import functools
import io
import logging
import math
import os
from pathlib import Path
import re
import stat
import struct
import sys
from typing import Any
import uuid
import zlib

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError
import tifffile

from pix2pix_jax.errors import UsageError

SUFFIXES = (
  *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".bmp", ".dib", ".gif"),
  *(
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".pfm",
    ".tga",
    ".jp2",
    ".j2k",
    ".jpx",
    ".ico",
    ".pcx",
    ".qoi",
    ".npy",
  ),
)
WRITABLE = (".png", ".tif", ".tiff", ".npy")

# The content of a file, not its suffix, determines how it is read. TGA has no signature, so its suffix decides.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "ICO", "PCX", "QOI")
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NPY_SIGNATURE = b"\x93NUMPY"
PNG_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels: colour type (PNG specification, section 11.2.1)
ORIENTATION_TAG = 274  # EXIF and TIFF
MAX_EXPANSION = 2000  # above what deflate and LZW reach, so a TIFF with a higher ratio is damaged
KITTI_SCALE = 256.0  # KITTI's depth PNGs: uint16 = metres · 256, 0 = not measured (depth development kit, readme.txt)
JUNK = ("__macosx", "thumbs.db", "desktop.ini", "icon\r")

# A damaged file becomes a UsageError, which the library's own log would repeat.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


def read(path: Path, *, colors: bool = True) -> np.ndarray:
  """The image in a file as (H, W, C) in the file's own numbers, upright, in native byte order.

  Greys, RGB and their alpha channels stay as they are, in 8, 16 or more bits, integer or float. A palette becomes RGB,
  or RGBA if it is transparent; 1 bit becomes 0 and 255 in uint8, as does bool in an npy file; CMYK, YCbCr and Lab
  become RGB; inverted grey (white is zero) is inverted back. The orientation that cameras store beside the pixels is
  applied.

  Args:
    path: a file of any format in `SUFFIXES`; the content determines which one.
    colors: whether palettes become colours; otherwise their indices are returned, uint8 (H, W, 1).

  Raises:
    UsageError: not a regular file, damaged, several images in one file, or a form that cannot be read without loss.
  """
  path = Path(path)
  try:
    state = path.stat()
  except (OSError, ValueError) as error:
    raise UsageError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}). Check the path.") from error
  if not stat.S_ISREG(state.st_mode):
    kind = "a folder" if stat.S_ISDIR(state.st_mode) else "not a regular file"
    raise UsageError(f"{path} is {kind}; give the path of an image file.")
  if not state.st_size:
    raise UsageError(f"{path} is empty (0 bytes). Replace it, or remove it.")
  try:
    with path.open("rb") as file:
      head = file.read(26)
    if head.startswith(NPY_SIGNATURE):
      array = _read_npy(path, state.st_size)
    elif head.startswith(TIFF_SIGNATURES):
      array = _read_tiff(path, state.st_size, colors)
    else:
      array = _read_with_pillow(path, head, colors)
  except UsageError:
    raise
  except UnidentifiedImageError as error:
    hint = "It is an .npz archive: save one array with np.save. " if head.startswith(b"PK") else ""
    raise UsageError(
      f"{path} cannot be read as an image: its content has none of the formats {', '.join(SUFFIXES)}. "
      f"{hint}Replace it, or remove it."
    ) from error
  except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
    raise UsageError(
      f"{path} cannot be read as an image ({error}). If it really is that large, cut it into smaller files, or "
      "save it as an uncompressed TIFF."
    ) from error
  except Exception as error:  # the parser of a damaged file may raise anything
    raise UsageError(
      f"{path} cannot be read as an image ({type(error).__name__}: {error}). It may be damaged or incomplete: "
      "replace it, or remove it."
    ) from error
  return _checked(array, path)


def _checked(array: np.ndarray, path: Path) -> np.ndarray:
  """(H, W, C) in native byte order, or an error that names the file."""
  array = array[..., None] if array.ndim == 2 else array
  if array.ndim != 3 or not array.size:
    raise UsageError(
      f"{path} has the shape {array.shape}; an image is (height, width) or (height, width, channels) and not empty."
    )
  if array.dtype == np.bool_:
    array = array.astype(np.uint8) * 255
  if array.dtype.kind not in "uif" or array.dtype.itemsize > 8:
    raise UsageError(f"{path} holds {array.dtype}; an image holds integers, bool, or floats of at most 64 bits.")
  return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
  """Undoes an EXIF orientation, 1 to 8; any other value counts as 1 (EXIF 2.32, section 4.6.4)."""
  if orientation in (5, 6, 7, 8):
    array = array.swapaxes(0, 1)
  if orientation in (3, 4, 7, 8):
    array = array[::-1]
  if orientation in (2, 3, 6, 7):
    array = array[:, ::-1]
  return array


# --- NumPy files


def _read_npy(path: Path, size: int) -> np.ndarray:
  """Without pickles, and without allocating what a damaged header claims."""
  with path.open("rb") as file:
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
    file.seek(0)
    return np.load(file, allow_pickle=False)


# --- Formats that Pillow reads


@functools.cache
def _formats() -> list[str]:
  """The formats in `FORMATS` that this build of Pillow has."""
  Image.init()
  return [name for name in FORMATS if name in Image.OPEN]


def _read_with_pillow(path: Path, head: bytes, colors: bool) -> np.ndarray:
  with Image.open(path, formats=["TGA"] if path.suffix.lower() == ".tga" else _formats()) as image:
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
      array = _array(image, colors)
    return _upright(array, _orientation(image))


def _orientation(image: Image.Image) -> int:
  try:
    return image.getexif().get(ORIENTATION_TAG, 1)
  except Exception:  # damaged metadata; viewers show such an image as it is stored
    return 1


def _array(image: Image.Image, colors: bool) -> np.ndarray:
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
  return _two_bytes(opening, "RGB" if color_type == 2 else "RGBA", high=";16B", low=";16L")


def _two_bytes(opening: Callable[[], ImageFile.ImageFile], mode: str, high: str, low: str) -> np.ndarray:
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


# --- TIFF


def _read_tiff(path: Path, size: int, colors: bool) -> np.ndarray:
  """tifffile reads all number types; Pillow adds the colour models, and compressions that tifffile alone cannot
  read."""
  with tifffile.TiffFile(path) as file:
    pages = [page for page in file.pages if isinstance(page, tifffile.TiffPage)]
    pages = [page for page in pages if not page.is_reduced and not page.is_mask]
    if not pages:
      raise ValueError("it holds no image")
    page = pages[0]
    if (count := len(pages) * page.imagedepth) > 1:
      raise UsageError(f"{path} holds {count} images; save each as a file of its own.")
    if any(start + length > size for start, length in zip(page.dataoffsets, page.databytecounts)):
      raise ValueError("it ends before its last pixels")
    if page.nbytes > MAX_EXPANSION * size + 2**28:
      raise ValueError(f"it claims {page.nbytes} bytes of pixels in a file of {size} bytes")
    array = np.array(_tiff_array(path, page, colors))
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and page.bitspersample > 8 and array.dtype.kind == "u":
      array[..., 0] = np.iinfo(array.dtype).max - array[..., 0]
    return _upright(array, _tiff_orientation(page))


def _tiff_orientation(page: tifffile.TiffPage) -> int:
  tag = page.tags.get(ORIENTATION_TAG)
  return 1 if tag is None else int(tag.value)


def _tiff_array(path: Path, page: tifffile.TiffPage, colors: bool) -> np.ndarray:
  """(H, W, C) of a page as stored; Pillow has already inverted inverted greys of up to 8 bits."""
  photometric = tifffile.PHOTOMETRIC
  plain = page.photometric in (photometric.MINISBLACK, photometric.MINISWHITE, photometric.RGB)
  premultiplied = tifffile.EXTRASAMPLE.ASSOCALPHA in page.extrasamples
  bits = page.bitspersample
  if bits <= 8 and (bits < 8 or not plain or premultiplied or page.photometric == photometric.MINISWHITE):
    return _tiff_with_pillow(path, page, colors)
  if not plain:
    name = getattr(page.photometric, "name", page.photometric)
    raise UsageError(f"{path} is a TIFF with {bits} bits a channel in the colour model {name}. Save it as RGB or grey.")
  try:
    array = page.asarray()
  except (KeyError, ValueError, ImportError) as error:
    if "imagecodecs" not in str(error) and not isinstance(error, ImportError):
      raise
    return _tiff_with_pillow(path, page, colors)
  if page.axes.startswith("S"):  # one plane for each channel
    array = np.moveaxis(array, 0, -1)
  return array[..., None] if array.ndim == 2 else array


def _tiff_with_pillow(path: Path, page: tifffile.TiffPage, colors: bool) -> np.ndarray:
  data = bytearray(path.read_bytes())
  if ORIENTATION_TAG in page.tags:  # Pillow turns some TIFFs upright itself and confuses the sides of others
    order = page.parent.byteorder
    struct.pack_into(order + "H", data, page.tags[ORIENTATION_TAG].valueoffset, 1)
  opening = lambda: Image.open(io.BytesIO(data), formats=["TIFF"])
  bits, channels = page.bitspersample, page.samplesperpixel
  if bits == 16 and channels in (3, 4) and page.planarconfig == tifffile.PLANARCONFIG.CONTIG:
    high, low = (";16L", ";16B") if sys.byteorder == "little" else (";16B", ";16L")  # libtiff returns native order
    return _two_bytes(opening, "RGB" if channels == 3 else "RGBA", high, low)
  try:
    with opening() as image:
      array = _array(image, colors)
  except UnidentifiedImageError:
    array = None
  array = array[..., None] if array is not None and array.ndim == 2 else array
  if array is None or bits > 8 and (array.shape[-1], array.dtype) != (channels, page.dtype):
    compression = getattr(page.compression, "name", page.compression)
    raise UsageError(
      f"{path} is a TIFF of {channels} channels with {bits} bits in {compression} compression, which needs the package "
      "imagecodecs: run pip install imagecodecs, or save the file uncompressed or with deflate."
    )
  return array


# --- Writing


def check_writable(suffix: str, channels: int, dtype: Any) -> None:
  """Checks that `write` can store such images without loss; for depth written with a scale, `dtype` is uint16.

  Args:
    suffix: suffix of the file, with the dot, in any case.
    channels: number of channels.
    dtype: number type of the array.

  Raises:
    UsageError: it cannot; the message names the suffixes that can.
  """
  dtype, small = np.dtype(dtype), suffix.lower()
  if small not in WRITABLE:
    raise UsageError(f"Images cannot be written as {suffix or 'a file without a suffix'}; choose {_choices(WRITABLE)}.")
  if dtype.kind not in "uif" or dtype.itemsize > 8 or channels < 1:
    raise UsageError(
      f"Images of {channels} channels of {dtype} cannot be written; use integers or floats of 64 bits at most."
    )
  if small == ".png" and not (dtype in (np.uint8, np.uint16) and channels in PNG_COLOR_TYPES):
    raise UsageError(
      f"PNG holds 1 to 4 channels of uint8 or uint16, not {channels} of {dtype}; choose {_choices(WRITABLE[1:])}."
    )


def _choices(names: Iterable[str]) -> str:
  *most, last = names
  return f"{', '.join(most)} or {last}"


def write(
  path: Path, array: np.ndarray, *, depth_scale: float | None = None, palette: np.ndarray | None = None
) -> None:
  """Writes an image so that `read` returns the same bits; the suffix decides the format.

  The file appears whole or not at all: it is written under a hidden temporary name in the same folder, then renamed.

  Args:
    path: path that ends in one of `WRITABLE`; missing folders are created.
    array: (H, W) or (H, W, C).
    depth_scale: for float metres in a PNG or TIFF, which are stored as uint16: value = metres · scale, rounded and at
      most 65535; 0, negative, NaN and infinite values become 0.
    palette: uint8 (n, 3), colours of class indices, which are (H, W, 1) in uint8; a PNG then has this palette, so that
      viewers show colours while the indices stay readable (`read` with `colors=False`). Other formats ignore it.

  Raises:
    UsageError: the format cannot hold such an array (see `check_writable`), or the file cannot be created.
  """
  path = Path(path)
  array = np.asarray(array)
  array = array[..., None] if array.ndim == 2 else array
  if array.ndim != 3 or not array.size:
    raise UsageError(
      f"{path}: an image to write is (H, W) or (H, W, C) and not empty; this has the shape {array.shape}."
    )
  if depth_scale is not None:
    array = _scaled(array, depth_scale)
  check_writable(path.suffix, array.shape[-1], array.dtype)
  array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
  part = path.with_name(f".{uuid.uuid4().hex}.part")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      if palette is not None and path.suffix.lower() == ".png":
        _write_indexed_png(part, array, palette)
      else:
        _WRITERS[path.suffix.lower()](part, array)
      part.replace(path)
    finally:
      part.unlink(missing_ok=True)
  except OSError as error:
    raise UsageError(
      f"{path} cannot be written ({error.strerror or error}). Choose another place, or free space."
    ) from error


def _scaled(metres: np.ndarray, scale: float) -> np.ndarray:
  measured = np.isfinite(metres) & (metres > 0)
  values = np.where(measured, metres, 0).astype(np.float64) * scale
  return np.minimum(np.round(values), 65535).astype(np.uint16)


def _write_npy(path: Path, array: np.ndarray) -> None:
  with path.open("wb") as file:
    np.save(file, array)


def _write_png(path: Path, array: np.ndarray) -> None:
  if array.dtype == np.uint16:
    path.write_bytes(_png_of_16_bits(array))
  else:
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(path, format="png")


def _write_indexed_png(path: Path, indices: np.ndarray, palette: np.ndarray) -> None:
  image = Image.fromarray(indices[..., 0], "P")
  image.putpalette(palette.tobytes())
  image.save(path, format="png")


def _png_of_16_bits(array: np.ndarray) -> bytes:
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
  data = zlib.compress(filtered.tobytes(), 6)
  header = struct.pack(">IIBBBBB", width, height, 16, PNG_COLOR_TYPES[channels], 0, 0, 0)
  pieces = [data[start : start + 2**30] for start in range(0, len(data), 2**30)]
  chunks = [(b"IHDR", header), *((b"IDAT", piece) for piece in pieces), (b"IEND", b"")]
  return b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    for name, content in chunks
  )


def _write_tiff(path: Path, array: np.ndarray) -> None:
  channels = array.shape[-1]
  tifffile.imwrite(
    path,
    array[..., 0] if channels == 1 else array,
    photometric="rgb" if channels in (3, 4) else "minisblack",
    planarconfig=None if channels == 1 else "contig",
    metadata=None,
  )


_WRITERS = {".png": _write_png, ".tif": _write_tiff, ".tiff": _write_tiff, ".npy": _write_npy}


# --- Channels


def with_channels(array: np.ndarray, channels: int, name: str) -> np.ndarray:
  """Converts an image (H, W, C) to another number of channels if that is unambiguous.

  Grey becomes RGB; alpha is laid over white, or added opaque; RGB becomes its luminance (ITU-R BT.601).

  Args:
    array: uint8 or uint16 over their full range, or float in [0, 1].
    channels: desired number of channels.
    name: name of the image, with which error messages start.

  Raises:
    UsageError: for other numbers of channels or number types.
  """
  have = array.shape[-1]
  if have == channels:
    return array
  if not (1 <= have <= 4 and 1 <= channels <= 4 and (array.dtype.kind == "f" or array.dtype in (np.uint8, np.uint16))):
    first = have > 4 and array.shape[0] <= 4
    hint = " Are the channels its first axis? Then move them to the last." if first else ""
    raise UsageError(
      f"{name} has {have} channel{'s' * (have != 1)} of {array.dtype} (shape {array.shape}), but {channels} are "
      f"needed, and there is no conversion.{hint}"
    )
  largest = 1 if array.dtype.kind == "f" else np.iinfo(array.dtype).max
  values = array.astype(np.float64)
  if have in (2, 4) and channels not in (2, 4):
    alpha = values[..., -1:] / largest
    values = values[..., :-1] * alpha + largest * (1 - alpha)
  alpha = values[..., -1:] if have in (2, 4) else np.full_like(values[..., :1], largest)
  values = values[..., : 1 if have <= 2 else 3]
  if channels <= 2 and values.shape[-1] == 3:
    values = values @ np.array([[0.299], [0.587], [0.114]])
  elif channels >= 3 and values.shape[-1] == 1:
    values = np.repeat(values, 3, axis=-1)
  values = np.concatenate([values, alpha], axis=-1) if channels in (2, 4) else values
  return values.astype(array.dtype) if array.dtype.kind == "f" else np.round(values).astype(array.dtype)


# --- Folders


def natural_order(paths: Iterable[Path | str]) -> list[Path]:
  """Sorted folder by folder, with numbers in names compared as numbers: 2.jpg before 10.jpg."""

  def key(path: Path) -> tuple:
    pieces = [re.split(r"(\d+)", part) for part in path.parts]  # text, digits, text, digits, …
    return [[int(piece) if i % 2 else piece for i, piece in enumerate(part)] for part in pieces], path.parts

  return sorted(map(Path, paths), key=key)


def is_junk(name: str) -> bool:
  """Whether a name is hidden or left behind by an operating system, so that no command uses the file."""
  return name.startswith(".") or name.lower() in JUNK


def find(folder: Path) -> tuple[list[Path], list[Path]]:
  """The files below a folder: (those with a suffix that `read` knows, those that were left out), each in natural order.

  Linked files and folders are followed; a link to a folder that contains it is not. Hidden files and those that
  operating systems leave behind (`__MACOSX`, `Thumbs.db`) are in neither list. Broken links, and everything else that
  is not a regular file, are left out.

  Raises:
    UsageError: the folder does not exist or cannot be read.
  """
  found: list[Path] = []
  left_out: list[Path] = []

  def visit(place: Path, parents: tuple[tuple[int, int], ...]) -> None:
    state = place.stat()
    if (identity := (state.st_dev, state.st_ino)) in parents:
      return
    for entry in os.scandir(place):
      path = place / entry.name
      if is_junk(entry.name):
        continue
      if entry.is_dir():
        visit(path, (*parents, identity))
      else:
        readable = entry.is_file() and path.suffix.lower() in SUFFIXES
        (found if readable else left_out).append(path)

  try:
    visit(Path(folder), ())
  except OSError as error:
    raise UsageError(
      f"{error.filename or folder} cannot be read ({error.strerror or error}). Check the path."
    ) from error
  return natural_order(found), natural_order(left_out)
