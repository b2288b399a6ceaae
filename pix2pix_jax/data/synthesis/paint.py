"""Colours, noise and resizing shared by all synthetic scenes.

Colours are float32 RGB in [0, 1], channels first. The drawing code converts NumPy scalars to float32 before it
combines them with arrays, because a float64 scalar would promote the whole array to float64.
"""

import numpy as np
from numpy import float32
from PIL import Image


def rgb(code: str, ndim: int = 2) -> np.ndarray:
  """The colour "rrggbb" as float32 (3, 1, …) with `ndim` axes, in [0, 1]."""
  return np.array([*bytes.fromhex(code)], float32).reshape(3, *(1,) * (ndim - 1)) / 255


def mix(a: np.ndarray, b: np.ndarray, share: float | np.ndarray) -> np.ndarray:
  """Blends two colours (or any two arrays) linearly: `a` where `share` is 0, `b` where it is 1."""
  return a + (b - a) * np.asarray(share, float32)


def resize(
  image: np.ndarray, size: tuple[int, int], resampling: Image.Resampling = Image.Resampling.BICUBIC
) -> np.ndarray:
  """Resizes a float32 (h, w) array to `size` = (height, width)."""
  return np.asarray(Image.fromarray(image).resize(size[::-1], resampling))


def smooth_noise(rng: np.random.Generator, cells: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
  """Smooth noise, float32 (H, W).

  Normal deviates on a grid of `cells` (rows, columns) are resized to `size`, so that every size shows the same pattern.
  """
  return resize(rng.standard_normal(cells).astype(float32), size)


_TABLE_SIZE = 512  # a power of two, so that indices wrap around by a bit mask
_COARSEST = 16  # cells of the coarsest octave along one side of the table


def _periodic_noise(rng: np.random.Generator, cells: int) -> np.ndarray:
  """One octave of the noise table: `cells` cells along each side, without a seam at the border."""
  margin = 4
  grid = np.pad(rng.standard_normal((cells, cells)).astype(float32), margin, mode="wrap")
  scale = _TABLE_SIZE // cells
  large = resize(grid, (_TABLE_SIZE + 2 * margin * scale,) * 2)
  return large[margin * scale : -margin * scale, margin * scale : -margin * scale]


def _noise_table() -> np.ndarray:
  """Four octaves of periodic noise, float32 (512, 512), clipped to ±2.5."""
  rng, octaves = np.random.default_rng(0), ((0.6, 1), (0.5, 2), (0.4, 4), (0.3, 8))
  table = np.sum([weight * _periodic_noise(rng, _COARSEST * k) for weight, k in octaves], axis=0)
  return np.ascontiguousarray(np.clip(table, -2.5, 2.5), float32)


_TABLE = _noise_table()


def noise(u: np.ndarray, v: np.ndarray, per_metre: float, interpolate: bool = False) -> np.ndarray:
  """Fractal noise at the points (u, v), in metres: a fixed function with a standard deviation of about 0.8.

  The coarsest features are 1 / `per_metre` metres wide, the finest an eighth of that. `interpolate` blends neighbouring
  table entries; it is needed where features are so large in the image that single entries would show as blocks.
  """
  per_cell = _TABLE_SIZE // _COARSEST
  x, y = u * float32(per_cell * per_metre), v * float32(per_cell * per_metre)
  left, top = np.floor(x), np.floor(y)
  last = _TABLE_SIZE - 1
  row, col = (top.astype(np.int32) & last) * _TABLE_SIZE, left.astype(np.int32) & last
  if not interpolate:
    return _TABLE.take(row + col)
  x, y = x - left, y - top
  next_row, next_col = (row + _TABLE_SIZE) & (_TABLE_SIZE * last), (col + 1) & last
  above, below = (mix(_TABLE.take(r + col), _TABLE.take(r + next_col), x) for r in (row, next_row))
  return mix(above, below, y)


def visible_share(cell: float, sample_width: np.ndarray) -> np.ndarray:
  """In [0, 1]: how much of a pattern `cell` metres wide remains visible in samples `sample_width` metres wide."""
  return np.clip(float32(0.5 * cell) / sample_width - float32(0.5), 0, 1)
