"""MetaImage, NRRD and DICOM by SimpleITK: slices, whole volumes, and volumes written with their geometry."""

from collections.abc import Sequence
import math
from pathlib import Path
import re
from typing import Any

import numpy as np

from pix2pix_jax.data.formats import extras, limits
from pix2pix_jax.data.formats.geometry import Geometry
from pix2pix_jax.errors import UsageError, few

NRRD_SIGNATURE = b"NRRD000"
DICOM_SIGNATURE = (128, b"DICM")
META_DIMENSIONS = tuple("12345")  # SimpleITK has no more, and its parser crashes at thousands
META_SUFFIXES = (".mha", ".mhd")  # MetaImage has no signature
READERS = {"meta": "MetaImageIO", "nrrd": "NrrdImageIO", "dicom": "GDCMImageIO"}
AXIS = 0  # (z, y, x)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def form(path: Path, head: bytes) -> str | None:
  """Which of `READERS` reads a file that starts with `head`; None if none does."""
  start, magic = DICOM_SIGNATURE
  if head[start : start + len(magic)] == magic:
    return "dicom"
  if head.startswith(NRRD_SIGNATURE):
    return "nrrd"
  return "meta" if path.suffix.lower() in META_SUFFIXES else None


def dicom_files(folder: Path) -> list[Path]:
  """The .dcm files directly in a folder."""
  return [path for path in folder.iterdir() if path.suffix.lower() == ".dcm" and not path.name.startswith(".")]


def _series_in(folder: Path) -> tuple[str, ...]:
  """The UIDs of the DICOM series in a folder, of which SimpleITK opens every file.

  Raises:
    UsageError: one of them is not a regular file, which might never end.
  """
  sitk = extras.load("SimpleITK", f"{folder}, a DICOM series,")
  if special := [path.name for path in folder.iterdir() if path.exists() and not (path.is_file() or path.is_dir())]:
    raise UsageError(f"{folder} holds DICOM files beside {few(special)}, not regular files. Remove them.")
  return sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))


def is_series(path: Path) -> bool:
  """Whether a path is a folder with at least two .dcm files, all of one series if SimpleITK is there to tell."""
  if not path.is_dir() or len(dicom_files(path)) < 2:
    return False
  if not extras.available("SimpleITK"):
    return True
  return len(_series_in(path)) == 1


def series(folder: Path, key: str | None = None) -> list[Path]:
  """The files of the DICOM series in a folder, ordered by position.

  Args:
    folder: folder that holds the files themselves.
    key: UID of one series, if there are several.

  Raises:
    UsageError: no series, several, or none of that UID.
  """
  sitk, found = extras.load("SimpleITK", f"{folder}, a DICOM series,"), _series_in(folder)
  if not found:
    raise UsageError(f"{folder} is a folder without a DICOM series; give the path of an image file.")
  if (key is None and len(found) > 1) or (key is not None and key not in found):
    raise UsageError(
      f"{folder} holds {len(found)} DICOM series: {few(found, 10)}. Move each into a folder of its own, or name one as "
      "the key."
    )
  return [Path(name) for name in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), key or found[0])]


class Volume:
  """A file or DICOM series whose header is read; the voxels are read by `array`.

  Attributes:
    shape: (z, y, x) of the voxels; a flat image has z = 1.
  """

  def __init__(self, path: Path, head: bytes, key: str | None = None) -> None:
    """
    Args:
      path: a file, or the folder of a DICOM series.
      head: the first bytes of the file; empty for a folder.
      key: UID of a DICOM series.
    """
    self._sitk = extras.load("SimpleITK", str(path))
    self._files = series(path, key) if path.is_dir() else [path]
    self._form = form(path, head) or "dicom"
    if self._form == "meta":
      _check_meta(path, head)
    elif self._form == "nrrd":
      _check_nrrd(path, head)
    self._reader = self._header(self._files[0])
    self._size = self._reader.GetSize()
    if len(self._files) > 1:
      self.shape: tuple[int, int, int] = (len(self._files), self._size[1], self._size[0])
    else:
      _, *extra = self._size[2:] or (1, 1)
      self.shape = ((*self._size, 1)[2], self._size[1], self._size[0])
      self._check_size(self._files[0], head, extra)

  def _header(self, path: Path) -> Any:
    reader = self._sitk.ImageFileReader()
    reader.SetImageIO(READERS[self._form])
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader

  def _check_size(self, path: Path, head: bytes, extra: Sequence[int]) -> None:
    """Before the library allocates the voxels. Those of .mhd lie in another file."""
    if path.suffix.lower() == ".mhd":
      return
    components = self._reader.GetNumberOfComponents()
    pixel = self._sitk.Image([1, 1], self._reader.GetPixelID(), components)
    claimed = math.prod(self.shape) * math.prod(extra) * components * pixel.GetSizeOfPixelComponent()
    stored = path.stat().st_size
    limits.check_claim(claimed, stored)
    if claimed < 0:
      raise ValueError("its header is contradictory")
    if self._form == "meta" and b"ElementDataFile = LOCAL" in head and b"CompressedData = True" not in head:
      if claimed > stored:
        raise ValueError(f"its header promises {claimed} bytes of pixels, but the file has {stored}")

  def array(self, axis: int | None = None, index: int | None = None) -> np.ndarray:
    """(D, H, W, C): every slice along an axis, or the one of an index, which is within range."""
    axis = AXIS if axis is None else axis
    if len(self._files) > 1:
      image = self._read_series(index if axis == 0 else None)
    else:
      image = self._read_file(axis, index)
    values = self._sitk.GetArrayFromImage(image)
    values = values if image.GetNumberOfComponentsPerPixel() > 1 else values[..., None]
    values = values[None] if image.GetDimension() == 2 else values
    while values.ndim > 4:  # a fourth dimension, such as time, is the first axis
      values = np.concatenate(list(values), axis=-1)
    values = np.moveaxis(values, axis, 0)
    return values if index is None or len(values) == 1 else values[index : index + 1]

  def _read_file(self, axis: int, index: int | None) -> Any:
    dimension = 2 - axis
    if index is not None and dimension < len(self._size):
      start, size = [0] * len(self._size), list(self._size)
      start[dimension], size[dimension] = index, 1
      self._reader.SetExtractIndex(start)
      self._reader.SetExtractSize(size)
    return self._reader.Execute()

  def _read_series(self, index: int | None) -> Any:
    reader = self._sitk.ImageSeriesReader()
    reader.SetImageIO(READERS["dicom"])
    chosen = self._files if index is None else self._files[index : index + 1]
    reader.SetFileNames([str(path) for path in chosen])
    reader.SetOutputPixelType(self._reader.GetPixelID())  # that of the whole series, also for one slice
    return reader.Execute()

  def geometry(self) -> Geometry:
    """Spacing, origin and direction by ITK's axes, and the affine that follows from them."""
    dimension = len(self._size)
    source = self._read_series(None) if len(self._files) > 1 else self._reader
    spacing, origin, direction = source.GetSpacing(), source.GetOrigin(), source.GetDirection()
    spatial = min(len(origin), 3)
    columns = np.array(direction).reshape(len(origin), -1)[:spatial, :spatial]
    matrix = np.eye(4)
    matrix[:spatial, :spatial] = columns * np.array(spacing[:spatial])
    matrix[:spatial, 3] = origin[:spatial]
    one = self.array(0, 0)
    return Geometry(
      "itk",
      self.shape if dimension > 2 or len(self._files) > 1 else self.shape[1:],
      str(one.dtype),
      affine=tuple(map(tuple, (LPS_TO_RAS @ matrix).tolist())),
      spacing=tuple(spacing[:spatial]),
      origin=tuple(origin[:spatial]),
      direction=tuple(columns.ravel().tolist()),
    )


# --- Headers, before SimpleITK sees them: it would open any file that they name, and crash at some of them.


def _check_meta(path: Path, head: bytes) -> None:
  """Checks the header of MetaImage: lines "Key = Value" until ElementDataFile.

  Raises:
    ValueError: it is damaged, or of a form that SimpleITK does not read safely.
    UsageError: its voxels lie outside its folder.
  """
  text, marker, rest = head.partition(b"ElementDataFile")
  if not marker or b"\0" in text:
    raise ValueError("its header has no ElementDataFile")
  lines = (line.partition("=") for line in text.decode("latin-1").splitlines())
  fields = {key.strip(): value.strip() for key, _, value in lines}
  names = [line.strip() for line in rest.split(b"=", 1)[-1].decode("latin-1").splitlines()]
  dimensions = re.findall(r"NDims[\s=:]*(\S*)", text.decode("latin-1"))
  if not dimensions or any(number not in META_DIMENSIONS for number in dimensions):
    raise ValueError(f"NDims is {', '.join(dimensions)[:20] or 'missing'}, not a number up to 5")
  is_compressed = fields.get("CompressedData", "False").lower() == "true"
  if fields.get("BinaryData", "True").lower() not in ("true", "false"):
    raise ValueError(f"BinaryData is {fields['BinaryData'][:20]!r}")
  if is_compressed and fields.get("BinaryData", "True").lower() != "true":
    raise ValueError("its header says both compressed and text")
  if names[:1] in (["LOCAL"], ["Local"], ["local"]):
    return
  is_list = names[:1] and names[0].upper().startswith("LIST")
  for name in names[1:] if is_list else names[:1]:
    _check_neighbour(path, name.split(" ")[0] if "%" in name else name)


def _check_nrrd(path: Path, head: bytes) -> None:
  """Checks the files that the header of NRRD names, if its voxels are detached.

  Raises:
    UsageError: they lie outside its folder.
  """
  lines = head.split(b"\n\n", 1)[0].split(b"\r\n\r\n", 1)[0].decode("latin-1").splitlines()
  for number, line in enumerate(lines):
    key, _, value = line.partition(":")
    if key.strip().lower() in ("data file", "datafile"):
      is_list = value.strip().upper().startswith("LIST")
      for name in lines[number + 1 :] if is_list else [value.strip()]:
        _check_neighbour(path, name.strip().split(" ")[0] if "%" in name else name.strip())


def _check_neighbour(path: Path, name: str) -> None:
  """Checks that a file which a header names is a regular one in its folder; patterns with % are names of several."""
  target = Path(name)
  inside = not target.is_absolute() and ".." not in target.parts and "\\" not in name and ":" not in name
  if not inside:
    raise UsageError(f"{path} keeps its voxels in {name[:200]!r}, outside its folder. Move them beside it.")
  if "%" not in name and not (path.parent / target).is_file():
    raise ValueError(f"its voxels, {name[:200]!r}, are not beside it")


def write_volume(path: Path, array: np.ndarray, geometry: Geometry | None, axis: int | None) -> None:
  """Stores (D, H, W, C) as compressed MetaImage or NRRD, with the grid of a geometry."""
  sitk = extras.load("SimpleITK", f"{path}: writing it")
  values = np.moveaxis(array, 0, AXIS if axis is None else axis)
  is_flat = geometry is not None and len(geometry.shape) == 2 and len(values) == 1
  values = values[0] if is_flat else values
  values = np.ascontiguousarray(values[..., 0] if values.shape[-1] == 1 else values)
  image = sitk.GetImageFromArray(values, isVector=array.shape[-1] > 1)
  if geometry is not None and geometry.affine is not None:
    spacing, origin, direction = (
      (geometry.spacing, geometry.origin, geometry.direction) if geometry.form == "itk" else _grid(geometry)
    )
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
  sitk.WriteImage(image, str(path), useCompression=True)


def _grid(geometry: Geometry) -> tuple[tuple, tuple, tuple]:
  """Spacing, origin and direction by ITK's axes, from the affine of another format."""
  matrix = LPS_TO_RAS @ np.array(geometry.affine)
  spacing = np.linalg.norm(matrix[:3, :3], axis=0)
  return tuple(spacing.tolist()), tuple(matrix[:3, 3].tolist()), tuple((matrix[:3, :3] / spacing).ravel().tolist())
