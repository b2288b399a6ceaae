"""Sources of examples: prepared data on disk, or arrays in memory."""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import functools
import os
from pathlib import Path
import sys
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from pix2pix_jax.data import parallel
from pix2pix_jax.data.encoding import Record
from pix2pix_jax.errors import UsageError
from pix2pix_jax.signals import DataSpec


@functools.cache
def import_tensorflow() -> Any:
  """The module `tensorflow`. It takes seconds to load, so only what cannot do without it asks for it.

  Keeps it, because it only moves data here, from reserving the memory of every GPU. It does not hide the GPUs, because
  the caller may use TensorFlow for something else.
  """
  import tensorflow as tf

  for gpu in tf.config.list_physical_devices("GPU"):
    try:
      tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError:  # TensorFlow is already in use, with settings that are the caller's
      break
  return tf


class Damaged(UsageError):
  """Prepared data that is not whole.

  Attributes:
    why: the part of the message that says what is wrong.
  """

  def __init__(self, folder: Path, why: str):
    super().__init__(f"The prepared data in {folder} is damaged: {why}. Delete this folder; it will be prepared again.")
    self.why = why


def first_line(error: Exception) -> str:
  """The gist of an error of a library in C++, whose messages are long."""
  return " ".join(str(error).split(";")[0].split())[:150] or type(error).__name__


class PreparedSource:
  """Examples of a prepared TFDS builder, read and decoded at random.

  Attributes:
    spec: signals of both sides, and the number of pairs per split.
    stored: (dtype, channels) of the stored arrays: `input`, `target` and, if there is one, `mask`.
    folder: where a summary may be stored.
  """

  def __init__(self, builder: tfds.core.DatasetBuilder, spec: DataSpec):
    self._builder, self.spec = builder, spec
    self.stored = {
      name: (np.dtype(feature.np_dtype), feature.shape[-1])
      for name, feature in builder.info.features.items()
      if name != "id"
    }
    self.folder: Path = Path(builder.data_dir)
    self._opened: dict[str, Sequence[bytes]] = {}

  def _records(self, split: str) -> Sequence[bytes]:
    """The serialized examples of a split, in the order of the raw files; to be used where errors are named."""
    if split not in self._opened:
      info = self._builder.info.splits[split]
      paths = [os.fspath(path) for path in info.filepaths]
      if file_format() == "array_record":
        from array_record.python import array_record_data_source

        self._opened[split] = array_record_data_source.ArrayRecordDataSource(paths)
      else:
        self._opened[split] = list(import_tensorflow().data.TFRecordDataset(paths).as_numpy_iterator())
      if (count := len(self._opened[split])) != info.num_examples:
        raise Damaged(self.folder, f"{split} has {count} of {info.num_examples} records")
    return self._opened[split]

  @contextlib.contextmanager
  def _damage_named(self) -> Iterator[None]:
    """Turns what the libraries raise if a checksum is wrong into an error that names the folder."""
    try:
      yield
    except RuntimeError as error:  # of ArrayRecord
      raise Damaged(self.folder, first_line(error)) from error
    except Exception as error:
      if file_format() == "tfrecord" and isinstance(error, import_tensorflow().errors.OpError):
        raise Damaged(self.folder, first_line(error)) from error
      raise

  def _record(self, split: str, index: int) -> Record:
    with self._damage_named():
      content = self._records(split)[index]
    return Record.parse(content)

  def _count(self, split: str) -> int:
    with self._damage_named():
      return len(self._records(split))

  def read(self, split: str, index: int) -> dict[str, np.ndarray]:
    """The decoded arrays of an example: `input`, `target`, `mask` (H, W, C). May be called in several threads.

    Raises:
      Damaged: the shards are.
    """
    return self._record(split, index).arrays()

  def ids(self, split: str) -> list[str]:
    """The ids of all examples; their arrays are read, but not decoded."""
    return [record.id for record in self._all(split)]

  def sizes(self, split: str) -> np.ndarray:
    """(n, 2): height and width of every example; its arrays are read, but not decoded.

    Raises:
      UsageError: an input and target of different sizes.
    """
    found = []
    for record in self._all(split):
      sizes = record.sizes()
      if sizes["input"] != sizes["target"]:
        (height, width), (other_height, other_width) = sizes["input"], sizes["target"]
        raise UsageError(
          f"The input of {record.id} in {split} is {width}×{height} but its target {other_width}×{other_height} (width "
          "× height), and data.load_size=0 crops both at the same place. Resize one of them, or set data.load_size."
        )
      found.append(sizes["input"])
    return np.array(found)

  def _all(self, split: str) -> Iterator[Record]:
    return (self._record(split, index) for index in range(self._count(split)))

  def pairs(self, split: str, step: int = 1) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(id, input, target) of every example, or every `step`-th one, in the order of the raw files."""

    def decode(index: int) -> tuple[str, np.ndarray, np.ndarray]:
      record = self._record(split, index)
      arrays = record.arrays()
      return record.id, arrays["input"], arrays["target"]

    return parallel.in_order(decode, range(0, self._count(split), step))


def file_format() -> str:
  """The format of prepared files: ArrayRecord, which is read at random; on Windows, for which its library is not
  published, TFRecord, whose records are kept in memory, still encoded.
  """
  return "tfrecord" if sys.platform == "win32" else "array_record"


class ArraySource:
  """The same for pairs of arrays (n, H, W, C) in memory: split → (inputs, targets), as `Signal.store` returns them.

  The counts of `spec` are replaced by those of the arrays.
  """

  def __init__(self, splits: dict[str, tuple[np.ndarray, np.ndarray]], spec: DataSpec):
    counts = {name: len(inputs) for name, (inputs, _) in splits.items()}
    self._splits, self.spec = splits, dataclasses.replace(spec, counts=counts)
    first = next(iter(splits.values()))
    self.stored = {name: (array.dtype, array.shape[-1]) for name, array in zip(("input", "target"), first, strict=True)}
    self.folder: Path | None = None

  def read(self, split: str, index: int) -> dict[str, np.ndarray]:
    """The arrays of an example: `input` and `target` (H, W, C)."""
    inputs, targets = self._splits[split]
    return {"input": inputs[index], "target": targets[index]}

  def ids(self, split: str) -> list[str]:
    """The ids of all examples."""
    return [f"{split}_{index:05d}" for index in range(self.spec.counts[split])]

  def sizes(self, split: str) -> np.ndarray:
    """(n, 2): height and width of every example."""
    inputs, _ = self._splits[split]
    return np.tile(inputs.shape[1:3], (len(inputs), 1))

  def pairs(self, split: str, step: int = 1) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(id, input, target) of every example, or every `step`-th one, in order."""
    inputs, targets = self._splits[split]
    return zip(self.ids(split)[::step], inputs[::step], targets[::step], strict=True)


Source = PreparedSource | ArraySource


def user_cache() -> Path:
  """The user's cache directory."""
  return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pix2pix_jax"
