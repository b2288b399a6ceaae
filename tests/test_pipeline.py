"""The input pipeline: aligned jitter, stateless order, one visit a validation image."""

import subprocess
import sys
import zlib

import numpy as np
import pytest

from pix2pix_jax import config as config_lib
from pix2pix_jax import prng
from pix2pix_jax.data import pipeline
from pix2pix_jax.errors import UsageError
from pix2pix_jax.signals import DataSpec, Depth, Image


def make_data(**fields):
  config = config_lib.default().data
  config.update({"load_size": 20, "crop_size": 16, "depth_range": (0.0, 20.0), **fields})
  return config


def make_spec(count=5):
  return DataSpec(Image(3), Depth(2, (0.0, 20.0)), {"train": count})


def ramp_split(count=5, size=20):
  """Every pixel holds its coordinates: input in 8 bits, target in metres, mask by parity; channel 2 is the image's
  number.
  """
  y, x = np.mgrid[:size, :size]
  arrays = {
    "input": np.stack([np.stack([y, x, np.full_like(y, n)], -1) for n in range(count)]).astype(np.uint8),
    "target": np.stack([np.stack([y, x], -1)] * count).astype(np.float32),
    "mask": np.stack([((y + x) % 2 == 0)[..., None]] * count),
  }
  return pipeline.MemorySplit(arrays, [str(n) for n in range(count)], make_spec(count))


def test_input_target_and_mask_stay_aligned_under_jitter():
  batches = pipeline.train_batches(ramp_split(), make_data(), batch_size=4, seed=3)
  corners, mirrored = set(), set()
  for _ in range(12):
    batch = next(batches)
    for x, target, mask in zip(batch["input"], batch["target"], batch["mask"]):
      rows, columns = np.round((x[..., :2] + 1) * 127.5).astype(int).transpose(2, 0, 1)
      np.testing.assert_allclose(target, np.stack([rows, columns], -1) / 10 - 1, atol=1e-6)
      np.testing.assert_array_equal(mask[..., 0], (rows + columns) % 2 == 0)
      assert np.ptp(rows) == np.ptp(columns) == 15
      corners.add((rows.min(), columns.min()))
      mirrored.add(bool(columns[0, 0] > columns[0, 1]))
  assert mirrored == {True, False}
  assert len(corners) > 12 and all(0 <= row <= 4 and 0 <= column <= 4 for row, column in corners)


def numbers(batch):
  return np.round((batch["input"][:, 0, 0, 2] + 1) * 127.5).astype(int).tolist()


def test_every_epoch_visits_every_pair_once_in_an_order_of_its_own():
  batches = pipeline.train_batches(ramp_split(count=7), make_data(), batch_size=7, seed=0)
  epochs = [numbers(next(batches)) for _ in range(4)]
  assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
  assert len({tuple(epoch) for epoch in epochs}) > 1
  unshuffled = pipeline.train_batches(ramp_split(count=7), make_data(shuffle=False), batch_size=7, seed=0)
  assert numbers(next(unshuffled)) == list(range(7))


def checksum(start_step, steps):
  batches = pipeline.train_batches(ramp_split(), make_data(), batch_size=3, seed=1, start_step=start_step)
  return [zlib.crc32(next(batches)["input"].tobytes()) for _ in range(steps)]


def test_a_batch_is_a_function_of_seed_and_step_also_in_a_fresh_process():
  from_start = checksum(0, 8)
  assert checksum(5, 3) == from_start[5:]
  assert len(set(from_start)) == 8
  folder = str(__file__).rsplit("/", 1)[0]
  code = f"import sys; sys.path.insert(0, {folder!r}); import test_pipeline; print(test_pipeline.checksum(5, 3))"
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == str(from_start[5:])


def test_processes_share_a_batch_without_overlap(monkeypatch):
  whole = next(pipeline.train_batches(ramp_split(), make_data(), batch_size=4, seed=2, start_step=3))["input"]
  parts = []
  for process in range(2):
    monkeypatch.setattr(pipeline.jax, "process_count", lambda: 2)
    monkeypatch.setattr(pipeline.jax, "process_index", lambda p=process: p)
    parts.append(next(pipeline.train_batches(ramp_split(), make_data(), batch_size=4, seed=2, start_step=3))["input"])
  np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_evaluation_visits_seven_images_once_in_batches_of_four():
  seen = []
  for batch in pipeline.eval_batches(ramp_split(count=7), batch_size=4):
    assert len(batch["input"]) == len(batch["is_real"]) == 4
    real = batch["is_real"]
    assert batch["index"][real].tolist() == [n for n, is_real in zip(numbers(batch), real) if is_real]
    seen += batch["index"][real].tolist()
  assert seen == list(range(7))


@pytest.mark.parametrize("resampling, colors", [("nearest", 3), ("bicubic", None)])
def test_a_label_map_keeps_its_colours_if_asked(resampling, colors):
  labels = np.random.default_rng(0).integers(0, 3, (2, 20, 20, 1)).astype(np.uint8) * 100
  spec = DataSpec(Image(1, "uint8", resampling), Image(1), {"train": 2})
  split = pipeline.load_split(pipeline.ArraySource({"train": (labels, labels)}, spec), "train", (13, 13), cache_gib=1)
  found = np.unique(split.arrays["input"])
  assert len(found) == colors if colors else len(found) > 10
  assert len(np.unique(split.arrays["target"])) > 10  # each side has its own


def depth_source(folder=None):
  """Three depth pairs with holes and values out of range, in memory or, with a folder, as if prepared there."""
  rng = np.random.default_rng(0)
  x = rng.uniform(1, 30, (3, 8, 8, 1)).astype(np.float32)
  x[:, :2] = 0
  spec = DataSpec(Depth(1, (0.0, 20.0)), Depth(1, (0.0, 20.0)), {"train": 3})
  source = pipeline.ArraySource({"train": (x, x)}, spec)
  source.folder = folder
  return source, x


def test_pixels_without_a_measurement_within_the_range_are_masked():
  source, x = depth_source()
  split = pipeline.load_split(source, "train", (8, 8), cache_gib=1)
  np.testing.assert_array_equal(split.arrays["mask"], (x > 0) & (x <= 20))


def test_a_split_beyond_the_budget_is_read_as_it_is_used_with_the_same_bits(tmp_path):
  """Whole examples, windows of them, and jittered batches; nothing is written to disk."""
  source, _ = depth_source(tmp_path)
  in_memory = pipeline.load_split(source, "train", (12, 10), cache_gib=1)
  streamed = pipeline.load_split(source, "train", (12, 10), cache_gib=0)
  assert isinstance(in_memory, pipeline.MemorySplit) and isinstance(streamed, pipeline.StreamedSplit)
  assert streamed.ids == in_memory.ids and streamed.names == in_memory.names == ("input", "target", "mask")
  for index in range(3):
    for window in (None, (3, 1, 8, 8)):
      for name, array in in_memory.read(index, window).items():
        np.testing.assert_array_equal(streamed.read(index, window)[name], array)
  splits, data = (in_memory, streamed), make_data(crop_size=8)
  plain, by_tf_data = (pipeline.train_batches(split, data, batch_size=6, seed=1, start_step=4) for split in splits)
  for _ in range(3):
    batch, other = next(plain), next(by_tf_data)
    assert batch.keys() == other.keys() == {"input", "target", "mask"}
    for name, array in batch.items():
      assert array.dtype == other[name].dtype == np.float32
      np.testing.assert_array_equal(array, other[name])
  for batch, other in zip(*(pipeline.eval_batches(split, batch_size=2) for split in splits), strict=True):
    assert {name: array.tobytes() for name, array in batch.items()} == {
      n: array.tobytes() for n, array in other.items()
    }
  assert list(tmp_path.iterdir()) == []


def test_order_and_jitter_have_streams_of_their_own(monkeypatch):
  """Another jitter leaves the order of the pairs as it is."""
  before = [numbers(next(pipeline.train_batches(ramp_split(7), make_data(), batch_size=7, seed=0)))]
  data_seed = prng.data_seed
  monkeypatch.setattr(prng, "data_seed", lambda seed, name: data_seed(seed, name) + (name == "jitter"))
  after = [numbers(next(pipeline.train_batches(ramp_split(7), make_data(), batch_size=7, seed=0)))]
  assert before == after


def test_a_crop_larger_than_the_image_is_refused():
  with pytest.raises(UsageError, match="crop_size .32, 32. .*larger than data.load_size .20, 20"):
    pipeline.train_batches(ramp_split(), make_data(crop_size=32), batch_size=1, seed=0)
