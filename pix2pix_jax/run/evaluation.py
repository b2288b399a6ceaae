"""Evaluation over a split: per-image metrics, their means, and grids of images."""

from collections.abc import Callable
import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from pix2pix_jax import config as config_lib
from pix2pix_jax.data import pipeline
from pix2pix_jax.run import viz
from pix2pix_jax.run.experiment import Experiment
from pix2pix_jax.signals import DataSpec

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Per-image metrics of a split, each (n,), and image grids, uint8 (H, W, 3): the first of the split, the best and
  worst L1.
  """

  per_image: dict[str, np.ndarray]
  grid: np.ndarray
  best: np.ndarray
  worst: np.ndarray

  @property
  def means(self) -> dict[str, float]:
    return means(self.per_image)


def sums(per_image: dict[str, np.ndarray]) -> dict[str, tuple[float, int]]:
  """(sum, count) of each metric over the images that have it: NaN marks an image without a pixel to count."""
  return {
    name: (float(np.nansum(values, dtype=np.float64)), int(np.count_nonzero(~np.isnan(values))))
    for name, values in per_image.items()
  }


def means(per_image: dict[str, np.ndarray]) -> dict[str, float]:
  """The mean of each metric over the images that have it; a metric that no image has is left out."""
  return {name: total / count for name, (total, count) in sums(per_image).items() if count}


def evaluate_split(
  experiment: Experiment,
  variables: dict[str, Any],
  split: pipeline.Split,
  on_batch: Callable[[Batch, np.ndarray], None] | None = None,
) -> Evaluation:
  """Evaluates every image of a split once.

  Args:
    experiment: gives the compiled step, the mesh and the batch size.
    variables: parameters and statistics of both networks (`TrainState.variables`).
    split: at the evaluation shape.
    on_batch: `on_batch(batch, output)` is called after each batch, with the real rows only.
  """
  config = experiment.config.evaluation
  devices = experiment.mesh.size
  size = -(-min(config.batch_size, len(split)) // devices) * devices
  per_image: list[dict[str, np.ndarray]] = []
  first: list[Batch] = []
  scored: list[tuple[float, Batch]] = []
  for batch in pipeline.eval_batches(split, batch_size=size):
    output, values = jax.device_get(experiment.eval_step(variables, jax.device_put(batch, experiment.split_rows)))
    is_real = batch["is_real"]
    per_image.append({name: value[is_real] for name, value in values.items()})
    if on_batch:
      on_batch({name: array[is_real] for name, array in batch.items()}, output[is_real])
    for row in np.flatnonzero(is_real):
      example = {name: array[row] for name, array in batch.items()} | {"output": output[row]}
      if len(first) < config.num_samples:
        first.append(example)
      if not np.isnan(values["l1"][row]):
        scored.append((float(values["l1"][row]), example))
    scored = _extremes(scored, config.num_samples)
  best = [example for _, example in scored[: config.num_samples]]
  worst = [example for _, example in scored[::-1][: config.num_samples]]
  grids = [viz.example_grid(examples or first, experiment.spec) for examples in (first, best, worst)]
  return Evaluation({name: np.concatenate([values[name] for values in per_image]) for name in per_image[0]}, *grids)


def _extremes(scored: list[tuple[float, Batch]], count: int) -> list[tuple[float, Batch]]:
  """The `count` lowest and the `count` highest, sorted: memory stays small however large a split is."""
  scored = sorted(scored, key=lambda pair: pair[0])
  return scored if len(scored) <= 2 * count else scored[:count] + scored[-count:]


def protocol(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The settings that a reader of the results has to know."""
  return {
    "dropout": config.evaluation.dropout,
    "norm_stats": config.evaluation.norm_stats,
    "seed": config.seed,
    "data": config.data.name,
    "source_dir": config.data.source_dir,
    "height_width": list(config_lib.eval_shape(config.data)),
    "scale": "l1, psnr and ssim on [0, 1]",
  }


def read_summary(folder: Path) -> dict[str, Any]:
  """The metrics.json of an evaluation folder; empty if there is none or it is damaged."""
  try:
    summary = json.loads((Path(folder) / "metrics.json").read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return {}
  return summary if isinstance(summary, dict) else {}


def write(
  folder: Path,
  evaluation: Evaluation,
  ids: list[str],
  step: int,
  config: ml_collections.ConfigDict,
  baselines: dict[str, dict[str, float]],
  *,
  distances: dict[str, float] | None = None,
  notes: dict[str, str] | None = None,
) -> None:
  """Writes `metrics.json`, `per_image.csv` and the grids `grid.png`, `best.png` and `worst.png`.

  Args:
    folder: to write into; created if needed.
    evaluation: the results.
    ids: of the images, in order.
    step: of the checkpoint.
    config: of the run, with the protocol that was used.
    baselines: name → metric → mean.
    distances: FID and KID, if they were computed.
    notes: further entries of the protocol.
  """
  folder.mkdir(parents=True, exist_ok=True)
  summary = {
    "step": step,
    "count": len(ids),
    "metrics": {**evaluation.means, **(distances or {})},
    "baselines": baselines,
    "protocol": {**protocol(config), **(notes or {})},
  }
  with (folder / "per_image.csv").open("w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    writer.writerow(["id", *evaluation.per_image])
    for i, name in enumerate(ids):
      values = (column[i] for column in evaluation.per_image.values())
      writer.writerow([name, *("" if np.isnan(value) else f"{value:.6g}" for value in values)])
  for name in ("grid", "best", "worst"):
    viz.save_png(folder / f"{name}.png", getattr(evaluation, name))
  part = folder / "metrics.json.part"  # last, and atomically: it marks a complete folder
  part.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
  part.replace(folder / "metrics.json")


def table(columns: dict[str, dict[str, float]]) -> str:
  """Metrics as lines of text, with a column for the model and for each baseline."""
  width = max(12, *map(len, columns))
  lines = [" " * 30 + "".join(f"{name:>{width + 2}}" for name in columns)]
  for metric in next(iter(columns.values())):
    cells = (f"{column[metric]:.4f}" if metric in column else "" for column in columns.values())
    lines.append(f"  {metric:<28}" + "".join(f"{cell:>{width + 2}}" for cell in cells))
  return "\n".join(lines)


def describe_data(spec: DataSpec) -> str:
  """For example "input: 8-bit image, 3 channels; target: depth, 0 to 80 m, 1 channel"."""
  return f"input: {spec.input.describe()}; target: {spec.target.describe()}"
