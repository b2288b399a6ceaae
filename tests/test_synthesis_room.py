"""Rooms: raw depth with a Kinect's range, quantization, noise and holes."""

import numpy as np

from pix2pix_jax.data.synthesis import room
from pix2pix_jax.data.synthesis.raytrace import Camera, Solid, trace


def test_depth_stays_within_a_kinects_range():
  near, far = zip(*((d.min(), d.max()) for d in (room.draw(1, index, (24, 36))["target"] for index in range(60))))
  assert 0.7 <= min(near) < 1 and 6 < max(far) <= 10


def test_raw_depth_has_holes_and_otherwise_whole_steps_of_disparity():
  shares, errors = [], []
  for index in range(12):
    pair = room.draw(8, index, (96, 128))
    raw, depth = pair["input"], pair["target"]
    seen = raw > 0
    shares.append(1 - seen.mean())
    steps = 1 / (room.STEP * raw[seen].astype(float))
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
    off = abs(steps - 1 / (room.STEP * depth[seen].astype(float)))
    assert off.max() < 0.76 and off.mean() > 0.15
    errors.append(abs(raw - depth)[seen].mean())
  assert 0.08 < min(shares) and max(shares) < 0.3 and 0.12 < np.mean(shares) < 0.22
  assert 0.003 < np.mean(errors) < 0.015  # metres; 0.008 in the first images of NYU


def test_depth_error_grows_faster_than_depth():
  near, far = [], []
  for index in range(10):
    pair = room.draw(9, index, (64, 80))
    error, seen, depth = abs(pair["input"] - pair["target"]), pair["input"] > 0, pair["target"]
    near.append(error[seen & (depth < 2.2)])
    far.append(error[seen & (depth > 4.4)])
  assert np.concatenate(far).mean() > 3.5 * np.concatenate(near).mean()  # twice the depth, about four times the step


def test_the_projector_leaves_a_band_of_holes_left_of_a_board():
  """A board at 2 m in front of a wall at 4 m: the band is focal length * baseline * (1/2 - 1/4) wide."""
  camera, size = Camera(1.0, 0.5, 1.0), (240, 320)
  solids = [Solid("box", (0, 1, 4.5), (9, 9, 0.5)), Solid("box", (0, 1, 2.005), (0.4, 9, 0.005))]
  hits = trace(solids, camera, size)
  left, right = np.flatnonzero(hits.solid[120] == 1)[[0, -1]]
  width = camera.focal(size) * 0.075 * (1 / 2 - 1 / 4)
  shares = []
  for seed in range(8):
    raw = room.kinect(np.random.default_rng(seed), solids, camera, hits, size)
    hole = (raw == 0)[10:-10]
    assert hole[:, left - int(width) : left].all()
    beyond = left - int(width) - 3
    shares.append((hole[:, beyond - 5 : beyond].mean(), hole[:, right + 4 : right + 12].mean()))
  assert np.mean(shares) < 0.4  # beyond the band and on the other side there are only random holes
