"""GeoTIFF by rasterio: its geometry, windows of rasters larger than memory, and georeferenced output."""

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Any
import uuid
import warnings

import numpy as np
import tifffile

from pix2pix_jax.data.formats import extras
from pix2pix_jax.data.formats.geometry import Geometry
from pix2pix_jax.errors import UsageError

NODATA_TAG = 42113
# ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory (GeoTIFF 1.1, section 7); GDAL's XML and nodata.
TAGS = (33550, 33922, 34264, 34735, 42112, NODATA_TAG)
TILE = 256
CACHE_MB = 128  # of decoded blocks, for all open rasters; GDAL's default is 5 % of the memory


def is_georeferenced(page: tifffile.TiffPage) -> bool:
  """Whether a page has tags of GeoTIFF or GDAL."""
  return any(tag in page.tags for tag in TAGS)


def can_decode(page: tifffile.TiffPage) -> bool:
  """Whether rasterio, if it is installed, reads the stored numbers of a GeoTIFF."""
  return is_georeferenced(page) and extras.available("rasterio")


@contextlib.contextmanager
def _opened(path: Path, purpose: str, mode: str = "r", **options: Any):
  """A raster, in an environment of bounded memory; plain TIFFs are no reason for a warning."""
  rasterio = extras.load("rasterio", purpose)
  with rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
      raster = rasterio.open(path.absolute(), mode, driver="GTiff", **options)
    with raster:
      yield raster


def reads(path: Path, page: tifffile.TiffPage) -> bool:
  """Whether rasterio, which is installed, reads a page in its own number type."""
  rasterio = extras.load("rasterio", str(path))
  try:
    with _opened(path, str(path)) as raster:
      return set(raster.dtypes) == {str(np.dtype(page.dtype))} and raster.count == page.samplesperpixel
  except rasterio.errors.RasterioError:  # a compression that this build lacks
    return False


def read(path: Path) -> np.ndarray:
  """All bands, (H, W, C)."""
  with _opened(path, str(path)) as raster:
    return np.moveaxis(raster.read(), 0, -1)


def read_window(path: Path, row: int, column: int, height: int, width: int) -> np.ndarray:
  """(height, width, C), of which only the blocks that it touches are decoded."""
  with _opened(path, str(path)) as raster:
    return np.moveaxis(raster.read(window=((row, row + height), (column, column + width))), 0, -1)


def geometry(path: Path, page: tifffile.TiffPage) -> Geometry:
  """Everything by rasterio; without it only the form of the pixels and nodata."""
  shape, dtype = (page.imagelength, page.imagewidth), str(np.dtype(page.dtype).newbyteorder("="))
  if not extras.available("rasterio"):
    tag = page.tags.get(NODATA_TAG)
    nodata = None if tag is None else float(str(tag.value).strip("\0 "))
    return Geometry("raster", shape, dtype, nodata=nodata)
  with _opened(path, str(path)) as raster:
    points, points_crs = raster.gcps
    units = set(raster.units)
    return Geometry(
      "raster",
      shape,
      dtype,
      nodata=raster.nodata,
      bands=tuple(name or "" for name in raster.descriptions) if any(raster.descriptions) else (),
      unit=(units.pop() or "") if len(units) == 1 else "",
      crs=_wkt(raster.crs),
      transform=None if raster.transform.is_identity else tuple(raster.transform)[:6],
      extra={
        "area_or_point": raster.tags().get("AREA_OR_POINT", "Area"),
        "points": tuple((point.row, point.col, point.x, point.y, point.z) for point in points),
        "points_crs": _wkt(points_crs),
      },
    )


def _wkt(crs: Any) -> str:
  return crs.to_wkt(version="WKT2_2019") if crs else ""


def write(path: Path, array: np.ndarray, geometry: Geometry, name: Path) -> None:
  """A tiled, deflated GeoTIFF of (H, W, C).

  Args:
    path: path to write at.
    array: the image; NaN becomes the geometry's nodata, if it has one.
    geometry: a raster's.
    name: the path that messages name.
  """
  height, width, channels = array.shape
  with _created(path, name, (height, width, channels), array.dtype, geometry) as raster:
    raster.write(np.moveaxis(_filled(array, raster.nodata), -1, 0))


def _filled(array: np.ndarray, nodata: float | None) -> np.ndarray:
  if nodata is None or array.dtype.kind != "f":
    return array
  return np.where(np.isnan(array), array.dtype.type(nodata), array)


@contextlib.contextmanager
def _created(path: Path, name: Path, shape: tuple[int, int, int], dtype: Any, geometry: Geometry | None):
  """A new raster that is open for writing, with its geometry stored.

  Raises:
    UsageError: rasterio is missing, another size than that of the geometry, or a number type that GDAL does not know.
  """
  rasterio = extras.load("rasterio", f"{name}: writing a GeoTIFF")
  dtype = np.dtype(dtype)
  height, width, channels = shape
  if geometry is not None and (geometry.form != "raster" or geometry.shape != (height, width)):
    raise UsageError(
      f"{name} would be {width}×{height} (width × height), but the geometry belongs to a {geometry.form} file of "
      f"{'×'.join(map(str, geometry.shape[::-1] if geometry.form == 'raster' else geometry.shape))}. Keep the size, or "
      "write without a geometry."
    )
  if not rasterio.dtypes.check_dtype(dtype.name):
    raise UsageError(f"{name}: GeoTIFF holds no {dtype}; convert it, to float32 for example.")
  options: dict[str, Any] = {
    "height": height,
    "width": width,
    "count": channels,
    "dtype": dtype.name,
    "tiled": True,
    "blockxsize": TILE,
    "blockysize": TILE,
    "interleave": "pixel",
    "compress": "deflate",
    "predictor": 2 if dtype.kind in "iu" else 1,
    "bigtiff": "IF_SAFER",
  }
  if geometry is not None:
    if geometry.nodata is not None and _holds(dtype, geometry.nodata):
      options["nodata"] = geometry.nodata
    if geometry.crs:
      options["crs"] = rasterio.crs.CRS.from_wkt(geometry.crs)
    if geometry.transform is not None:
      options["transform"] = rasterio.Affine(*geometry.transform)
  with _opened(path, str(name), "w", **options) as raster:
    if geometry is not None:
      _describe(rasterio, raster, geometry)
    yield raster


def _holds(dtype: np.dtype, value: float) -> bool:
  """Whether a number type can hold nodata; an 8-bit class map, for example, has no -9999."""
  if dtype.kind == "f":
    return not np.isfinite(value) or abs(value) <= float(np.finfo(dtype).max)
  return float(value).is_integer() and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max


def _describe(rasterio: Any, raster: Any, geometry: Geometry) -> None:
  if geometry.extra.get("area_or_point", "Area") != "Area":
    raster.update_tags(AREA_OR_POINT=geometry.extra["area_or_point"])
  if geometry.extra.get("points"):
    point = rasterio.control.GroundControlPoint
    crs = geometry.extra["points_crs"]
    raster.gcps = [point(*each) for each in geometry.extra["points"]], crs and rasterio.crs.CRS.from_wkt(crs)
  if len(geometry.bands) == raster.count:
    raster.descriptions = geometry.bands


class RasterWriter:
  """Writes a TIFF window by window, in bounded memory, as a context manager.

  ```python
  with RasterWriter(path, 20000, 20000, 1, "float32", geometry) as writer:
    writer.write(row, column, window)  # (height, width, C)
  ```

  The file is tiled, compressed by deflate, and a BigTIFF where it might exceed 4 GB. It appears at the end of the
  `with` block, or not at all if that ends in an exception. Every pixel has to be written; windows whose corners are
  multiples of 256 are written fastest. One thread at a time may use it.
  """

  def __init__(
    self, path: Path, height: int, width: int, channels: int, dtype: Any, geometry: Geometry | None = None
  ) -> None:
    """
    Args:
      path: the file, .tif or .tiff; missing folders are created.
      height, width, channels: its size.
      dtype: its number type.
      geometry: of a raster of this size, or None. NaN becomes its nodata, if it has one.
    """
    self.path = Path(path)
    self._part = self.path.with_name(f".{uuid.uuid4().hex}.part")
    self._form = (height, width, channels), np.dtype(dtype), geometry
    self._opening: Any = None
    self._raster: Any = None

  def __enter__(self) -> "RasterWriter":
    """
    Raises:
      UsageError: rasterio is missing, the geometry has another size, or the file cannot be created.
    """
    shape, dtype, geometry = self._form
    if self.path.suffix.lower() not in (".tif", ".tiff"):
      raise UsageError(f"{self.path} is written window by window, which only TIFF allows. End its name with .tif.")
    with self._named():
      self.path.parent.mkdir(parents=True, exist_ok=True)
      self._opening = _created(self._part, self.path, shape, dtype, geometry)
      self._raster = self._opening.__enter__()
    return self

  def write(self, row: int, column: int, window: np.ndarray) -> None:
    """Stores (height, width, C) with its corner at (row, column).

    Raises:
      UsageError: a window beyond the raster, of other channels or another number type, or a full disk.
    """
    (rows, columns, channels), dtype, _ = self._form
    height, width = window.shape[:2]
    inside = 0 <= row <= rows - height and 0 <= column <= columns - width
    if window.ndim != 3 or window.shape[2] != channels or window.dtype != dtype or not inside:
      raise UsageError(
        f"{self.path} is ({rows}, {columns}, {channels}) {dtype}; a window {window.shape} {window.dtype} at row {row}, "
        f"column {column} does not fit."
      )
    with self._named():
      bands = np.moveaxis(_filled(window, self._raster.nodata), -1, 0)
      self._raster.write(bands, window=((row, row + height), (column, column + width)))

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    try:
      with self._named():
        self._opening.__exit__(None, None, None)
        if kind is None:
          self._part.replace(self.path)
    finally:
      self._part.unlink(missing_ok=True)

  @contextlib.contextmanager
  def _named(self):
    """Errors of the disk name the file."""
    rasterio = extras.load("rasterio", f"{self.path}: writing it window by window")
    try:
      yield
    except (OSError, rasterio.errors.RasterioError) as error:
      with contextlib.suppress(OSError):
        self._part.unlink()
      reason = getattr(error, "strerror", None) or error
      raise UsageError(f"{self.path} cannot be written ({reason}). Choose another place, or free space.") from error
