"""Measures a trained model on a split, every image exactly once.

    python -m pix2pix_jax.evaluate --workdir=DIR [--split=test] [--step=best|latest|N] [--source_dir=DIR]

writes `eval/SPLIT/metrics.json` (means, baselines, count, step, protocol), `per_image.csv`, and `grid.png`, `best.png` and
`worst.png` into the workdir.
"""

import argparse
import csv
import dataclasses
import json
from pathlib import Path

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import ml_collections
import numpy as np

from pix2pix_jax import checkpoint, depth, metrics, models, steps, train_state, viz
from pix2pix_jax.data import datasets, images, pipeline
from pix2pix_jax.errors import run_command
from pix2pix_jax.train_state import TrainState


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Per-image metrics of a split, each (n,), and grids of pictures, uint8 (H, W, 3): the first of the split, the best, the worst by L1."""

  per_image: dict[str, np.ndarray]
  grid: np.ndarray
  best: np.ndarray
  worst: np.ndarray

  @property
  def means(self) -> dict[str, float]:
    return means(self.per_image)


def means(per_image: dict[str, np.ndarray]) -> dict[str, float]:
  """The mean of each metric over the images that have it: one without a valid pixel has no depth error."""
  return {name: float(np.nanmean(values, dtype=np.float64)) for name, values in per_image.items()}


def evaluate_split(eval_step, state: TrainState, split: pipeline.Split, config: ml_collections.ConfigDict, mesh: Mesh) -> Evaluation:
  """Runs a compiled `eval_step` over a split at the evaluation shape; the fillers of the last batch are dropped."""
  sharding = NamedSharding(mesh, PartitionSpec("data"))
  size = -(-min(config.evaluation.batch_size, len(split)) // mesh.size) * mesh.size
  per_image, first, best, worst = [], [], [], []
  keep = config.evaluation.num_samples
  for batch, counts in pipeline.eval_batches(split, config.data, batch_size=size):
    output, values = jax.device_get(eval_step(state, jax.device_put(batch, sharding)))
    per_image.append({name: value[counts] for name, value in values.items()})
    batch["output"] = output
    for row in range(counts.sum()):
      l1, example = float(values["l1"][row]), {name: array[row] for name, array in batch.items()}
      first = first + [(l1, example)] if len(first) < keep else first
      best = sorted([*best, (l1, example)], key=lambda scored: scored[0])[:keep]
      worst = sorted([*worst, (l1, example)], key=lambda scored: -scored[0])[:keep]
  grids = (_grid([example for _, example in examples], config.data) for examples in (first, best, worst))
  return Evaluation({name: np.concatenate([values[name] for values in per_image]) for name in per_image[0]}, *grids)


def _grid(examples: list[dict[str, np.ndarray]], data) -> np.ndarray:
  shown = [viz.display_example(example, data) for example in examples]
  depth_range = data.depth_range if "float32" in (data.input_dtype, data.target_dtype) else None
  return viz.grid({name: [row[name] for row in shown] for name in ("input", "output", "target")}, depth_range)


def baselines(source: pipeline.Source, split: pipeline.Split, config: ml_collections.ConfigDict) -> dict[str, dict[str, float]]:
  """The metrics of answers that need no network, which a model has to beat: name → metric → mean.

  `mean_target`: the mean target picture of (up to the first 1000) training pairs, for depth over the valid pixels.
  `nearest_valid`: where the input is depth too, its holes filled with the nearest measurement.
  `interpolated`: the same with `depth.interpolate`, smooth, which is where a generator with `model.residual` begins.
  """
  data = config.data
  shape, depth_range = datasets.eval_shape(data), data.depth_range if data.target_dtype == "float32" else None
  train = pipeline.load_split(source, "train", shape, cache_gib=data.cache_gib, depth_range=data.depth_range, limit=1000)
  total, weight = 0.0, 0.0
  for i in range(len(train)):
    mask = train.arrays["mask"][i].astype(np.float64) if "mask" in train.arrays else 1.0
    total = total + images.normalise(train.arrays["target"][i], data.depth_range) * mask
    weight = weight + mask
  if depth_range:  # pixels that no training picture measured take the mean of all that were
    total, weight = np.where(weight > 0, total, total.sum() / weight.sum()), np.maximum(weight, 1)
  mean_target = np.float32(total / weight)
  input_is_depth = data.input_dtype == "float32"
  measure = jax.jit(lambda answer, batch: metrics.all_metrics(
      answer, batch["target"], batch.get("mask"), depth_range, (batch["input"] <= -1) if input_is_depth else None))
  answers = {"mean_target": lambda batch: np.broadcast_to(mean_target, batch["target"].shape)}
  if input_is_depth and depth_range:
    def nearest_valid(batch):
      metres = depth.decode(batch["input"], data.depth_range) * (batch["input"] > -1)
      return depth.encode(np.stack([depth.fill_with_nearest(picture) for picture in metres]), data.depth_range)
    answers["nearest_valid"] = nearest_valid
    answers["interpolated"] = jax.jit(lambda batch: depth.interpolate(batch["input"], batch["input"] > -1))
  per_image = {name: [] for name in answers}
  for batch, counts in pipeline.eval_batches(split, data, batch_size=min(8, len(split))):
    for name, answer in answers.items():
      values = jax.device_get(measure(answer(batch), batch))
      per_image[name].append({metric: value[counts] for metric, value in values.items()})
  return {name: means({metric: np.concatenate([row[metric] for row in rows]) for metric in rows[0]}) for name, rows in per_image.items()}


def protocol(config: ml_collections.ConfigDict) -> dict[str, object]:
  """What a reader of the figures has to know about how they came about."""
  return {"dropout": config.evaluation.dropout, "norm_stats": config.evaluation.norm_stats, "seed": config.seed,
          "data": config.data.name, "source_dir": config.data.source_dir,
          "height_width": list(datasets.eval_shape(config.data)), "scale": "l1, psnr and ssim on [0, 1]"}


def write(folder: Path, evaluation: Evaluation, ids: list[str], step: int, config: ml_collections.ConfigDict,
          baseline_means: dict[str, dict[str, float]]) -> None:
  """`metrics.json`, `per_image.csv`, and the pictures `grid.png`, `best.png` and `worst.png`."""
  folder.mkdir(parents=True, exist_ok=True)
  summary = {"step": step, "count": len(ids), "metrics": evaluation.means, "baselines": baseline_means, "protocol": protocol(config)}
  (folder / "metrics.json").write_text(json.dumps(summary, indent=2) + "\n")
  with (folder / "per_image.csv").open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["id", *evaluation.per_image])
    writer.writerows([name, *(f"{values[i]:.6g}" for values in evaluation.per_image.values())] for i, name in enumerate(ids))
  for name in ("grid", "best", "worst"):
    viz.save_png(folder / f"{name}.png", getattr(evaluation, name))


def table(columns: dict[str, dict[str, float]]) -> str:
  """Metrics as lines of text, a column for the model and for each baseline."""
  width = max(12, *map(len, columns))
  lines = [" " * 30 + "".join(f"{name:>{width + 2}}" for name in columns)]
  for metric in next(iter(columns.values())):
    cells = (f"{column[metric]:.4f}" if metric in column else "" for column in columns.values())
    lines.append(f"  {metric:<28}" + "".join(f"{cell:>{width + 2}}" for cell in cells))
  return "\n".join(lines)


def evaluate(workdir: Path, *, split: str = "val", step: str = "best", source_dir: str = "", reader: str = "",
             dropout: bool | None = None, norm_stats: str = "") -> Evaluation:
  """Measures a checkpoint of a workdir and writes the results into its `eval/SPLIT`.

  Args:
    split: of the data the model was trained on, or of `source_dir`, another directory of the same layout.
    step: `"best"`, `"latest"` or a number.
    reader: of `source_dir`, where that is not the training's, as for a model trained on built-in data.
    dropout, norm_stats: the protocol, where it is not the training's; recorded in metrics.json.
  """
  config = checkpoint.load_config(workdir)
  with config.unlocked():
    config.data.source_dir = source_dir or config.data.source_dir
    config.data.name = reader or config.data.name
    config.evaluation.dropout = config.evaluation.dropout if dropout is None else dropout
    config.evaluation.norm_stats = norm_stats or config.evaluation.norm_stats
  source = pipeline.PreparedSource(datasets.prepare(config.data))
  data = pipeline.load_split(source, split, datasets.eval_shape(config.data), cache_gib=config.data.cache_gib, depth_range=config.data.depth_range)
  steps.use_compilation_cache(config.train.compilation_cache)
  mesh = steps.make_mesh()
  networks = dict(zip(("generator", "discriminator"), models.make_networks(config.model, dtype=config.train.dtype)))
  checkpointer = checkpoint.Checkpointer(workdir, read_only=True)
  number = checkpointer.resolve_step(step)
  state = checkpointer.restore(number, train_state.abstract(config, *networks.values(), mesh))
  eval_step = steps.compile_eval_step(mesh, **networks, **steps.evaluation_settings(config))
  evaluation = evaluate_split(eval_step, state, data, config, mesh)
  compared = baselines(source, data, config)
  write(Path(workdir) / "eval" / split, evaluation, data.ids, number, config, compared)
  print(f"{split}: {len(data)} images, step {number}\n{table({'model': evaluation.means, **compared})}\nwritten to {Path(workdir) / 'eval' / split}")
  return evaluation


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(prog="python -m pix2pix_jax.evaluate", description=__doc__.split("\n")[0])
  parser.add_argument("--workdir", type=Path, required=True, help="of a training")
  parser.add_argument("--split", default="val", help="train, val or test (default: val)")
  parser.add_argument("--step", default="best", help="best, latest or the number of a checkpoint (default: best)")
  parser.add_argument("--source_dir", default="", help="raw files of the same layout as the training's (default: the training's)")
  parser.add_argument("--reader", default="", help="of source_dir, where it is not the training's (data.name)")
  parser.add_argument("--dropout", choices=("on", "off"), help="whether the noise is on (default: as in training)")
  parser.add_argument("--norm_stats", choices=("image", "batch", "running"), default="", help="of batch norm (default: as in training)")
  options = parser.parse_args(argv)
  evaluate(options.workdir, split=options.split, step=options.step, source_dir=options.source_dir, reader=options.reader,
           dropout=None if options.dropout is None else options.dropout == "on", norm_stats=options.norm_stats)


if __name__ == "__main__":
  run_command(main)
