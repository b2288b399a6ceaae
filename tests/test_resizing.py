"""Resizing: the numbers of TensorFlow to the last bit, and windows of the result."""

import numpy as np
import pytest
import tensorflow as tf

from pix2pix_jax.data.resizing import resize

SIZES = [((256, 256), (286, 286)), ((300, 401), (143, 90)), ((33, 57), (64, 57)), ((700, 20), (20, 700))]


@pytest.mark.parametrize("dtype, channels", [(np.uint8, 3), (np.uint8, 1), (np.uint16, 4)])
@pytest.mark.parametrize("size, shape", SIZES)
def test_images_are_resized_as_by_tensorflow(size, shape, dtype, channels):
  image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (*size, channels), dtype, endpoint=True)
  expected = np.round(tf.image.resize(image, shape, "bicubic", antialias=True)).clip(0, np.iinfo(dtype).max)
  found = resize(image, shape, "bicubic")
  assert found.dtype == dtype
  np.testing.assert_array_equal(found, expected)
  np.testing.assert_array_equal(resize(image, shape, "bicubic", (3, 5, 11, 13)), found[3:14, 5:18])


@pytest.mark.parametrize("size, shape", SIZES)
def test_depth_masks_and_classes_are_resized_as_by_tensorflow_without_blending(size, shape):
  depth = np.random.default_rng(0).choice([1.0, 50.0], (*size, 1)).astype(np.float32)
  found = resize(depth, shape, "nearest")
  np.testing.assert_array_equal(found, tf.image.resize(depth, shape, "nearest"))
  assert set(np.unique(found)) == {1.0, 50.0}
  mask = resize(depth > 2, shape, "nearest", (3, 5, 11, 13))
  assert mask.dtype == bool
  np.testing.assert_array_equal(mask, found[3:14, 5:18] > 2)


@pytest.mark.parametrize("size, shape", SIZES)
def test_quantities_are_means_of_the_pixels_that_have_a_value(size, shape):
  rng = np.random.default_rng(0)
  values = rng.normal(0, 1000, (*size, 2)).astype(np.float32)
  values[rng.random(values.shape) < 0.4] = np.nan
  valid = np.isfinite(values)
  weight = tf.image.resize(valid.astype(np.float32), shape, "bilinear", antialias=True).numpy()
  total = tf.image.resize(np.where(valid, values, 0), shape, "bilinear", antialias=True).numpy()
  expected = np.where(weight >= 0.5, total / np.maximum(weight, np.float32(0.5)), np.nan)
  found = resize(values, shape, "area")
  np.testing.assert_array_equal(found, expected)
  assert 0 < np.isnan(found).mean() < 1
  np.testing.assert_array_equal(resize(values, shape, "area", (3, 5, 11, 13)), found[3:14, 5:18])


def test_the_own_size_is_an_identity():
  values = np.random.default_rng(0).normal(size=(9, 7, 1)).astype(np.float32)
  values[2, 3] = np.nan
  for resampling in ("area", "nearest"):
    np.testing.assert_array_equal(resize(values, (9, 7), resampling), values)
  np.testing.assert_array_equal(resize(values, (9, 7), "area", (1, 2, 4, 5)), values[1:5, 2:7])
