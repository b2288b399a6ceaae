"""Built-in data: scenes drawn by code from a seed, at any size, to try each experiment without a download."""

import dataclasses
import functools
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from pix2pix_jax import palettes
from pix2pix_jax.data.readers import examples
from pix2pix_jax.data.synthesis import facades, head, room, street, village
from pix2pix_jax.errors import UsageError

TASKS = {
  "facades": facades.draw,
  "winter_summer": village.draw,
  "kitti_depth": street.draw,
  "nyu_depth": room.draw,
  "mr_ct": head.draw,
}

KINDS = {
  "facades": ("image", "image"),
  "winter_summer": ("image", "image"),
  "kitti_depth": ("image", "depth"),
  "nyu_depth": ("depth", "depth"),
  "mr_ct": ("quantity", "quantity"),
}

RAW_DTYPES = {"mr_ct": ("float32", "int16")}  # of tasks whose numbers are stored as another type


@dataclasses.dataclass(eq=False)
class ProceduralConfig(examples.ReaderConfig):
  """The task to draw, the size (height, width), the number of pairs in train, val and test, and the seed.

  Attributes:
    kinds: kinds of input and target, those of the task. The labels of façades may also be class indices: with
      `("classes", "image")` as the input, with `("image", "classes")` as the target of their photographs. `parts` of
      a street are its photograph and a LiDAR scan.
  """

  task: str = "facades"
  kinds: tuple[str, str] = ("image", "image")
  size: tuple[int, int] = (256, 256)
  counts: tuple[int, int, int] = (400, 100, 100)
  seed: int = 0

  def __post_init__(self) -> None:
    self.raw_dtypes = RAW_DTYPES.get(self.task, self.raw_dtypes)


class Procedural(examples.Builder):
  """Drawn pairs `{input, target, id}`, with a `mask` for depth; splits are disjoint ranges of one seeded sequence."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self) -> tfds.core.DatasetInfo:
    if self.builder_config.task not in TASKS:
      raise UsageError(f"data.task is {self.builder_config.task!r}; the procedural tasks are {', '.join(TASKS)}.")
    example = _draw(dataclasses.replace(self.builder_config, size=(32, 32)), 0)
    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      disable_shuffling=True,
      features=tfds.features.FeaturesDict(
        {**{name: _feature(array) for name, array in example.items()}, "id": tfds.features.Text()}
      ),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager
    start, splits = 0, {}
    for split, count in zip(("train", "val", "test"), self.builder_config.counts):
      if count:
        splits[split] = self._generate_examples(split, range(start, start + count))
      start += count
    return splits

  def _generate_examples(self, split: str, indices: range) -> Any:
    return self.generate(split, indices, functools.partial(_example, self.builder_config))


def _example(config: ProceduralConfig, index: int) -> dict[str, Any]:
  return {**_draw(config, index), "id": f"{config.task}_{index:05d}"}


def _draw(config: ProceduralConfig, index: int) -> dict[str, np.ndarray]:
  """`input`, `target` and, for depth, `mask`, as they are stored; other arrays of a scene are for inspection only."""
  scene = TASKS[config.task](config.seed, index, config.size)
  if config.parts:
    scene["input"] = np.concatenate([scene["input"].astype(np.float32), scene["scan"]], axis=-1)
  arrays = {name: scene[name] for name in ("input", "target", "mask") if name in scene}
  if "classes" in config.kinds:
    arrays["input"] = palettes.match(arrays["input"], palettes.CMP, "The label map")[0]
    if config.kinds[1] == "classes":
      arrays["input"], arrays["target"] = arrays["target"], arrays["input"]
  return {name: array.astype(np.float32) if array.dtype == np.int16 else array for name, array in arrays.items()}


def _feature(array: np.ndarray) -> tfds.features.FeatureConnector:
  """How an array is stored: images as PNG, real numbers and masks as they are, compressed."""
  if array.dtype == np.uint8:
    return examples.picture(array.shape[-1])
  return examples.validity() if array.dtype == np.bool_ else examples.real_numbers(array.shape[-1])
