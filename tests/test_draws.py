"""The random numbers of the batches, compared with TensorFlow's own."""

import numpy as np
import pytest
import tensorflow as tf

from pix2pix_jax.data import draws

COUNTS = (1, 2, 3, 5, 50, 400, 65535, 65536, 65537, 65538, 2**17 + 1, 2**18, 2**18 + 1, 10**7 + 3)


@pytest.mark.parametrize("count", COUNTS)
def test_shuffled_is_the_permutation_of_tensorflow(count):
  rng = np.random.default_rng(count)
  indices = np.unique(np.concatenate([rng.integers(0, count, 40), [0, count - 1]]))
  for seed in ((0, 0), (1, 7), (2**31 - 1, 3), (123456789, 2**32 - 1)):
    expected = tf.random.experimental.index_shuffle(
      tf.constant(indices, tf.int64), tf.constant(np.array(seed, np.uint32)), tf.constant(count - 1, tf.int64)
    )
    assert [draws.shuffled(int(i), seed, count) for i in indices] == expected.numpy().tolist()


def test_shuffled_is_a_permutation():
  assert sorted(draws.shuffled(i, (5, 2), 77) for i in range(77)) == list(range(77))


@pytest.mark.parametrize("seed", [(0, 0), (1, 0), (0, 1), (123456789, 10**6), (2**31 - 1, 2**40 + 12345)])
@pytest.mark.parametrize("count", [1, 3, 4, 6, 9])
def test_uniform_has_the_bits_of_tensorflow(seed, count):
  expected = tf.random.stateless_uniform([count], tf.constant(seed, tf.int64)).numpy()
  found = draws.uniform(count, seed)
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found, expected)
