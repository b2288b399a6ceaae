"""Resizing with the numbers of `tf.image.resize`, at a third of its time, and of a part of the result alone.

A resize along one axis is a product with a matrix that has a few numbers in each row. Its numbers are computed like
those of TensorFlow (tensorflow/core/kernels/image/scale_and_translate_op.cc), in float32, and SciPy's sparse product
adds in the same order. Imports no TensorFlow.
"""

import functools

import numpy as np
import scipy.sparse

from pix2pix_jax.signals import Signal, Stack

Window = tuple[int, int, int, int]  # first row, first column, height, width


def resize(image: np.ndarray, shape: tuple[int, int], resampling: str, window: Window | None = None) -> np.ndarray:
  """Resizes an image, or computes the part of the result that lies in a window.

  Args:
    image: (H, W, C): integers, or floats; float images lie in [0, 1].
    shape: (height, width) of the whole result.
    resampling: `bicubic`, anti-aliased, and rounded for integers; `nearest`, for values that must not be
      blended; or `area`, the anti-aliased mean of the values that are not NaN, which stays NaN where less than half of
      the area has one.
    window: part of the result; None: all of it.
  """
  top, left, height, width = window or (0, 0, *shape)
  rows, columns = slice(top, top + height), slice(left, left + width)
  if image.shape[:2] == shape:
    return image[rows, columns]
  if resampling == "nearest":
    return image[_nearest(image.shape[0], shape[0])[rows]][:, _nearest(image.shape[1], shape[1])[columns]]
  method = "bicubic" if resampling == "bicubic" else "bilinear"
  matrices = _matrix(image.shape[0], shape[0], method)[rows], _matrix(image.shape[1], shape[1], method)[columns]
  if resampling == "area":
    valid = np.isfinite(image)
    weight = _product(valid.astype(np.float32), *matrices)
    total = _product(np.where(valid, image, 0), *matrices)
    mean = np.where(weight >= 0.5, total / np.maximum(weight, np.float32(0.5)), np.float32(np.nan))
    return _transposed(mean)
  values = _product(image.astype(np.float32), *matrices)
  if image.dtype.kind in "ui":
    np.rint(values, out=values)
  np.clip(values, 0, 1 if image.dtype.kind == "f" else np.iinfo(image.dtype).max, out=values)
  return _transposed(values.astype(image.dtype))


def _product(image: np.ndarray, down: scipy.sparse.csr_matrix, across: scipy.sparse.csr_matrix) -> np.ndarray:
  """(H, W, C) float32 → (width, C, height), which `_transposed` turns back."""
  height, width, channels = image.shape
  tall = (down @ image.reshape(height, -1)).reshape(-1, width, channels)
  columns = np.stack([tall[..., channel].T for channel in range(channels)], 1)  # faster than one copy of all axes
  return (across @ columns.reshape(width, -1)).reshape(-1, channels, tall.shape[0])


def resize_raw(signal: Signal, raw: np.ndarray, shape: tuple[int, int], window: Window | None = None) -> np.ndarray:
  """Resizes raw values (H, W, C) as their signal requires; the parts of a stack each in their own way."""
  if not isinstance(signal, Stack):
    return resize(raw, shape, signal.resampling, window)
  pieces = zip(signal.parts, signal.split(raw))
  return np.concatenate([resize_raw(part, piece, shape, window).astype(np.float32) for part, piece in pieces], axis=-1)


def _transposed(columns: np.ndarray) -> np.ndarray:
  """(width, C, height) → (height, width, C)."""
  return np.stack([columns[:, channel].T for channel in range(columns.shape[1])], -1)


@functools.lru_cache(maxsize=512)
def _matrix(size: int, new_size: int, method: str) -> scipy.sparse.csr_matrix:
  """(new_size, size) float32: the weights of the source pixels for each pixel, which a filter gives, as wide as a new
  pixel if the image shrinks. `bicubic` is Keys' filter with a = -0.5, `bilinear` a triangle.
  """
  f32 = np.float32
  inverse = f32(1) / (f32(new_size) / f32(size))
  width = max(inverse, f32(1))
  radius = f32(2 if method == "bicubic" else 1) * width
  centre = (np.arange(new_size, dtype=f32) + f32(0.5)) * inverse
  first = np.ceil(centre - radius - f32(0.5)).clip(0, size - 1).astype(int)
  last = np.floor(centre + radius - f32(0.5)).clip(0, size - 1).astype(int)
  columns = first[:, None] + np.arange((last - first).max() + 1)
  inside = columns <= last[:, None]
  distance = np.abs((columns.astype(f32) + f32(0.5) - centre[:, None]) * (f32(1) / width))
  weights = np.where(inside, _keys(distance) if method == "bicubic" else np.maximum(f32(1) - distance, f32(0)), f32(0))
  total = np.zeros(new_size, f32)
  for column in weights.T:  # in order, like the sums of the reference
    total += column
  weights = weights * (f32(1) / total)[:, None]
  rows = np.broadcast_to(np.arange(new_size)[:, None], columns.shape)
  return scipy.sparse.csr_matrix((weights[inside], (rows[inside], columns[inside])), (new_size, size))


def _keys(x: np.ndarray) -> np.ndarray:
  """Keys' cubic filter of a distance in pixels: R. Keys, "Cubic convolution interpolation for digital image
  processing", 1981.
  """
  f32 = np.float32
  near = ((f32(1.5) * x - f32(2.5)) * x) * x + f32(1)
  far = ((f32(-0.5) * x + f32(2.5)) * x - f32(4)) * x + f32(2)
  return np.where(x >= 2, f32(0), np.where(x >= 1, far, near))


@functools.lru_cache(maxsize=512)
def _nearest(size: int, new_size: int) -> np.ndarray:
  """The index of the source pixel of each pixel: the one that holds its centre."""
  return (2 * np.arange(new_size) + 1) * size // (2 * new_size)
