"""A training split that is kept on the devices, where its batches are cut, mirrored and encoded.

The host only draws which pairs a batch holds, where their crops lie and which are mirrored (`pipeline.train_draws`), 16
bytes per pair. Batches have the bits of `pipeline.train_batches`: whatever a compiler could round in another way is
computed once, on the host (`Signal.pack`).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pix2pix_jax.data import augmentation
from pix2pix_jax.data.pipeline import MemorySplit, Split
from pix2pix_jax.signals import DataSpec

Packed = dict[str, np.ndarray]  # name → (n, H, W, C) in any number type


def obstacle(split: Split, data: Any) -> str:
  """Why a split cannot be kept on the devices, as the end of a sentence; empty if it can."""
  if not isinstance(split, MemorySplit):
    return "the training split exceeds data.cache_gib"
  if split.is_mixed:
    return "its images differ in size"
  if augmentation.is_active(data):
    return "augmentation beyond crop and mirror runs on the host"
  return ""


def pack(split: Split) -> Packed:
  """What to keep on the devices of a split without an `obstacle`."""
  assert isinstance(split, MemorySplit)
  signals = {"input": split.spec.input, "target": split.spec.target}
  return {
    name: signals[name].pack(np.asarray(array)) if name in signals else np.asarray(array)
    for name, array in split.arrays.items()
  }


def make_batch(
  packed: dict[str, jax.Array], draws: jax.Array, *, spec: DataSpec, crop: tuple[int, int]
) -> dict[str, jax.Array]:
  """A batch as `pipeline.train_batches` yields it.

  Args:
    packed: what `pack` returned.
    draws: int32 (rows, 4), see `pipeline.train_draws`.
    spec: signals of both sides.
    crop: (height, width) of the crops.
  """

  def cut(array: jax.Array, draw: jax.Array) -> jax.Array:
    index, y, x, is_mirrored = draw
    window = jax.lax.dynamic_slice(array, (index, y, x, 0), (1, *crop, array.shape[-1]))[0]
    return jnp.where(is_mirrored, window[:, ::-1], window)

  cropped = {name: jax.vmap(cut, (None, 0))(array, draws) for name, array in packed.items()}
  signals = {"input": spec.input, "target": spec.target}
  return {
    name: signals[name].unpack(array) if name in signals else array.astype(jnp.float32)
    for name, array in cropped.items()
  }
