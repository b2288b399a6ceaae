"""Measures a trained model on a split, every image exactly once.

    python -m pix2pix_jax.evaluate --workdir=DIR [--split=test] [--step=best|latest|N] [--source_dir=DIR]

writes `eval/SPLIT/metrics.json` (means, count, step, protocol), `per_image.csv` and `grid.png` into the workdir.
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

from pix2pix_jax import checkpoint, models, steps, train_state, viz
from pix2pix_jax.data import datasets, pipeline
from pix2pix_jax.errors import run_command
from pix2pix_jax.train_state import TrainState


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Per-image metrics of a split (each (n,)), and its first few translations (k, H, W, C) in [-1, 1]."""

  per_image: dict[str, np.ndarray]
  columns: dict[str, np.ndarray]

  @property
  def means(self) -> dict[str, float]:
    return {name: float(np.mean(values, dtype=np.float64)) for name, values in self.per_image.items()}

  def grid(self) -> np.ndarray:
    return viz.grid({name: [viz.to_uint8(picture) for picture in pictures] for name, pictures in self.columns.items()})


def evaluate_split(eval_step, state: TrainState, split: pipeline.Split, config: ml_collections.ConfigDict, mesh: Mesh) -> Evaluation:
  """Runs a compiled `eval_step` over a split at the crop shape; the fillers of the last batch are dropped."""
  sharding = NamedSharding(mesh, PartitionSpec("data"))
  size = -(-min(config.evaluation.batch_size, len(split)) // mesh.size) * mesh.size
  per_image, columns = [], {"input": [], "output": [], "target": []}
  for batch, counts in pipeline.eval_batches(split, config.data, batch_size=size):
    output, values = jax.device_get(eval_step(state, jax.device_put(batch, sharding)))
    per_image.append({name: value[counts] for name, value in values.items()})
    if len(columns["output"]) < config.evaluation.num_samples:
      for name, pictures in {**batch, "output": output}.items():
        if name in columns:
          columns[name].extend(pictures[counts])
  first = {name: np.stack(pictures[:config.evaluation.num_samples]) for name, pictures in columns.items()}
  return Evaluation({name: np.concatenate([values[name] for values in per_image]) for name in per_image[0]}, first)


def protocol(config: ml_collections.ConfigDict) -> dict[str, object]:
  """What a reader of the figures has to know about how they came about."""
  return {"dropout": config.evaluation.dropout, "norm_stats": config.evaluation.norm_stats, "seed": config.seed,
          "height_width": list(datasets.crop_shape(config.data)), "scale": "[0, 1]"}


def write(folder: Path, evaluation: Evaluation, ids: list[str], step: int, config: ml_collections.ConfigDict) -> None:
  """`metrics.json`, `per_image.csv` and `grid.png`."""
  folder.mkdir(parents=True, exist_ok=True)
  summary = {"step": step, "count": len(ids), "metrics": evaluation.means, "protocol": protocol(config)}
  (folder / "metrics.json").write_text(json.dumps(summary, indent=2) + "\n")
  with (folder / "per_image.csv").open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["id", *evaluation.per_image])
    writer.writerows([name, *(f"{values[i]:.6g}" for values in evaluation.per_image.values())] for i, name in enumerate(ids))
  viz.save_png(folder / "grid.png", evaluation.grid())


def table(means: dict[str, float]) -> str:
  """Metrics as lines of text."""
  return "\n".join(f"  {name:<28} {value:10.4f}" for name, value in means.items())


def evaluate(workdir: Path, *, split: str = "val", step: str = "best", source_dir: str = "") -> Evaluation:
  """Measures a checkpoint of a workdir and writes the results into its `eval/SPLIT`.

  Args:
    split: of the data the model was trained on, or of `source_dir`, another directory of the same layout.
    step: `"best"`, `"latest"` or a number.
  """
  config = checkpoint.load_config(workdir)
  with config.unlocked():
    if source_dir:
      config.data.source_dir = source_dir
  builder = datasets.prepare(config.data)
  data = pipeline.load_split(builder, split, datasets.crop_shape(config.data), config.data.cache_gib)
  mesh = steps.make_mesh()
  networks = dict(zip(("generator", "discriminator"), models.make_networks(config.model, dtype=config.train.dtype)))
  checkpointer = checkpoint.Checkpointer(workdir, read_only=True)
  number = checkpointer.resolve_step(step)
  state = checkpointer.restore(number, train_state.abstract(config, *networks.values(), mesh))
  eval_step = steps.compile_eval_step(mesh, **networks, **steps.evaluation_settings(config))
  evaluation = evaluate_split(eval_step, state, data, config, mesh)
  write(Path(workdir) / "eval" / split, evaluation, data.ids, number, config)
  print(f"{split}: {len(data)} images, step {number}\n{table(evaluation.means)}\nwritten to {Path(workdir) / 'eval' / split}")
  return evaluation


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(prog="python -m pix2pix_jax.evaluate", description=__doc__.split("\n")[0])
  parser.add_argument("--workdir", type=Path, required=True, help="of a training")
  parser.add_argument("--split", default="val", help="train, val or test (default: val)")
  parser.add_argument("--step", default="best", help="best, latest or the number of a checkpoint (default: best)")
  parser.add_argument("--source_dir", default="", help="raw files of the same layout as the training's (default: the training's)")
  options = parser.parse_args(argv)
  evaluate(options.workdir, split=options.split, step=options.step, source_dir=options.source_dir)


if __name__ == "__main__":
  run_command(main)
