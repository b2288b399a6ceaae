"""GeoTIFF: files written by rasterio, read here, and the other way round; windows; memory."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
import tifffile

from pix2pix_jax.data import files
from pix2pix_jax.errors import UsageError

TRANSFORM = rasterio.Affine(10.0, 0.25, 399960.0, -0.125, -10.0, 5700000.5)
NAMES = ("B02", "B03", "B04", "B05", "B8A", "B11", "SCL")


def draw(shape, dtype=np.uint16, seed=0):
  generator = np.random.default_rng(seed)
  if np.dtype(dtype).kind == "f":
    return generator.normal(0, 100, shape).astype(dtype)
  return generator.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def write_raster(path, array, names=None, **options):
  """(H, W, C) by rasterio alone."""
  height, width, count = array.shape
  options = {"crs": CRS.from_epsg(32633), "transform": TRANSFORM, **options}
  form = {"driver": "GTiff", "height": height, "width": width, "count": count, "dtype": array.dtype}
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
    with rasterio.open(path, "w", **form, **options) as raster:
      raster.write(np.moveaxis(array, -1, 0))
      if names:
        raster.descriptions = names


def same(found, expected):
  assert found.dtype == expected.dtype and found.flags.c_contiguous
  np.testing.assert_array_equal(found, expected)


LAYOUTS = (
  {},
  {"tiled": True, "blockxsize": 64, "blockysize": 32},
  {"compress": "deflate", "predictor": 2},
  {"compress": "lzw", "interleave": "pixel", "tiled": True, "blockxsize": 32, "blockysize": 32},
  {"compress": "zstd", "interleave": "band"},
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
@pytest.mark.parametrize("bands", [1, 3, 7])
def test_bands_of_every_type_and_layout_whole_and_in_windows(tmp_path, bands, dtype, layout):
  array = draw((70, 90, bands), dtype)
  layout = {**layout, "predictor": 3} if "predictor" in layout and array.dtype.kind == "f" else layout
  write_raster(tmp_path / "x.tif", array, **layout)
  same(files.read(tmp_path / "x.tif"), array)
  assert files.lazy_shape(tmp_path / "x.tif") == array.shape
  for row, column, height, width in ((0, 0, 70, 90), (0, 0, 1, 1), (31, 17, 33, 65), (69, 89, 1, 1)):
    window = files.read_window(tmp_path / "x.tif", row, column, height, width)
    same(window, array[row : row + height, column : column + width])


def test_seven_bands_with_nodata_and_crs_in_float32_out_with_both(tmp_path):
  array = draw((40, 50, 7))
  array[:5] = 0
  write_raster(tmp_path / "x.tif", array, NAMES, nodata=0, compress="deflate")
  geometry = files.read_geometry(tmp_path / "x.tif")
  same(files.read(tmp_path / "x.tif"), array)  # nodata stays
  assert geometry.nodata == 0 and geometry.bands == NAMES and geometry.dtype == "uint16" and geometry.shape == (40, 50)
  assert geometry.transform == tuple(TRANSFORM)[:6] and CRS.from_wkt(geometry.crs) == CRS.from_epsg(32633)

  result = draw((40, 50, 7), np.float32)
  result[3, 4] = np.nan
  files.write(tmp_path / "y.tif", result, geometry=geometry)
  with rasterio.open(tmp_path / "y.tif") as raster:
    assert raster.crs == CRS.from_epsg(32633) and raster.transform == TRANSFORM and raster.nodata == 0
    assert raster.descriptions == NAMES and set(raster.dtypes) == {"float32"} and raster.profile["tiled"]
    expected = result.copy()
    expected[3, 4] = 0  # NaN became nodata
    np.testing.assert_array_equal(np.moveaxis(raster.read(), 0, -1), expected)
    assert not raster.read_masks(1)[3, 4] and raster.read_masks(1)[0, 0]
  same(files.read(tmp_path / "y.tif"), expected)
  one = files.read_geometry(tmp_path / "x.tif")
  files.write(tmp_path / "z.tif", result[..., :1], geometry=one)
  assert files.read_geometry(tmp_path / "z.tif").bands == ()  # seven names fit no single channel
  assert sorted(path.name for path in tmp_path.iterdir()) == ["x.tif", "y.tif", "z.tif"]


@pytest.mark.parametrize("nodata", [-9999, -3.4028234663852886e38, float("nan"), 1e20])
def test_float_nodata(tmp_path, nodata):
  array = draw((8, 9, 1), np.float32)
  array[2, 3] = nodata
  write_raster(tmp_path / "x.tif", array, nodata=nodata)
  geometry = files.read_geometry(tmp_path / "x.tif")
  np.testing.assert_equal(np.float32(geometry.nodata), array[2, 3, 0])
  same(files.read(tmp_path / "x.tif"), array)
  files.write(tmp_path / "y.tif", array, geometry=geometry)
  np.testing.assert_equal(files.read_geometry(tmp_path / "y.tif").nodata, geometry.nodata)


def test_nodata_that_the_output_cannot_hold_is_left_out(tmp_path):
  write_raster(tmp_path / "x.tif", draw((8, 9, 1), np.int16), nodata=-9999)
  geometry = files.read_geometry(tmp_path / "x.tif")
  files.write(tmp_path / "y.tif", draw((8, 9), np.uint8), geometry=geometry)
  written = files.read_geometry(tmp_path / "y.tif")
  assert written.nodata is None and written.transform == geometry.transform
  files.write(tmp_path / "z.tif", draw((8, 9), np.int16), geometry=geometry)
  assert files.read_geometry(tmp_path / "z.tif") == geometry


def test_pixels_as_points_ground_control_points_and_units_are_kept(tmp_path):
  write_raster(tmp_path / "x.tif", draw((8, 9, 1), np.int16))
  with rasterio.open(tmp_path / "x.tif", "r+") as raster:
    raster.update_tags(AREA_OR_POINT="Point")
    raster.units = ("m",)
  geometry = files.read_geometry(tmp_path / "x.tif")
  assert geometry.unit == "m"
  files.write(tmp_path / "y.tif", draw((8, 9), np.int16), geometry=geometry)
  with rasterio.open(tmp_path / "x.tif") as first, rasterio.open(tmp_path / "y.tif") as second:
    assert second.tags()["AREA_OR_POINT"] == "Point" and second.transform == first.transform

  points = [GroundControlPoint(row, col, 10 + col / 7, 50 - row / 3, 1.5) for row in (0, 8) for col in (0, 9)]
  write_raster(tmp_path / "g.tif", draw((8, 9, 1)), crs=CRS.from_epsg(4326), transform=None, gcps=points)
  geometry = files.read_geometry(tmp_path / "g.tif")
  assert geometry.transform is None
  files.write(tmp_path / "h.tif", draw((8, 9), np.float32), geometry=geometry)
  with rasterio.open(tmp_path / "h.tif") as raster:
    found, crs = raster.gcps
  assert crs == CRS.from_epsg(4326)
  assert [(p.row, p.col, p.x, p.y, p.z) for p in found] == [(p.row, p.col, p.x, p.y, p.z) for p in points]


def test_overviews_are_no_slices(tmp_path):
  array = draw((300, 320, 2))
  write_raster(tmp_path / "x.tif", array, tiled=True, blockxsize=64, blockysize=64)
  with rasterio.open(tmp_path / "x.tif", "r+") as raster:
    raster.build_overviews([2, 4])
  assert files.count_slices(tmp_path / "x.tif") is None
  same(files.read(tmp_path / "x.tif"), array)


def test_a_geometry_of_another_size_is_refused(tmp_path):
  write_raster(tmp_path / "x.tif", draw((8, 9, 1)))
  geometry = files.read_geometry(tmp_path / "x.tif")
  with pytest.raises(UsageError, match="y.tif would be 9×4 .* geometry belongs to a raster file of 9×8"):
    files.write(tmp_path / "y.tif", draw((4, 9)), geometry=geometry)
  with pytest.raises(UsageError, match="y.tif: GeoTIFF holds no float16"):
    files.write(tmp_path / "y.tif", draw((8, 9), np.float16), geometry=geometry)
  assert [path.name for path in tmp_path.iterdir()] == ["x.tif"]
  files.write(tmp_path / "y.npy", draw((4, 9)), geometry=geometry)  # holds no geometry at all


# --- Windows


def test_windows_of_other_files_are_cut_from_the_whole(tmp_path):
  array = draw((20, 30, 3), np.uint8)
  files.write(tmp_path / "x.png", array)
  assert files.lazy_shape(tmp_path / "x.png") is None
  same(files.read_window(tmp_path / "x.png", 3, 4, 5, 6), np.ascontiguousarray(array[3:8, 4:10]))
  # Stored numbers that are not the values: inverted grey, an orientation, single bits.
  tifffile.imwrite(tmp_path / "white.tif", array[..., 0], photometric="miniswhite")
  tifffile.imwrite(tmp_path / "turned.tif", array[..., 0], extratags=[(274, "H", 1, 6, True)])
  tifffile.imwrite(tmp_path / "bits.tif", array[..., 0] > 99)
  for name in ("white.tif", "turned.tif", "bits.tif"):
    whole = files.read(tmp_path / name)
    assert files.lazy_shape(tmp_path / name) is None
    same(files.read_window(tmp_path / name, 3, 4, 5, 6), np.ascontiguousarray(whole[3:8, 4:10]))


@pytest.mark.parametrize("window", [(-1, 0, 2, 2), (0, 0, 9, 2), (0, 8, 1, 2), (0, 0, 0, 1)])
def test_windows_outside_are_refused(tmp_path, window):
  write_raster(tmp_path / "x.tif", draw((8, 9, 1)))
  files.write(tmp_path / "x.png", draw((8, 9), np.uint8))
  for name in ("x.tif", "x.png"):
    with pytest.raises(UsageError, match=f"{name} is 9×8 .width × height.; a window of .* is not inside it"):
      files.read_window(tmp_path / name, *window)


def test_a_raster_written_in_windows_equals_one_written_whole(tmp_path):
  array = draw((300, 530, 2), np.float32)
  array[100:110, :40, 1] = np.nan
  write_raster(tmp_path / "x.tif", array, ("VV", "VH"), nodata=-9999)
  geometry = files.read_geometry(tmp_path / "x.tif")
  with files.RasterWriter(tmp_path / "new/y.tif", 300, 530, 2, "float32", geometry) as writer:
    for row in range(0, 300, 100):
      for column in range(0, 530, 200):
        writer.write(row, column, array[row : row + 100, column : column + 200])
    assert not (tmp_path / "new/y.tif").exists()
  expected = np.where(np.isnan(array), np.float32(-9999), array)
  same(files.read(tmp_path / "new/y.tif"), expected)
  assert files.read_geometry(tmp_path / "new/y.tif") == geometry
  with tifffile.TiffFile(tmp_path / "new/y.tif") as file:
    assert file.pages[0].is_tiled and file.pages[0].compression.name == "ADOBE_DEFLATE" and not file.is_bigtiff


def test_a_raster_that_may_exceed_4_gb_is_a_bigtiff(tmp_path):
  with files.RasterWriter(tmp_path / "x.tif", 40000, 40000, 1, "float32") as writer:
    writer.write(39999, 39990, np.ones((1, 10, 1), np.float32))
  with tifffile.TiffFile(tmp_path / "x.tif") as file:
    assert file.is_bigtiff
  same(files.read_window(tmp_path / "x.tif", 39999, 39990, 1, 10), np.ones((1, 10, 1), np.float32))


def test_a_failed_raster_leaves_nothing(tmp_path):
  with pytest.raises(KeyError), files.RasterWriter(tmp_path / "x.tif", 8, 9, 1, "uint8") as writer:
    writer.write(0, 0, np.ones((8, 9, 1), np.uint8))
    raise KeyError
  assert not list(tmp_path.iterdir())
  for window in (np.ones((8, 10, 1), np.uint8), np.ones((8, 9, 2), np.uint8), np.ones((8, 9, 1), np.uint16)):
    with (
      pytest.raises(UsageError, match=r"x.tif is \(8, 9, 1\) uint8; a window .* does not fit"),
      files.RasterWriter(tmp_path / "x.tif", 8, 9, 1, "uint8") as writer,
    ):
      writer.write(0, 0, window)
  assert not list(tmp_path.iterdir())
  (tmp_path / "file").touch()
  with pytest.raises(UsageError, match="x.tif cannot be written"):
    files.RasterWriter(tmp_path / "file/x.tif", 8, 9, 1, "uint8").__enter__()
  with pytest.raises(UsageError, match="x.png is written window by window, which only TIFF allows"):
    files.RasterWriter(tmp_path / "x.png", 8, 9, 1, "uint8").__enter__()


PROGRAM = """
import resource, sys
from pathlib import Path
import numpy as np
from pix2pix_jax.data import files
source, target = map(Path, sys.argv[1:])
height, width, channels = files.lazy_shape(source)
files.read_window(source, 0, 0, 8, 8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with files.RasterWriter(target, height, width, channels, "float32", files.read_geometry(source)) as writer:
  for row in range(0, height, 512):
    for column in range(0, width, 512):
      window = files.read_window(source, row, column, min(512, height - row), min(512, width - column))
      writer.write(row, column, window.astype(np.float32))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_windows_need_bounded_memory(tmp_path):
  """A raster of 200 MB in, 400 MB out; whole arrays would take 600 MB. GDAL's cache is at most 128 MB."""
  size = 10000
  form = {"driver": "GTiff", "height": size, "width": size, "count": 1, "dtype": "int16", "compress": "deflate"}
  with rasterio.open(tmp_path / "x.tif", "w", **form, tiled=True, crs=CRS.from_epsg(32633), transform=TRANSFORM) as r:
    for row in range(0, size, 2000):
      block = np.broadcast_to(np.arange(row, row + 2000, dtype=np.int16)[None, :, None], (1, 2000, size))
      r.write(block, window=((row, row + 2000), (0, size)))
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM, str(tmp_path / "x.tif"), str(tmp_path / "y.tif")],
    capture_output=True,
    text=True,
    check=True,
    env=os.environ | {"OMP_NUM_THREADS": "1"},
  )
  assert int(done.stdout) < 220 * 1024, f"{int(done.stdout) // 1024} MiB"
  window = files.read_window(tmp_path / "y.tif", 9000, 9990, 2, 10)
  same(window, np.broadcast_to(np.float32([9000, 9001])[:, None, None], (2, 10, 1)).copy())


# --- Errors


def test_without_rasterio_pixels_and_nodata_are_read_and_writing_names_the_extra(tmp_path, monkeypatch):
  array = draw((8, 9, 7), np.int16)
  write_raster(tmp_path / "x.tif", array, NAMES, nodata=-9999, compress="deflate")
  whole = files.read_geometry(tmp_path / "x.tif")
  monkeypatch.setitem(sys.modules, "rasterio", None)
  same(files.read(tmp_path / "x.tif"), array)
  same(files.read_window(tmp_path / "x.tif", 1, 2, 3, 4), np.ascontiguousarray(array[1:4, 2:6]))
  geometry = files.read_geometry(tmp_path / "x.tif")
  assert (geometry.nodata, geometry.shape, geometry.dtype) == (-9999, (8, 9), "int16") and not geometry.crs
  assert files.lazy_shape(tmp_path / "x.tif") is None
  message = r"y.tif.* needs the package rasterio, .*pip install '.\[geo\]'"
  for each in (geometry, whole):
    with pytest.raises(UsageError, match=message):
      files.write(tmp_path / "y.tif", array, geometry=each)
  with pytest.raises(UsageError, match=message):
    files.RasterWriter(tmp_path / "y.tif", 8, 9, 1, "uint8").__enter__()
  files.write(tmp_path / "y.tif", array)  # plain TIFF needs no extra
  assert sorted(path.name for path in tmp_path.iterdir()) == ["x.tif", "y.tif"]


def test_damaged_rasters_are_usage_errors(tmp_path):
  path, generator = tmp_path / "x.tif", np.random.default_rng(0)
  write_raster(path, draw((200, 90, 2)), nodata=7, compress="deflate", tiled=True, blockxsize=64, blockysize=64)
  whole = path.read_bytes()
  path.write_bytes(whole[: len(whole) // 2])
  for reading in (files.read, lambda path: files.read_window(path, 150, 0, 50, 90)):
    with pytest.raises(UsageError, match="x.tif cannot be read"):
      reading(path)
  for _ in range(60):
    damaged = bytearray(whole)
    for place in generator.integers(0, 1200, 6):
      damaged[place] = generator.integers(256)
    path.write_bytes(damaged)
    for reading in (files.read, files.read_geometry, files.lazy_shape, lambda p: files.read_window(p, 0, 0, 9, 9)):
      try:
        reading(path)
      except UsageError as error:
        assert "x.tif " in str(error)


@pytest.mark.filterwarnings("error")
def test_nothing_is_printed_about_rasters(tmp_path, capfd):
  write_raster(tmp_path / "x.tif", draw((8, 9, 1)), crs=None, transform=None, nodata=3)
  geometry = files.read_geometry(tmp_path / "x.tif")
  files.write(tmp_path / "y.tif", files.read(tmp_path / "x.tif"), geometry=geometry)
  (tmp_path / "y.tif").write_bytes((tmp_path / "y.tif").read_bytes()[:300])
  with pytest.raises(UsageError):
    files.read_window(tmp_path / "y.tif", 0, 0, 8, 9)
  assert capfd.readouterr() == ("", "")
