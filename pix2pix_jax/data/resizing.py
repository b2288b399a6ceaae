"""Resizing of single arrays as training does it, with NumPy and Pillow alone."""

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:  # imports JAX: slow
  from pix2pix_jax.signals import Signal


def resize(signal: "Signal", array: np.ndarray, size: tuple[int, int | None]) -> np.ndarray:
  """An accepted (H, W, C) array, resampled as in training: bicubic and antialiased, the mean of the pixels that have a
  value (quantities), or nearest (depth, label maps).

  Args:
    signal: signal of the array.
    array: as the signal's `accept` returns it.
    size: (height, width); a width of None keeps the proportions.
  """
  height, width = size[0], size[1] or max(1, round(array.shape[1] * size[0] / array.shape[0]))
  if signal.resampling == "nearest":
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip((height, width), array.shape))
    return array[rows[:, None], columns]
  if signal.resampling == "area":
    weight = _resample(np.isfinite(array), height, width, Image.Resampling.BILINEAR)
    total = _resample(np.nan_to_num(array), height, width, Image.Resampling.BILINEAR)
    return np.where(weight >= 0.5, total / np.maximum(weight, 0.5), np.float32(np.nan))
  resized = _resample(array, height, width, Image.Resampling.BICUBIC)
  if array.dtype.kind == "f":
    return resized.clip(0, 1)
  return resized.round().clip(0, np.iinfo(array.dtype).max).astype(array.dtype)


def _resample(array: np.ndarray, height: int, width: int, kernel: Image.Resampling) -> np.ndarray:
  """float32 (height, width, C). Pillow filters 8 bits in coarser steps, so they become floats first."""
  planes = np.moveaxis(array.astype(np.float32), -1, 0)
  return np.stack([np.asarray(Image.fromarray(plane).resize((width, height), kernel)) for plane in planes], axis=-1)
