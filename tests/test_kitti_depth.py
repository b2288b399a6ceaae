"""The KITTI reader: both raw layouts, written here in 16-bit PNG, and the real files where they are."""

import numpy as np
from PIL import Image as PillowImage
import pytest

from pix2pix_jax import config as config_lib
from pix2pix_jax.configs import kitti
from pix2pix_jax.data import pipeline, prepare
from pix2pix_jax.data.readers import kitti_depth
from pix2pix_jax.errors import UsageError
from pix2pix_jax.signals import Depth, Image, Stack

DRIVE = "2011_09_26_drive_{:04d}_sync"


def make_data(tmp_path, **fields):
  data = config_lib.default().data
  data.update(
    {
      "name": "kitti_depth",
      "prepared_dir": str(tmp_path / "prepared"),
      "load_size": 352,
      "load_width": 1216,
      "crop_size": 352,
      "crop_width": 1216,
      **fields,
    }
  )
  return data


def write_depth(path, depth):
  path.parent.mkdir(parents=True, exist_ok=True)
  PillowImage.fromarray(depth.astype(np.uint16)).save(path)


def write_photo(path, photo):
  path.parent.mkdir(parents=True, exist_ok=True)
  PillowImage.fromarray(photo).save(path)


def touch_annotated(source, drives, frames, split="train", cameras=("image_02", "image_03"), raw="raw", suffix=".png"):
  """Names only, for `find_splits`, which opens no picture."""
  for name in map(DRIVE.format, drives):
    for camera in cameras:
      depths = source / "data_depth_annotated" / split / name / "proj_depth/groundtruth" / camera
      photos = source / raw / name[:10] / name / camera / "data"
      for folder, ending in ((depths, ".png"), (photos, suffix)):
        folder.mkdir(parents=True, exist_ok=True)
        for frame in frames:
          (folder / f"{frame:010d}{ending}").touch()


def numbers(frames):
  return [int(frame.number) for frame in frames]


def test_annotated_frames_are_cropped_and_in_exact_metres(tmp_path):
  generator = np.random.default_rng(0)
  depth = generator.integers(0, 2**16, (375, 1242)) * (generator.random((375, 1242)) < 0.2)
  photo = generator.integers(0, 256, (375, 1242, 3), np.uint8)
  depths = tmp_path / "raw/data_depth_annotated/train" / DRIVE.format(1) / "proj_depth/groundtruth/image_03"
  photos = tmp_path / "raw/kitti_raw/2011_09_26" / DRIVE.format(1) / "image_03/data"
  write_depth(depths / "0000000005.png", depth)
  write_photo(photos / "0000000005.png", photo)
  source = prepare.prepare(make_data(tmp_path, source_dir=str(tmp_path / "raw"), depth_range=(0.0, 256.0)))
  assert set(source.spec.counts) == {"train"}
  split = pipeline.load_split(source, "train", (352, 1216), cache_gib=1)
  assert split.ids == [f"{DRIVE.format(1)}/image_03/0000000005"]
  np.testing.assert_array_equal(split.arrays["input"][0], photo[23:, 13:1229])
  np.testing.assert_array_equal(split.arrays["target"][0, ..., 0] * 256, depth[23:, 13:1229])
  np.testing.assert_array_equal(split.arrays["mask"][0, ..., 0], depth[23:, 13:1229] > 0)
  assert split.arrays["target"].dtype == np.float32 and split.arrays["mask"].dtype == bool


def test_few_drives_are_cut_by_time_with_both_cameras_of_a_frame_together(tmp_path):
  touch_annotated(tmp_path, [1, 2], range(5, 25))
  splits, _ = kitti_depth.find_splits(tmp_path)
  for drive in (1, 2):
    for camera in ("image_02", "image_03"):
      of = {
        split: numbers(frame for frame in frames if (frame.drive, frame.camera) == (DRIVE.format(drive), camera))
        for split, frames in splits.items()
      }
      assert of == {"train": list(range(5, 19)), "val": [19, 20, 21], "test": [22, 23, 24]}


def test_several_drives_are_cut_by_drive(tmp_path):
  touch_annotated(tmp_path, range(20), [0, 1])
  splits, _ = kitti_depth.find_splits(tmp_path)
  drives = {split: sorted({int(frame.drive[17:21]) for frame in frames}) for split, frames in splits.items()}
  assert drives == {"train": list(range(16)), "val": [16, 17], "test": [18, 19]}
  assert {split: len(frames) for split, frames in splits.items()} == {"train": 64, "val": 8, "test": 8}
  assert splits["train"] == sorted(splits["train"])


def test_three_drives_give_one_to_each_split(tmp_path):
  touch_annotated(tmp_path, [1, 2, 3], [0])
  assert {split: frames[0].drive[17:21] for split, frames in kitti_depth.find_splits(tmp_path)[0].items()} == {
    "train": "0001",
    "val": "0002",
    "test": "0003",
  }


def test_the_sets_own_val_folder_is_val(tmp_path):
  touch_annotated(tmp_path, [1, 2, 3, 4], [0])
  touch_annotated(tmp_path, [5], [0, 1], split="val")
  splits, _ = kitti_depth.find_splits(tmp_path)
  assert {split: len(frames) for split, frames in splits.items()} == {"train": 8, "val": 4}
  assert {frame.drive for frame in splits["val"]} == {DRIVE.format(5)}


@pytest.mark.parametrize(
  "raw, source, suffix",
  [
    (".", ".", ".jpg"),
    ("raw", ".", ".png"),
    ("kitti_raw", ".", ".jpg"),  # in source_dir, source_dir/raw, source_dir/kitti_raw
    (".", "data_depth_annotated", ".png"),
    ("raw", "data_depth_annotated", ".jpg"),  # beside
    ("kitti_raw", "data_depth_annotated", ".png"),
  ],
)
def test_photographs_are_found_wherever_they_usually_lie(tmp_path, raw, source, suffix):
  touch_annotated(tmp_path, [1], range(10), raw=raw, suffix=suffix)
  splits, _ = kitti_depth.find_splits(tmp_path / source)
  assert sum(map(len, splits.values())) == 20
  for frame in splits["train"]:
    assert frame.photo.exists() and frame.photo.suffix == suffix and frame.photo.stem == frame.depth.stem


def test_depth_without_a_photograph_is_skipped_and_counted(tmp_path):
  touch_annotated(tmp_path, [1], range(10), cameras=["image_02"])
  for number in (3, 4):
    (tmp_path / "raw/2011_09_26" / DRIVE.format(1) / f"image_02/data/{number:010d}.png").unlink()
  splits, _ = kitti_depth.find_splits(tmp_path)
  assert sorted(sum(map(numbers, splits.values()), [])) == [0, 1, 2, 5, 6, 7, 8, 9]
  skipped, found = kitti_depth.report(tmp_path)
  assert "skipped: 2 depth maps" in skipped and "train 6 frames from 1 drive, val 1 frame from 1 drive" in found


def touch_selection(folder, drives, frames):
  for drive in drives:
    for frame in frames:
      for part, word in (("image", "image"), ("groundtruth_depth", "groundtruth_depth")):
        path = folder / part / f"{DRIVE.format(drive)}_{word}_{frame:010d}_image_02.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_selection_pairs_by_the_first_image_in_the_name(tmp_path):
  touch_selection(tmp_path / "val_selection_cropped", [2, 5, 7], [8])
  for source in (tmp_path, tmp_path / "val_selection_cropped"):
    splits, _ = kitti_depth.find_splits(source)
    assert set(splits) == {"train", "val", "test"}
    (frame,) = splits["test"]
    assert frame.photo.name == f"{DRIVE.format(7)}_image_0000000008_image_02.png" and frame.photo.exists()
    assert frame.depth.name == f"{DRIVE.format(7)}_groundtruth_depth_0000000008_image_02.png"
    assert frame.id == f"{DRIVE.format(7)}/image_02/0000000008"


def test_the_layout_is_chosen_by_the_config_or_by_the_folder(tmp_path):
  touch_annotated(tmp_path, [1], [0])
  touch_selection(tmp_path / "val_selection_cropped", [2], [8])
  drive = lambda *args: kitti_depth.find_splits(*args)[0]["train"][0].drive[17:21]
  assert drive(tmp_path) == drive(tmp_path, "annotated") == "0001"
  assert drive(tmp_path, "selection") == drive(tmp_path / "val_selection_cropped") == "0002"
  for path in (tmp_path / "raw").rglob("*.png"):  # no photograph left
    path.unlink()
  assert drive(tmp_path) == "0002"
  with pytest.raises(
    UsageError, match="holds no pairs.*2 depth maps of the annotated layout have no photograph.*cvlibs.net"
  ):
    kitti_depth.find_splits(tmp_path, "annotated")
  with pytest.raises(UsageError, match="data.layout is 'both'.*auto, selection, annotated"):
    kitti_depth.find_splits(tmp_path, "both")


def test_nothing_there_says_what_was_looked_for(tmp_path):
  for source in (str(tmp_path), str(tmp_path / "absent"), ""):
    with pytest.raises(
      UsageError, match="data_depth_annotated/.*val_selection_cropped/image.*cvlibs.net.*non-commercial.*:proc"
    ):
      prepare.prepare(make_data(tmp_path, source_dir=source))


def test_photographs_beside_the_source_count_for_the_fingerprint(tmp_path):
  source = tmp_path / "set/data_depth_annotated"
  for number in (0, 1):
    write_depth(
      source / "train" / DRIVE.format(1) / f"proj_depth/groundtruth/image_02/{number:010d}.png", np.ones((352, 1216))
    )
  photo = tmp_path / "set/raw/2011_09_26" / DRIVE.format(1) / "image_02/data/0000000000.png"
  write_photo(photo, np.zeros((352, 1216, 3), np.uint8))
  data = make_data(tmp_path, source_dir=str(source))
  count = lambda: sum(prepare.prepare(data).spec.counts.values())
  assert count() == 1
  photo.with_name("0000000001.png").write_bytes(photo.read_bytes())
  assert count() == 2


def one_frame(tmp_path, depth, photo):
  PillowImage.fromarray(depth).save(tmp_path / "depth.png")
  PillowImage.fromarray(photo).save(tmp_path / "photo.png")
  return kitti_depth.Frame("drive", "0", "image_02", tmp_path / "photo.png", tmp_path / "depth.png")


@pytest.mark.parametrize(
  "depth, photo, message",
  [
    (
      np.uint8([[9]]),
      np.zeros((1, 1, 3), np.uint8),
      "depth.png should be a depth map of one 16-bit channel; it is uint8",
    ),
    (
      np.ones((352, 1216), np.uint16),
      np.zeros((375, 1242, 3), np.uint8),
      "photo.png is 1242×375 but .*depth.png is 1216×352",
    ),
    (
      np.ones((300, 1216), np.uint16),
      np.zeros((300, 1216, 3), np.uint8),
      "photo.png is 1216×300; KITTI's images are 1216×352",
    ),
  ],
)
def test_files_that_cannot_be_right_are_named(tmp_path, depth, photo, message):
  with pytest.raises(UsageError, match=message):
    kitti_depth.read_frame(one_frame(tmp_path, depth, photo))


def test_config_and_variants():
  for variant, name in (("", "kitti_depth"), ("report", "kitti_depth"), ("report,procedural", "procedural")):
    config = kitti.get_config(variant)
    assert (config.data.name, config_lib.crop_shape(config.data), config.train.num_epochs) == (name, (352, 352), 100)
    assert config_lib.load_shape(config.data) == config_lib.eval_shape(config.data) == (352, 1216), (
      "measured whole, without resampling"
    )
  assert kitti.get_config("report").model.patch == 70 and kitti.get_config("procedural").data.task == "kitti_depth"


def test_real_frames(real_data):
  splits, _ = kitti_depth.find_splits(real_data / "kitti")
  assert {split: numbers(frames) for split, frames in splits.items()} == {
    "train": list(range(5, 13)),
    "val": [13, 14],
    "test": [15, 16],
  }
  photo, depth, scan = kitti_depth.read_frame(splits["train"][0])
  assert photo.shape == (352, 1216, 3) and depth.shape == (352, 1216, 1)
  assert 0.1 < (depth > 0).mean() < 0.3, "about 80 % of the whole picture is not measured"
  assert 2 < depth[depth > 0].min() < 20 < 60 < depth.max() < 90
  # Sky above, road below: depth falls from the measured top to the bottom only if both are the right way up.
  rows = [np.median(band[band > 0]) for band in np.array_split(depth, 4)[1:]]
  assert rows[0] > rows[1] > rows[2]
  raw = np.asarray(PillowImage.open(splits["train"][0].depth), np.uint16)
  np.testing.assert_array_equal(depth[..., 0] * 256, raw[23:, 13:1229])


def test_real_selection(real_data):
  for source, layout in ((real_data / "kitti", "selection"), (real_data / "kitti/val_selection_cropped", "auto")):
    splits, _ = kitti_depth.find_splits(source, layout)
    assert sorted(sum(map(numbers, splits.values()), [])) == list(range(17, 64, 2))
  photo, depth = kitti_depth.read_frame(splits["val"][0])[:2]
  assert photo.shape == (352, 1216, 3) and depth.shape == (352, 1216, 1) and 5 < np.median(depth[depth > 0]) < 40


# --- Depth completion


def completion_data(tmp_path, **fields):
  return make_data(tmp_path, inputs=("image", "velodyne_raw:depth,scale=256"), **fields)


def write_frame(source, number, scan=True):
  """A frame of the annotated layout, 10 pixels taller than the crop; returns photograph, depth and scan."""
  rng = np.random.default_rng(number)
  photo = rng.integers(0, 256, (362, 1216, 3), np.uint8)
  depth = np.where(rng.random((362, 1216)) < 0.2, rng.integers(256, 80 * 256, (362, 1216)), 0) / 256
  single = np.where(rng.random((362, 1216)) < 0.3, depth, 0)
  drive = DRIVE.format(1)
  write_photo(source / "raw/2011_09_26" / drive / f"image_02/data/{number:010d}.png", photo)
  root = source / "data_depth_annotated/train" / drive / "proj_depth"
  write_depth(root / f"groundtruth/image_02/{number:010d}.png", depth * 256)
  if scan:
    write_depth(root / f"velodyne_raw/image_02/{number:010d}.png", single * 256)
  return photo[10:], depth[10:, :, None], single[10:, :, None]


def test_completion_has_the_scan_beside_the_photograph(tmp_path):
  written = [write_frame(tmp_path / "raw", number) for number in range(3)]
  source = prepare.prepare(completion_data(tmp_path, source_dir=str(tmp_path / "raw")))
  assert source.spec.input == Stack((Image(3), Depth(1, (0.0, 80.0), 256.0)), ("image", "velodyne_raw"))
  for i, (photo, depth, scan) in enumerate(written[: source.spec.counts["train"]]):
    found = source.read("train", i)
    np.testing.assert_array_equal(found["input"][..., :3], photo)
    np.testing.assert_array_equal(found["input"][..., 3:], scan.astype(np.float32))
    np.testing.assert_array_equal(found["target"], depth.astype(np.float32))


def test_frames_without_a_scan_are_counted_and_left_out(tmp_path, capsys):
  for number in range(4):
    write_frame(tmp_path / "raw", number, scan=number != 1)
  source = prepare.prepare(completion_data(tmp_path, source_dir=str(tmp_path / "raw")))
  assert sum(source.spec.counts.values()) == 3
  assert "1 depth maps of the annotated layout have no scan in velodyne_raw: " in capsys.readouterr().out
  plain = prepare.prepare(make_data(tmp_path, source_dir=str(tmp_path / "raw")))
  assert sum(plain.spec.counts.values()) == 4 and plain.spec.input == Image(3)


def test_scans_of_the_selection_have_names_of_their_own(tmp_path):
  touch_selection(tmp_path / "val_selection_cropped", [2], [8, 9])
  name = f"{DRIVE.format(2)}_velodyne_raw_{8:010d}_image_02.png"
  (tmp_path / "val_selection_cropped/velodyne_raw").mkdir()
  (tmp_path / "val_selection_cropped/velodyne_raw" / name).touch()
  splits, notes = kitti_depth.find_splits(tmp_path, scans=True)
  assert [frame.scan.name for frame in splits["train"]] == [name] and "no scan in velodyne_raw" in " ".join(notes)


def test_other_inputs_are_refused(tmp_path):
  with pytest.raises(UsageError, match="the inputs of KITTI are image, velodyne_raw"):
    prepare.prepare(make_data(tmp_path, inputs=("rgb", "lidar"), source_dir=str(tmp_path)))


def test_real_frames_have_scans(tmp_path, real_data):
  source = prepare.prepare(completion_data(tmp_path, source_dir=str(real_data / "kitti"), layout="annotated"))
  example = source.read("train", 0)
  scan, depth = example["input"][..., 3], example["target"][..., 0]
  assert 0.03 < (scan > 0).mean() < 0.07 < (depth > 0).mean()  # one scan is sparser than eleven
  both = (scan > 0) & (depth > 0)
  assert np.median(np.abs(scan - depth)[both]) < 0.1


def test_built_in_streets_have_scans_too(tmp_path):
  config = config_lib.load("kitti:completion,best,procedural")
  assert config.train.ema_decay == 0.999
  assert (config.model.residual, config.model.norm, config.loss.gan) == (True, "none", "none")
  data = config.data
  data.update(
    {"prepared_dir": str(tmp_path), "load_size": 32, "load_width": 64, "num_train": 2, "num_val": 0, "num_test": 0}
  )
  source = prepare.prepare(data)
  example = source.read("train", 0)
  scan, target = example["input"][..., 3:], example["target"]
  assert source.spec.input.names == kitti_depth.INPUTS and 0 < (scan > 0).sum() < (target > 0).sum()
  np.testing.assert_array_equal(scan[scan > 0], target[scan > 0])
  data.inputs = ("A",)
  assert prepare.prepare(data).spec.input == Image(3)
  data.inputs, data.task = ("image", "velodyne_raw"), "facades"
  with pytest.raises(UsageError, match="Only folders have others"):
    prepare.prepare(data)
