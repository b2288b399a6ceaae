"""The doctor finds each disease in pairs that have exactly one, and nothing in healthy pairs."""

import functools
import re

import numpy as np
from PIL import Image
import pytest

from pix2pix_jax import config as config_lib
from pix2pix_jax import signals
from pix2pix_jax.data import doctor, prepare
from pix2pix_jax.data.readers import procedural
from pix2pix_jax.data.source import ArraySource
from pix2pix_jax.signals import DataSpec

RGB = signals.Image(3)
SPECS = {
  "facades": (RGB, RGB),
  "winter_summer": (RGB, RGB),
  "kitti_depth": (RGB, signals.Depth(1, (0.0, 80.0))),
  "nyu_depth": (signals.Depth(1, (0.0, 10.0)), signals.Depth(1, (0.0, 10.0))),
  "mr_ct": (signals.Quantity(1, range=((0.0, 1000.0),)), signals.Quantity(1, range=((-1000.0, 1500.0),), unit="HU")),
}


@functools.cache
def drawn(task, count=64, width=64):
  """Inputs and targets of 64 pixels in height."""
  pairs = [procedural.TASKS[task](0, index, (64, width)) for index in range(count)]
  arrays = np.stack([pair["input"] for pair in pairs]), np.stack([pair["target"] for pair in pairs])
  for array in arrays:
    array.flags.writeable = False
  return arrays


def examine(task="facades", limit=500, **splits):
  source = ArraySource(splits, DataSpec(*SPECS[task], {}))
  return doctor.examine(source, source.spec, limit)


def only(lines, pattern):
  """The match of the only line."""
  assert len(lines) == 1, lines
  assert (found := re.search(pattern, lines[0])), lines
  assert len(lines[0]) < 350
  return found


# --- Healthy pairs


@pytest.mark.parametrize("task", SPECS)
def test_nothing_is_found_in_the_built_in_data(task):
  x, y = drawn(task)
  assert examine(task, train=(x[:52], y[:52]), val=(x[52:], y[52:])) == []


def test_nothing_is_found_in_real_facades(real_data):
  def read(split, count):
    files = [np.asarray(Image.open(real_data / f"facades/{split}/{i}.jpg")) for i in range(1, count + 1)]
    photos, labels = np.split(np.stack(files), 2, axis=2)
    return labels, photos

  assert examine(train=read("train", 100), val=read("val", 100)) == []


def test_noise_and_few_or_flat_pairs_are_not_judged():
  noise = np.random.default_rng(0).integers(0, 256, (2, 30, 64, 64, 3), np.uint8)
  assert examine(train=(noise[0], noise[1])) == []
  assert examine(train=(noise[0, :2], noise[1, :2]), val=(noise[0, 2:3], noise[1, 2:3])) == []
  assert examine(train=(noise[0], np.full_like(noise[0], 7))) == []


# --- One disease each


def test_copies_within_a_split_are_named_whether_compressed_or_mirrored():
  x, y = (side.copy() for side in drawn("facades"))
  blur = np.random.default_rng(0).normal(0, 4, (2, 64, 64, 3))
  x[40], y[40] = (np.clip(side[3] + noise, 0, 255) for side, noise in zip((x, y), blur))
  x[50], y[50] = x[7, :, ::-1], y[7, :, ::-1]
  lines = examine(train=(x, y))
  only(lines, r"^2 of 64 pairs of train nearly equal .*train_00040 ≈ train_00003, train_00050 ≈ train_00007\)")


def test_copies_in_another_split_are_named_unless_they_are_exact():
  x, y = drawn("winter_summer")
  leaked = [np.clip(side[:5] * 0.9 + 10, 0, 255).astype(np.uint8) for side in (x, y)]
  val = [np.concatenate([side[48:], copies]) for side, copies in zip((x, y), leaked)]
  lines = examine("winter_summer", train=(x[:48], y[:48]), val=tuple(val))
  only(lines, r"^5 of 21 pairs of val nearly equal pairs of train.*val_00016 ≈ train_00000.* and 2 more")
  exact = {"train": (x[:48], y[:48]), "val": (x[40:], y[40:])}  # the summary reports them
  assert examine("winter_summer", **exact) == []


@pytest.mark.parametrize("task, step", [("facades", 1), ("mr_ct", -1)])
def test_a_common_shift_is_measured(task, step):
  x, y = (side[:, :, ::step] for side in drawn(task, width=80))
  y = np.concatenate([y[:40, :, 12:76], y[40:, :, :64]])  # what is at 12 + i in the input is at i in the target
  found = only(
    examine(task, train=(x[:, :, :64], y)), r"targets of (\d+) of 64 .*about \((-?\d+), (-?\d+)\) pixels.*train_000"
  )
  count, right, down = map(int, found.groups())
  assert 28 <= count <= 41 and abs(right + 12) <= 1 and abs(down) <= 1


def test_shifts_are_measured_in_pixels_of_the_targets():
  x, y = (np.repeat(np.repeat(side, 4, 1), 4, 2) for side in drawn("winter_summer"))  # 256 pixels: cells of 2
  y = np.roll(y, (0, 20), (1, 2))
  found = only(examine("winter_summer", train=(x, y)), r"targets of 6\d of 64 .*about \((\d+), (-?\d+)\) pixels")
  assert abs(int(found[1]) - 20) <= 2 and abs(int(found[2])) <= 2


def test_crops_at_different_places_are_named():
  x, y = drawn("winter_summer", width=80)
  starts = np.random.default_rng(0).permutation(np.arange(64) % 16)
  y = np.stack([image[:, start : start + 64] for image, start in zip(y, starts)])
  found = only(examine("winter_summer", train=(x[:, :, :64], y)), r"targets of (\d+) of 64 .*each differently.*\d\)")
  assert 40 <= int(found[1]) <= 58  # of 56 that are shifted by two pixels or more


@pytest.mark.parametrize("name, axis", [("left to right", 2), ("upside down", 1)])
def test_mirrored_targets_are_named(name, axis):
  x, y = drawn("winter_summer")
  y = np.concatenate([np.flip(y[:20], axis), y[20:]])
  only(examine("winter_summer", train=(x, y)), rf"targets of (1\d|20) of 64 .* mirrored {name} \(train_00000, ")


def test_exchanged_targets_are_named_with_their_inputs():
  x, y = drawn("winter_summer")
  y = np.concatenate([np.roll(y[:8], 1, axis=0), y[8:]])
  only(
    examine("winter_summer", train=(x, y)),
    r"^[5-8] of 64 pairs of train or more .*train_00000 fits the target of train_00001, .* more\)?\.",
  )


@pytest.mark.parametrize("task", ["kitti_depth", "facades"])
def test_unrelated_sides_are_named(task):
  x, y = drawn("winter_summer")[0], drawn(task)[1]
  only(examine(task, train=(x, y)), "inputs and targets of train seem unrelated: 64 pairs")
  assert examine(task, train=(x[:40], y[:40])) == [], "too few to tell"


def test_swapped_sides_are_named():
  x, y = (side.copy() for side in drawn("facades"))
  x[[5, 9]], y[[5, 9]] = y[[5, 9]], x[[5, 9]]
  only(examine(train=(x, y)), r"^2 of 64 pairs of train .* input and target swapped.*\(train_00005, train_00009\)")


@pytest.mark.parametrize("count", [3, 16])
def test_a_validation_split_whose_sides_are_swapped_is_named(count):
  x, y = drawn("facades")
  line = only(
    examine(train=(x[:-count], y[:-count]), val=(y[-count:], x[-count:])),
    rf"^{count} of {count} pairs of val .* input and target swapped, judging by the colours of train \(val_00000",
  )
  assert line


def test_swapped_files_in_folders_of_sides_are_named(tmp_path):
  """Palette files in A and JPEGs in B, two of them in each other's place."""
  x, y = drawn("facades")
  for i, (labels, photo) in enumerate(zip(x[:40], y[:40])):
    sides = "BA" if i in (5, 9) else "AB"
    for side in "AB":
      (tmp_path / "raw" / side / "train").mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).quantize(32).save(tmp_path / f"raw/{sides[0]}/train/{i:02}.png")
    Image.fromarray(photo).save(tmp_path / f"raw/{sides[1]}/train/{i:02}.jpg", quality=95)
  data = config_lib.default().data
  data.update({"name": "folder", "source_dir": str(tmp_path / "raw"), "prepared_dir": str(tmp_path / "prepared")})
  source = prepare.prepare(data)
  only(doctor.examine(source, source.spec), r"^2 of 40 pairs of train .* swapped.*the others \(05, 09\)")


def test_large_splits_are_sampled_evenly(monkeypatch):
  x, y = drawn("winter_summer")
  x = np.concatenate([x, x[:1] // 2])
  y = np.concatenate([y, y[:1] // 2])
  (line,) = examine("winter_summer", train=(x, y), limit=33)
  assert "1 of 33 pairs of train" in line and "train_00064 ≈ train_00000" in line
