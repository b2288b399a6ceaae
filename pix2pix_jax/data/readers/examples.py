"""Shared parts of the readers: the features of an example, the order of storage, and the division into splits."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import functools
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorflow_datasets as tfds

from pix2pix_jax import output
from pix2pix_jax.data import beam, files
from pix2pix_jax.data.encoding import Encoded
from pix2pix_jax.data.readers.progress import track
from pix2pix_jax.errors import UsageError, nearest_path
from pix2pix_jax.signals import Part

T = TypeVar("T")
BUCKETS = 128  # see `in_order`; each may be an open file, and some systems allow 256 of them


@dataclasses.dataclass(eq=False)
class ReaderConfig(tfds.core.BuilderConfig):
  """The fields that the configurations of all readers share.

  Attributes:
    source_dir: folder of the raw files.
    label_maps: whether input and target are files with palettes, whose colours must not mix when they are resized.
    parts: the inputs, if there are several, with the kinds and forms of their files.
    raw_dtypes: number types of input and target in the raw files, where they differ from the stored ones.
    beam: whether Apache Beam makes the examples.
    say: function that prints a line of progress.
  """

  source_dir: str = ""
  label_maps: tuple[bool, bool] = (False, False)
  raw_dtypes: tuple[str, str] = ("", "")
  parts: tuple[Part, ...] = ()
  beam: bool = False
  say: Callable[[str], None] = output.say

  def __getstate__(self) -> dict[str, Any]:
    """A copy in another process has that process's own way to print."""
    return {**self.__dict__, "say": output.say}


def picture(channels: int = 3, dtype: Any = np.uint8) -> tfds.features.FeatureConnector:
  """An image, uint8 or uint16 (H, W, channels)."""
  return Encoded(channels, dtype)


def real_numbers(channels: int = 1) -> tfds.features.FeatureConnector:
  """float32 (H, W, channels): depth in metres, in which 0 is a hole, or a quantity, in which NaN is one."""
  return Encoded(channels, np.float32)


def validity() -> tfds.features.FeatureConnector:
  """bool (H, W, 1): where the target was measured."""
  return Encoded(1, np.bool_)


def read_rgb(path: Path) -> np.ndarray:
  """A photograph or drawing as uint8 (H, W, 3); grey becomes RGB and transparency white.

  Raises:
    UsageError: damaged, or not of 8 bits.
  """
  array = files.read(path)
  array = files.with_channels(array, 3, str(path), colors=files.holds_colors(path, array.shape[-1]))
  if array.dtype != np.uint8:
    raise UsageError(
      f"{path} holds {array.dtype}, but the images of this data set have 8 bits. Take the original file."
    )
  return array


def images_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
  """The files directly in a folder with one of these suffixes, in any case, in natural order; [] without a folder."""
  return files.natural_order(
    path for path in folder.glob("*") if path.suffix.lower() in suffixes and not files.is_junk(path.name)
  )


class Builder(tfds.core.GeneratorBasedBuilder):
  """A builder that makes each example from an item of its own, in this process or on Apache Beam.

  Beam's workers do not stop at files that cannot be used: they try all others too, in a retried bundle even several
  times. They store empty examples for them, and what is wrong with them is raised in the end, before the shards get
  their name.
  """

  _findings: tuple[Path, ...] = ()

  def generate(self, split: str, items: Sequence[T], make: Callable[[T], dict[str, Any]]) -> Any:
    """The examples of a split for TFDS, which stores them in the order of the items: a generator of (key, example), or
    a transform of Beam if the config asks for it.

    Args:
      make: item → example; a function of a module, or something else that can be pickled.
    """
    if self.builder_config.beam:
      return beam.examples(items, functools.partial(_attempt, make, list(self.info.features)), self.findings(split))
    return ((key, make(item)) for key, item in in_order(items, split, self.builder_config))

  def findings(self, split: str) -> Path:
    """A file for a split beside the shards, until Beam has written them."""
    path = Path(self.data_dir) / f"findings_{split}.pickle"
    self._findings = (*self._findings, path)
    return path

  def _process_pipeline_result(self, pipeline_result: Any) -> None:
    del pipeline_result
    self.finish([finding for path in self._findings for finding in beam.read_findings(path)])

  def finish(self, findings: list[Any]) -> None:
    """Raises a UsageError about the files that cannot be used, if there are any."""
    if findings:
      more = [f"And {len(findings) - 10} more."] if len(findings) > 10 else []
      raise UsageError("\n".join([*findings[:10], *more]))


def _attempt(make: Callable[[T], dict[str, Any]], features: list[str], item: T) -> tuple[dict[str, Any], str | None]:
  """(example, None), or (an empty example, what is wrong with its files)."""
  try:
    return make(item), None
  except UsageError as error:
    return empty(features), str(error)


def empty(features: Iterable[str]) -> dict[str, bytes]:
  """An example that stands for files that cannot be used, until all are known."""
  return dict.fromkeys(features, b"")


def in_order(items: Sequence[T], split: str, config: ReaderConfig) -> Iterator[tuple[int, T]]:
  """Yields (key, item) with keys that make TFDS store the items in this order, in bounded memory; shows progress.

  Beyond 1 GB TFDS collects examples in files, each for an equal share of the keys' range of 2**128, and sorts each file
  in memory. With the keys 0, 1, 2 … the whole data set would fall into the first file.
  """
  for i, item in enumerate(track(items, len(items), f"Preparing {split}", config.say)):
    yield (i * BUCKETS // len(items)) * (2**128 // BUCKETS) + i, item


def blocks(items: Sequence[T], train: float, val: float) -> dict[str, list[T]]:
  """Contiguous blocks: first the share `train` (at least one item), then the share `val`, then the rest as `test`."""
  first = max(1, round(train * len(items)))
  second = max(first, round((train + val) * len(items)))
  return {"train": list(items[:first]), "val": list(items[first:second]), "test": list(items[second:])}


def held_out(groups: Sequence[T], share: float = 0.1) -> dict[str, list[T]]:
  """The last `share` of the groups is `test`, as many before it are `val`, and the rest is `train`.

  Each split has at least one group, but one or two groups are all `train`.
  """
  count = max(1, round(share * len(groups))) if len(groups) >= 3 else 0
  end = len(groups) - count
  return {"train": list(groups[: end - count]), "val": list(groups[end - count : end]), "test": list(groups[end:])}


def source_folder(source_dir: str, name: str, wanted: str) -> Path:
  """Returns `data.source_dir` as a path.

  Raises:
    UsageError: it is not set or does not exist; the message says what it should hold.
  """
  if not source_dir:
    raise UsageError(f"data.source_dir is not set. For {name} it should hold {wanted}.")
  if not Path(source_dir).exists():
    suggestion = nearest_path(Path(source_dir)) or "."
    raise UsageError(f"data.source_dir {source_dir!r} does not exist{suggestion} For {name} it should hold {wanted}.")
  return Path(source_dir)
