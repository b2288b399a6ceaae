"""The random numbers of the batches, without TensorFlow but with its bits.

`shuffled` and `uniform` are `tf.random.experimental.index_shuffle` and `tf.random.stateless_uniform` in a few lines of
integer arithmetic, so that training need not load TensorFlow, which takes seconds (tests/test_draws.py compares them).
The sources are tensorflow/core/kernels/random_index_shuffle.cc and stateless_random_ops.cc.
"""

import functools
from typing import Any

import numpy as np

_LOW32 = 0xFFFFFFFF


def shuffled(index: int, seed: tuple[int, int], count: int) -> int:
  """The place of `index` in a permutation of `range(count)`, which depends on two 32-bit seeds.

  Simon, a block cipher, permutes the numbers of an even number of bits; those outside the range are encrypted again.
  """
  if count == 1:
    return 0
  if count <= 2**16:
    return _permutation(seed, count)[index]
  bits = (count - 2).bit_length()  # the logarithm of the last number, rounded up
  width = (bits + bits % 2) // 2
  keys = _round_keys(seed, width)
  while True:
    index = _encrypt(index, keys, width)
    if index < count:
      return index


@functools.lru_cache(maxsize=8)
def _permutation(seed: tuple[int, int], count: int) -> list[int]:
  """All places at once: of 16-bit numbers, few are in a small range, and each place can take thousands of rounds."""
  following = _encrypt(np.arange(2**16), _round_keys(seed, 8), 8).tolist()
  places = []
  for place in following[:count]:
    while place >= count:
      place = following[place]
    places.append(place)
  return places


@functools.lru_cache(maxsize=16)
def _round_keys(seed: tuple[int, int], width: int) -> tuple[int, ...]:
  """The keys of four rounds, `width` bits each."""
  mask = (1 << width) - 1
  first, second, third = (part & mask for part in (498247692, *seed))
  turned = _right(third, 3, width) ^ _right(third, 4, width)
  return first, second, third, (0xFFFFFFFC & mask) ^ (0x7369F885192C0EF5 & 1) ^ first ^ turned


def _encrypt(value: Any, keys: tuple[int, ...], width: int) -> Any:
  """Of a number, or of each number in an array."""
  left, right = value >> width & ((1 << width) - 1), value & ((1 << width) - 1)
  for key in keys:
    left, right = right, left ^ _mixed(right, width) ^ key
  return left << width | right


def _mixed(x: Any, width: int) -> Any:
  return (_right(x, width - 1, width) & _right(x, width - 8, width)) ^ _right(x, width - 2, width)


def _right(x: Any, by: int, width: int) -> Any:
  """Rotates `width` bits to the right."""
  return (x >> by | x << (width - by)) & ((1 << width) - 1)


def uniform(count: int, seed: tuple[int, int]) -> np.ndarray:
  """(count,) float32, uniform in [0, 1): they depend on two 64-bit seeds."""
  mixed = _philox([part for each in seed for part in (each & _LOW32, each >> 32 & _LOW32)], [0x3EC8F720, 0x02461E29])
  blocks = [_philox([block, 0, *mixed[2:]], mixed[:2]) for block in range(-(-count // 4))]
  words = np.array(blocks, np.uint32).ravel()[:count]
  return (words & 0x7FFFFF | 0x3F800000).view(np.float32) - np.float32(1)


def _philox(counter: list[int], key: list[int]) -> list[int]:
  """Four random 32-bit words: Philox-4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011."""
  (a, b, c, d), (low, high) = counter, key
  for _ in range(10):
    first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
    a, b, c, d = second >> 32 ^ b ^ low, second & _LOW32, first >> 32 ^ d ^ high, first & _LOW32
    low, high = low + 0x9E3779B9 & _LOW32, high + 0xBB67AE85 & _LOW32
  return [a, b, c, d]
