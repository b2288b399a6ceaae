"""The tf.data pipeline: the only place that resizes, crops, mirrors and encodes.

Prepared examples are decoded and resized once, into arrays in memory or, beyond a budget, in a memory-mapped file. Row
r of the batch at step n is example `i = n · batch_size + r` of an endless sequence; its place in the epoch's
permutation, its crop and its mirroring are stateless functions of (seed, i). A resumed run therefore repeats nothing
and skips nothing, and batches do not depend on the number of processes that read them.
"""

import collections
from collections.abc import Callable, Iterator, Mapping
import dataclasses
import hashlib
import json
import os
from pathlib import Path
import shutil
import tempfile
from typing import Any

import jax
import numpy as np
import tensorflow as tf

from pix2pix_jax import config as config_lib
from pix2pix_jax import prng
from pix2pix_jax.data.source import ArraySource, PreparedSource, Source
from pix2pix_jax.errors import UsageError
from pix2pix_jax.signals import DataSpec

__all__ = [
  "ArraySource",
  "PreparedSource",
  "Source",
  "Split",
  "eval_batches",
  "load_split",
  "to_devices",
  "train_batches",
]

CACHE_REVISION = 2  # of the decoded files; raise it when the same examples are decoded to other numbers


@dataclasses.dataclass(frozen=True)
class Split:
  """One split, decoded and resized: arrays (n, H, W, C) by name, the examples' ids, and the signals."""

  arrays: dict[str, np.ndarray]
  ids: list[str]
  spec: DataSpec

  def __len__(self) -> int:
    return len(self.ids)

  def channels(self, name: str) -> int:
    """The number of channels of an encoded array."""
    return 1 if name == "mask" else (self.spec.input if name == "input" else self.spec.target).channels

  def encode(self, name: str, raw: np.ndarray) -> np.ndarray:
    """Raw values of `input` or `target` → [-1, 1]; a `mask` → 0 and 1. float32."""
    if name == "mask":
      return raw.astype(np.float32)
    return (self.spec.input if name == "input" else self.spec.target).encode(raw)


def load_split(
  source: Source, split: str, shape: tuple[int, int], *, cache_gib: float, limit: int | None = None
) -> Split:
  """Decodes a split once, resized to `shape` (height, width).

  Targets whose signal has holes get a `mask` of the pixels that were measured within the range.

  Args:
    source: source of the examples.
    split: name of the split.
    shape: (height, width).
    cache_gib: above this many GiB, the arrays are memory-mapped files beside the prepared data.
    limit: number of examples to load, from the first; None: all.

  Raises:
    UsageError: the source has no such split.
  """
  spec = source.spec
  if split not in spec.counts:
    raise UsageError(
      f"The data has no split {split!r}, only {', '.join(spec.counts)}. "
      "Choose one of them, or add the raw files of the other to data.source_dir."
    )
  count = min(spec.counts[split], limit or spec.counts[split])
  stored = dict(source.stored)
  if spec.target.has_holes:
    stored["mask"] = (np.dtype(bool), 1)
  shapes = {name: (count, *shape, channels) for name, (_, channels) in stored.items()}
  resampling = {"input": spec.input.resampling, "target": spec.target.resampling, "mask": "nearest"}

  def resize(example):
    return {name: value if name == "id" else _resize(value, shape, resampling[name]) for name, value in example.items()}

  dataset = source.examples(split).take(count)
  dataset = dataset.map(resize, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  size = sum(np.prod(shapes[name]) * dtype.itemsize for name, (dtype, _) in stored.items())
  if source.folder is None or size <= cache_gib * 2**30:
    arrays = {name: np.empty(shapes[name], dtype) for name, (dtype, _) in stored.items()}
    return Split(arrays, _fill(arrays, dataset, spec), spec)
  key = hashlib.sha256(repr((CACHE_REVISION, split, shapes, spec.input, spec.target)).encode()).hexdigest()[:16]
  folder = source.folder / f"decoded_{key}"
  if not folder.is_dir():
    _decode_to_disk(folder, {name: (shapes[name], dtype) for name, (dtype, _) in stored.items()}, dataset, spec)
  ids = json.loads((folder / "ids.json").read_text(encoding="utf-8"))
  return Split({name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in stored}, ids, spec)


def _decode_to_disk(
  folder: Path, forms: dict[str, tuple[tuple[int, ...], np.dtype]], dataset: tf.data.Dataset, spec: DataSpec
) -> None:
  """Fills memory-mapped files in a temporary folder, which is renamed to `folder` when it is complete."""
  part = Path(tempfile.mkdtemp(prefix=f".{folder.name}_", dir=folder.parent))
  try:
    arrays = {
      name: np.lib.format.open_memmap(part / f"{name}.npy", "w+", dtype, shape)
      for name, (shape, dtype) in forms.items()
    }
    ids = _fill(arrays, dataset, spec)
    for array in arrays.values():
      array.flush()
    (part / "ids.json").write_text(json.dumps(ids), encoding="utf-8")
    try:
      os.rename(part, folder)
    except OSError:
      if not folder.is_dir():  # otherwise another process was faster, with the same content
        raise
  finally:
    shutil.rmtree(part, ignore_errors=True)


def _fill(arrays: Mapping[str, np.ndarray], dataset: tf.data.Dataset, spec: DataSpec) -> list[str]:
  """Writes the examples into `arrays` and returns their ids."""
  ids: list[str] = []
  for example in dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
    if "mask" in arrays:
      example["mask"] = spec.target.valid(example["target"]) & example.get("mask", True)
    for name, array in arrays.items():
      array[len(ids)] = example[name]
    ids.append(example["id"].decode())
  return ids


def _resize(image: tf.Tensor, shape: tuple[int, int], resampling: str) -> tf.Tensor:
  """Anti-aliased bicubic with rounding; nearest neighbour for values that must not be blended; or the anti-aliased mean
  of the values that are not NaN, which stays NaN where less than half of the area has one.
  """
  if resampling == "area":
    valid = tf.math.is_finite(image)
    weight = tf.image.resize(tf.cast(valid, tf.float32), shape, "bilinear", antialias=True)
    total = tf.image.resize(tf.where(valid, image, 0), shape, "bilinear", antialias=True)
    return tf.where(weight >= 0.5, total / tf.maximum(weight, 0.5), np.nan)
  if resampling == "nearest":
    return tf.cast(tf.image.resize(tf.cast(image, tf.float32), shape, "nearest"), image.dtype)
  resized = tf.image.resize(image, shape, "bicubic", antialias=True)
  return tf.cast(tf.clip_by_value(tf.round(resized), 0, image.dtype.max), image.dtype)


def train_batches(
  split: Split, data: Any, *, batch_size: int, seed: int, start_step: int = 0
) -> Iterator[dict[str, np.ndarray]]:
  """Yields endless batches from `start_step` on: this process's rows of each, float32 in [-1, 1].

  Args:
    split: the split at the load shape.
    data: the config's `data` section.
    batch_size: number of pairs over all processes.
    seed: seed of the order and the jitter.
    start_step: number of batches to skip, which an earlier start has used.

  Raises:
    UsageError: the crop is larger than the images.
  """
  crop = config_lib.crop_shape(data)
  height, width = next(iter(split.arrays.values())).shape[1:3]
  if crop[0] > height or crop[1] > width:
    raise UsageError(
      f"data.crop_size {crop} (height, width) is larger than data.load_size {(height, width)}; "
      "load larger images or crop smaller ones."
    )
  names = list(split.arrays)
  local = batch_size // jax.process_count()
  first_row = local * jax.process_index()
  draw = _draws(len(split), (height, width), crop, seed, shuffle=data.shuffle, mirror=data.mirror)

  def read(index, y, x, mirrored):
    crops = (split.arrays[name][index, y : y + crop[0], x : x + crop[1]] for name in names)
    return tuple(
      split.encode(name, image[:, ::-1] if mirrored else image) for name, image in zip(names, crops, strict=True)
    )

  def make_example(i):
    images = tf.numpy_function(read, draw(i), [tf.float32] * len(names), stateful=False)
    return {
      name: tf.ensure_shape(image, (*crop, split.channels(name))) for name, image in zip(names, images, strict=True)
    }

  steps = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
  rows = steps.flat_map(lambda step: tf.data.Dataset.range(local).map(lambda row: step * batch_size + first_row + row))
  dataset = rows.map(make_example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  return dataset.batch(local, drop_remainder=True).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def _draws(
  count: int, size: tuple[int, int], crop: tuple[int, int], seed: int, *, shuffle: bool, mirror: bool
) -> Callable[[tf.Tensor], list[tf.Tensor]]:
  """A function from an example's number in the sequence to (index, y, x, mirrored); it depends only on the seed."""
  order, jitter = prng.data_seed(seed, "order"), prng.data_seed(seed, "jitter")
  room = tf.constant([size[0] - crop[0] + 1, size[1] - crop[1] + 1], tf.float32)

  def draw(i):
    epoch, index = i // count, i % count
    if shuffle:
      epoch_seed = tf.cast(tf.stack([order, epoch]), tf.uint32)
      index = tf.random.experimental.index_shuffle(index, epoch_seed, count - 1)
    uniform = tf.random.stateless_uniform([3], tf.stack([tf.cast(jitter, tf.int64), i]))
    y, x = tf.unstack(tf.cast(uniform[:2] * room, tf.int64))
    return [index, y, x, (uniform[2] < 0.5) & mirror]

  return draw


def eval_batches(split: Split, *, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
  """Yields every example once, in order, without jitter.

  The last batch is padded with repetitions of the last example. `is_real` (N,) is False for those rows, and `index`
  (N,) numbers the examples.
  """
  for start in range(0, len(split), batch_size):
    rows = np.arange(start, start + batch_size)
    index = np.minimum(rows, len(split) - 1)
    batch = {name: split.encode(name, array[index]) for name, array in split.arrays.items()}
    yield {**batch, "index": index.astype(np.int32), "is_real": rows < len(split)}


def to_devices(
  batches: Iterator[dict[str, np.ndarray]], sharding: jax.sharding.Sharding, ahead: int = 2
) -> Iterator[dict[str, jax.Array]]:
  """Sends batches to the devices, `ahead` batches early; each process contributes its rows of the global batch."""
  queue: collections.deque[dict[str, jax.Array]] = collections.deque()
  for batch in batches:
    queue.append({name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()})
    if len(queue) > ahead:
      yield queue.popleft()
  yield from queue
