"""NIfTI, MetaImage, NRRD and DICOM: files written by nibabel and SimpleITK, read here, and the other way round."""

import locale
import os
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from pix2pix_jax.data import files
from pix2pix_jax.errors import UsageError

# A rotation by 0.3 radians about z with 0.9, 1.1 and 2.5 mm voxels, and an offset.
COSINE, SINE = np.cos(0.3), np.sin(0.3)
AFFINE = np.array(
  [[0.9 * COSINE, -1.1 * SINE, 0, -90.7], [0.9 * SINE, 1.1 * COSINE, 0, -126.3], [0, 0, 2.5, -72.1], [0, 0, 0, 1]]
)
SHAPE = (6, 5, 4)  # i, j, k


def draw(shape, dtype=np.int16, seed=0):
  generator = np.random.default_rng(seed)
  if np.dtype(dtype).kind == "f":
    return generator.normal(0, 100, shape).astype(dtype)
  low, high = (-1024, 3071) if dtype == np.int16 else (np.iinfo(dtype).min, np.iinfo(dtype).max)
  return generator.integers(low, high, shape, dtype, endpoint=True)


def same(found, expected):
  assert found.dtype == expected.dtype.newbyteorder("=") and found.dtype.isnative and found.flags.c_contiguous
  np.testing.assert_array_equal(found, expected)


def write_nifti(path, array, affine=AFFINE, image_class=nibabel.Nifti1Image, **header):
  image = image_class(array, affine, dtype=array.dtype)
  for name, value in header.items():
    image.header[name] = value
  image.to_filename(path)


# --- NIfTI


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("image_class", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_hounsfield_nifti_in_and_out_with_its_affine(tmp_path, suffix, image_class):
  array = draw(SHAPE)
  path = tmp_path / f"x{suffix}"
  write_nifti(path, array, image_class=image_class, descrip=b"CT", cal_max=300, cal_min=-200)
  assert files.count_slices(path) == 4
  for k in range(4):  # rows are j, columns i
    same(files.read(path, slice=k), array[:, :, k].T[..., None])
  volume, geometry = files.read_volume(path), files.read_geometry(path)
  same(volume, array.transpose(2, 1, 0)[..., None])
  assert geometry.dtype == "int16" and geometry.shape == SHAPE
  np.testing.assert_array_equal(geometry.affine, nibabel.load(path).affine)

  result = volume.astype(np.float32) / 3
  for values in (volume, result):
    files.write_volume(tmp_path / f"y{suffix}", values, geometry)
    written, first = nibabel.load(tmp_path / f"y{suffix}"), nibabel.load(path)
    assert type(written) is image_class and written.get_data_dtype() == values.dtype
    assert np.asanyarray(written.dataobj).dtype == values.dtype
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), values[..., 0].transpose(2, 1, 0))
    for name in ("srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_x", "pixdim", "sform_code", "qform_code"):
      np.testing.assert_array_equal(written.header[name], first.header[name], err_msg=name)
    assert written.affine.tobytes() == first.affine.tobytes()
    assert written.header["cal_max"] == written.header["cal_min"] == 0  # the window of other values
    assert written.header.get_xyzt_units() == first.header.get_xyzt_units()
    same(files.read_volume(tmp_path / f"y{suffix}"), values)
  assert sorted(path.name for path in tmp_path.iterdir()) == [f"x{suffix}", f"y{suffix}"]


def test_slices_along_every_axis(tmp_path):
  array = draw(SHAPE)
  write_nifti(tmp_path / "x.nii", array)
  geometry = files.read_geometry(tmp_path / "x.nii")
  for axis in range(3):
    count = SHAPE[axis]
    assert files.count_slices(tmp_path / "x.nii", axis=axis) == count
    expected = np.stack([array.take(index, axis).T for index in range(count)])[..., None]
    same(files.read_volume(tmp_path / "x.nii", axis=axis), np.ascontiguousarray(expected))
    same(files.read(tmp_path / "x.nii", slice=count - 1, axis=axis), np.ascontiguousarray(expected[-1]))
    files.write_volume(tmp_path / "y.nii", expected, geometry, axis=axis)
    np.testing.assert_array_equal(np.asanyarray(nibabel.load(tmp_path / "y.nii").dataobj), array)
  with pytest.raises(UsageError, match="x.nii: the axis is 3; it has to be 0, 1 or 2"):
    files.read_volume(tmp_path / "x.nii", axis=3)
  with pytest.raises(UsageError, match="x.nii has 4 slices, 0 to 3; there is no slice 4"):
    files.read(tmp_path / "x.nii", slice=4)
  with pytest.raises(UsageError, match="x.nii is a volume of 4 slices; choose one by slice=0 to 3"):
    files.read(tmp_path / "x.nii")


@pytest.mark.parametrize("slope, intercept, dtype", [(1, -1024, np.float32), (0.5, 3, np.float32), (1, 0, np.int16)])
def test_slope_and_intercept_are_applied(tmp_path, slope, intercept, dtype):
  """Stored as in the NIfTI-1 standard: value = slope · stored + intercept."""
  stored = draw(SHAPE)
  image = nibabel.Nifti1Image(stored, AFFINE)
  image.header.set_slope_inter(slope, intercept)
  image.to_filename(tmp_path / "x.nii")
  raw = np.frombuffer((tmp_path / "x.nii").read_bytes()[352:], "<i2").reshape(SHAPE, order="F")
  found = files.read_volume(tmp_path / "x.nii")
  header = nibabel.load(tmp_path / "x.nii").dataobj
  assert (header.slope, header.inter) == (slope, intercept)
  same(found, np.ascontiguousarray((raw * slope + intercept).astype(dtype).transpose(2, 1, 0)[..., None]))
  same(files.read(tmp_path / "x.nii", slice=2), found[2])
  geometry = files.read_geometry(tmp_path / "x.nii")
  assert geometry.dtype == np.dtype(dtype).name
  files.write_volume(tmp_path / "y.nii", found, geometry)  # the old slope must not apply to the new values
  same(files.read_volume(tmp_path / "y.nii"), found)


def test_big_endian_flat_and_many_channel_nifti(tmp_path):
  array = draw(SHAPE)
  image = nibabel.Nifti1Image(array, AFFINE, nibabel.Nifti1Header(endianness=">"))
  image.header.set_data_dtype(">i2")
  image.to_filename(tmp_path / "big.nii")
  assert (tmp_path / "big.nii").read_bytes()[:4] == b"\0\0\1\x5c"
  same(files.read_volume(tmp_path / "big.nii"), array.transpose(2, 1, 0)[..., None].copy())
  volume, geometry = files.read_volume(tmp_path / "big.nii"), files.read_geometry(tmp_path / "big.nii")
  files.write_volume(tmp_path / "little.nii", volume, geometry)
  np.testing.assert_array_equal(nibabel.load(tmp_path / "little.nii").affine, nibabel.load(tmp_path / "big.nii").affine)
  same(files.read_volume(tmp_path / "little.nii"), volume)

  write_nifti(tmp_path / "flat.nii", array[..., 0])
  assert files.count_slices(tmp_path / "flat.nii") == 1
  same(files.read(tmp_path / "flat.nii"), array[..., 0].T[..., None].copy())
  geometry = files.read_geometry(tmp_path / "flat.nii")
  files.write_volume(tmp_path / "y.nii", files.read_volume(tmp_path / "flat.nii"), geometry)
  assert nibabel.load(tmp_path / "y.nii").shape == (6, 5)

  modalities = draw((*SHAPE, 3), np.float32)
  write_nifti(tmp_path / "four.nii.gz", modalities)
  same(files.read(tmp_path / "four.nii.gz", slice=1), modalities[:, :, 1].swapaxes(0, 1).copy())
  volume, geometry = files.read_volume(tmp_path / "four.nii.gz"), files.read_geometry(tmp_path / "four.nii.gz")
  files.write_volume(tmp_path / "z.nii.gz", volume, geometry)
  np.testing.assert_array_equal(np.asanyarray(nibabel.load(tmp_path / "z.nii.gz").dataobj), modalities)
  files.write_volume(tmp_path / "one.nii.gz", volume[..., :1], geometry)
  assert nibabel.load(tmp_path / "one.nii.gz").shape == SHAPE

  rgb = draw(SHAPE, np.uint8).repeat(3).reshape(*SHAPE, 3)
  write_nifti(tmp_path / "rgb.nii", rgb.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0])
  same(files.read(tmp_path / "rgb.nii", slice=1), rgb[:, :, 1].swapaxes(0, 1).copy())
  assert files.read_geometry(tmp_path / "rgb.nii").dtype == "uint8"


def test_what_nifti_cannot_hold_is_an_error(tmp_path):
  with pytest.raises(UsageError, match="x.nii cannot hold float16 of shape"):
    files.write_volume(tmp_path / "x.nii", np.zeros((2, 3, 4), np.float16))
  write_nifti(tmp_path / "x.nii", draw(SHAPE))
  with pytest.raises(UsageError, match="y.nii is to be 3×5×6 voxels .z × y × x. with .* of 4×5×6"):
    files.write_volume(tmp_path / "y.nii", np.zeros((3, 5, 6), np.int16), files.read_geometry(tmp_path / "x.nii"))
  with pytest.raises(UsageError, match="Volumes cannot be written as y.png; choose .nii, .nii.gz"):
    files.write_volume(tmp_path / "y.png", np.zeros((3, 5, 6), np.uint8))
  with pytest.raises(UsageError, match="y.nii: a volume to write is"):
    files.write_volume(tmp_path / "y.nii", np.zeros((5, 6), np.uint8))
  assert [path.name for path in tmp_path.iterdir()] == ["x.nii"]


# --- SimpleITK


def itk_image(array):
  """(z, y, x), or (z, y, x, C) as a vector image, with the grid of AFFINE, which is RAS+ and ITK's is LPS+."""
  image = sitk.GetImageFromArray(array, isVector=array.ndim == 4)
  image.SetSpacing((0.9, 1.1, 2.5))
  image.SetOrigin((90.7, 126.3, -72.1))
  image.SetDirection((-COSINE, SINE, 0, -SINE, -COSINE, 0, 0, 0, 1))
  return image


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_itk_volumes_in_and_out(tmp_path, suffix, compressed, dtype):
  array = draw(SHAPE[::-1], dtype)
  sitk.WriteImage(itk_image(array), str(tmp_path / f"x{suffix}"), compressed)
  path = tmp_path / f"x{suffix}"
  geometry = files.read_geometry(path)
  assert geometry.shape == (4, 5, 6) and geometry.dtype == np.dtype(dtype).name
  np.testing.assert_allclose(geometry.affine, AFFINE, atol=1e-9)
  for axis, count in enumerate((4, 5, 6)):
    expected = np.ascontiguousarray(np.moveaxis(array, axis, 0)[..., None])
    assert files.count_slices(path, axis=axis) == count
    same(files.read_volume(path, axis=axis), expected)
    for index in (0, count - 1):
      same(files.read(path, slice=index, axis=axis), expected[index])
    files.write_volume(tmp_path / "y.mha", expected, geometry, axis=axis)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "y.mha"))), array)
  same(files.read_volume(path), array[..., None])
  for ending in (".mha", ".nrrd"):
    files.write_volume(tmp_path / f"y{ending}", array.astype(np.float64), geometry)
    written, first = sitk.ReadImage(str(tmp_path / f"y{ending}")), sitk.ReadImage(str(path))
    assert written.GetPixelID() == sitk.sitkFloat64
    assert written.GetOrigin() == first.GetOrigin()
    # NRRD stores the products, from which its reader computes both again.
    np.testing.assert_allclose(written.GetSpacing(), first.GetSpacing(), rtol=1e-14)
    np.testing.assert_allclose(written.GetDirection(), first.GetDirection(), rtol=1e-14)


def test_itk_channels_and_flat_images(tmp_path):
  array = draw((*SHAPE[::-1], 3), np.float32)
  sitk.WriteImage(itk_image(array), str(tmp_path / "x.mha"))
  same(files.read_volume(tmp_path / "x.mha"), array)
  same(files.read(tmp_path / "x.mha", slice=2), array[2])
  files.write_volume(tmp_path / "y.nrrd", array, files.read_geometry(tmp_path / "x.mha"))
  written = sitk.ReadImage(str(tmp_path / "y.nrrd"))
  assert written.GetNumberOfComponentsPerPixel() == 3
  np.testing.assert_array_equal(sitk.GetArrayFromImage(written), array)

  flat = sitk.GetImageFromArray(draw((5, 6)))
  flat.SetSpacing((0.5, 0.25))
  sitk.WriteImage(flat, str(tmp_path / "flat.mha"))
  assert files.count_slices(tmp_path / "flat.mha") == 1
  same(files.read(tmp_path / "flat.mha"), draw((5, 6))[..., None])
  geometry = files.read_geometry(tmp_path / "flat.mha")
  files.write_volume(tmp_path / "y.mha", files.read_volume(tmp_path / "flat.mha"), geometry)
  written = sitk.ReadImage(str(tmp_path / "y.mha"))
  assert written.GetDimension() == 2 and written.GetSpacing() == (0.5, 0.25)


def test_one_grid_in_both_libraries_gives_the_same_slices_and_converts(tmp_path):
  """SimpleITK itself converts between the formats: the reference."""
  array = draw(SHAPE[::-1])
  sitk.WriteImage(itk_image(array), str(tmp_path / "x.mha"))
  sitk.WriteImage(itk_image(array), str(tmp_path / "x.nii"))
  same(files.read_volume(tmp_path / "x.nii"), files.read_volume(tmp_path / "x.mha"))
  of_itk, of_nifti = files.read_geometry(tmp_path / "x.mha"), files.read_geometry(tmp_path / "x.nii")
  np.testing.assert_allclose(of_nifti.affine, of_itk.affine, atol=1e-5)  # NIfTI stores float32
  files.write_volume(tmp_path / "y.nii", array, of_itk)
  np.testing.assert_allclose(nibabel.load(tmp_path / "y.nii").affine, AFFINE, atol=1e-5)
  files.write_volume(tmp_path / "y.mha", array, of_nifti)
  written, first = sitk.ReadImage(str(tmp_path / "y.mha")), itk_image(array)
  np.testing.assert_allclose(written.GetSpacing(), first.GetSpacing(), atol=1e-5)
  np.testing.assert_allclose(written.GetOrigin(), first.GetOrigin(), atol=1e-5)
  np.testing.assert_allclose(written.GetDirection(), first.GetDirection(), atol=1e-5)


# --- DICOM


def write_series(folder, array, uid="1.2.826.0.1.3680043.2.1125.1", names="{:03d}.dcm"):
  """(z, y, x) in Hounsfield units, stored with an intercept of -1024; file names in the opposite order of positions."""
  folder.mkdir(parents=True, exist_ok=True)
  image = sitk.GetImageFromArray(array)
  writer = sitk.ImageFileWriter()
  writer.KeepOriginalImageUIDOn()
  for z in range(len(array)):
    one = image[:, :, z]
    one.SetSpacing((0.75, 0.5))
    tags = {
      "0008|0008": "DERIVED\\SECONDARY",
      "0008|0060": "CT",
      "0020|000e": uid,
      "0020|000d": uid + ".9",
      "0008|0018": f"{uid}.{z + 1}",
      "0020|0032": f"-10\\-20\\{5 + 2.5 * z}",
      "0020|0013": str(z),
      "0020|0037": "1\\0\\0\\0\\1\\0",
      "0028|0030": "0.5\\0.75",
      "0028|1052": "-1024",
      "0028|1053": "1",
      "0018|0050": "2.5",
      "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
      "0020|0052": uid + ".8",
    }
    for tag, value in tags.items():
      one.SetMetaData(tag, value)
    writer.SetFileName(str(folder / names.format(len(array) - z)))
    before = locale.setlocale(locale.LC_ALL)
    writer.Execute(one)
    locale.setlocale(locale.LC_ALL, before)  # GDCM leaves the locale "C" behind, whose text is ASCII


def test_a_dicom_series_is_a_volume_in_the_order_of_positions(tmp_path):
  array = draw((4, 5, 6))
  write_series(tmp_path / "in/1.2.3", array)
  folder = tmp_path / "in/1.2.3"
  reference = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
  assert sitk.GetArrayFromImage(reference).min() < 0  # the intercept applies
  volume = files.read_volume(folder)
  np.testing.assert_array_equal(volume[..., 0], sitk.GetArrayFromImage(reference))
  np.testing.assert_array_equal(volume[..., 0], array)
  for axis, count in enumerate((4, 5, 6)):
    assert files.count_slices(folder, axis=axis) == count
    slices = files.read_volume(folder, axis=axis)
    for index in (0, count - 1):
      same(files.read(folder, slice=index, axis=axis), slices[index])
  geometry = files.read_geometry(folder)
  assert geometry.spacing == (0.75, 0.5, 2.5) and geometry.origin == (-10, -20, 5)
  files.write_volume(tmp_path / "y.mha", volume.astype(np.float32), geometry)
  written = sitk.ReadImage(str(tmp_path / "y.mha"))
  assert written.GetSpacing() == reference.GetSpacing() and written.GetOrigin() == reference.GetOrigin()
  assert written.GetDirection() == reference.GetDirection() and written.GetPixelID() == sitk.sitkFloat32
  files.write_volume(tmp_path / "y.nii.gz", volume, geometry)
  expected = np.diag([-0.75, -0.5, 2.5, 1])
  expected[:3, 3] = 10, 20, 5
  np.testing.assert_allclose(nibabel.load(tmp_path / "y.nii.gz").affine, expected, atol=1e-6)

  assert files.is_series(folder) and not files.is_series(tmp_path / "in")
  found, _ = files.find(tmp_path / "in")
  assert found == [folder] and files.stem(folder) == "1.2.3"
  assert len(files.find(folder)[0]) == 4, "the folder itself is searched for images"
  one = files.read(folder / "004.dcm")
  same(one, volume[0])


def test_several_series_are_chosen_by_uid(tmp_path):
  first, second = draw((3, 5, 6)), draw((2, 5, 6), seed=1)
  write_series(tmp_path / "x", first, "1.2.3.1", "a{}.dcm")
  write_series(tmp_path / "x", second, "1.2.3.2", "b{}.dcm")
  assert not files.is_series(tmp_path / "x") and len(files.find(tmp_path)[0]) == 5
  with pytest.raises(UsageError, match=r"x holds 2 DICOM series: 1\.2\.3\.1.*1\.2\.3\.2") as caught:
    files.read_volume(tmp_path / "x")
  uids = [word.rstrip(".,") for word in str(caught.value).split() if word.startswith("1.2.3")]
  for uid, array in zip(uids, (first, second)):
    np.testing.assert_array_equal(files.read_volume(tmp_path / "x", key=uid)[..., 0], array)
  with pytest.raises(UsageError, match="x holds 2 DICOM series"):
    files.read_volume(tmp_path / "x", key="9")
  write_series(tmp_path / "one", first[:1])
  same(files.read(tmp_path / "one"), files.read(tmp_path / "one/001.dcm"))
  (tmp_path / "none").mkdir()
  (tmp_path / "none/a.dcm").write_bytes(b"nothing")
  with pytest.raises(UsageError, match="none is a folder without a DICOM series"):
    files.read(tmp_path / "none")


# --- Errors


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.mha", "x.nrrd", "x.dcm"])
def test_truncated_and_damaged_volumes_are_usage_errors(tmp_path, name):
  """In a process of its own, because a library in C++ could take the tests down with it."""
  array = draw((8, 40, 40))
  if name.startswith("x.nii"):
    write_nifti(tmp_path / name, array)
  elif name == "x.dcm":
    write_series(tmp_path, array[:1], names="x.dcm")
  else:
    sitk.WriteImage(itk_image(array), str(tmp_path / name), name == "x.nrrd")
  program = """
import sys
from pathlib import Path
import numpy as np
from pix2pix_jax.data import files
from pix2pix_jax.errors import UsageError
path = Path(sys.argv[1])
whole, generator = path.read_bytes(), np.random.default_rng(0)
def is_refused(content):
  path.write_bytes(content)
  outcome = []
  for reading in (files.read_volume, files.count_slices, files.read_geometry, lambda path: files.read(path, slice=0)):
    try:
      reading(path)
      outcome.append(False)
    except UsageError as error:
      assert path.name in str(error) and "\\n" not in str(error), str(error)
      outcome.append(True)
  return outcome[0]
for share in (0.001, 0.1, 0.5, 0.95):
  assert is_refused(whole[: int(share * len(whole))]), share
refused = 0
for _ in range(5 if path.suffix == ".dcm" else 40):  # GDCM may search a damaged file for seconds
  damaged = bytearray(whole)
  for place in generator.integers(0, min(400, len(whole)), 6):
    damaged[place] = generator.integers(256)
  refused += is_refused(bytes(damaged))
assert refused, refused
"""
  done = subprocess.run(
    [sys.executable, "-c", program, str(tmp_path / name)], capture_output=True, text=True, env=os.environ, check=False
  )
  assert done.returncode == 0, done.stderr[-2000:]
