"""Depth in metres: its one encoding, its files, and two ways to fill holes without a network.

Depth is float32 metres along the optical axis; 0 means "no measurement". The networks see it linearly encoded to
[-1, 1] over one range, `data.depth_range`, that reader, loss, metrics and pictures share. It is never converted to 8 bits.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from pix2pix_jax.errors import UsageError

KITTI_SCALE = 256.0  # KITTI's depth PNGs: uint16 = metres · 256, 0 = no measurement (depth development kit, readme.txt)


def encode(metres, depth_range: tuple[float, float]):
  """Metres → [-1, 1], clipped. NumPy or JAX arrays; a hole (0) lands on the near end, so keep its mask."""
  nearest, farthest = depth_range
  return ((metres - nearest) * (2 / (farthest - nearest)) - 1).clip(-1, 1)


def decode(encoded, depth_range: tuple[float, float]):
  """[-1, 1] → metres."""
  nearest, farthest = depth_range
  return (encoded + 1) * ((farthest - nearest) / 2) + nearest


def in_range(metres, depth_range: tuple[float, float]):
  """Whether a measurement is one (> 0) that the range can express."""
  return (metres > 0) & (metres >= depth_range[0]) & (metres <= depth_range[1])


def read_png(path: Path, scale: float = KITTI_SCALE) -> np.ndarray:
  """A 16-bit depth PNG as float32 metres (H, W, 1), value / scale. The NYU samples in millimetres have scale 1000."""
  try:
    with Image.open(path) as image:
      values = np.asarray(image)
  except (OSError, SyntaxError, ValueError) as error:
    raise UsageError(
      f"{path} cannot be read as a picture ({error}). It may be damaged or half downloaded: replace or remove it."
    ) from error
  if values.ndim != 2 or image.mode not in ("I", "I;16", "I;16B"):
    raise UsageError(
      f"{path} should be a 16-bit one-channel depth PNG; it is {values.shape} of mode {image.mode}. An 8-bit file has lost its metres."
    )
  return (values.astype(np.float32) / np.float32(scale))[..., None]


def write_png(path: Path, metres: np.ndarray, scale: float = KITTI_SCALE) -> None:
  """Float32 metres (H, W) or (H, W, 1) → 16-bit PNG, value = metres · scale, clipped to 65535."""
  values = np.round(np.asarray(metres, np.float64).reshape(metres.shape[:2]) * scale)
  Image.fromarray(np.clip(values, 0, 65535).astype(np.uint16)).save(path, format="png")


def fill_with_nearest(metres: np.ndarray) -> np.ndarray:
  """Fills the holes (0) of (H, W, 1) with the nearest valid pixel: the baseline for sparse→dense depth.

  An image without any valid pixel stays 0.
  """
  from scipy import ndimage  # pylint: disable=g-import-not-at-top  (slow to import, used here only)

  holes = metres[..., 0] <= 0
  if holes.all():
    return metres
  rows, columns = ndimage.distance_transform_edt(holes, return_distances=False, return_indices=True)
  return metres[rows, columns]


def interpolate(values: jax.Array, valid: jax.Array) -> jax.Array:
  """Fills holes smoothly: `values` (N, H, W, C) where `valid` (N, H, W, 1, bool), else interpolated from coarser means of valid pixels.

  Pull-push: Gortler et al., "The Lumigraph" (1996), section 3.4.3, with box filters down and bilinear ones up. An image
  without any valid pixel becomes 0. Differentiable, and the same for every platform.
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
