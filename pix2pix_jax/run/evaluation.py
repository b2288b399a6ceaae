"""Evaluation over a split: per-image metrics, their means, and sheets of images."""

from collections.abc import Callable, Iterator
import csv
import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from pix2pix_jax import config as config_lib
from pix2pix_jax.data import pipeline
from pix2pix_jax.model import metrics as metrics_lib
from pix2pix_jax.run import processes, replicas, viz
from pix2pix_jax.run.experiment import Experiment
from pix2pix_jax.signals import DataSpec

Batch = dict[str, np.ndarray]


SHEET_ROWS = 16  # of grid.png
RANKED_ROWS = 8  # of best.png and worst.png, at most


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """The results of a split.

  Attributes:
    per_image: metrics, each (n,); for classes also `confusion` (n, target class, predicted class).
    rows: the images to draw, by their number in the split.
    best: numbers of the images with the best `train.best_metric`, best first.
    worst: numbers of the images with the worst, worst first.
    spec: signals of the data.
    num_samples: number of rows of the sample grid.
    others: the results of the further replicas, if there are several; the above are those of the first.
  """

  per_image: dict[str, np.ndarray]
  rows: dict[int, viz.Row]
  best: list[int]
  worst: list[int]
  spec: DataSpec
  num_samples: int
  others: tuple["Evaluation", ...] = ()

  @functools.cached_property
  def grid(self) -> np.ndarray:
    """Input, output and target of the first images of the split, uint8 (H, W, 3)."""
    return viz.example_grid(self._sampled, self.spec)

  @property
  def grid_layout(self) -> dict[str, Any]:
    """The layout of `grid` (`viz.describe_example_grid`)."""
    return viz.describe_example_grid(self._sampled, self.spec)

  @property
  def _sampled(self) -> list[viz.Row]:
    return [self.rows[i] for i in sorted(self.rows)[: self.num_samples]]

  @property
  def by_replica(self) -> list[dict[str, float]]:
    """The means over the images for each replica, of the metrics that all of them have."""
    found = [means(one.per_image) for one in (self, *self.others)]
    return [{name: one[name] for name in found[0] if all(name in other for other in found)} for one in found]

  @property
  def scalars(self) -> dict[str, float]:
    """The means, and for several replicas also their spread and the means of each (`replicas.scalars`)."""
    found = self.by_replica
    return replicas.scalars({name: [one[name] for one in found] for name in found[0]})

  @property
  def means(self) -> dict[str, float]:
    """The mean of each metric over the images, and over the replicas."""
    return {name: value for name, value in self.scalars.items() if "/" not in name}

  @property
  def spreads(self) -> dict[str, float]:
    """The sample standard deviation of each mean over the replicas; empty if there is one."""
    return {name.removesuffix("/std"): value for name, value in self.scalars.items() if name.endswith("/std")}


def sums(per_image: dict[str, np.ndarray]) -> dict[str, tuple[float, int]]:
  """(sum, count) of each metric over the images that have it; NaN marks an image without a pixel to count."""
  return {
    name: (float(np.nansum(values, dtype=np.float64)), int(np.count_nonzero(~np.isnan(values))))
    for name, values in per_image.items()
    if name != metrics_lib.CONFUSION
  }


def means(per_image: dict[str, np.ndarray]) -> dict[str, float]:
  """The mean of each metric over the images that have it; a metric that no image has is left out.

  Metrics of classes are those of one confusion matrix over all images.
  """
  found = {name: total / count for name, (total, count) in sums(per_image).items() if count}
  if metrics_lib.CONFUSION in per_image:
    counts = per_image[metrics_lib.CONFUSION].sum(0, dtype=np.float64)
    found |= {name: float(value) for name, value in metrics_lib.class_metrics(counts).items() if np.isfinite(value)}
  return found


def evaluate_split(
  experiment: Experiment,
  variables: dict[str, Any],
  split: pipeline.Split,
  on_batch: Callable[[Batch, np.ndarray], None] | None = None,
) -> Evaluation:
  """Evaluates every image of a split once. Several processes share the work; all of them get the metrics of all
  images, and process 0 draws.

  Args:
    experiment: provides the compiled step, the mesh and the batch size.
    variables: parameters and statistics of both networks (`TrainState.variables`), stacked if there are replicas.
    split: the split at the evaluation shape.
    on_batch: `on_batch(batch, output)` is called after each batch, with the real rows only; for a single process and
      one network.
  """
  collectors = [_Collector(experiment, split, draws=not k) for k in range(experiment.config.train.num_replicas)]
  for batch in _batches(experiment, split):
    output, values = jax.device_get(experiment.eval_step(variables, _share(batch, experiment.split_rows)))
    if len(collectors) == 1:
      collectors[0].add(batch, output, values)
    else:
      for k, collector in enumerate(collectors):
        collector.add(batch, output[k], {name: value[k] for name, value in values.items()})
    if on_batch:
      for part in _without_padding({**batch, "output": output}, batch["is_real"]):
        on_batch(part, part.pop("output"))
  first, *others = [collector.result() for collector in collectors]
  return dataclasses.replace(first, others=tuple(others)) if others else first


class _Collector:
  """Collects the results of one network and, if it `draws`, the images to show."""

  def __init__(self, experiment: Experiment, split: pipeline.Split, *, draws: bool):
    self._split, self._spec, self._draws = split, experiment.spec, draws and processes.is_main()
    self._config, self._metric = experiment.config.evaluation, experiment.config.train.best_metric
    self._per_image: list[dict[str, np.ndarray]] = []
    self._order: list[np.ndarray] = []
    self._rows: dict[int, viz.Row] = {}
    self._ranked: list[tuple[float, int]] = []  # (badness, number) of the best and the worst so far
    self._count = min(self._config.num_samples, RANKED_ROWS)

  def add(self, batch: Batch, output: np.ndarray, values: dict[str, np.ndarray]) -> None:
    """Adds the translations and metrics of a batch."""
    is_real, index = batch["is_real"], batch["index"]
    self._per_image.append({name: value[is_real] for name, value in values.items()})
    self._order.append(index[is_real])
    badness = _badness(values, self._metric)
    candidates = [(float(badness[row]), int(index[row])) for row in np.flatnonzero(is_real & ~np.isnan(badness))]
    self._ranked = _extremes(self._ranked + candidates, self._count)
    first = range(min(len(self._split), max(SHEET_ROWS, self._config.num_samples)))
    drawn = {*first, *(number for _, number in self._ranked)}
    self._rows = {number: row for number, row in self._rows.items() if number in drawn}
    for row in np.flatnonzero(is_real) if self._draws else ():
      if (number := int(index[row])) in drawn:
        self._rows[number] = viz.draw_row(_example(batch, output, int(row), self._split), self._spec)

  def result(self) -> Evaluation:
    """The results, in the order of the split."""
    numbers = [number for _, number in self._ranked]
    in_order = np.argsort(np.concatenate(self._order))
    return Evaluation(
      {name: np.concatenate([each[name] for each in self._per_image])[in_order] for name in self._per_image[0]},
      self._rows,
      best=numbers[: self._count],
      worst=numbers[::-1][: self._count],
      spec=self._spec,
      num_samples=self._config.num_samples,
    )


def _batches(experiment: Experiment, split: pipeline.Split) -> Iterator[Batch]:
  devices, settings = experiment.mesh.size, experiment.config.evaluation
  size = min(settings.batch_size, len(split))
  room = -(-size // devices) * devices
  if settings.norm_stats != "batch":  # other statistics do not depend on the batch, so examples fill all rows
    size = room
  multiple, own = config_lib.multiple(experiment.config.model), pipeline.own_rows(room)
  return pipeline.eval_batches(split, batch_size=size, multiple=multiple, room=room, rows=own)


def first_batch(experiment: Experiment, split: pipeline.Split) -> Batch:
  """The batch with which `evaluate_split` begins."""
  return next(_batches(experiment, split))


def _share(batch: Batch, sharding: jax.sharding.NamedSharding) -> dict[str, jax.Array]:
  """A batch over the devices of all processes, each of which has read its own rows."""
  own = pipeline.own_rows(len(batch["index"]))
  return {
    name: jax.make_array_from_process_local_data(sharding, array[own] if name in ("index", "is_real") else array)
    for name, array in batch.items()
  }


def _example(batch: Batch, output: np.ndarray, row: int, split: pipeline.Split) -> dict[str, np.ndarray]:
  """The arrays of a row and its output, without padding. Rows that another process has read are read again."""
  own = pipeline.own_rows(len(batch["index"]))
  if own.start <= row < own.stop:
    example = {name: array[row - own.start] for name, array in batch.items() if array.ndim == 4}
    if "inside" in example:
      height, width = (int(example["inside"].any(axis).sum()) for axis in ((1, 2), (0, 2)))
      example = {name: array[:height, :width] for name, array in example.items() if name != "inside"}
  else:
    example = split.read_encoded(int(batch["index"][row]))
  height, width = example["input"].shape[:2]
  return {**example, "output": output[row, :height, :width]}


def _without_padding(batch: Batch, rows: np.ndarray) -> Iterator[Batch]:
  """The chosen rows of a batch: all at once, or one by one if they were padded."""
  if "inside" not in batch:
    yield {name: array[rows] for name, array in batch.items()}
    return
  for row in np.arange(len(batch["index"]))[rows]:
    height, width = (int(batch["inside"][row].any(axis).sum()) for axis in ((1, 2), (0, 2)))
    yield {
      name: array[row : row + 1, :height, :width] if array.ndim == 4 else array[row : row + 1]
      for name, array in batch.items()
      if name != "inside"
    }


def _badness(values: dict[str, np.ndarray], metric: str) -> np.ndarray:
  """(n,) the metric, negated if higher is better, so that lower is always better."""
  return -values[metric] if metric in metrics_lib.HIGHER_IS_BETTER else values[metric]


def _extremes(ranked: list[tuple[float, int]], count: int) -> list[tuple[float, int]]:
  """The `count` lowest and the `count` highest, sorted, so that few images are kept even of a large split."""
  ranked = sorted(ranked)
  return ranked if len(ranked) <= 2 * count else ranked[:count] + ranked[-count:]


def protocol(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The settings that affect the results and are recorded with them."""
  several = {"replicas": replicas.protocol(config)} if config.train.num_replicas > 1 else {}
  return {
    "dropout": config.evaluation.dropout,
    "norm_stats": config.evaluation.norm_stats,
    **({"batch_size": config.evaluation.batch_size} if config.evaluation.norm_stats == "batch" else {}),
    "seed": config.seed,
    "data": config.data.name,
    "source_dir": config.data.source_dir,
    "height_width": list(config_lib.eval_resize(config.data) or ()),  # empty: each image's own
    "scale": "l1, psnr and ssim on [0, 1]",
    **several,
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
  """Writes `metrics.json`, `per_image.csv` and the sheets `grid.png`, `best.png` and `worst.png`.

  Args:
    folder: folder to write into; created if needed.
    evaluation: the results.
    ids: names of the images, in order.
    step: step of the checkpoint.
    config: configuration of the run, with the protocol that was used.
    baselines: name → metric → mean.
    distances: FID and KID, if they were computed.
    notes: further entries of the protocol.
  """
  folder.mkdir(parents=True, exist_ok=True)
  summary = {
    "step": step,
    "count": len(ids),
    "fingerprint": config.data.fingerprint,
    "metrics": {**evaluation.means, **(distances or {})},
    "baselines": baselines,
    "protocol": {**protocol(config), **(notes or {})},
  }
  with (folder / "per_image.csv").open("w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    columns = {name: values for name, values in evaluation.per_image.items() if name != metrics_lib.CONFUSION}
    writer.writerow(["id", *columns])
    for i, name in enumerate(ids):
      values = (column[i] for column in columns.values())
      writer.writerow([name, *("" if np.isnan(value) else f"{value:.6g}" for value in values)])
  _save_sheets(folder, evaluation, ids, config.train.best_metric)
  if metrics_lib.CONFUSION in evaluation.per_image:
    counts = evaluation.per_image[metrics_lib.CONFUSION].sum(0, dtype=np.float64)
    summary["confusion"] = counts.astype(int).tolist()
    viz.save_confusion(folder / "confusion.png", counts, evaluation.spec.target)
  if evaluation.others:
    each = zip(replicas.seeds(config), evaluation.by_replica, strict=True)
    summary |= {"std": evaluation.spreads, "replicas": [{"seed": seed, "metrics": own} for seed, own in each]}
  part = folder / "metrics.json.part"  # last, and atomically: it marks a complete folder
  part.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
  part.replace(folder / "metrics.json")


def _save_sheets(folder: Path, evaluation: Evaluation, ids: list[str], metric: str) -> None:
  """Writes `grid.png`, `best.png` and `worst.png`, with one error scale so that they are comparable."""
  first = sorted(evaluation.rows)[: min(SHEET_ROWS, len(ids))]
  scale = viz.scale_errors(evaluation.rows.values(), evaluation.spec.target)
  for name, numbers in (("grid", first), ("best", evaluation.best), ("worst", evaluation.worst)):
    numbers = numbers or first  # nothing could be ranked
    captions = [(ids[i], describe_image(evaluation.per_image, i, metric, evaluation.spec.target.unit)) for i in numbers]
    viz.save_sheet(folder / f"{name}.png", [evaluation.rows[i] for i in numbers], captions, evaluation.spec, scale)


def describe_image(per_image: dict[str, np.ndarray], i: int, metric: str, unit: str) -> str:
  """The metric that ranks the images, for example "l1 0.0978".

  For depth and quantities, also the RMSE, unless a value in their `unit` is shown already.
  """
  names = [metric, *(["rmse"] if "rmse" in per_image and metric not in ("rmse", "mae") else [])]
  shown = [
    f"{name} {per_image[name][i]:#.4g} {metrics_lib.unit_of(name, unit)}".rstrip()
    for name in names
    if not np.isnan(per_image[name][i])
  ]
  return ", ".join(shown) or "nothing to compare with"


def table(columns: dict[str, dict[str, float]], unit: str) -> str:
  """Metrics as lines of text, with one column for the model and one for each baseline; `unit` is the target's."""
  width = max(12, *map(len, columns))
  lines = [" " * 30 + "".join(f"{name:>{width + 2}}" for name in columns)]
  for metric in next(iter(columns.values())):
    cells = (f"{column[metric]:.4f}" if metric in column else "" for column in columns.values())
    name = f"{metric} ({metrics_lib.unit_of(metric, unit)})".removesuffix(" ()")
    lines.append(f"  {name:<28}" + "".join(f"{cell:>{width + 2}}" for cell in cells))
  return "\n".join(lines)
