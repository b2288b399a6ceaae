"""Built-in data: scenes drawn by code, seeded, at any size. They stand in for each experiment where nothing can be downloaded."""

import dataclasses

import numpy as np
import tensorflow_datasets as tfds

from pix2pix_jax.data.readers import examples
from pix2pix_jax.data.synthesis import facades, room, street, village
from pix2pix_jax.errors import UsageError

TASKS = {
  "facades": facades.draw,
  "winter_summer": village.draw,
  "kitti_depth": street.draw,
  "nyu_depth": room.draw,
}


@dataclasses.dataclass(eq=False)
class ProceduralConfig(tfds.core.BuilderConfig):
  """What is drawn: a task, how large (height, width), how many pairs a split, from which seed."""

  task: str = "facades"
  size: tuple[int, int] = (256, 256)
  counts: tuple[int, int, int] = (400, 100, 100)
  seed: int = 0


class Procedural(tfds.core.GeneratorBasedBuilder):
  """Procedural pairs `{input, target, id}`, with a `mask` for depth; the splits are disjoint ranges of one seeded sequence."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self) -> tfds.core.DatasetInfo:
    if self.builder_config.task not in TASKS:
      raise UsageError(f"data.task is {self.builder_config.task!r}; the procedural tasks are {', '.join(TASKS)}.")
    example = _draw(self.builder_config.task, 0, 0, (32, 32))
    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      disable_shuffling=True,
      features=tfds.features.FeaturesDict(
        {**{name: _feature(array) for name, array in example.items()}, "id": tfds.features.Text()}
      ),
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    start, splits = 0, {}
    for split, count in zip(("train", "val", "test"), self.builder_config.counts):
      if count:
        splits[split] = self._generate_examples(range(start, start + count))
      start += count
    return splits

  def _generate_examples(self, indices):
    config = self.builder_config
    for key, index in examples.in_order(indices):
      yield key, {**_draw(config.task, config.seed, index, config.size), "id": f"{config.task}_{index:05d}"}


def _draw(task, seed, index, size):
  """`input`, `target` and, for depth, `mask`; what else a scene gives is for looking at."""
  return {name: array for name, array in TASKS[task](seed, index, size).items() if name in ("input", "target", "mask")}


def _feature(array):
  """How an array is stored: pictures as PNG, metres and masks as they are, compressed."""
  if array.dtype == np.uint8:
    return tfds.features.Image(shape=(None, None, array.shape[-1]), encoding_format="png")
  return tfds.features.Tensor(shape=(None, None, array.shape[-1]), dtype=array.dtype, encoding="zlib")
