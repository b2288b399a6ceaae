"""The NYU reader: small .mat files in the original's layout, written here, and the real triple where it is."""

import tracemalloc

import h5py
import numpy as np
from PIL import Image
import pytest
import scipy.io

from pix2pix_jax import config as config_lib
from pix2pix_jax.configs import nyu
from pix2pix_jax.data import pipeline, prepare
from pix2pix_jax.data.readers import nyu_depth
from pix2pix_jax.errors import UsageError
from pix2pix_jax.run import translation
from pix2pix_jax.signals import Image as ImageSignal


def write_mat(path, raw, dense, **options):
  """(n, H, W) metres as MATLAB 7.3 stores them: transposed, behind its header of 512 bytes."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with h5py.File(path, "w", userblock_size=512) as file:
    file.create_dataset("rawDepths", data=np.float32(raw).transpose(0, 2, 1), **options)
    file.create_dataset("depths", data=np.float32(dense).transpose(0, 2, 1), **options)
  with path.open("r+b") as file:
    file.write(b"MATLAB 7.3 MAT-file".ljust(116) + b" " * 8 + b"\x00\x02IM")


def make_depth(count, height=6, width=8):
  """Frame k is k + 1 metres deep, less at the left; every raw one has a hole at the top right."""
  dense = np.arange(1, count + 1)[:, None, None] + np.linspace(0, 0.5, width) + np.zeros((count, height, width))
  raw = dense + 0.01
  raw[:, 0, -1] = 0
  return np.float32(raw), np.float32(dense)


def make_data(tmp_path, **fields):
  data = config_lib.default().data
  data.update(
    {
      "name": "nyu_depth",
      "prepared_dir": str(tmp_path / "prepared"),
      "source_dir": str(tmp_path / "raw"),
      "load_size": 6,
      "load_width": 8,
      "crop_size": 4,
      **fields,
    }
  )
  return data


@pytest.mark.parametrize("options", [{}, {"compression": "gzip", "chunks": (3, 8, 6)}])
def test_frames_are_upright_and_exact_with_their_holes(tmp_path, options):
  raw, dense = make_depth(10)
  dense[9, 2, 3], dense[9, 2, 4] = 0, np.nan
  write_mat(tmp_path / "raw" / nyu_depth.FILE, raw, dense, **options)
  source = prepare.prepare(make_data(tmp_path))
  assert source.spec.counts == {"train": 8, "val": 1, "test": 1}
  train = pipeline.load_split(source, "train", (6, 8), cache_gib=1)
  assert train.ids == [f"{number:04d}" for number in range(1, 9)]
  np.testing.assert_array_equal(train.arrays["input"][..., 0], raw[:8])
  np.testing.assert_array_equal(train.arrays["target"][..., 0], dense[:8])
  assert train.arrays["mask"].all() and (train.arrays["input"][:, 0, -1] == 0).all()
  test = pipeline.load_split(source, "test", (6, 8), cache_gib=1)
  assert test.ids == ["0010"]
  assert sorted(zip(*np.nonzero(~test.arrays["mask"][0, ..., 0]))) == [(2, 3), (2, 4)]
  assert (test.arrays["target"][~test.arrays["mask"]] == 0).all()


def test_the_official_split_counts_from_1_and_gives_every_tenth_of_train_to_val(tmp_path):
  write_mat(tmp_path / "raw" / nyu_depth.FILE, *make_depth(30))
  train, test = [k for k in range(1, 31) if k % 3], [k for k in range(1, 31) if k % 3 == 0]
  scipy.io.savemat(
    tmp_path / "raw/splits.mat", {"trainNdxs": np.uint16(train)[:, None], "testNdxs": np.uint16(test)[:, None]}
  )
  splits = nyu_depth.find_splits(tmp_path / "raw" / nyu_depth.FILE)
  assert [k + 1 for k in splits["test"]] == test
  assert [k + 1 for k in splits["val"]] == [train[9], train[19]]
  assert sorted(k + 1 for k in splits["train"] + splits["val"]) == train
  source = prepare.prepare(make_data(tmp_path))
  loaded = pipeline.load_split(source, "test", (6, 8), cache_gib=1)
  assert loaded.ids == [f"{k:04d}" for k in test]
  np.testing.assert_allclose(loaded.arrays["target"][:, 0, 0, 0], test)  # frame k is k metres deep
  (tmp_path / "raw/splits.mat").unlink()
  assert prepare.prepare(make_data(tmp_path)).spec.counts["test"] == 3, "another split is other data"


def test_the_source_may_be_the_file_itself_and_a_change_of_it_is_noticed(tmp_path):
  path = tmp_path / "raw/mine.mat"
  write_mat(path, *make_depth(5))
  data = make_data(tmp_path, source_dir=str(path))
  count = lambda: sum(prepare.prepare(data).spec.counts.values())
  assert count() == 5
  write_mat(path, *make_depth(7))
  assert count() == 7


@pytest.mark.parametrize(
  "count, expected", [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (2, 1, 0)), (10, (8, 1, 1)), (1449, (1159, 145, 145))]
)
def test_any_count_is_cut_into_blocks(tmp_path, count, expected):
  write_mat(tmp_path / "x.mat", *make_depth(count, 2, 2))
  splits = nyu_depth.find_splits(tmp_path / "x.mat")
  assert tuple(len(splits.get(name, [])) for name in ("train", "val", "test")) == expected
  assert sum(splits.values(), []) == list(range(count))


def test_frames_are_read_one_at_a_time(tmp_path):
  write_mat(tmp_path / "x.mat", *make_depth(40, 240, 320))
  whole = 2 * 40 * 240 * 320 * 4
  splits = nyu_depth.find_splits(tmp_path / "x.mat")
  builder = nyu_depth.NyuDepth(config=nyu_depth.NyuDepthConfig(name="frames"), data_dir=str(tmp_path))
  generator = builder._generate_examples(tmp_path / "x.mat", "train", splits["train"])
  tracemalloc.start()
  try:
    assert sum(1 for _ in generator) == 32
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert peak < whole / 10, (peak, whole)


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage(path):
  """Overwrites compressed depth; the file opens as before."""
  with h5py.File(path) as file:
    info = file["depths"].id.get_chunk_info(0)
  with path.open("r+b") as file:
    file.seek(info.byte_offset + 512 if info.byte_offset < 512 else info.byte_offset)
    file.write(b"\xff" * min(info.size, 64))


def drop_depths(path):
  with h5py.File(path, "a") as file:
    del file["depths"]


@pytest.mark.parametrize(
  "spoil, message",
  [
    (truncate, "labeled.mat cannot be read as a MATLAB 7.3 .HDF5. file.*half downloaded"),
    (lambda path: path.write_bytes(b"<html>not found</html>"), "labeled.mat cannot be read as a MATLAB 7.3"),
    (drop_depths, "labeled.mat has no depths, only rawDepths"),
    (damage, "labeled.mat cannot be read at frame 1 of /depths"),
    (lambda path: path.unlink(), "holds no nyu_depth_v2_labeled.mat.*horatio.cs.nyu.edu.*:procedural"),
  ],
)
def test_a_damaged_file_is_named_and_says_where_to_get_it(tmp_path, spoil, message):
  path = tmp_path / "raw" / nyu_depth.FILE
  write_mat(path, *make_depth(4, 64, 64), compression="gzip", chunks=(1, 64, 64))
  spoil(path)
  with pytest.raises(UsageError, match=message):
    prepare.prepare(make_data(tmp_path))


@pytest.mark.parametrize(
  "content, message",
  [
    ({"trainNdxs": [1, 2, 3], "testNdxs": [3, 4]}, "has 1 frames that are both"),
    ({"trainNdxs": [1, 2, 3], "testNdxs": [6]}, "counts frames 6 to 6 in testNdxs, but there are 5"),
    ({"trainNdxs": [0, 2, 3], "testNdxs": [4]}, "counts frames 0 to 3 in trainNdxs"),
    ({"train": [1]}, "cannot be read as the official split"),
    (None, "cannot be read as the official split"),
  ],
)
def test_a_wrong_split_file_is_named(tmp_path, content, message):
  write_mat(tmp_path / "x.mat", *make_depth(5))
  if content is None:
    (tmp_path / "splits.mat").write_bytes(b"broken" * 50)
  else:
    scipy.io.savemat(tmp_path / "splits.mat", content)
  with pytest.raises(UsageError, match=f"splits.mat {message}"):
    nyu_depth.find_splits(tmp_path / "x.mat")


# --- One HDF5 file for each frame


def write_frame(path, number, size=(6, 8), **changes):
  """A frame whose photograph counts its pixels and whose depth is `number` metres, with a hole at the top left."""
  path.parent.mkdir(parents=True, exist_ok=True)
  photo = (np.arange(3 * size[0] * size[1]).reshape(3, *size) + number).astype(np.uint8)
  depth = np.full(size, number, np.float32)
  depth[0, 0] = 0
  arrays = {"rgb": photo, "depth": depth} | changes
  with h5py.File(path, "w") as file:
    for name, array in arrays.items():
      if array is not None:
        file.create_dataset(name, data=array)
  return photo.transpose(1, 2, 0), depth[..., None]


def test_frames_in_files_of_their_own_are_read_exactly(tmp_path):
  raw = tmp_path / "raw"
  wanted = {
    "train": {f"{scene}/{k:05d}": write_frame(raw / f"train/{scene}/{k:05d}.h5", k) for scene in "ab" for k in (2, 9)}
  }
  photo, depth = write_frame(raw / "val/official/00045.HDF5", 5)
  wanted["val"] = {"official/00045": (photo, depth)}
  write_frame(raw / "val/official/00045.HDF5", 5, rgb=photo, depth=depth[..., 0].astype(np.float64))  # channels last
  (raw / "val/official/._00045.h5").write_bytes(b"of macOS")
  source = prepare.prepare(make_data(tmp_path))
  assert source.spec.counts == {"train": 4, "val": 1}
  assert (source.spec.input.kind, source.spec.target.kind) == ("image", "depth")
  for split, frames in wanted.items():
    loaded = pipeline.load_split(source, split, (6, 8), cache_gib=1)
    assert loaded.ids == list(frames)
    for i, (photo, depth) in enumerate(frames.values()):
      np.testing.assert_array_equal(loaded.arrays["input"][i], photo)
      np.testing.assert_array_equal(loaded.arrays["target"][i], depth)
      np.testing.assert_array_equal(loaded.arrays["mask"][i], depth > 0)
  write_frame(raw / "test/c/00001.h5", 7)
  assert prepare.prepare(make_data(tmp_path)).spec.counts == {"train": 4, "val": 1, "test": 1}, "a new file is noticed"
  write_mat(raw / nyu_depth.FILE, *make_depth(10))
  assert prepare.prepare(make_data(tmp_path)).spec.counts["train"] == 8, "of both layouts, the .mat is read"


def test_rgb_that_fits_both_orders_has_its_channels_first(tmp_path):
  photo = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
  write_frame(tmp_path / "1.h5", 1, (3, 3), rgb=photo)
  np.testing.assert_array_equal(nyu_depth.read_photo_and_depth(tmp_path / "1.h5")[0], photo.transpose(1, 2, 0))


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"depth": None}, "00002.h5 has no depth, only rgb"),
    ({"rgb": None, "depth": None}, "00002.h5 has no rgb and no depth. A frame holds"),
    ({"depth": np.ones((6, 8), np.uint16)}, r"00002.h5: depth should be float metres.*uint16 \(6, 8\)"),
    ({"depth": np.ones((6, 9), np.float32)}, r"00002.h5: .*float32 \(6, 9\) and uint8 \(3, 6, 8\)"),
    ({"depth": np.ones((1, 6, 8), np.float32)}, r"00002.h5: .*float32 \(1, 6, 8\)"),
    ({"rgb": np.ones((3, 6, 8), np.float32)}, r"00002.h5: .* and float32 \(3, 6, 8\)"),
    ({"rgb": np.ones((6, 8), np.uint8)}, r"00002.h5: .* and uint8 \(6, 8\)"),
  ],
)
def test_frames_in_another_form_are_named(tmp_path, changes, message):
  write_frame(tmp_path / "raw/train/a/00001.h5", 1)
  write_frame(tmp_path / "raw/train/a/00002.h5", 2, **changes)
  with pytest.raises(UsageError, match=message):
    prepare.prepare(make_data(tmp_path))


def test_damaged_frames_are_named(tmp_path):
  path = tmp_path / "raw/train/a/00001.h5"
  write_frame(path, 1, (64, 64))
  truncate(path)
  with pytest.raises(UsageError, match="00001.h5 cannot be read as an HDF5 file.*half downloaded"):
    prepare.prepare(make_data(tmp_path))
  path.unlink()
  with pytest.raises(UsageError, match="holds no HDF5 files in train/. It should hold nyu_depth_v2.*train/SCENE/00001"):
    prepare.prepare(make_data(tmp_path))


def test_a_model_of_photographs_translates_frames_with_channels_first(tmp_path):
  photo, _ = write_frame(tmp_path / "1.h5", 1)
  options = translation.Options(key="rgb")
  np.testing.assert_array_equal(translation.read(ImageSignal(3), tmp_path / "1.h5", options).images, photo[None])


def test_config_and_variants():
  config = nyu.get_config("report")
  assert (config.data.name, config.data.depth_range, config.train.num_epochs) == ("nyu_depth", (0.0, 10.0), 90)
  assert config.model.patch == 70
  assert config_lib.load_shape(config.data) == config_lib.eval_shape(config.data) == (480, 640), (
    "measured whole, without resampling"
  )
  for load, crop in zip(config_lib.load_shape(config.data), config_lib.crop_shape(config.data)):
    assert load > crop and load % 32 == crop % 32 == 0
  assert nyu.get_config("procedural").data.task == "nyu_depth"
  assert nyu.get_config().model.residual and not nyu.get_config("rgb").model.residual


def test_real_triple_through_the_original_container(real_data, tmp_path):
  raw, dense = (
    np.asarray(Image.open(real_data / "nyu" / name)).astype(np.uint16) for name in ("rawdepth.png", "depth.png")
  )
  write_mat(tmp_path / "raw" / nyu_depth.FILE, np.stack([raw] * 3) / 1000, np.stack([dense] * 3) / 1000)
  source = prepare.prepare(make_data(tmp_path))
  split = pipeline.load_split(source, "train", (425, 560), cache_gib=1)
  assert split.ids == ["0001", "0002"]
  for name, millimetres in (("input", raw), ("target", dense)):
    np.testing.assert_array_equal(np.round(split.arrays[name][0, ..., 0] * 1000), millimetres)
  assert (
    abs((split.arrays["input"][0] == 0).mean() - 0.167) < 0.002 and split.arrays["mask"][0].all() == (dense > 0).all()
  )


def test_real_split_file(real_data, tmp_path):
  write_mat(tmp_path / "x.mat", *make_depth(1449, 2, 2))
  (tmp_path / "splits.mat").write_bytes((real_data / "nyu/splits.mat").read_bytes())
  splits = nyu_depth.find_splits(tmp_path / "x.mat")
  assert {name: len(frames) for name, frames in splits.items()} == {"train": 716, "val": 79, "test": 654}
  assert sorted(sum(splits.values(), [])) == list(range(1449))
