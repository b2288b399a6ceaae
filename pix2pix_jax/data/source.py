"""Sources of examples: prepared data on disk, or arrays in memory."""

from collections.abc import Callable, Iterator
import dataclasses
import os
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from pix2pix_jax.signals import DataSpec


def share_gpus() -> None:
  """Keeps TensorFlow, which only moves data here, from reserving the memory of every GPU.

  It does not hide the GPUs, because the caller may use TensorFlow for something else.
  """
  for gpu in tf.config.list_physical_devices("GPU"):
    try:
      tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError:  # TensorFlow is already in use, with settings that are the caller's
      return


class PreparedSource:
  """Examples of a prepared TFDS builder.

  Attributes:
    spec: signals of both sides, and the number of pairs per split.
    stored: (dtype, channels) of the stored arrays: `input`, `target` and, if there is one, `mask`.
    folder: where decoded images and a summary may be stored.
  """

  def __init__(self, builder: tfds.core.DatasetBuilder, spec: DataSpec):
    share_gpus()
    self._builder, self.spec = builder, spec
    self.stored = {
      name: (np.dtype(feature.np_dtype), feature.shape[-1])
      for name, feature in builder.info.features.items()
      if name != "id"
    }
    self.folder: Path | None = Path(builder.data_dir)

  def examples(self, split: str) -> tf.data.Dataset:
    """Every example once, in the order of the raw files: `input`, `target`, `mask` (H, W, C) and `id`."""
    return self._builder.as_dataset(
      split=split,
      shuffle_files=False,
      read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False, add_tfds_id=False),
    )

  def pairs(self, split: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The same as (id, input, target)."""
    for example in self.examples(split).prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
      yield example["id"].decode(), example["input"], example["target"]


class ArraySource:
  """The same for pairs of arrays (n, H, W, C) in memory: split → (inputs, targets), as `Signal.store` returns them.

  The counts of `spec` are replaced by those of the arrays.
  """

  def __init__(self, splits: dict[str, tuple[np.ndarray, np.ndarray]], spec: DataSpec):
    share_gpus()
    counts = {name: len(inputs) for name, (inputs, _) in splits.items()}
    self._splits, self.spec = splits, dataclasses.replace(spec, counts=counts)
    first = next(iter(splits.values()))
    self.stored = {name: (array.dtype, array.shape[-1]) for name, array in zip(("input", "target"), first, strict=True)}
    self.folder: Path | None = None

  def examples(self, split: str) -> tf.data.Dataset:
    """Every example once, in order: `input`, `target` (H, W, C) and `id`."""
    inputs, targets = self._splits[split]
    signature = {
      "input": tf.TensorSpec(inputs.shape[1:], inputs.dtype),
      "target": tf.TensorSpec(targets.shape[1:], targets.dtype),
      "id": tf.TensorSpec((), tf.string),
    }
    return tf.data.Dataset.from_generator(_pairs(split, inputs, targets), output_signature=signature)

  def pairs(self, split: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The same as (id, input, target)."""
    for i, pair in enumerate(zip(*self._splits[split], strict=True)):
      yield _id(split, i), *pair


def _pairs(split: str, inputs: np.ndarray, targets: np.ndarray) -> Callable[[], Iterator[dict]]:
  def generate():
    for i, (x, y) in enumerate(zip(inputs, targets, strict=True)):
      yield {"input": x, "target": y, "id": _id(split, i)}

  return generate


def _id(split: str, index: int) -> str:
  return f"{split}_{index:05d}"


Source = PreparedSource | ArraySource


def user_cache() -> Path:
  """The user's cache directory."""
  return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pix2pix_jax"
