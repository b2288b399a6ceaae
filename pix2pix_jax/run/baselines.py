"""Baselines: predictions that need no network, to compare a model with."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from pix2pix_jax import config as config_lib
from pix2pix_jax import depth
from pix2pix_jax.data import pipeline
from pix2pix_jax.data.resizing import resize
from pix2pix_jax.errors import UsageError
from pix2pix_jax.model import metrics
from pix2pix_jax.run import evaluation
from pix2pix_jax.signals import DataSpec, Depth, Stack

MEAN_TARGET, NEAREST_VALID, INTERPOLATED = "mean_target", "nearest_valid", "interpolated"
MAX_TRAINING_PAIRS = 1000  # for the mean target


def names(spec: DataSpec) -> tuple[str, ...]:
  """The baselines that apply to this data."""
  depth_to_depth = spec.target.kind == "depth" and _input_depth(spec) is not None
  return (MEAN_TARGET, *((NEAREST_VALID, INTERPOLATED) if depth_to_depth else ()))


def _input_depth(spec: DataSpec, channel: int = 0) -> tuple[Depth, slice] | None:
  """The signal of the first input depth map from a channel on, and its place among the encoded channels; None if there
  is none.
  """
  parts = spec.input.parts if isinstance(spec.input, Stack) else (spec.input,)
  start = 0
  for part in parts:
    if isinstance(part, Depth) and part.channels == spec.target.channels and start >= channel:
      return part, slice(start, start + part.channels)
    start += part.channels
  return None


def choose(asked: Sequence[str], spec: DataSpec) -> tuple[str, ...]:
  """The baselines that a user asked for, in order.

  Args:
    asked: names, `"all"` or `"none"`; each item may be several names joined by commas.
    spec: signals of the data.

  Raises:
    UsageError: a name that does not apply to this data.
  """
  flat, known = [name for text in asked for name in text.split(",") if name], names(spec)
  unknown = [name for name in flat if name not in (*known, "all", "none")]
  if unknown or not flat:
    raise UsageError(f"--baseline={','.join(flat)}: unknown baseline; choose {', '.join(known)}, all or none.")
  if "none" in flat and set(flat) != {"none"}:
    raise UsageError(f"--baseline={','.join(flat)}: 'none' excludes all others.")
  return tuple(name for name in known if name in flat or "all" in flat)


def measure(
  source: pipeline.Source,
  split: pipeline.Split,
  config: ml_collections.ConfigDict,
  chosen: Sequence[str] | None = None,
) -> dict[str, dict[str, float]]:
  """Returns the metrics of each baseline over a split: name → metric → mean.

  `mean_target` predicts the mean training target for every input (the mean of up to 1000 pairs; for depth, over valid
  pixels). `nearest_valid` fills the holes of an input depth with the nearest measurement. `interpolated` fills them
  smoothly with `depth.interpolate`, from which a generator with `model.residual` also starts. Of several depth inputs,
  these use the one that `model.residual` corrects, or the first.

  Args:
    source: source of the data; without a train split, `mean_target` is left out.
    split: the split at the evaluation shape.
    config: resolved configuration.
    chosen: names to measure; None: all that apply.
  """
  spec = split.spec
  chosen, channel = names(spec) if chosen is None else chosen, config.model.residual_channel

  @jax.jit
  def compute(answer, batch):
    mask, inside = batch.get("mask"), batch.get("inside")
    return metrics.measure(answer, batch["input"], batch["target"], mask, spec.input, spec.target, inside)

  answers: dict[str, Callable[[dict[str, np.ndarray]], np.ndarray]] = {
    NEAREST_VALID: lambda batch: _fill_with_nearest(*_depth_of(batch["input"], spec, channel), spec),
    INTERPOLATED: jax.jit(lambda batch: _interpolate(*_depth_of(batch["input"], spec, channel), spec)),
  }
  if MEAN_TARGET in chosen and "train" in source.spec.counts:
    mean = mean_target(source, config)
    answers[MEAN_TARGET] = lambda batch: at_sizes_of(mean, batch)
  chosen = [name for name in chosen if name in answers]
  per_image: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in chosen}
  batches = pipeline.eval_batches(split, batch_size=min(8, len(split)), multiple=config_lib.multiple(config.model))
  for batch in batches if chosen else ():
    for name in chosen:
      values = jax.device_get(compute(answers[name](batch), batch))
      per_image[name].append({metric: value[batch["is_real"]] for metric, value in values.items()})
  return {
    name: evaluation.means({metric: np.concatenate([row[metric] for row in rows]) for metric in rows[0]})
    for name, rows in per_image.items()
  }


def _depth_of(encoded: Any, spec: DataSpec, channel: int) -> tuple[Depth, Any]:
  """The signal and the encoded array of the depth map in an input, as `_input_depth` finds it."""
  found = _input_depth(spec, channel)
  assert found is not None, "these baselines need depth"
  return found[0], encoded[..., found[1]]


def _fill_with_nearest(signal: Depth, encoded: np.ndarray, spec: DataSpec) -> np.ndarray:
  metres = signal.decode(encoded) * signal.measured(encoded)
  return spec.target.encode(np.stack([depth.fill_with_nearest(image) for image in metres]))


def _interpolate(signal: Depth, encoded: Any, spec: DataSpec) -> Any:
  filled = depth.interpolate(encoded, signal.measured(encoded))
  return filled if signal == spec.target else spec.target.encode(signal.decode(filled))


def at_sizes_of(mean: np.ndarray, batch: dict[str, np.ndarray]) -> np.ndarray:
  """The mean target at the size of each image of a batch, padded like the images."""
  shape = batch["target"].shape
  if "inside" not in batch:
    return np.broadcast_to(resize(mean, shape[1:3], "area"), shape)
  rows = []
  for inside in batch["inside"][..., 0]:
    height, width = int(inside.any(1).sum()), int(inside.any(0).sum())
    beyond = [(0, shape[1] - height), (0, shape[2] - width), (0, 0)]
    rows.append(np.pad(resize(mean, (height, width), "area"), beyond))
  return np.stack(rows)


def mean_target(source: pipeline.Source, config: ml_collections.ConfigDict) -> np.ndarray:
  """The mean of the training targets, (H, W, C) in [-1, 1]; if they have several sizes, resized to the most common."""
  shape = config_lib.eval_resize(config.data)
  if shape is None:
    sizes, counts = np.unique(source.sizes("train"), axis=0, return_counts=True)
    shape = int(sizes[counts.argmax()][0]), int(sizes[counts.argmax()][1])
  train = pipeline.load_split(source, "train", shape, cache_gib=config.data.cache_gib, limit=MAX_TRAINING_PAIRS)
  total, weight = np.zeros(1), np.zeros(1)
  for i in range(len(train)):
    example = train.read_encoded(i)
    mask = example.get("mask", np.ones(1)).astype(np.float64)
    total = total + example["target"] * mask
    weight = weight + mask
  if weight.min() == 0:  # pixels without any measurement get the mean of all others
    total, weight = np.where(weight > 0, total, total.sum() / max(weight.sum(), 1)), np.maximum(weight, 1)
  return (total / weight).astype(np.float32)
