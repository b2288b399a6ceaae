"""Volumes and rasters through `translate`: files written by the formats' own libraries, and what those read back."""

import dataclasses

import nibabel
import numpy as np
import pytest
import rasterio
import SimpleITK as sitk
import tifffile
from tiny_runs import make_translator

from pix2pix_jax import translate
from pix2pix_jax.data import files
from pix2pix_jax.errors import UsageError
from pix2pix_jax.inference import Translator
from pix2pix_jax.run import translation

SHAPE = (5, 12, 20)  # z, y, x
AFFINE = np.array([[0.9, 0.1, 0, -90], [-0.1, 1.1, 0, -120], [0, 0, 2.5, -70], [0, 0, 0, 1]])
TRANSFORM = rasterio.transform.from_origin(500000, 5500000, 10, 10)


def hounsfield(shape=SHAPE, seed=0):
  return np.random.default_rng(seed).integers(-1024, 3071, shape, np.int16)


def of_quantities(dtype="int16", channels=1, **fields):
  """An untrained translator between quantities."""
  return make_translator(
    data__input_kind="quantity",
    data__target_kind="quantity",
    data__input_range=(-1024.0, 3071.0),
    data__target_range=(-30.0, 5.0),
    data__input_dtype=dtype,
    data__target_dtype="float32",
    model__input_channels=channels,
    model__output_channels=1,
    **fields,
  )


@pytest.fixture
def run(monkeypatch):
  """The command line with an untrained translator in place of a workdir."""

  def call(translator, *arguments):
    monkeypatch.setattr(Translator, "load", lambda workdir, step: translator)
    translate.main(["--workdir=any", *map(str, arguments)])

  return call


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_a_nifti_volume_keeps_its_affine(tmp_path, run, axis):
  array = hounsfield()
  nibabel.save(nibabel.Nifti1Image(array.T, AFFINE), tmp_path / "mr.nii.gz")
  translator = of_quantities()
  flags = [] if axis is None else [f"--axis={axis}"]
  run(translator, f"--input={tmp_path / 'mr.nii.gz'}", f"--output={tmp_path / 'out/'}/", *flags)
  written = nibabel.load(tmp_path / "out/mr.nii.gz")
  np.testing.assert_allclose(written.affine, AFFINE, atol=1e-5)
  assert written.get_data_dtype() == np.float32
  along = 0 if axis is None else 2 - axis  # NIfTI's i, j, k are x, y, z
  slices = np.moveaxis(array, along, 0)
  expected = np.stack([translator(one[..., None])[..., 0] for one in slices])
  np.testing.assert_allclose(np.moveaxis(np.asarray(written.dataobj).T, along, 0), expected, atol=1e-4)


def test_hounsfield_units_come_back_as_int16(tmp_path, run):
  """MR → CT: float in, the integers of the training data out."""
  nibabel.save(nibabel.Nifti1Image(hounsfield().T, AFFINE), tmp_path / "mr.nii")
  translator = of_quantities()
  translator.target_signal = dataclasses.replace(translator.input_signal, range=((-2000.0, 1000.0),))
  run(translator, f"--input={tmp_path / 'mr.nii'}", f"--output={tmp_path / 'ct.nii.gz'}")
  written = nibabel.load(tmp_path / "ct.nii.gz")
  values = np.asanyarray(written.dataobj)
  assert written.get_data_dtype() == values.dtype == np.int16 and (values < 0).any()
  np.testing.assert_array_equal(values.T[2], translator(hounsfield()[2][..., None])[..., 0])


def test_a_dicom_series_or_metaimage_becomes_metaimage(tmp_path, run):
  image = sitk.GetImageFromArray(hounsfield())
  image.SetSpacing((0.7, 0.8, 3.0))
  image.SetOrigin((1, 2, 3))
  sitk.WriteImage(image, str(tmp_path / "ct.mhd"))
  run(of_quantities(), f"--input={tmp_path / 'ct.mhd'}", f"--output={tmp_path / 'out'}")
  written = sitk.ReadImage(str(tmp_path / "out/ct.mha"))
  assert (written.GetSpacing(), written.GetOrigin()) == (image.GetSpacing(), image.GetOrigin())
  assert written.GetSize() == image.GetSize() and written.GetPixelID() == sitk.sitkFloat32

  run(of_quantities(), f"--input={tmp_path / 'ct.mhd'}", f"--output={tmp_path / 'as.nii.gz'}", "--axis=1")
  volume = nibabel.load(tmp_path / "as.nii.gz")
  np.testing.assert_allclose(volume.affine, [[-0.7, 0, 0, -1], [0, -0.8, 0, -2], [0, 0, 3, 3], [0, 0, 0, 1]], atol=1e-5)
  run(of_quantities(), f"--input={tmp_path / 'ct.mhd'}", f"--output={tmp_path / 'as.mha'}", "--axis=1")
  same = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "as.mha")))
  np.testing.assert_array_equal(np.asarray(volume.dataobj).T, same)


def test_samples_and_several_files_in_one_call(tmp_path, run, capsys):
  tifffile.imwrite(tmp_path / "stack.tif", hounsfield(), photometric="minisblack")
  np.save(tmp_path / "slices.npy", hounsfield()[..., None])
  files.write(tmp_path / "single.npy", hounsfield()[0])
  translator = of_quantities()
  run(translator, f"--input={tmp_path}", f"--output={tmp_path / 'out'}", "--samples=2")
  names = {path.name for path in (tmp_path / "out").iterdir()}
  assert names == {
    f"{name}_{n}{suffix}"
    for n in (0, 1)
    for name, suffix in (("stack", ".tif"), ("slices", ".npy"), ("single", ".npy"))
  }
  one, other = np.load(tmp_path / "out/slices_0.npy"), np.load(tmp_path / "out/slices_1.npy")
  assert one.shape == (*SHAPE, 1) and np.abs(one - other).max() > 0
  np.testing.assert_array_equal(tifffile.imread(tmp_path / "out/stack_1.tif"), other[..., 0])
  np.testing.assert_allclose(np.load(tmp_path / "out/single_1.npy"), other[0], atol=1e-5)
  assert "3 of 3 " in capsys.readouterr().out


def test_what_a_volume_cannot_become_is_said_first(tmp_path, run):
  np.save(tmp_path / "slices.npy", hounsfield()[..., None])
  with pytest.raises(UsageError, match="volumes are not written as .png"):
    run(None, f"--input={tmp_path / 'slices.npy'}", f"--output={tmp_path / 'out.png'}")
  with pytest.raises(UsageError, match="--side_by_side draws single images, but .*slices.npy"):
    run(None, f"--input={tmp_path / 'slices.npy'}", f"--output={tmp_path / 'out'}", "--side_by_side")


def write_raster(path, array, nodata=None):
  """(H, W, C) with a coordinate reference system."""
  height, width, count = array.shape
  form = {"height": height, "width": width, "count": count, "dtype": array.dtype, "nodata": nodata}
  with rasterio.open(path, "w", driver="GTiff", crs="EPSG:32632", transform=TRANSFORM, **form) as raster:
    raster.write(np.moveaxis(array, -1, 0))


def bands(dtype, nodata, shape=(70, 90)):
  """Seven bands; a corner is nodata in all of them, another place in one."""
  array = np.random.default_rng(1).integers(0, 3000, (*shape, 7)).astype(dtype)
  array[array == nodata] = 7
  array[:9, :5] = nodata
  array[20, 30, 2] = nodata
  return array


@pytest.mark.parametrize("flags", [[], ["--tile=16"]])
@pytest.mark.parametrize("dtype, nodata", [("uint16", 0), ("int16", -9999), ("float32", np.nan), ("float32", -9999.0)])
def test_a_raster_keeps_its_place_and_its_nodata(tmp_path, run, flags, dtype, nodata):
  array = bands(dtype, nodata)
  write_raster(tmp_path / "scene.tif", array, nodata)
  translator = of_quantities(dtype, channels=7)
  run(translator, f"--input={tmp_path / 'scene.tif'}", f"--output={tmp_path / 'out'}", *flags)
  with rasterio.open(tmp_path / "out/scene.tif") as raster:
    written, transform, crs, kept = raster.read(1), raster.transform, raster.crs, raster.nodata
  assert (transform, crs.to_epsg(), written.dtype) == (TRANSFORM, 32632, np.float32)
  np.testing.assert_equal(kept, nodata)
  outside = np.zeros((70, 90), bool)
  outside[:9, :5] = True
  is_nodata = np.isnan(written) if np.isnan(nodata) else written == nodata
  np.testing.assert_array_equal(is_nodata, outside)
  marked = np.where(array == nodata, np.nan, array.astype(np.float32))
  expected = translator(marked, tile=16 if flags else None)[..., 0]
  np.testing.assert_allclose(written[~outside], expected[~outside], atol=1e-4)


def test_decibels_with_nan_go_in_and_come_out(tmp_path, run):
  """Negative floats with NaN where nothing was measured, in a plain TIFF."""
  decibel = np.random.default_rng(2).normal(-12, 4, (24, 32, 1)).astype(np.float32)
  decibel[3:5] = np.nan
  files.write(tmp_path / "sar.tif", decibel)
  translator = of_quantities("float32")
  run(translator, f"--input={tmp_path / 'sar.tif'}", f"--output={tmp_path / 'out.tif'}")
  np.testing.assert_array_equal(files.read(tmp_path / "out.tif"), translator(decibel))


@pytest.mark.parametrize("size, tile", [((70, 90), 16), ((16, 200), 24), ((33, 16), 64), ((40, 40), 40)])
def test_rows_of_tiles_equal_the_whole_image(size, tile):
  image = np.random.default_rng(3).integers(0, 256, (*size, 3), np.uint8)
  translator = make_translator()
  rows = list(translator.stream(lambda row, count: image[row : row + count], size, tile=tile, seed=5, sample=1))
  assert [row for row, _ in rows] == list(np.cumsum([0, *(len(part) for _, part in rows)])[:-1])
  whole = translator(image, tile=tile, seed=5, num_samples=2)[1]
  np.testing.assert_array_equal(np.concatenate([part for _, part in rows]), whole)


def test_a_large_raster_is_never_in_memory_as_a_whole(tmp_path, run, monkeypatch):
  array = bands("uint16", 0, (260, 90))
  write_raster(tmp_path / "scene.tif", array, 0)
  sizes = []
  read_window = files.read_window

  def window(path, row, column, height, width):
    sizes.append(height)
    return read_window(path, row, column, height, width)

  monkeypatch.setattr(files, "read_window", window)
  monkeypatch.setattr(files, "read", None)
  run(
    of_quantities("uint16", channels=7),
    f"--input={tmp_path / 'scene.tif'}",
    f"--output={tmp_path / 'out.tif'}",
    "--tile=32",
  )
  assert max(sizes) == 32 and len(sizes) > 10


def test_the_nodata_of_labels_is_kept_if_they_can_hold_it(tmp_path, run):
  array = bands("uint16", 0)
  write_raster(tmp_path / "scene.tif", array, 0)
  translator = make_translator(
    data__input_kind="quantity",
    data__input_range=(0.0, 3000.0),
    data__input_dtype="uint16",
    model__input_channels=7,
  )
  run(translator, f"--input={tmp_path / 'scene.tif'}", f"--output={tmp_path / 'out.tif'}")
  with rasterio.open(tmp_path / "out.tif") as raster:
    assert raster.count == 3 and raster.nodata == 0 and not raster.read()[:, :9, :5].any()


def test_a_resized_raster_has_no_place(tmp_path, run):
  write_raster(tmp_path / "scene.tif", bands("uint16", 0), 0)
  run(
    of_quantities("uint16", channels=7),
    f"--input={tmp_path / 'scene.tif'}",
    f"--output={tmp_path / 'out.tif'}",
    "--resize=16",
  )
  with rasterio.open(tmp_path / "out.tif") as raster:
    assert raster.crs is None and raster.shape == (16, 21)


def test_a_submission_holds_16_bit_metres_without_holes(tmp_path, run):
  for i in range(2):
    files.write(tmp_path / f"in/{i:010d}.png", np.random.default_rng(i).integers(0, 256, (16, 24, 3), np.uint8))
  translator = make_translator(
    data__target_kind="depth",
    data__target_dtype="float32",
    data__target_scale=1000.0,
    model__output_channels=2,
    data__validity_channel=True,
  )
  run(translator, f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--submission")
  written = files.read(tmp_path / "out/0000000001.png")
  assert written.dtype == np.uint16 and written.shape == (16, 24, 1) and written.min() >= 1
  metres = translator(files.read(tmp_path / "in/0000000001.png"))
  assert (metres == 0).any()
  np.testing.assert_array_equal(written, np.maximum(np.round(metres * 256), 1))
  with pytest.raises(UsageError, match="--submission is for depth"):
    run(make_translator(), f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'no'}", "--submission")


def test_a_value_that_equals_nodata_stays_a_value():
  image = np.array([[0.0, 1.0], [0.0, -2.0]], np.float32)[..., None]
  outside = np.array([[True, False], [False, False]])[..., None]
  marked = translation._with_nodata(image, outside, 0)[..., 0]
  assert np.isnan(marked[0, 0]) and 0 < marked[1, 0] < 1e-40 and marked[0, 1] == 1 and marked[1, 1] == -2
