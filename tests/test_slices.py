"""Volumes, stacks and archives as pairs: files of the formats' own libraries, as the folder reader sees them."""

import h5py
import nibabel
import numpy as np
import pytest
import rasterio
import SimpleITK as sitk
import tifffile

from pix2pix_jax import config as config_lib
from pix2pix_jax.data import pipeline, prepare
from pix2pix_jax.data.readers import pairs
from pix2pix_jax.errors import UsageError

SHAPE = (4, 6, 8)  # z, y, x


def hounsfield(seed, shape=SHAPE):
  return np.random.default_rng(seed).integers(-1024, 3071, shape, np.int16)


def write_nifti(path, array):
  path.parent.mkdir(parents=True, exist_ok=True)
  nibabel.save(nibabel.Nifti1Image(array.T, np.diag([0.9, 1.1, 2.5, 1])), path)


def write_itk(path, array):
  path.parent.mkdir(parents=True, exist_ok=True)
  sitk.WriteImage(sitk.GetImageFromArray(array), str(path))


def write_tiff(path, array):
  path.parent.mkdir(parents=True, exist_ok=True)
  tifffile.imwrite(path, array, photometric="minisblack")


def write_npy(path, array):
  path.parent.mkdir(parents=True, exist_ok=True)
  np.save(path, array[..., None])


def make_data(tmp_path, **fields):
  data = config_lib.default().data
  data.update({"name": "folder", "source_dir": str(tmp_path / "raw"), "prepared_dir": str(tmp_path / "prepared")})
  data.update(fields)
  return data


def load(tmp_path, split="train", shape=SHAPE[1:], **fields):
  fields = {"input_kind": "quantity", "target_kind": "quantity"} | fields
  return pipeline.load_split(prepare.prepare(make_data(tmp_path, **fields)), split, shape, cache_gib=1)


@pytest.mark.parametrize(
  "suffix, write",
  [
    (".nii.gz", write_nifti),
    (".nii", write_nifti),
    (".mha", write_itk),
    (".nrrd", write_itk),
    (".tif", write_tiff),
    (".npy", write_npy),
  ],
)
def test_slices_of_two_files_are_pairs(tmp_path, suffix, write):
  volumes = {name: (hounsfield(i), hounsfield(i + 10)) for i, name in enumerate(("p.1", "p.2"))}
  for name, sides in volumes.items():
    for side, array in zip("AB", sides):
      write(tmp_path / f"raw/{side}/train/{name}{suffix}", array)
  split = load(tmp_path)
  assert split.ids == [f"{name}/{i:04d}" for name in volumes for i in range(4)]
  for row, (name, i) in enumerate((name, i) for name in volumes for i in range(4)):
    np.testing.assert_array_equal(split.arrays["input"][row, ..., 0], volumes[name][0][i])
    np.testing.assert_array_equal(split.arrays["target"][row, ..., 0], volumes[name][1][i])
  assert split.spec.target.dtype == "int16"  # what the network's answers are rounded to


def test_formats_and_axes_may_differ_between_the_sides(tmp_path):
  mr, ct = hounsfield(0), hounsfield(1)
  write_nifti(tmp_path / "raw/A/train/one.nii.gz", mr)
  write_itk(tmp_path / "raw/B/train/one.mha", ct)
  split = load(tmp_path, shape=(4, 8), slice_axis=1)  # j of NIfTI and y of MetaImage are the same axis
  assert len(split) == 6
  np.testing.assert_array_equal(split.arrays["input"][..., 0], mr.transpose(1, 0, 2))
  np.testing.assert_array_equal(split.arrays["target"][..., 0], ct.transpose(1, 0, 2))


def test_all_slices_of_a_file_are_in_one_split(tmp_path):
  for i in range(30):
    write_npy(tmp_path / f"raw/A/{i}.npy", hounsfield(i))
    write_npy(tmp_path / f"raw/B/{i}.npy", hounsfield(i))
  splits, notes = pairs.find_splits(tmp_path / "raw")
  files = {split: {pair.id.partition("/")[0] for pair in members} for split, members in splits.items()}
  assert not files["train"] & files["val"] and len(files["train"] | files["val"]) == 30
  assert sum(map(len, splits.values())) == 120 and "30 pairs of files give 120" in " ".join(notes)


def test_slices_that_do_not_match_are_listed_together(tmp_path):
  for i, depth in enumerate((3, 5)):
    write_itk(tmp_path / f"raw/A/train/{i}.mha", hounsfield(i))
    write_itk(tmp_path / f"raw/B/train/{i}.mha", hounsfield(i, (depth, 6, 8)))
  with pytest.raises(
    UsageError,
    match=r"2 pairs of files cannot.*0.mha is a volume of 4 slices, but .*0.mha is a "
    r"volume of 3 slices.*1.mha is a volume of 5",
  ):
    prepare.prepare(make_data(tmp_path, input_kind="quantity", target_kind="quantity"))


def test_a_side_of_single_images_does_not_match_a_volume(tmp_path):
  write_itk(tmp_path / "raw/A/train/0.mha", hounsfield(0))
  write_tiff(tmp_path / "raw/B/train/0.tif", hounsfield(0)[0])
  with pytest.raises(UsageError, match="is a volume of 4 slices, but .*0.tif is one image"):
    prepare.prepare(make_data(tmp_path, input_kind="quantity", target_kind="quantity"))


def test_slices_without_a_value_are_left_out_and_counted(tmp_path, capsys):
  elevation = hounsfield(1).astype(np.float32)
  elevation[2] = np.nan
  write_tiff(tmp_path / "raw/A/train/0.tif", hounsfield(0))
  write_tiff(tmp_path / "raw/B/train/0.tif", elevation)
  assert load(tmp_path).ids == ["0/0000", "0/0001", "0/0003"]
  assert "Left out 1 slice without a value: 1 of 0.tif." in capsys.readouterr().out


def test_an_image_without_a_value_is_named(tmp_path):
  write_tiff(tmp_path / "raw/A/train/0.tif", hounsfield(0)[0])
  write_tiff(tmp_path / "raw/B/train/0.tif", np.full((6, 8), np.nan, np.float32))
  with pytest.raises(UsageError, match="B/train/0.tif holds no value at all"):
    load(tmp_path)


def write_raster(path, array, nodata):
  path.parent.mkdir(parents=True, exist_ok=True)
  height, width = array.shape
  transform = rasterio.transform.from_origin(500000, 5500000, 10, 10)
  options = {"height": height, "width": width, "count": 1, "dtype": array.dtype, "nodata": nodata}
  with rasterio.open(path, "w", driver="GTiff", crs="EPSG:32632", transform=transform, **options) as raster:
    raster.write(array, 1)


@pytest.mark.parametrize("kind", ["quantity", "depth", "classes"])
def test_nodata_of_a_raster_is_no_value(tmp_path, kind):
  """Each file has its own, as tiles of different sources do."""
  for i, nodata in enumerate((-9999, -32768) if kind != "classes" else (255, 254)):
    array = np.random.default_rng(i).integers(1, 5, (6, 8)).astype(np.uint8 if kind == "classes" else np.int16)
    array[0, :3] = nodata
    write_tiff(tmp_path / f"raw/A/train/{i}.tif", array.astype(np.uint8))
    write_raster(tmp_path / f"raw/B/train/{i}.tif", array, nodata)
  more = {"target_scale": 1.0} if kind == "depth" else {"target_classes": 5, "target_ignore": 255}
  split = load(tmp_path, input_kind="image", target_kind=kind, **more)
  expected = np.ones((6, 8, 1), bool)
  expected[0, :3] = False
  np.testing.assert_array_equal(split.arrays["mask"], np.stack([expected] * 2))
  missing = {"quantity": np.nan, "depth": 0, "classes": 255}[kind]
  np.testing.assert_array_equal(split.arrays["target"][:, 0, :3], np.full((2, 3, 1), missing))


@pytest.mark.parametrize("form", [".npz", ".h5"])
def test_an_archive_holds_a_pair_or_one_side(tmp_path, form):
  one, other = hounsfield(0)[0], hounsfield(1)[0].astype(np.float32)

  def archive(path, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == ".npz":
      np.savez(path, **arrays)
    else:
      with h5py.File(path, "w") as file:
        for name, array in arrays.items():
          file[name] = array

  archive(tmp_path / f"raw/train/frame{form}", mr=one, ct=other)
  split = load(tmp_path, input_key="mr", target_key="ct")
  assert split.ids == ["frame"]
  np.testing.assert_array_equal(split.arrays["input"][0, ..., 0], one)
  np.testing.assert_array_equal(split.arrays["target"][0, ..., 0], other)
  with pytest.raises(UsageError, match="mr.*ct"):
    load(tmp_path)  # which of both is not said

  archive(tmp_path / f"apart/raw/A/train/frame{form}", mr=one, mask=one)
  write_tiff(tmp_path / "apart/raw/B/train/frame.tif", other)
  np.testing.assert_array_equal(load(tmp_path / "apart", input_key="mr").arrays["input"][0, ..., 0], one)


@pytest.mark.parametrize("kept", [20, 300])  # bytes: of the header a part, or all of it and of the voxels a part
def test_a_damaged_volume_is_named_once_among_others(tmp_path, kept):
  for i in range(3):
    write_nifti(tmp_path / f"raw/A/train/{i}.nii.gz", hounsfield(i))
    write_nifti(tmp_path / f"raw/B/train/{i}.nii.gz", hounsfield(i))
  for i in (0, 2):
    path = tmp_path / f"raw/A/train/{i}.nii.gz"
    path.write_bytes(path.read_bytes()[:kept])
  with pytest.raises(UsageError) as caught:
    load(tmp_path)
  assert [str(caught.value).count(f"A/train/{i}.nii.gz") for i in range(3)] == [1, 0, 1]
  assert str(caught.value).count("cannot be read") == 1
  assert str(caught.value).startswith("2 files cannot be used.")
