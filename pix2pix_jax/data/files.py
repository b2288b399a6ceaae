"""Files of images and volumes: one reader and one writer for every command, so that training and translation see the
same numbers.

`read` returns what the file holds, in its own number type, upright and without palettes, inks or inverted greys. The
meaning of the numbers is determined elsewhere (`pix2pix_jax.signals`). `write` stores arrays without loss: `read`
returns the same bits. A volume, or a stack of images, is a file of slices: `count_slices`, `read(path, slice=i)`,
`read_volume` and `write_volume`. `read_geometry` returns where the pixels lie in the world, for writers to keep.
Imports neither TensorFlow nor JAX; the formats are modules of `pix2pix_jax.data.formats`.
"""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import os
from pathlib import Path
import re
import stat
from typing import Any
import uuid

import numpy as np
from PIL import Image, UnidentifiedImageError

from pix2pix_jax.data.formats import extras, geotiff, hdf5, nifti, npy, pillow, tiff, volumes
from pix2pix_jax.data.formats.geometry import Geometry
from pix2pix_jax.data.formats.geotiff import RasterWriter as RasterWriter  # for callers
from pix2pix_jax.data.formats.pillow import PNG_COLOR_TYPES
from pix2pix_jax.errors import UsageError

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".dcm")
SUFFIXES = (
  *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".bmp", ".dib", ".gif"),
  *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".jp2", ".j2k", ".jpx", ".ico", ".pcx", ".qoi"),
  *(".npy", ".npz", ".h5", ".hdf5", *VOLUME_SUFFIXES),
)
ARCHIVES = (".npz", ".h5", ".hdf5")  # of named arrays
WRITABLE = (".png", ".tif", ".tiff", ".npy")
WRITABLE_VOLUMES = (".nii", ".nii.gz", ".mha", ".nrrd", ".tif", ".tiff", ".npy")

_TWO_PART_SUFFIXES = (".nii.gz", ".ome.tif", ".ome.tiff")
HEAD_BYTES = 2**16  # more than any signature needs, for the text at the start of MetaImage
_SINGLE_IMAGES = frozenset(SUFFIXES) - {".tif", ".tiff", ".ome.tif", ".ome.tiff", ".npy", *VOLUME_SUFFIXES}
KITTI_SCALE = 256.0  # KITTI's depth PNGs: uint16 = metres · 256, 0 = not measured (depth development kit, readme.txt)
JUNK = ("__macosx", "thumbs.db", "desktop.ini", "icon\r")


# --- Names


def suffix(path: Path | str) -> str:
  """The suffix of a name in lower case, with its dot. `.nii.gz`, `.ome.tif` and `.ome.tiff` are one suffix; a final
  number is none, because it belongs to the name of a DICOM series, as in `1.2.840.1`.
  """
  path = Path(path)
  name = path.name.lower()
  last = path.suffix.lower()
  found = next((each for each in _TWO_PART_SUFFIXES if name.endswith(each) and len(name) > len(each)), last)
  return "" if found[1:].isdigit() else found


def stem(path: Path | str) -> str:
  """The name without its `suffix`."""
  name = Path(path).name
  return name[: len(name) - len(suffix(name))]


def is_known(path: Path | str) -> bool:
  """Whether `read` knows the suffix of a name."""
  return suffix(path) in SUFFIXES or Path(path).suffix.lower() in SUFFIXES


# --- Reading


def read(
  path: Path, *, colors: bool = True, slice: int | None = None, axis: int | None = None, key: str | None = None
) -> np.ndarray:
  """The image in a file as (H, W, C) in the file's own numbers, upright, in native byte order.

  Greys, RGB and their alpha channels stay as they are, in 8, 16 or more bits, integer or float. A palette becomes RGB,
  or RGBA if it is transparent; 1 bit becomes 0 and 255 in uint8, as does bool in an npy file; CMYK, YCbCr and Lab
  become RGB; inverted grey (white is zero) is inverted back. The orientation that cameras store beside the pixels is
  applied. Medical values are real ones, after the file's slope and intercept. The number that stands for "no value"
  in a GeoTIFF stays; `read_geometry` tells it.

  Args:
    path: a file of any format in `SUFFIXES`, of which the content determines the format; or the folder of a DICOM
      series.
    colors: whether palettes become colours; otherwise their indices are returned, uint8 (H, W, 1).
    slice: which slice of a volume or stack, from 0; may be None if it has one.
    axis: of a volume, the axis along which slices lie, as its library numbers axes: (i, j, k) of NIfTI, by default 2;
      (z, y, x) of MetaImage, NRRD and DICOM, by default 0. Both defaults are axial in the usual storage order.
    key: which array of an .npz or HDF5 file, by name; which series of a DICOM folder, by UID. May be None if there is
      one.

  Raises:
    UsageError: not a regular file, damaged, several images in one file and none chosen, a form that cannot be read
      without loss, or a library that is not installed.
  """
  path = Path(path)
  with _opened(path, key, axis, slice) as source:
    if slice is None and (source.is_volume or source.format == "npy") and (count := source.count(axis) or 1) > 1:
      raise UsageError(f"{path} is a volume of {count} slices; choose one by slice=0 to {count - 1}, or read them all.")
    return _checked(source.read(colors, slice, axis), path, key)


def count_slices(path: Path, *, axis: int | None = None, key: str | None = None) -> int | None:
  """The number of slices of a volume along an axis, or of images in a TIFF; None for an ordinary image.

  Args: as of `read`.

  Raises:
    UsageError: as `read`.
  """
  with _opened(Path(path), key, axis) as source:
    return source.count(axis)


def may_hold_slices(path: Path) -> bool:
  """Whether a name is that of a format which can hold several images, without a look into the file."""
  return suffix(path) not in _SINGLE_IMAGES or is_series(path)


def holds_slices(path: Path) -> bool:
  """Whether a file is a volume or a stack of images; False for a file that cannot be read."""
  try:
    return may_hold_slices(path) and count_slices(path) is not None
  except UsageError:
    return False


def read_volume(path: Path, *, colors: bool = True, axis: int | None = None, key: str | None = None) -> np.ndarray:
  """All slices as (D, H, W, C): element i equals `read(path, slice=i, axis=axis)`. An ordinary image has one.

  Reading a whole .nii.gz, compressed .mha or .nrrd is much faster than reading its slices one by one.

  Args: as of `read`.

  Raises:
    UsageError: as `read`.
  """
  path = Path(path)
  with _opened(path, key, axis) as source:
    array = source.read_all(colors, axis)
    return _checked(array.reshape(-1, *array.shape[2:]), path).reshape(array.shape)


def read_geometry(path: Path, *, key: str | None = None) -> Geometry | None:
  """Where the pixels of a GeoTIFF, OME-TIFF or volume lie; None for other files.

  Without rasterio, a GeoTIFF's has only the form of the pixels and nodata, and georeferenced output cannot be written.

  Raises:
    UsageError: as `read`.
  """
  with _opened(Path(path), key) as source:
    return source.geometry()


def read_palette(path: Path) -> tuple[tuple[int, int, int], ...]:
  """The colours of a file's palette, (red, green, blue) of each index; empty if the file has none.

  Raises:
    UsageError: as `read`.
  """
  path = Path(path)
  with _opened(path) as source:
    return pillow.palette(path) if source.format in ("pillow", "tiff") else ()


def read_nodata(path: Path) -> float | None:
  """The number that stands for "no value" in a GeoTIFF; None if it declares none, and for other files.

  Raises:
    UsageError: as `read`.
  """
  geometry = read_geometry(path) if suffix(path) in (".tif", ".tiff") else None
  return None if geometry is None else geometry.nodata


def claimed_size(path: Path) -> tuple[int, int, int, int]:
  """(number of images, height, width, channels) that the header of a file claims; nothing is decoded, nor allocated.

  Height, width and channels are those of the first image, before the orientation that cameras store is applied.

  Raises:
    UsageError: as `read`, or a format other than those of Pillow, TIFF and npy.
  """
  with _opened(Path(path)) as source:
    return source.claimed_size()


def lazy_shape(path: Path) -> tuple[int, int, int] | None:
  """(H, W, C) of a TIFF of which `read_window` decodes only what it returns; None if it reads the whole file.

  Raises:
    UsageError: as `read`.
  """
  with _opened(Path(path)) as source:
    return source.lazy_shape()


def read_window(path: Path, row: int, column: int, height: int, width: int) -> np.ndarray:
  """The part of an image, (height, width, C), that starts at (row, column); equal to that part of `read(path)`.

  TIFFs are read lazily, if rasterio is installed and their stored numbers are their values (no palettes, inks or packed
  bits). Other files are read whole for each window.

  Raises:
    UsageError: as `read`, or a window that is not inside the image.
  """
  path = Path(path)
  with _opened(path) as source:
    shape = source.lazy_shape()
    whole = np.empty((0, 0)) if shape else source.read(True, None, None)
    rows, columns = (shape or whole.shape)[:2]
    if min(row, column) < 0 or min(height, width) < 1 or row + height > rows or column + width > columns:
      raise UsageError(
        f"{path} is {columns}×{rows} (width × height); a window of {width}×{height} at column {column}, row {row} is "
        "not inside it."
      )
    if shape:
      return _checked(geotiff.read_window(path, row, column, height, width), path)
    return _checked(whole[row : row + height, column : column + width], path)


class _Source:
  """A file whose format is known."""

  def __init__(self, path: Path, key: str | None = None) -> None:
    self.path, self.key = path, key
    self.size, self.head = _stat(path)
    self.format = _format_of(path, self.head)
    self.is_volume = self.format in ("nifti", "volume")
    self.volume = volumes.Volume(path, self.head, key) if self.format == "volume" else None

  def read(self, colors: bool, index: int | None, axis: int | None) -> np.ndarray:
    if self.format == "npy":
      array = npy.read(self.path, self.size)
      return array[index or 0] if array.ndim == 4 else array
    if self.format == "npz":
      return npy.read_member(self.path, self.key)
    if self.format == "hdf5":
      return hdf5.read(self.path, self.size, self.key)
    if self.format == "tiff":
      return tiff.read(self.path, self.size, colors, index)
    if self.volume:
      return self.volume.array(axis, index or 0)[0]
    if self.format == "nifti":
      return nifti.read_slice(self.path, self.size, index or 0, axis)
    return pillow.read(self.path, self.head, colors)

  def read_all(self, colors: bool, axis: int | None) -> np.ndarray:
    """(D, H, W, C)."""
    if self.volume:
      return self.volume.array(axis)
    if self.format == "nifti":
      return nifti.read_volume(self.path, self.size, axis)
    if self.format == "npy" and (array := npy.read(self.path, self.size)).ndim == 4:
      return array
    slices = [_checked(self.read(colors, index, axis), self.path) for index in range(self.count(axis) or 1)]
    if len({each.shape for each in slices}) > 1:
      raise UsageError(f"{self.path} holds images of different sizes; save each as a file of its own.")
    return np.stack(slices)

  def count(self, axis: int | None) -> int | None:
    if self.volume:
      return self.volume.shape[volumes.AXIS if axis is None else axis]
    if self.format == "nifti":
      return nifti.count(self.path, self.size, axis)
    if self.format == "npy":
      shape = npy.shape(self.path, self.size)
      return shape[0] if len(shape) == 4 else None
    return tiff.count(self.path) if self.format == "tiff" else None

  def claimed_size(self) -> tuple[int, int, int, int]:
    if self.format == "npy":
      shape = npy.shape(self.path, self.size)
      if not 2 <= len(shape) <= 4:
        raise ValueError(f"its array has the shape {shape}")
      count, height, width, channels = shape if len(shape) == 4 else (1, *shape, 1)[:4]
      return count, height, width, channels
    if self.format == "tiff":
      return tiff.claimed_size(self.path)
    if self.format == "pillow":
      return (1, *pillow.claimed_size(self.path))
    raise UsageError(f"{self.path} is not a PNG, TIFF, npy or JPEG.")

  def geometry(self) -> Geometry | None:
    if self.volume:
      return self.volume.geometry()
    if self.format == "nifti":
      return nifti.geometry(self.path, self.size)
    return tiff.geometry(self.path) if self.format == "tiff" else None

  def lazy_shape(self) -> tuple[int, int, int] | None:
    return tiff.lazy_shape(self.path) if self.format == "tiff" and extras.available("rasterio") else None


def check_regular(path: Path) -> os.stat_result:
  """Checks that a path is that of a regular file, perhaps by links: opening a pipe or a device may never end.

  Raises:
    UsageError: it is not, or does not exist.
  """
  try:
    state = path.stat()
  except (OSError, ValueError) as error:
    raise UsageError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}). Check the path.") from error
  if not stat.S_ISREG(state.st_mode):
    kind = "a folder" if stat.S_ISDIR(state.st_mode) else "not a regular file"
    raise UsageError(f"{path} is {kind}; give the path of an image file.")
  return state


def _stat(path: Path) -> tuple[int, bytes]:
  """Size and first bytes of a regular file; of a folder, which may be a DICOM series, nothing."""
  if path.is_dir() and volumes.dicom_files(path):
    return 0, b""
  state = check_regular(path)
  if not state.st_size:
    raise UsageError(f"{path} is empty (0 bytes). Replace it, or remove it.")
  with path.open("rb") as file:
    return state.st_size, file.read(HEAD_BYTES)


def _format_of(path: Path, head: bytes) -> str:
  """By the content. Formats without a signature, TGA and MetaImage, are known by the suffix."""
  for name, signatures in _SIGNATURES.items():
    if head.startswith(signatures):
      return name
  if not head or volumes.form(path, head):
    return "volume"
  return "nifti" if nifti.is_nifti(path, head) else "pillow"


_SIGNATURES: dict[str, Any] = {
  "npy": npy.SIGNATURE,
  "npz": npy.ZIP_SIGNATURE,
  "hdf5": hdf5.SIGNATURE,
  "tiff": tiff.SIGNATURES,
}


@contextlib.contextmanager
def _opened(path: Path, key: str | None = None, axis: int | None = None, index: int | None = None) -> Iterator[_Source]:
  """A file of which a choice of array, axis and slice is checked; whatever a library raises about it names the file."""
  with _errors_named(path):
    source = _Source(path, key)
    _check_choice(source, index, axis, key)
    yield source


def _check_choice(source: _Source, index: int | None, axis: int | None, key: str | None) -> None:
  """Checks that slice, axis and key name something that the file has; one of several slices must be chosen."""
  path, format = source.path, source.format
  if key is not None and format not in ("npz", "hdf5") and not path.is_dir():
    raise UsageError(f"{path} has no named arrays, so {key!r} cannot be read from it. Leave the key out.")
  if axis is not None and (not source.is_volume or axis not in (0, 1, 2)):
    raise UsageError(
      f"{path}: the axis is {axis!r}; it has to be 0, 1 or 2, of a volume ({', '.join(VOLUME_SUFFIXES)})."
    )
  if index is None:
    return
  count = source.count(axis)
  if count is None and index != 0:
    raise UsageError(f"{path} is one image, so it has no slice {index}.")
  if not 0 <= index < (count or 1):
    raise UsageError(f"{path} has {count} slices, 0 to {(count or 1) - 1}; there is no slice {index}.")


@contextlib.contextmanager
def _errors_named(path: Path) -> Iterator[None]:
  """Turns whatever a library raises about a file into a UsageError that names it."""
  try:
    yield
  except UsageError:
    raise
  except UnidentifiedImageError as error:
    raise UsageError(
      f"{path} cannot be read as an image: its content has none of the formats {', '.join(SUFFIXES)}. "
      "Replace it, or remove it."
    ) from error
  except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
    raise UsageError(
      f"{path} cannot be read as an image ({error}). If it really is that large, cut it into smaller files, or "
      "save it as an uncompressed TIFF."
    ) from error
  except Exception as error:  # the parser of a damaged file may raise anything
    reason = (str(error).strip().splitlines() or [""])[-1]  # SimpleITK's first lines are places in its source
    raise UsageError(
      f"{path} cannot be read as an image ({type(error).__name__}: {reason}). It may be damaged or incomplete: "
      "replace it, or remove it."
    ) from error


def _checked(array: np.ndarray, path: Path, key: str | None = None) -> np.ndarray:
  """(H, W, C) in native byte order, or an error that names the file."""
  array = array[..., None] if array.ndim == 2 else array
  if array.ndim == 4 and array.size and suffix(path) in ARCHIVES:
    name = f"The array {key!r} of {path}" if key else f"The array in {path}"
    raise UsageError(
      f"{name} has the shape {array.shape}: a stack of {len(array)} images? Stacks in archives are not read: save each "
      "side's as .npy (images, height, width, channels) in A/ and B/, or every image as a file of its own."
    )
  if array.ndim != 3 or not array.size:
    raise UsageError(
      f"{path} has the shape {array.shape}; an image is (height, width) or (height, width, channels) and not empty."
    )
  if array.dtype == np.bool_:
    array = array.astype(np.uint8) * 255
  if array.dtype.kind not in "uif" or array.dtype.itemsize > 8:
    raise UsageError(f"{path} holds {array.dtype}; an image holds integers, bool, or floats of at most 64 bits.")
  return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


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
  path: Path,
  array: np.ndarray,
  *,
  depth_scale: float | None = None,
  palette: np.ndarray | None = None,
  geometry: Geometry | None = None,
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
    geometry: of a raster of the same size: a TIFF then becomes a GeoTIFF with its CRS, transform, nodata, and, for as
      many channels, band names. NaN becomes nodata. Other formats ignore it, and so does a TIFF with the geometry of a
      volume.

  Raises:
    UsageError: the format cannot hold such an array (see `check_writable`), rasterio is not installed or the geometry
      has another size, or the file cannot be created.
  """
  path = Path(path)
  array = np.asarray(array)
  array = array[..., None] if array.ndim == 2 else array
  if array.ndim != 3 or not array.size:
    raise UsageError(
      f"{path}: an image to write is (H, W) or (H, W, C) and not empty; this has the shape {array.shape}."
    )
  if depth_scale is not None:
    array = scaled(array, depth_scale)
  check_writable(path.suffix, array.shape[-1], array.dtype)
  array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
  small = path.suffix.lower()
  with _replacing(path) as part:
    if palette is not None and small == ".png":
      pillow.write_indexed(part, array, palette)
    elif geometry is not None and geometry.form == "raster" and small in (".tif", ".tiff"):
      geotiff.write(part, array, geometry, path)
    else:
      _WRITERS[small](part, array)


_WRITERS: dict[str, Callable[[Path, np.ndarray], None]] = {
  ".png": pillow.write,
  ".tif": tiff.write,
  ".tiff": tiff.write,
  ".npy": npy.write,
}


def scaled(metres: np.ndarray, scale: float) -> np.ndarray:
  """Metres as uint16: value = metres · scale, rounded and at most 65535; 0 where there is no measurement."""
  measured = np.isfinite(metres) & (metres > 0)
  values = np.where(measured, metres, 0).astype(np.float64) * scale
  return np.minimum(np.round(values), 65535).astype(np.uint16)


def write_volume(path: Path, array: np.ndarray, geometry: Geometry | None = None, *, axis: int | None = None) -> None:
  """Writes slices as one file, so that `read_volume` with the same axis returns the same bits.

  The file appears whole or not at all, as in `write`.

  Args:
    path: path that ends in one of `WRITABLE_VOLUMES`; a TIFF becomes an OME-TIFF. Missing folders are created.
    array: (D, H, W) or (D, H, W, C), in the number type to store.
    geometry: of the volume whose grid these slices share. NIfTI and the formats of SimpleITK keep each other's affine;
      a format keeps nothing of an unrelated one.
    axis: the axis along which the slices lie, as in `read`, numbered as in the format to write.

  Raises:
    UsageError: the format cannot hold such an array, its library is not installed, the geometry is of another size,
      or the file cannot be created.
  """
  path, array = Path(path), np.asarray(array)
  array = array[..., None] if array.ndim == 3 else array
  if array.ndim != 4 or not array.size or array.dtype.kind not in "uif":
    raise UsageError(
      f"{path}: a volume to write is (D, H, W) or (D, H, W, C), not empty, of integers or floats; this has the shape "
      f"{array.shape} and {array.dtype}."
    )
  ending = next(
    (each for each in sorted(WRITABLE_VOLUMES, key=len, reverse=True) if path.name.lower().endswith(each)), ""
  )
  if not ending:
    raise UsageError(f"Volumes cannot be written as {path.name}; choose {_choices(WRITABLE_VOLUMES)}.")
  if axis is not None and axis not in (0, 1, 2):
    raise UsageError(f"{path}: the axis is {axis!r}; it is 0, 1 or 2.")
  array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
  along = 0 if axis is None else 2 - axis if ending.startswith(".nii") else axis
  grid = np.moveaxis(array[..., 0], 0, along).shape
  if geometry is not None and geometry.grid != grid:
    raise UsageError(
      f"{path} is to be {'×'.join(map(str, grid))} voxels (z × y × x) with the geometry of a file of "
      f"{'×'.join(map(str, geometry.grid))}. Keep the size, or write without a geometry."
    )
  with _replacing(path, ending) as part, _refusals_named(path, array):
    if ending.startswith(".nii"):
      nifti.write_volume(part, array, geometry, axis)
    elif ending.startswith(".tif"):
      tiff.write_volume(part, array, geometry)
    elif ending == ".npy":
      npy.write(part, array)
    else:
      volumes.write_volume(part, array, geometry, axis)


@contextlib.contextmanager
def _refusals_named(path: Path, array: np.ndarray) -> Iterator[None]:
  """Number types and shapes that a library refuses to store."""
  try:
    yield
  except (UsageError, OSError):
    raise
  except Exception as error:  # each library has its own classes
    reason = (str(error).strip().splitlines() or [""])[-1]
    raise UsageError(
      f"{path} cannot hold {array.dtype} of shape {array.shape} ({reason}). Convert it, or choose another format."
    ) from error


@contextlib.contextmanager
def _replacing(path: Path, ending: str = "") -> Iterator[Path]:
  """A temporary path in the same folder, which becomes `path` if the block succeeds and is deleted otherwise."""
  part = path.with_name(f".{uuid.uuid4().hex}.part{ending}")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      yield part
      part.replace(path)
    finally:
      part.unlink(missing_ok=True)
  except OSError as error:
    raise UsageError(
      f"{path} cannot be written ({error.strerror or error}). Choose another place, or free space."
    ) from error


# --- Channels


def holds_colors(path: Path, channels: int) -> bool:
  """Whether the channels that `read` returns are those of a picture: grey or RGB, and in a file of 2 or 4 channels also
  alpha. Bands of a TIFF without such tags, and arrays of 2 or 4 channels, are data of any meaning.

  Raises:
    UsageError: as `read`.
  """
  with _opened(Path(path)) as source:
    if source.format == "tiff" and channels > 1:
      return tiff.holds_colors(source.path, channels)
    return channels in (1, 3) or (channels in (2, 4) and source.format == "pillow")


def with_channels(array: np.ndarray, channels: int, name: str, *, colors: bool = True) -> np.ndarray:
  """Converts a grey or RGB image (H, W, C), with or without alpha, to grey or RGB.

  Grey becomes RGB; alpha is laid over white; RGB becomes its luminance (ITU-R BT.601). Alpha is never added, because
  a second or fourth channel that is needed may be data.

  Args:
    array: uint8 or uint16 over their full range, or float in [0, 1].
    channels: desired number of channels.
    name: name of the image, with which error messages start.
    colors: whether the channels are grey or RGB, and alpha; False if they may mean anything (see `holds_colors`).

  Raises:
    UsageError: for other numbers of channels or number types, or channels of any meaning.
  """
  have = array.shape[-1]
  if have == channels:
    return array
  is_picture = 1 <= have <= 4 and (array.dtype.kind == "f" or array.dtype in (np.uint8, np.uint16))
  if not (colors and is_picture and channels in (1, 3)):
    first = have > 4 and array.shape[0] <= 4
    hint = " Are the channels its first axis? Then move them to the last." if first else ""
    unmarked = "" if colors else "; this file declares no such channels"
    raise UsageError(
      f"{name} has {have} channel{'s' * (have != 1)} of {array.dtype} (shape {array.shape}), but {channels} "
      f"{'is' if channels == 1 else 'are'} needed. Only grey or RGB, with or without alpha, are converted to grey or "
      f"RGB{unmarked}.{hint}"
    )
  largest = 1 if array.dtype.kind == "f" else np.iinfo(array.dtype).max
  values = array.astype(np.float64)
  if have in (2, 4):
    alpha = values[..., -1:] / largest
    values = values[..., :-1] * alpha + largest * (1 - alpha)
  if values.shape[-1] > channels:
    values = values @ np.array([[0.299], [0.587], [0.114]])
  elif values.shape[-1] < channels:
    values = np.repeat(values, 3, axis=-1)
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


def is_series(path: Path) -> bool:
  """Whether a path is a folder whose .dcm files are the slices of one volume, not images of their own."""
  return volumes.is_series(Path(path))


def find(folder: Path) -> tuple[list[Path], list[Path]]:
  """The files below a folder: (those with a suffix that `read` knows, those that were left out), each in natural order.

  A folder below it that holds one DICOM series is one entry, because its files are slices of a volume. Linked files and
  folders are followed; a link to a folder that contains it is not. Hidden files and those that
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
        if is_series(path):
          found.append(path)
        else:
          visit(path, (*parents, identity))
      else:
        readable = entry.is_file() and is_known(path)
        (found if readable else left_out).append(path)

  try:
    visit(Path(folder), ())
  except OSError as error:
    raise UsageError(
      f"{error.filename or folder} cannot be read ({error.strerror or error}). Check the path."
    ) from error
  return natural_order(found), natural_order(left_out)
