"""NIfTI-1 and NIfTI-2 by nibabel: slices, whole volumes, and volumes written with the header of another."""

import gzip
import math
from pathlib import Path
from typing import Any
import zlib

import numpy as np

from pix2pix_jax.data.formats import extras, limits
from pix2pix_jax.data.formats.geometry import Geometry

GZIP_SIGNATURE = b"\x1f\x8b"
HEAD_BYTES = 352
AXIS = 2  # (i, j, k): axial slices in the usual storage order


def is_nifti(path: Path, head: bytes) -> bool:
  """Whether a file that starts with `head`, at least `HEAD_BYTES` if it has them, is NIfTI, perhaps gzipped."""
  if head.startswith(GZIP_SIGNATURE):
    try:
      with gzip.open(path) as file:
        head = file.read(HEAD_BYTES)
    except (OSError, EOFError, zlib.error):
      return path.name.lower().endswith(".nii.gz")  # damaged; reading it explains how
  return head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0"


def count(path: Path, size: int, axis: int | None) -> int:
  return _spatial(_load(path, size))[_axis(axis)]


def read_slice(path: Path, size: int, index: int, axis: int | None) -> np.ndarray:
  """(H, W, C) of slice `index`, which is within range. Of an uncompressed file only that slice is read."""
  image = _load(path, size)
  where: list[Any] = [slice(None)] * 3
  where[_axis(axis)] = slice(index, index + 1)
  volume = _canonical(image, tuple(where[: len(image.shape)]))
  return np.moveaxis(volume, 2 - _axis(axis), 0)[0]


def read_volume(path: Path, size: int, axis: int | None) -> np.ndarray:
  """(D, H, W, C): the slices along an axis. Rows and columns are the later and the earlier of the other two axes, as in
  SimpleITK's arrays, so that both libraries' files of one grid agree.
  """
  return np.moveaxis(_canonical(_load(path, size), ()), 2 - _axis(axis), 0)


def geometry(path: Path, size: int) -> Geometry:
  image = _load(path, size)
  header = image.header
  affine = np.asarray(image.affine, np.float64)
  return Geometry(
    "nifti",
    image.shape[:3],
    str(_dtype(image)),
    affine=tuple(map(tuple, affine.tolist())),
    spacing=tuple(float(each) for each in header.get_zooms()[:3]),
    extra={"header": header.binaryblock},
  )


def write_volume(path: Path, array: np.ndarray, geometry: Geometry | None, axis: int | None) -> None:
  """Stores (D, H, W, C) in the array's number type, with the header of a NIfTI geometry or the affine of another."""
  nibabel = extras.load("nibabel", f"{path}: writing NIfTI")
  values = np.moveaxis(array, 0, 2 - _axis(axis)).transpose(2, 1, 0, 3)
  values = values[..., 0] if values.shape[-1] == 1 else values
  if geometry is not None and len(geometry.shape) == 2 and values.shape[2:] == (1,):
    values = values[..., 0]
  two = False
  header: Any = None
  affine: np.ndarray | None = np.eye(4)
  if geometry is not None and geometry.form == "nifti":
    block = geometry.extra["header"]
    two = len(block) != 348
    header, affine = (nibabel.Nifti2Header if two else nibabel.Nifti1Header)(block), None
    header["cal_min"] = header["cal_max"] = 0  # the display window of other values
  elif geometry is not None and geometry.affine is not None:
    affine = np.array(geometry.affine)
  image = (nibabel.Nifti2Image if two else nibabel.Nifti1Image)(values, affine, header, dtype=array.dtype)
  if header is None:
    image.header.set_xyzt_units("mm")
  image.header.set_slope_inter(1, 0)
  image.to_filename(path)


def _load(path: Path, size: int) -> Any:
  nibabel = extras.load("nibabel", str(path))
  with path.open("rb") as file:
    head = file.read(HEAD_BYTES)
  if head.startswith(GZIP_SIGNATURE):
    with gzip.open(path) as file:
      head = file.read(HEAD_BYTES)
  image_class = nibabel.Nifti2Image if head[4:8] == b"n+2\0" else nibabel.Nifti1Image
  image = image_class.from_filename(path)
  if len(image.shape) < 2 or 0 in image.shape:
    raise ValueError(f"its shape is {image.shape}")
  limits.check_claim(math.prod(image.shape) * image.get_data_dtype().itemsize, size)
  return image


def _axis(axis: int | None) -> int:
  return AXIS if axis is None else axis


def _spatial(image: Any) -> tuple[int, ...]:
  return (*image.shape, 1)[:3]


def _dtype(image: Any) -> np.dtype:
  """As stored if the values are not scaled; otherwise float32, which holds every 16-bit integer, or float64."""
  stored = image.get_data_dtype()
  if (image.dataobj.slope, image.dataobj.inter) == (1, 0) or stored.names:
    return np.dtype(np.uint8) if stored.names else stored.newbyteorder("=")
  return np.dtype(np.float32 if stored.itemsize <= 2 else np.float64)


def _canonical(image: Any, where: tuple) -> np.ndarray:
  """Real values as (k, j, i, C); further axes, such as time or components, are channels, and so are RGB voxels."""
  values = np.asanyarray(image.dataobj[where] if where else image.dataobj)
  if values.dtype.names:  # RGB and RGBA are structures of bytes
    values = np.stack([values[name] for name in values.dtype.names], axis=-1)
  elif values.ndim == 2:
    values = values[..., None, None]
  else:
    values = values.reshape(*values.shape[:3], -1)
  values = values[:, :, None] if values.ndim == 3 else values  # a flat RGB image
  return values.transpose(2, 1, 0, 3).astype(_dtype(image), copy=False)
