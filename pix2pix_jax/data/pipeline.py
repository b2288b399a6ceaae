"""The pipeline: the only place that resizes, crops, mirrors and encodes.

Prepared examples are decoded and resized once, into arrays in memory, whose batches threads cut out; or beyond a budget
whenever they are used, by tf.data, with the same bits. TensorFlow takes seconds to load, and loads only then. Row r
of the batch at step n is example `i = n · batch_size + r` of an endless sequence; its place in the epoch's
permutation, its crop and its mirroring are stateless functions of (seed, i). A resumed run therefore repeats nothing
and skips nothing, and batches do not depend on the number of processes that read them.
"""

import abc
import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import concurrent.futures
import functools
import itertools
import os
from typing import Any

import jax
import numpy as np

from pix2pix_jax import config as config_lib
from pix2pix_jax import output, prng
from pix2pix_jax.data import augmentation, draws, parallel
from pix2pix_jax.data.augmentation import Change
from pix2pix_jax.data.resizing import Window, resize, resize_raw
from pix2pix_jax.data.source import ArraySource, PreparedSource, Source, import_tensorflow
from pix2pix_jax.errors import UsageError, few
from pix2pix_jax.signals import DataSpec

__all__ = [
  "ArraySource",
  "MemorySplit",
  "PreparedSource",
  "Source",
  "Split",
  "eval_batches",
  "load_split",
  "to_devices",
  "train_batches",
  "train_draws",
]


MAX_SHAPES = 8  # of evaluation batches, each of which is compiled


class Split(abc.ABC):
  """One split, at one size or with images of their own sizes.

  Attributes:
    spec: signals of both sides.
    ids: ids of the examples.
    sizes: (n, 2): height and width of every example.
    names: of its arrays: `input`, `target` and, where the target has holes, `mask`.
  """

  spec: DataSpec
  ids: list[str]
  sizes: np.ndarray
  names: tuple[str, ...]

  @abc.abstractmethod
  def read(self, index: int, window: Window | None = None) -> dict[str, np.ndarray]:
    """The raw arrays of an example (H, W, C), or their parts in a window: (first row, first column, height, width).

    May be called in several threads.
    """

  def __len__(self) -> int:
    return len(self.sizes)

  @property
  def is_mixed(self) -> bool:
    """Whether the images differ in size."""
    return bool((self.sizes != self.sizes[0]).any())

  def channels(self, name: str) -> int:
    """The number of channels of an encoded array."""
    return 1 if name == "mask" else (self.spec.input if name == "input" else self.spec.target).channels

  def encode(self, name: str, raw: np.ndarray) -> np.ndarray:
    """Raw values of `input` or `target` → [-1, 1]; a `mask` → 0 and 1. float32."""
    if name == "mask":
      return raw.astype(np.float32)
    return (self.spec.input if name == "input" else self.spec.target).encode(raw)

  def read_encoded(self, index: int) -> dict[str, np.ndarray]:
    """The whole arrays of an example in [-1, 1]."""
    return {name: self.encode(name, raw) for name, raw in self.read(index).items()}


class MemorySplit(Split):
  """A split that is decoded and resized: arrays (n, H, W, C) by name, or lists of (H, W, C) of different sizes."""

  def __init__(self, arrays: Mapping[str, Sequence[np.ndarray]], ids: list[str], spec: DataSpec):
    self.arrays, self.ids, self.spec = arrays, ids, spec
    self.names = tuple(arrays)
    self.sizes = np.array([array.shape[:2] for array in next(iter(arrays.values()))])

  def read(self, index: int, window: Window | None = None) -> dict[str, np.ndarray]:
    y, x, height, width = window or (0, 0, *self.sizes[index])
    return {name: array[index][y : y + height, x : x + width] for name, array in self.arrays.items()}


class StreamedSplit(Split):
  """A split that is decoded and resized as it is read, with the same results."""

  def __init__(self, source: Source, split: str, sizes: np.ndarray):
    self._source, self._split, self.sizes, self.spec = source, split, sizes, source.spec
    self.names = tuple(_forms(source))

  @functools.cached_property
  def ids(self) -> list[str]:  # type: ignore[override]
    return self._source.ids(self._split)[: len(self)]

  def read(self, index: int, window: Window | None = None) -> dict[str, np.ndarray]:
    shape = (int(self.sizes[index][0]), int(self.sizes[index][1]))
    raw = self._source.read(self._split, index)
    example = {
      name: resize_raw(signal, raw[name], shape, window)
      for name, signal in (("input", self.spec.input), ("target", self.spec.target))
    }
    if "mask" in raw:
      example["mask"] = resize(raw["mask"], shape, "nearest", window)
    if self.spec.target.has_holes:
      valid = self.spec.target.valid(example["target"])
      assert valid is not None
      example["mask"] = valid & example.get("mask", True)
    return example


def _forms(source: Source) -> dict[str, tuple[np.dtype, int]]:
  """(dtype, channels) of the raw arrays of an example by name."""
  mask = {"mask": (np.dtype(bool), 1)} if source.spec.target.has_holes else {}
  return {**source.stored, **mask}


def load_split(
  source: Source, split: str, shape: tuple[int, int] | None, *, cache_gib: float, limit: int | None = None
) -> Split:
  """A split, resized to `shape` (height, width): decoded once to memory, or whenever it is read.

  Targets whose signal has holes get a `mask` of the pixels that were measured within the range.

  Args:
    source: source of the examples.
    split: name of the split.
    shape: (height, width); None: every image keeps its own size.
    cache_gib: a prepared split that takes more GiB in memory is decoded as it is read.
    limit: number of examples to load, from the first; None: all.

  Raises:
    UsageError: the source has no such split, or (without a shape) an input and target of different sizes.
  """
  if split not in source.spec.counts:
    raise UsageError(f"The data has no split {split!r}, only {', '.join(source.spec.counts)}. Choose one of them.")
  count = min(source.spec.counts[split], limit or source.spec.counts[split])
  sizes = np.tile(shape, (count, 1)) if shape else source.sizes(split)[:count]
  streamed = StreamedSplit(source, split, sizes)
  forms = _forms(source)
  pixel = sum(dtype.itemsize * channels for dtype, channels in forms.values())
  if source.folder is not None and pixel * int(sizes.prod(1).sum()) > cache_gib * 2**30:
    return streamed
  arrays: dict[str, Any] = {name: [None] * count for name in forms}
  if not streamed.is_mixed:
    arrays = {name: np.empty((count, *sizes[0], channels), dtype) for name, (dtype, channels) in forms.items()}
  for index, example in enumerate(parallel.in_order(streamed.read, range(count))):
    for name, array in arrays.items():
      array[index] = example[name]
  return MemorySplit(arrays, streamed.ids, source.spec)


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
    UsageError: the crop is larger than an image.
  """
  crop = config_lib.crop_shape(data)
  _check_crop(split, crop, data)
  draw = _draws(len(split), seed, shuffle=data.shuffle, augmented=augmentation.is_active(data))

  def make_example(i: int) -> dict[str, np.ndarray]:
    index, jitter, *more = draw(i)
    change = Change.draw(data, *more) if more else Change()
    read_window = functools.partial(split.read, index)
    example = augmentation.crop(read_window, change, split.spec, split.sizes[index], jitter[:2], crop)
    if data.mirror and jitter[2] < 0.5:
      example = {name: array[:, ::-1] for name, array in example.items()}
    encoded = {name: split.encode(name, example[name]) for name in split.names}
    encoded["input"] = change.recolor(encoded["input"], split.spec.input)
    return encoded

  if isinstance(split, MemorySplit):
    return _endless(make_example, batch_size, start_step)
  shapes = {name: (*crop, split.channels(name)) for name in split.names}
  return _endless_decoded(make_example, shapes, batch_size, start_step)


def _endless(make_example: Callable[[int], Any], batch_size: int, start_step: int) -> Iterator[Any]:
  """This process's rows of batches from `start_step` on. A function makes examples of their numbers, in threads."""
  rows = own_rows(batch_size)
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:

    def make_batch(step: int) -> Any:
      examples = pool.map(make_example, range(step * batch_size + rows.start, step * batch_size + rows.stop))
      return jax.tree.map(lambda *arrays: np.stack(arrays), *examples)

    yield from parallel.in_order(make_batch, itertools.count(start_step), workers=1)


def _endless_decoded(
  make_example: Callable[[int], dict[str, np.ndarray]],
  shapes: dict[str, tuple[int, int, int]],
  batch_size: int,
  start_step: int,
) -> Iterator[dict[str, np.ndarray]]:
  """The same by tf.data, for examples that are decoded whenever they are used."""
  tf, rows = import_tensorflow(), own_rows(batch_size)

  def read(i):
    images = tf.numpy_function(
      lambda number: tuple(make_example(int(number)).values()), [i], [tf.float32] * len(shapes), stateful=False
    )
    return {name: tf.ensure_shape(image, shape) for (name, shape), image in zip(shapes.items(), images, strict=True)}

  steps = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
  numbers = steps.flat_map(
    lambda step: tf.data.Dataset.range(rows.start, rows.stop).map(lambda row: step * batch_size + row)
  )
  dataset = numbers.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  return dataset.batch(rows.stop - rows.start, drop_remainder=True).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def train_draws(split: Split, data: Any, *, batch_size: int, seed: int, start_step: int = 0) -> Iterator[np.ndarray]:
  """Yields what defines the batches of `train_batches`: int32 (rows, 4), each row an example's index, the first row and
  column of its crop, and 1 if it is mirrored.

  The arguments are those of `train_batches`; there must be no augmentation.

  Raises:
    UsageError: the crop is larger than an image.
  """
  crop = config_lib.crop_shape(data)
  _check_crop(split, crop, data)
  draw = _draws(len(split), seed, shuffle=data.shuffle, augmented=False)
  for index, jitter in _endless(draw, batch_size, start_step):
    corner = augmentation.corner(jitter[:, :2], split.sizes[index], crop)
    yield np.column_stack([index, corner, jitter[:, 2] < 0.5 if data.mirror else index * 0]).astype(np.int32)


def train_ids(split: Split, data: Any, *, batch_size: int, seed: int, step: int) -> list[str]:
  """The ids of the pairs in a batch of `train_batches`, of which `step` were before it."""
  draw = _draws(len(split), seed, shuffle=data.shuffle, augmented=False)
  numbers = range(step * batch_size, (step + 1) * batch_size)
  return [split.ids[draw(i)[0]] for i in numbers]


def _check_crop(split: Split, crop: tuple[int, int], data: Any) -> None:
  needed = (max(crop), max(crop)) if data.rotate_right_angles else crop
  too_small = np.flatnonzero((split.sizes < needed).any(1))
  if not too_small.size:
    return
  turned = " in one of the directions of data.rotate_right_angles" if needed != crop else ""
  if load := config_lib.load_shape(data):
    raise UsageError(
      f"data.crop_size {crop} (height, width) is larger than data.load_size {load}{turned}; load larger images or crop "
      "smaller ones."
    )
  names = few(f"{split.ids[i]} ({split.sizes[i][1]}×{split.sizes[i][0]})" for i in too_small)
  count = output.counted(too_small.size, "training image")
  raise UsageError(
    f"data.load_size=0 crops {crop[1]}×{crop[0]} from images of their own sizes, but {count} "
    f"{'is' if too_small.size == 1 else 'are'} smaller{turned}: {names} (width × height). Leave them out, lower "
    "data.crop_size, or set data.load_size to resize all images."
  )


def _draws(count: int, seed: int, *, shuffle: bool, augmented: bool) -> Callable[[int], tuple[int, *tuple[Any, ...]]]:
  """A function from an example's number in the sequence to its index, three uniform numbers, for row, column and
  mirroring, and if `augmented` those for further changes; it depends only on the seed.
  """
  order = prng.data_seed(seed, "order")
  streams = {"jitter": 3, "augmentation": augmentation.DRAWS} if augmented else {"jitter": 3}
  seeds = {prng.data_seed(seed, name): count for name, count in streams.items()}

  def draw(i):
    epoch, index = divmod(i, count)
    if shuffle:
      index = draws.shuffled(index, (order, epoch & 0xFFFFFFFF), count)
    return (index, *(draws.uniform(n, (stream, i)) for stream, n in seeds.items()))

  return draw


def eval_batches(
  split: Split, *, batch_size: int, multiple: int = 1, room: int = 0, rows: slice = slice(None)
) -> Iterator[dict[str, np.ndarray]]:
  """Yields every example once, without jitter; in order, unless they differ in size.

  Batches have `room` rows (0: `batch_size`), of which at most `batch_size` are examples; the others repeat the last of
  them. `is_real` (N,) is False for those rows, and `index` (N,) numbers the examples. These two are always of all N
  rows; the other arrays are of the chosen `rows` alone (`own_rows`, if several processes share the work).

  Images whose sides are not multiples of `multiple`, or that come in many sizes, are padded at the bottom and right by
  reflection to at most `MAX_SHAPES` shapes. Such batches have `inside` (N, H, W, 1), which is 0 in the padding.
  """
  shapes = _padded_shapes(split.sizes, multiple)
  for shape in np.unique(shapes, axis=0):
    members = np.flatnonzero((shapes == shape).all(1))
    is_padded = bool((split.sizes[members] != shape).any())
    for start in range(0, len(members), batch_size):
      numbers = np.arange(start, start + max(room, batch_size))
      end = min(start + batch_size, len(members))
      index = members[np.minimum(numbers, end - 1)]
      examples = list(parallel.in_order(split.read_encoded, index[rows]))
      if is_padded:
        examples = [_pad(example, shape) for example in examples]
      batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
      yield {**batch, "index": index.astype(np.int32), "is_real": numbers < end}


def own_rows(batch_size: int) -> slice:
  """The rows of a batch that this process reads."""
  local = batch_size // jax.process_count()
  return slice(local * jax.process_index(), local * (jax.process_index() + 1))


def _padded_shapes(sizes: np.ndarray, multiple: int) -> np.ndarray:
  """(n, 2): the sizes rounded up to multiples, which are doubled until there are few shapes."""
  shapes = -(-sizes // multiple) * multiple
  return shapes if len(np.unique(shapes, axis=0)) <= MAX_SHAPES else _padded_shapes(sizes, 2 * multiple)


def _pad(example: dict[str, np.ndarray], shape: np.ndarray) -> dict[str, np.ndarray]:
  """Reflects encoded arrays at the bottom and right; a mask gets zeros. Adds `inside`."""
  height, width = example["input"].shape[:2]
  beyond = [(0, shape[0] - height), (0, shape[1] - width), (0, 0)]
  example = {**example, "inside": np.ones((height, width, 1), np.float32)}
  return {
    name: np.pad(array, beyond) if name in ("mask", "inside") else np.pad(array, beyond, mode="reflect")
    for name, array in example.items()
  }


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
