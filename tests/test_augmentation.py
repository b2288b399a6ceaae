"""Random changes of pairs: exact where pixels only move, aligned where they are resampled, off by default."""

import collections

import numpy as np
import pytest

from pix2pix_jax import config as config_lib
from pix2pix_jax.data import augmentation, pipeline
from pix2pix_jax.data.augmentation import Change
from pix2pix_jax.errors import UsageError
from pix2pix_jax.signals import Classes, DataSpec, Depth, Image, Quantity

RNG = np.random.default_rng(0)
ALL = {
  "scale": (0.8, 1.2),
  "rotate_degrees": 30.0,
  "rotate_right_angles": True,
  "mirror_vertical": True,
  "brightness": 0.2,
  "contrast": 0.3,
}


def make_data(**fields):
  config = config_lib.default().data
  config.update({"load_size": 40, "crop_size": 32, **fields})
  return config


def noise(*shape):
  return RNG.integers(0, 256, shape).astype(np.uint8)


def depth_split(count=4, size=40, crop=None):
  """Photographs with depth that has holes; the mask is that of the depth."""
  depth = np.where(RNG.random((count, size, size, 1)) < 0.3, 0, RNG.uniform(1, 19, (count, size, size, 1)))
  spec = DataSpec(Image(3), Depth(1, (0.0, 20.0)), {"train": count})
  source = pipeline.ArraySource({"train": (noise(count, size, size, 3), depth.astype(np.float32))}, spec)
  return pipeline.load_split(source, "train", (size, size), cache_gib=1)


def first(split, count=12, **fields):
  batches = pipeline.train_batches(split, make_data(**fields), batch_size=count, seed=3)
  return next(batches)


def test_changes_that_change_nothing_leave_the_bits():
  """Also if another option is on, whose draws belong to a stream of their own."""
  split = depth_split()
  plain = first(split)
  for fields in ({"scale": (1.0, 1.0), "rotate_degrees": 0.0}, {"brightness": 1e-30}):
    for name, array in first(split, **fields).items():
      np.testing.assert_allclose(array, plain[name], rtol=0, atol=1e-6 if "brightness" in fields else 0)


def test_quarter_turns_and_the_vertical_mirror_only_move_pixels():
  split, whole = depth_split(), {"crop_size": 40, "mirror": False}  # the crop has one place
  plain, turned = first(split, 40, **whole), first(split, 40, **whole, rotate_right_angles=True, mirror_vertical=True)
  seen = collections.Counter()
  for i in range(40):
    (form,) = (
      (turns, step)
      for turns in range(4)
      for step in (1, -1)
      if all(np.array_equal(np.rot90(plain[name][i], turns)[::step], turned[name][i]) for name in plain)
    )
    seen[form] += 1
  assert len(seen) == 8  # the symmetries of the square


def test_a_quarter_turn_of_a_wide_crop():
  array = noise(20, 30, 3)
  read = lambda window: {"input": array[window[0] : window[0] + window[2], window[1] : window[1] + window[3]]}
  place = np.array([0.5, 0.25], np.float32)
  spec = DataSpec(Image(3), Image(3), {})
  found = augmentation.crop(read, Change(quarter_turns=1), spec, np.array([20, 30]), place, (8, 16))
  np.testing.assert_array_equal(found["input"], np.rot90(array[2 : 2 + 16, 5 : 5 + 8]))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_the_warp_by_right_angles_equals_rot90(turns):
  """An independent check of the warp's geometry, for each signal's resampling."""
  for signal, array in [
    (Image(3), noise(21, 21, 3)),
    (Depth(1), RNG.uniform(1, 9, (21, 21, 1)).astype(np.float32)),
    (Quantity(2), RNG.normal(size=(21, 21, 2)).astype(np.float32)),
    (Classes(5), RNG.integers(0, 5, (21, 21, 1)).astype(np.uint8)),
  ]:
    example = {"input": array, "target": array}
    warped = Change(degrees=90 * turns).warp(example, DataSpec(signal, signal, {}), (0.0, 0.0), (21, 21))
    assert warped["input"].dtype == array.dtype
    np.testing.assert_allclose(warped["input"], np.rot90(array, turns), atol=1e-3)


def test_zoom_enlarges_around_the_place_of_the_crop():
  """A zoom by 2 of a ramp shows half as many pixels, half a pixel apart, between the borders of the image."""
  y, x = np.mgrid[:40, :40].astype(np.float32)
  ramp = np.stack([y, x], -1)
  spec = DataSpec(Quantity(2), Quantity(2), {})
  for place, start in (((0.0, 0.0), 0.0), ((0.5, 0.5), 10.0), ((1.0, 1.0), 20.0)):
    found = Change(zoom=2).warp({"input": ramp, "target": ramp}, spec, place, (40, 40))["target"]
    expected = start - 0.25 + np.arange(40) / 2
    inner = slice(1, -1)  # beyond the centre of the last pixel there is less than a whole one
    np.testing.assert_allclose(found[inner, inner, 0], np.tile(expected[inner, None], (1, 38)), atol=1e-3)
    np.testing.assert_allclose(found[inner, inner, 1], np.tile(expected[inner], (38, 1)), atol=1e-3)


def test_a_warped_mask_is_the_mask_of_the_warped_target():
  split = depth_split()
  change = Change(zoom=0.7, degrees=20)
  for index in range(len(split)):
    warped = change.warp(split.read(index), split.spec, (0.3, 0.8), (32, 32))
    np.testing.assert_array_equal(warped["mask"], split.spec.target.valid(warped["target"]))
    assert 0.1 < warped["mask"].mean() < 0.7  # also holes from outside
    assert set(np.unique(warped["target"])) <= set(np.unique(split.read(index)["target"])) | {0}  # never blended


def test_quantities_blend_only_values_and_have_holes_outside():
  values = np.full((40, 40, 1), 5.0, np.float32)
  values[10:20, 10:20] = np.nan
  spec = DataSpec(Quantity(1), Quantity(1), {})
  warped = Change(degrees=45).warp(
    {"input": values, "target": values, "mask": np.isfinite(values)}, spec, (0, 0), (40, 40)
  )
  found = warped["target"]
  np.testing.assert_allclose(found[np.isfinite(found)], 5)
  assert np.isnan(found[0, 0]) and 60 < np.isnan(found[12:28]).sum() < 180
  np.testing.assert_array_equal(warped["mask"], np.isfinite(found))


def test_images_are_reflected_and_classes_ignored_outside():
  labels, photo = np.ones((40, 40, 1), np.uint8), np.full((40, 40, 3), 200, np.uint8)
  example = {"input": photo, "target": labels}
  warped = Change(degrees=45).warp(example, DataSpec(Image(3), Classes(3, ignore=255), {}), (0, 0), (40, 40))
  assert set(np.unique(warped["input"])) == {200}
  assert set(np.unique(warped["target"])) == {1, 255} and warped["target"][0, 0, 0] == 255
  without = Change(degrees=45).warp(example, DataSpec(Image(3), Classes(3), {}), (0, 0), (40, 40))
  assert set(np.unique(without["target"])) == {1}


def test_input_and_target_stay_aligned_under_all_changes_of_place():
  """The target is the input; brightness and contrast are left out."""
  images = np.stack([np.stack(np.mgrid[:40, :40], -1) * 6] * 2).astype(np.uint8)
  spec = DataSpec(Image(2), Image(2), {})
  split = pipeline.load_split(pipeline.ArraySource({"train": (images, images)}, spec), "train", (40, 40), cache_gib=1)
  batch = first(split, **{**ALL, "brightness": 0.0, "contrast": 0.0})
  np.testing.assert_array_equal(batch["input"], batch["target"])
  assert np.ptp(batch["input"].mean((1, 2, 3))) > 0


def test_brightness_and_contrast_change_the_input_alone():
  split = depth_split()
  plain, changed = first(split), first(split, brightness=0.2, contrast=0.5)
  for name in ("target", "mask"):
    np.testing.assert_array_equal(plain[name], changed[name])
  np.testing.assert_array_equal(
    Change(brightness=0.1).recolor(np.zeros((2, 2, 3), np.float32), Image(3)), np.float32(0.2)
  )
  halves = np.array([-0.5, 0.5], np.float32).reshape(1, 2, 1)
  np.testing.assert_allclose(Change(contrast=1.5).recolor(halves, Image(1)).ravel(), [-0.75, 0.75])
  np.testing.assert_allclose(Change(contrast=3.0).recolor(halves, Image(1)).ravel(), [-1, 1])
  shifts = (changed["input"].mean((1, 2, 3)) - plain["input"].mean((1, 2, 3))) / 2
  assert shifts.min() < -0.04 and shifts.max() > 0.05 and np.abs(shifts).max() < 0.2


def test_draws_cover_their_ranges():
  data = make_data(**ALL)
  changes = [Change.draw(data, uniform) for uniform in RNG.random((1000, augmentation.DRAWS))]
  for values, low, high in [
    ([change.zoom for change in changes], 0.8, 1.2),
    ([change.degrees for change in changes], -30, 30),
    ([change.brightness for change in changes], -0.2, 0.2),
    ([change.contrast for change in changes], 0.7, 1.3),
  ]:
    assert low <= min(values) < low + 0.02 * (high - low) and high - 0.02 * (high - low) < max(values) <= high
  assert {change.quarter_turns for change in changes} == {0, 1, 2, 3}
  assert 400 < sum(change.upside_down for change in changes) < 600


def test_changes_depend_on_the_seed_and_the_number_alone():
  split = depth_split()
  batches = lambda start: pipeline.train_batches(split, make_data(**ALL), batch_size=3, seed=1, start_step=start)
  several = batches(0)
  skipped = [next(several) for _ in range(3)][2]
  for name, array in next(batches(2)).items():
    np.testing.assert_array_equal(array, skipped[name])


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"data.scale": (1.2, 0.8)}, "data.scale is .* two numbers, 0.1 ≤ lowest ≤ highest ≤ 10"),
    ({"data.rotate_degrees": 200.0}, "data.rotate_degrees is 200.0; .* between 0 and 180"),
    ({"data.contrast": 1.5}, "data.contrast is 1.5"),
    ({"data.brightness": 0.1}, "brightness and data.contrast are for input images, but the input is: depth"),
  ],
)
def test_impossible_changes_are_refused(fields, message):
  config = config_lib.default()
  with pytest.raises(UsageError, match=message):
    config_lib.update(config, fields)
    config_lib.resolve(config, DataSpec(Depth(), Image(3), {"train": 400}))


def test_a_crop_that_does_not_fit_turned_is_refused():
  with pytest.raises(
    UsageError, match="larger than data.load_size .*in one of the directions of data.rotate_right_angle"
  ):
    first(depth_split(), crop_size=16, crop_width=48, rotate_right_angles=True, load_size=40, load_width=40)
