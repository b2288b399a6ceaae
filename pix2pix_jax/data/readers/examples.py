"""What the readers of raw files share: the features of an example, the order in which it is stored, and cuts into splits."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from pix2pix_jax.errors import UsageError

T = TypeVar("T")
BUCKETS = 128  # see `in_order`; each may be an open file, and some systems allow 256 of them


def picture(channels: int = 3, dtype=np.uint8) -> tfds.features.FeatureConnector:
  """uint8 or uint16 (H, W, channels), stored without loss. Give it `png(array)`, or the array where `channels` is 2."""
  if channels == 2:  # TensorFlow writes such a PNG but does not read it
    return tfds.features.Tensor(shape=(None, None, 2), dtype=dtype, encoding="zlib")
  return tfds.features.Image(shape=(None, None, channels), dtype=dtype, encoding_format="png")


def png(array: np.ndarray) -> bytes | np.ndarray:
  """What `picture` takes. (From an array TFDS would build, and keep, one graph for every size that occurs.)"""
  return array if array.shape[-1] == 2 else tf.io.encode_png(array).numpy()


def metres(channels: int = 1) -> tfds.features.FeatureConnector:
  """float32 (H, W, channels) metres of depth; 0 is a hole."""
  return tfds.features.Tensor(shape=(None, None, channels), dtype=np.float32, encoding="zlib")


def validity() -> tfds.features.FeatureConnector:
  """bool (H, W, 1): where the target was measured."""
  return tfds.features.Tensor(shape=(None, None, 1), dtype=np.bool_, encoding="zlib")


def in_order(items: Sequence[T]) -> Iterator[tuple[int, T]]:
  """(key, item) with keys that make TFDS store the items in this order, in bounded memory.

  Beyond 1 GB TFDS collects examples in files, one for each equal share of 2**128 of the keys' range, and sorts each in
  memory. The keys 0, 1, 2 … would all fall into the first file, and the whole data set into memory.
  """
  for i, item in enumerate(items):
    yield (i * BUCKETS // len(items)) * (2**128 // BUCKETS) + i, item


def blocks(items: Sequence[T], train: float, val: float) -> dict[str, list[T]]:
  """Contiguous blocks: this share `train`, the next `val`, the rest `test`. At least one item is for training."""
  first = max(1, round(train * len(items)))
  second = max(first, round((train + val) * len(items)))
  return {"train": list(items[:first]), "val": list(items[first:second]), "test": list(items[second:])}


def held_out(groups: Sequence[T], share: float = 0.1) -> dict[str, list[T]]:
  """The last `share` is `test`, as many before it `val`, the rest `train`; at least one each, but of two at most all `train`."""
  count = max(1, round(share * len(groups))) if len(groups) >= 3 else 0
  end = len(groups) - count
  return {"train": list(groups[: end - count]), "val": list(groups[end - count : end]), "test": list(groups[end:])}


def source_folder(source_dir: str, name: str, wanted: str) -> Path:
  """`data.source_dir` as a path that exists, or a UsageError that says what should be there."""
  if not source_dir:
    raise UsageError(f"data.source_dir is not set. For {name} it should hold {wanted}.")
  if not Path(source_dir).exists():
    raise UsageError(f"data.source_dir {source_dir!r} is not there. For {name} it should hold {wanted}.")
  return Path(source_dir)


def some(names: Sequence, limit: int = 5) -> str:
  """The first few names, and how many more."""
  return ", ".join(map(str, names[:limit])) + (f" and {len(names) - limit} more" if len(names) > limit else "")
