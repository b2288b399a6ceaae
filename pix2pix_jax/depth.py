"""Depth in metres: its encoding, its colours, and two ways to fill holes without a network.

Depth is float32 metres along the optical axis; 0 means that nothing was measured. The networks see it linearly encoded
to [-1, 1] over one range, `data.depth_range`, which reader, loss, metrics and images share. It is never converted to 8
bits. Depth files are read and written by `data/files.py`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

HOLE_COLOR = (0, 0, 0)  # not in the colour map, whose darkest colour is a violet


def encode(metres: Any, depth_range: tuple[float, float]) -> Any:
  """Metres → [-1, 1], clipped; NumPy or JAX arrays. A hole (0) becomes -1, like the nearest depth, so keep a mask."""
  nearest, farthest = depth_range
  return ((metres - nearest) * (2 / (farthest - nearest)) - 1).clip(-1, 1)


def decode(encoded: Any, depth_range: tuple[float, float]) -> Any:
  """[-1, 1] → metres; NumPy or JAX arrays."""
  nearest, farthest = depth_range
  return (encoded + 1) * ((farthest - nearest) / 2) + nearest


def colors(encoded: np.ndarray) -> np.ndarray:
  """[-1, 1] (H, W) → uint8 (H, W, 3): viridis, perceptually uniform, from near in yellow to far in violet."""
  import matplotlib  # slow to import, and only depth needs it

  return matplotlib.colormaps["viridis_r"]((np.clip(encoded, -1, 1) + 1) / 2, bytes=True)[..., :3]


def fill_with_nearest(metres: np.ndarray) -> np.ndarray:
  """Fills the holes (0) of (H, W, 1) with the nearest valid pixel: a baseline for depth → depth.

  An image without any valid pixel is returned unchanged.
  """
  from scipy import ndimage  # slow to import, and only this needs it

  holes = metres[..., 0] <= 0
  if holes.all():
    return metres
  rows, columns = ndimage.distance_transform_edt(holes, return_distances=False, return_indices=True)
  return metres[rows, columns]


def interpolate(values: jax.Array, valid: jax.Array) -> jax.Array:
  """Fills holes smoothly, by interpolating between coarser means of the valid pixels around them.

  Pull-push: Gortler et al., "The Lumigraph" (1996), section 3.4.3, with box filters down and bilinear ones up. An image
  without any valid pixel becomes 0. Differentiable, and the same on every platform.

  Args:
    values: (N, H, W, C); kept where `valid`.
    valid: bool (N, H, W, 1).
  """
  count, height, width, channels = values.shape
  known = jnp.where(valid, values, 0)
  if max(height, width) == 1:
    return known
  pad = [(0, 0), (0, height % 2), (0, width % 2), (0, 0)]
  blocks = (count, -(-height // 2), 2, -(-width // 2), 2, -1)
  total = jnp.pad(known, pad).reshape(blocks).sum((2, 4))
  weight = jnp.pad(valid, pad).reshape(blocks).sum((2, 4))
  coarse = interpolate(total / jnp.maximum(weight, 1), weight > 0)
  fine = (count, 2 * blocks[1], 2 * blocks[3], channels)
  return jnp.where(valid, values, jax.image.resize(coarse, fine, "bilinear")[:, :height, :width])
