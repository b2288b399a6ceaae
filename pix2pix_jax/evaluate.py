"""Measures a trained model on a split, every image exactly once.

    python -m pix2pix_jax.evaluate --workdir=DIR [--split=test] [--step=best|latest|N] [--source_dir=DIR] [--inception=FILE]

writes `eval/SPLIT/metrics.json` (means, baselines, count, step, protocol), `per_image.csv`, and `grid.png`, `best.png` and
`worst.png` into the workdir.
"""

import argparse
from collections.abc import Callable, Sequence
import csv
import dataclasses
import json
from pathlib import Path

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import ml_collections
import numpy as np

from pix2pix_jax import depth
from pix2pix_jax.data import images, pipeline
from pix2pix_jax.data import prepare as datasets
from pix2pix_jax.errors import UsageError, run_command
from pix2pix_jax.model import metrics, steps
from pix2pix_jax.model import networks as models
from pix2pix_jax.model import state as train_state
from pix2pix_jax.model.state import TrainState
from pix2pix_jax.run import checkpoint, viz
from pix2pix_jax.run import distances as inception_lib


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


def evaluate_split(
  eval_step,
  state: TrainState,
  split: pipeline.Split,
  config: ml_collections.ConfigDict,
  mesh: Mesh,
  look: Callable[[dict[str, np.ndarray], np.ndarray], None] | None = None,
) -> Evaluation:
  """Runs a compiled `eval_step` over a split at the evaluation shape; the fillers of the last batch are dropped.

  `look` is shown every batch with its `output`, and which of its rows count.
  """
  sharding = NamedSharding(mesh, PartitionSpec("data"))
  size = -(-min(config.evaluation.batch_size, len(split)) // mesh.size) * mesh.size
  per_image, first, best, worst = [], [], [], []
  keep = config.evaluation.num_samples
  for batch, counts in pipeline.eval_batches(split, config.data, batch_size=size):
    output, values = jax.device_get(eval_step(state, jax.device_put(batch, sharding)))
    per_image.append({name: value[counts] for name, value in values.items()})
    batch["output"] = output
    if look:
      look(batch, counts)
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


def baseline_names(data: ml_collections.ConfigDict) -> tuple[str, ...]:
  """The baselines that apply to this data."""
  return (
    "mean_target",
    *(("nearest_valid", "interpolated") if data.input_dtype == data.target_dtype == "float32" else ()),
  )


def choose_baselines(asked: Sequence[str], data: ml_collections.ConfigDict) -> tuple[str, ...]:
  """Names, `"all"` or `"none"`, each maybe several joined by commas, as the names of baselines. UsageError: there is no such one."""
  names, known = [name for names in asked for name in names.split(",") if name], baseline_names(data)
  unknown = [name for name in names if name not in (*known, "all", "none")]
  if not names or unknown or "none" in names and set(names) != {"none"}:
    raise UsageError(
      f"--baseline={','.join(names)} does not fit: for this data there are {', '.join(known)}; 'all' of them, or alone 'none'."
    )
  return tuple(name for name in known if name in names or "all" in names)


def baselines(
  source: pipeline.Source, split: pipeline.Split, config: ml_collections.ConfigDict, names: Sequence[str] | None = None
) -> dict[str, dict[str, float]]:
  """The metrics of answers that need no network, which a model has to beat: name → metric → mean. `names`: those to measure; None: all.

  `mean_target`: the mean target picture of (up to the first 1000) training pairs, for depth over the valid pixels.
  `nearest_valid`: where the input is depth too, its holes filled with the nearest measurement.
  `interpolated`: the same with `depth.interpolate`, smooth, which is where a generator with `model.residual` begins.
  """
  data = config.data
  names = baseline_names(data) if names is None else names
  depth_range, input_is_depth = (
    data.depth_range if data.target_dtype == "float32" else None,
    data.input_dtype == "float32",
  )
  measure = jax.jit(
    lambda answer, batch: metrics.all_metrics(
      answer, batch["target"], batch.get("mask"), depth_range, (batch["input"] <= -1) if input_is_depth else None
    )
  )

  def nearest_valid(batch):
    metres = depth.decode(batch["input"], data.depth_range) * (batch["input"] > -1)
    return depth.encode(np.stack([depth.fill_with_nearest(picture) for picture in metres]), data.depth_range)

  answers = {
    "nearest_valid": nearest_valid,
    "interpolated": jax.jit(lambda batch: depth.interpolate(batch["input"], batch["input"] > -1)),
  }
  if "mean_target" in names:
    mean_target = _mean_target(source, data)
    answers["mean_target"] = lambda batch: np.broadcast_to(mean_target, batch["target"].shape)
  per_image = {name: [] for name in names}
  for batch, counts in pipeline.eval_batches(split, data, batch_size=min(8, len(split))) if names else ():
    for name in names:
      values = jax.device_get(measure(answers[name](batch), batch))
      per_image[name].append({metric: value[counts] for metric, value in values.items()})
  return {
    name: means({metric: np.concatenate([row[metric] for row in rows]) for metric in rows[0]})
    for name, rows in per_image.items()
  }


def _mean_target(source: pipeline.Source, data: ml_collections.ConfigDict) -> np.ndarray:
  """Of (up to the first 1000) training pairs, (H, W, C) in [-1, 1]."""
  train = pipeline.load_split(
    source, "train", datasets.eval_shape(data), cache_gib=data.cache_gib, depth_range=data.depth_range, limit=1000
  )
  total, weight = 0.0, 0.0
  for i in range(len(train)):
    mask = train.arrays["mask"][i].astype(np.float64) if "mask" in train.arrays else 1.0
    total = total + images.normalise(train.arrays["target"][i], data.depth_range) * mask
    weight = weight + mask
  if data.target_dtype == "float32":  # pixels that no training picture measured take the mean of all that were
    total, weight = np.where(weight > 0, total, total.sum() / weight.sum()), np.maximum(weight, 1)
  return np.float32(total / weight)


def protocol(config: ml_collections.ConfigDict) -> dict[str, object]:
  """What a reader of the figures has to know about how they came about."""
  return {
    "dropout": config.evaluation.dropout,
    "norm_stats": config.evaluation.norm_stats,
    "seed": config.seed,
    "data": config.data.name,
    "source_dir": config.data.source_dir,
    "height_width": list(datasets.eval_shape(config.data)),
    "scale": "l1, psnr and ssim on [0, 1]",
  }


def has_distances(config: ml_collections.ConfigDict) -> bool:
  """Whether the target is what FID and KID are defined for, 8-bit RGB."""
  return config.data.target_dtype == "uint8" and config.model.output_channels == 3


def _about_distances(config: ml_collections.ConfigDict, count: int, distances: dict[str, float]) -> str:
  if distances:
    return (
      f"of {count} translations against {count} targets, pytorch-fid's Inception-v3; biased, comparable at equal numbers only; kid over "
      f"{f'{inception_lib.KID_SUBSETS} subsets of {inception_lib.KID_SUBSET_SIZE}' if 'kid_std' in distances else 'all of them'}"
    )
  return "not computed: " + (
    "no --inception weights given" if has_distances(config) else "the target is no 8-bit RGB picture"
  )


def write(
  folder: Path,
  evaluation: Evaluation,
  ids: list[str],
  step: int,
  config: ml_collections.ConfigDict,
  baseline_means: dict[str, dict[str, float]],
  distances: dict[str, float] | None = None,
) -> None:
  """`metrics.json`, `per_image.csv`, and the pictures `grid.png`, `best.png` and `worst.png`. `distances`: FID and KID, if measured."""
  folder.mkdir(parents=True, exist_ok=True)
  told = {**protocol(config), "fid": _about_distances(config, len(ids), distances or {})}
  summary = {
    "step": step,
    "count": len(ids),
    "metrics": {**evaluation.means, **(distances or {})},
    "baselines": baseline_means,
    "protocol": told,
  }
  (folder / "metrics.json").write_text(json.dumps(summary, indent=2) + "\n")
  with (folder / "per_image.csv").open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["id", *evaluation.per_image])
    writer.writerows(
      [name, *(f"{values[i]:.6g}" for values in evaluation.per_image.values())] for i, name in enumerate(ids)
    )
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


def evaluate(
  workdir: Path,
  *,
  split: str = "val",
  step: str = "best",
  source_dir: str = "",
  reader: str = "",
  dropout: bool | None = None,
  norm_stats: str = "",
  inception: Path | None = None,
  baseline: Sequence[str] = ("all",),
) -> Evaluation:
  """Measures a checkpoint of a workdir and writes the results into its `eval/SPLIT`.

  Args:
    split: of the data the model was trained on, or of `source_dir`, another directory of the same layout.
    step: `"best"`, `"latest"` or a number.
    reader: of `source_dir`, where that is not the training's, as for a model trained on built-in data.
    dropout, norm_stats: the protocol, where it is not the training's; recorded in metrics.json.
    inception: the weights that FID and KID need, pytorch-fid's `pt_inception-2015-12-05-6726825d.pth`; None: without them.
    baseline: names of baselines to measure, `"all"` or `"none"`.
  """
  config = checkpoint.load_config(workdir)
  chosen = choose_baselines(baseline, config.data)
  if inception and not has_distances(config):
    raise UsageError(
      f"--inception is for FID and KID of 8-bit RGB pictures; this model's target is {config.data.target_dtype} with "
      f"{config.model.output_channels} channel(s)."
    )
  comparison = inception_lib.Comparison(inception_lib.Extractor.load(inception)) if inception else None
  with config.unlocked():
    config.data.source_dir = source_dir or config.data.source_dir
    config.data.name = reader or config.data.name
    config.evaluation.dropout = config.evaluation.dropout if dropout is None else dropout
    config.evaluation.norm_stats = norm_stats or config.evaluation.norm_stats
  source = pipeline.PreparedSource(datasets.prepare(config.data))
  data = pipeline.load_split(
    source,
    split,
    datasets.eval_shape(config.data),
    cache_gib=config.data.cache_gib,
    depth_range=config.data.depth_range,
  )
  if comparison and len(data) < 2:
    raise UsageError(f"The split {split!r} has {len(data)} image; FID and KID (--inception) need two at least.")
  steps.use_compilation_cache(config.train.compilation_cache)
  mesh = steps.make_mesh()
  networks = dict(zip(("generator", "discriminator"), models.make_networks(config.model, dtype=config.train.dtype)))
  checkpointer = checkpoint.Checkpointer(workdir, read_only=True)
  number = checkpointer.resolve_step(step)
  state = checkpointer.restore(number, train_state.abstract(config, *networks.values(), mesh))
  eval_step = steps.compile_eval_step(mesh, **networks, **steps.evaluation_settings(config))

  def compare(batch, counts):
    comparison.add(
      *(images.denormalise(batch[name], "uint8", config.data.depth_range) for name in ("output", "target")), counts
    )

  evaluation = evaluate_split(eval_step, state, data, config, mesh, compare if comparison else None)
  distances = comparison.distances() if comparison else {}
  compared = baselines(source, data, config, chosen)
  write(Path(workdir) / "eval" / split, evaluation, data.ids, number, config, compared, distances)
  print(
    f"{split}: {len(data)} images, step {number}\n{table({'model': {**evaluation.means, **distances}, **compared})}"
  )
  if distances:
    print(
      f"  fid of {len(data)} images is biased (the fewer, the larger): compare it at this number only; kid is unbiased."
    )
  print(f"written to {Path(workdir) / 'eval' / split}")
  return evaluation


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(prog="python -m pix2pix_jax.evaluate", description=__doc__.split("\n")[0])
  parser.add_argument("--workdir", type=Path, required=True, help="of a training")
  parser.add_argument("--split", default="val", help="train, val or test (default: val)")
  parser.add_argument("--step", default="best", help="best, latest or the number of a checkpoint (default: best)")
  parser.add_argument(
    "--source_dir", default="", help="raw files of the same layout as the training's (default: the training's)"
  )
  parser.add_argument("--reader", default="", help="of source_dir, where it is not the training's (data.name)")
  parser.add_argument("--dropout", choices=("on", "off"), help="whether the noise is on (default: as in training)")
  parser.add_argument(
    "--norm_stats", choices=("image", "batch", "running"), default="", help="of batch norm (default: as in training)"
  )
  parser.add_argument(
    "--inception",
    type=Path,
    metavar="FILE",
    help=f"{inception_lib.WEIGHTS} of pytorch-fid, for FID and KID (default: without them)",
  )
  parser.add_argument(
    "--baseline",
    action="append",
    metavar="NAME",
    help="a baseline to measure, repeatable or joined by commas; all or none (default: all)",
  )
  options = parser.parse_args(argv)
  evaluate(
    options.workdir,
    split=options.split,
    step=options.step,
    source_dir=options.source_dir,
    reader=options.reader,
    dropout=None if options.dropout is None else options.dropout == "on",
    norm_stats=options.norm_stats,
    inception=options.inception,
    baseline=options.baseline or ["all"],
  )


if __name__ == "__main__":
  run_command(main)
