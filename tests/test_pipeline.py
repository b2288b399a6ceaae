"""The input pipeline: aligned jitter, stateless order, one visit a validation image."""

import subprocess
import sys
import zlib

import numpy as np
import pytest

from pix2pix_jax.configs import default
from pix2pix_jax.data import images, pipeline
from pix2pix_jax.errors import UsageError


def make_data(**fields):
  config = default.get_config().data
  config.update({"load_size": 20, "crop_size": 16, "depth_range": (0.0, 20.0), **fields})
  return config


def ramp_split(count=5, size=20):
  """Every picture tells its coordinates: input in 8 bits, target in metres, mask by parity; channel 2 is the picture's number."""
  y, x = np.mgrid[:size, :size]
  arrays = {
    "input": np.stack([np.stack([y, x, np.full_like(y, n)], -1) for n in range(count)]).astype(np.uint8),
    "target": np.stack([np.stack([y, x], -1)] * count).astype(np.float32),
    "mask": np.stack([((y + x) % 2 == 0)[..., None]] * count),
  }
  return pipeline.Split(arrays, [str(n) for n in range(count)])


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
  code = f"import sys; sys.path.insert(0, {str(__file__).rsplit('/', 1)[0]!r}); import test_pipeline; print(test_pipeline.checksum(5, 3))"
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
  for batch, counts in pipeline.eval_batches(ramp_split(count=7), make_data(), batch_size=4):
    assert len(batch["input"]) == 4
    assert batch["index"][counts].tolist() == [n for n, c in zip(numbers(batch), counts) if c]
    seen += batch["index"][counts].tolist()
  assert seen == list(range(7))


def test_normalisation_covers_the_range_and_is_undone():
  for dtype, largest in (("uint8", 255), ("uint16", 65535)):
    values = np.arange(largest + 1, dtype=dtype)
    encoded = images.normalise(values, (0, 1))
    assert (encoded.dtype, encoded[0], encoded[-1]) == (np.float32, -1, 1)
    np.testing.assert_array_equal(images.denormalise(encoded, dtype, (0, 1)), values)
  metres = np.float32([0, 10, 40, 90])
  np.testing.assert_allclose(images.normalise(metres, (0.0, 80.0)), [-1, -0.75, 0, 1])
  np.testing.assert_allclose(
    images.denormalise(images.normalise(metres, (0.0, 80.0)), "float32", (0.0, 80.0)), [0, 10, 40, 80]
  )


def test_depth_and_masks_are_not_blended_by_resizing():
  import tensorflow as tf

  depth = tf.constant(np.random.default_rng(0).choice([1.0, 50.0], (9, 9, 1)), tf.float32)
  assert set(np.unique(pipeline._resize(depth, (14, 14)))) == {1.0, 50.0}
  assert pipeline._resize(depth > 2, (14, 14)).dtype == tf.bool
  step = tf.cast(tf.concat([tf.zeros((8, 4, 3)), 200 * tf.ones((8, 4, 3))], 1), tf.uint8)
  assert 0 < np.unique(pipeline._resize(step, (7, 7))).size - 2  # photographs are blended


def test_a_crop_larger_than_the_picture_is_refused():
  with pytest.raises(UsageError, match="crop_size .32, 32. .*larger than data.load_size .20, 20"):
    pipeline.train_batches(ramp_split(), make_data(crop_size=32), batch_size=1, seed=0)
