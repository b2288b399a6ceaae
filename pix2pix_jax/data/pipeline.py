"""The tf.data pipeline: the only place that resizes, crops, mirrors or normalises.

Prepared shards are decoded and resized once, into arrays in memory or, beyond a budget, in a memory-mapped file. Row r of the
batch at step n is example `i = n · batch_size + r` of an endless sequence; its place in the epoch's permutation, its
crop and its mirroring are stateless functions of (seed, i). A resumed run therefore repeats nothing and skips nothing, and
the batches do not depend on how many processes read them.
"""

import collections
from collections.abc import Iterator
import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from pix2pix_jax.data import images
from pix2pix_jax.data import prepare as datasets
from pix2pix_jax.errors import UsageError

tf.config.set_visible_devices([], "GPU")  # TensorFlow would otherwise take the memory of every GPU


@dataclasses.dataclass(frozen=True)
class Split:
  """One split, decoded and resized: arrays (n, H, W, C) by name, and the examples' ids."""

  arrays: dict[str, np.ndarray]
  ids: list[str]

  def __len__(self) -> int:
    return len(self.ids)


class PreparedSource:
  """Examples of a prepared TFDS builder.

  Attributes:
    counts: examples by split.
    kinds: (dtype, channels) of `input`, `target` and, if there is one, `mask`.
    folder: where decoded pictures may be kept.
  """

  def __init__(self, builder: tfds.core.DatasetBuilder):
    self._builder = builder
    self.counts = {name: info.num_examples for name, info in builder.info.splits.items()}
    self.kinds = {
      name: (np.dtype(feature.np_dtype), feature.shape[-1])
      for name, feature in builder.info.features.items()
      if name != "id"
    }
    self.folder = Path(builder.data_dir)

  def examples(self, split: str) -> tf.data.Dataset:
    """Every example once, in the order of the raw files: `input`, `target`, `mask` (H, W, C) and `id`."""
    return self._builder.as_dataset(
      split=split,
      shuffle_files=False,
      read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False, add_tfds_id=False),
    )


class ArraySource:
  """The same for pairs of arrays (n, H, W, C) in memory: split → (inputs, targets)."""

  def __init__(self, splits: dict[str, tuple[np.ndarray, np.ndarray]]):
    self._splits = splits
    self.counts = {name: len(inputs) for name, (inputs, _) in splits.items()}
    self.kinds = {name: (array.dtype, array.shape[-1]) for name, array in zip(("input", "target"), splits["train"])}
    self.folder = None

  def examples(self, split: str) -> tf.data.Dataset:
    inputs, targets = self._splits[split]
    signature = {
      name: tf.TensorSpec(array.shape[1:], array.dtype) for name, array in (("input", inputs), ("target", targets))
    }
    return tf.data.Dataset.from_generator(
      lambda: ({"input": x, "target": y, "id": f"{split}_{i:05d}"} for i, (x, y) in enumerate(zip(inputs, targets))),
      output_signature={**signature, "id": tf.TensorSpec((), tf.string)},
    )


Source = PreparedSource | ArraySource


def load_split(
  source: Source,
  split: str,
  shape: tuple[int, int],
  *,
  cache_gib: float,
  depth_range: tuple[float, float] = (0.0, np.inf),
  limit: int | None = None,
) -> Split:
  """Decodes a split, or its first `limit` examples, and resizes it to `shape` (height, width).

  Arrays that together exceed `cache_gib` GiB lie in memory-mapped files beside the prepared shards. Depth targets get a
  `mask`, or keep theirs, without what `depth_range` (metres) cannot express.
  """
  if split not in source.counts:
    raise UsageError(
      f"There is no split {split!r} in this data; it has {', '.join(source.counts)}. "
      "Choose one of them, or add the raw files of the other to data.source_dir."
    )
  count = min(source.counts[split], limit or source.counts[split])
  kinds = dict(source.kinds)
  if kinds["target"][0] == np.float32:
    kinds["mask"] = (np.dtype(bool), 1)
  shapes = {name: (count, *shape, channels) for name, (_, channels) in kinds.items()}

  def decode(example):
    pictures = {name: _resize(picture, shape) for name, picture in example.items() if name != "id"}
    if "mask" in kinds:
      target = pictures["target"]
      measured = (target > 0) & (target >= depth_range[0]) & (target <= depth_range[1])
      pictures["mask"] = pictures.get("mask", True) & tf.reduce_all(measured, -1, keepdims=True)
    return {**pictures, "id": example["id"]}

  dataset = source.examples(split).take(count).map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  if (
    source.folder is None
    or sum(np.prod(shapes[name]) * dtype.itemsize for name, (dtype, _) in kinds.items()) <= cache_gib * 2**30
  ):
    arrays = {name: np.empty(shapes[name], dtype) for name, (dtype, _) in kinds.items()}
    return Split(arrays, _fill(arrays, dataset))
  key = hashlib.sha256(repr((split, shapes, depth_range)).encode()).hexdigest()[:16]
  folder = source.folder / f"decoded_{key}"
  if not (folder / "ids.txt").exists():  # written last
    folder.mkdir(exist_ok=True)
    arrays = {
      name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shapes[name])
      for name, (dtype, _) in kinds.items()
    }
    ids = _fill(arrays, dataset)
    for array in arrays.values():
      array.flush()
    (folder / "ids.part").write_text("\n".join(ids))
    (folder / "ids.part").rename(folder / "ids.txt")
  return Split(
    {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in kinds},
    (folder / "ids.txt").read_text().split("\n"),
  )


def _fill(arrays: dict[str, np.ndarray], dataset: tf.data.Dataset) -> list[str]:
  ids = []
  for example in dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
    for name, array in arrays.items():
      array[len(ids)] = example[name]
    ids.append(example["id"].decode())
  return ids


def _resize(picture: tf.Tensor, shape: tuple[int, int]) -> tf.Tensor:
  """Anti-aliased bicubic for integers (pictures); nearest neighbour for float32 (depth) and bool (masks), which must not be blended."""
  if picture.dtype in (tf.float32, tf.bool):
    return tf.cast(tf.image.resize(tf.cast(picture, tf.float32), shape, "nearest"), picture.dtype)
  resized = tf.image.resize(picture, shape, "bicubic", antialias=True)
  return tf.cast(tf.clip_by_value(tf.round(resized), 0, picture.dtype.max), picture.dtype)


def train_batches(
  split: Split, data: Any, *, batch_size: int, seed: int, start_step: int = 0
) -> Iterator[dict[str, np.ndarray]]:
  """Endless batches from `start_step` on, this process's rows of each, float32 in [-1, 1].

  Args:
    split: at the load shape.
    data: the config's `data` section.
    batch_size: of all processes together.
    seed: decides order and jitter.
  """
  crop = datasets.crop_shape(data)
  height, width = next(iter(split.arrays.values())).shape[1:3]
  if crop[0] > height or crop[1] > width:
    raise UsageError(
      f"data.crop_size {crop} (height, width) is larger than data.load_size {(height, width)}; load larger pictures or crop smaller."
    )
  count, names = len(split), list(split.arrays)
  local = batch_size // jax.process_count()
  first_row = local * jax.process_index()
  room = tf.constant([height - crop[0] + 1, width - crop[1] + 1], tf.float32)

  def read(index, y, x, mirrored):
    crops = (split.arrays[name][index, y : y + crop[0], x : x + crop[1]] for name in names)
    crops = (picture[:, ::-1] if mirrored else picture for picture in crops)
    return tuple(images.normalise(picture, data.depth_range) for picture in crops)

  def make_example(i):
    epoch, place = i // count, i % count
    index = place
    if data.shuffle:
      index = tf.random.experimental.index_shuffle(place, tf.cast(tf.stack([seed, epoch]), tf.uint32), count - 1)
    draws = tf.random.stateless_uniform([3], tf.stack([tf.cast(seed, tf.int64), i]))
    y, x = tf.unstack(tf.cast(draws[:2] * room, tf.int64))
    pictures = tf.numpy_function(
      read, [index, y, x, (draws[2] < 0.5) & data.mirror], [tf.float32] * len(names), stateful=False
    )
    return {
      name: tf.ensure_shape(picture, (*crop, split.arrays[name].shape[-1])) for name, picture in zip(names, pictures)
    }

  steps = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
  rows = steps.flat_map(lambda step: tf.data.Dataset.range(local).map(lambda row: step * batch_size + first_row + row))
  dataset = rows.map(make_example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).batch(
    local, drop_remainder=True
  )
  return dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def eval_batches(split: Split, data: Any, *, batch_size: int) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
  """Every example exactly once, in order, without jitter: (batch, which of its rows count).

  The last batch is filled up with repetitions of the last example, which do not count. `index` numbers the examples.
  """
  for start in range(0, len(split), batch_size):
    rows = np.arange(start, start + batch_size)
    index = np.minimum(rows, len(split) - 1)
    batch = {name: images.normalise(array[index], data.depth_range) for name, array in split.arrays.items()}
    yield {**batch, "index": index.astype(np.int32)}, rows < len(split)


def to_devices(
  batches: Iterator[dict[str, np.ndarray]], sharding: jax.sharding.Sharding, ahead: int = 2
) -> Iterator[dict[str, jax.Array]]:
  """Sends batches to the devices, `ahead` of their use; each process gives its rows of the global batch."""
  queue = collections.deque()
  for batch in batches:
    queue.append({name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()})
    if len(queue) > ahead:
      yield queue.popleft()
  yield from queue
