"""Colours and noise of the synthetic scenes."""

import numpy as np

from pix2pix_jax.data.synthesis import paint


def test_colours_are_parsed_and_blended():
  np.testing.assert_allclose(paint.rgb("ff8000"), np.array([[255], [128], [0]]) / 255, rtol=1e-6)
  assert paint.rgb("ff8000", ndim=3).shape == (3, 1, 1)
  blend = paint.mix(paint.rgb("000000"), paint.rgb("ff8000"), np.float64(0.25))
  assert blend.dtype == np.float32  # a float64 share must not promote the image
  np.testing.assert_allclose(blend, np.array([[63.75], [32], [0]]) / 255, rtol=1e-6)


def test_noise_has_the_documented_deviation_and_feature_width():
  u, v = np.random.default_rng(0).uniform(0, 1000, (2, 100_000)).astype(np.float32)
  values = paint.noise(u, v, 0.5)
  assert abs(values.mean()) < 0.1 and 0.7 < values.std() < 0.9

  def correlation(distance):
    return np.corrcoef(values, paint.noise(u + np.float32(distance), v, 0.5))[0, 1]

  # The coarsest features are 2 m wide, the finest 0.25 m.
  assert correlation(0.05) > 0.95 and 0.2 < correlation(0.8) < 0.8 and abs(correlation(8)) < 0.2


def test_noise_repeats_without_a_seam():
  """The table covers 16 coarse features; beyond it the noise starts again, without a jump at the border."""
  v = np.linspace(0, 32, 500, dtype=np.float32)
  for interpolate in (False, True):
    a, b = (paint.noise(np.full_like(v, u), v, 1.0, interpolate) for u in (3, 19))
    np.testing.assert_allclose(a, b, atol=1e-4)
  before, after = (paint.noise(np.full_like(v, u), v, 1.0, True) for u in (15.99, 16.01))
  middle, next_to_it = (paint.noise(np.full_like(v, u), v, 1.0, True) for u in (7.99, 8.01))
  assert abs(before - after).max() < 3 * abs(middle - next_to_it).max()


def test_interpolated_noise_passes_through_the_table():
  v = np.arange(64, dtype=np.float32) / 32
  np.testing.assert_array_equal(paint.noise(v, v[::-1], 1.0), paint.noise(v, v[::-1], 1.0, interpolate=True))
  u = np.linspace(0, 4, 2000, dtype=np.float32)
  for points in ((u, 0 * u), (0 * u, u)):
    smooth, steps = paint.noise(*points, 1.0, interpolate=True), paint.noise(*points, 1.0)
    assert abs(np.diff(smooth)).max() < 0.2 * abs(np.diff(steps)).max()


def test_patterns_disappear_where_samples_are_wider_than_they_are():
  widths = np.array([0.1, 0.25, 0.5, 2], np.float32)
  np.testing.assert_allclose(paint.visible_share(0.5, widths), [1, 0.5, 0, 0])
