"""Smaller weights for the page without a server, and what they cost: kernels as float16 or int8."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

FULL = "float32"  # what a model has
WEIGHTS = (FULL, "float16", "int8")


def to_int8(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Integers in [-127, 127] and the scales (outputs,) of a kernel (…, outputs): kernel ≈ integers · scales.

  The scale of a channel is that of its largest weight.
  """
  kernel = np.asarray(kernel, np.float32)
  largest = np.abs(kernel).max(tuple(range(kernel.ndim - 1)))
  scales = np.where(largest > 0, largest / np.float32(127), np.float32(1))
  return np.round(kernel / scales).astype(np.int8), scales


def rounded(params: Any, weights: str) -> Any:
  """Parameters whose kernels have the values that are left if they are stored as `weights`; the others stay."""

  def of_leaf(path: Any, leaf: Any) -> Any:
    if weights == FULL or path[-1].key != "kernel":
      return leaf
    if weights == "float16":
      return np.asarray(leaf).astype(np.float16).astype(np.float32)
    integers, scales = to_int8(leaf)
    return integers.astype(np.float32) * scales

  return jax.tree_util.tree_map_with_path(of_leaf, params)


def measure(workdir: Path, step: str, weights: str) -> tuple[dict[str, dict[str, float]], int]:
  """The metrics of the model, and with rounded weights, over the validation split of its run: as `evaluate` computes
  them, with the same noise.

  Returns:
    Their means by `"float32"` and `weights`, and the number of images.

  Raises:
    UsageError: the run's data cannot be read.
  """
  from pix2pix_jax import config as config_lib
  from pix2pix_jax import evaluate
  from pix2pix_jax.data import pipeline, prepare  # imports TensorFlow
  from pix2pix_jax.run import checkpoint, evaluation, experiment

  run = experiment.Experiment.read(workdir)
  config = evaluate.configure(workdir, run.config)
  source = prepare.prepare(config.data, config.model)
  split = "val" if "val" in source.spec.counts else next(iter(source.spec.counts))
  data = pipeline.load_split(source, split, config_lib.eval_resize(config.data), cache_gib=config.data.cache_gib)
  with checkpoint.Checkpointer(workdir, config=run.config, read_only=True) as checkpointer:
    _, variables = checkpointer.load_variables(step, run.abstract())
  generator = variables["generator"]
  found = {}
  for name in (FULL, weights):
    params = rounded(generator["params"], name)
    result = evaluation.evaluate_split(run, variables | {"generator": generator | {"params": params}}, data)
    found[name] = {metric: result.means[metric] for metric in run.spec.target.metrics if metric in result.means}
  return found, len(data)
