"""Measures each option in runs that differ from the paper's recipe in that option alone, with several seeds each.

  python benchmarks/ablation.py --source_dir=facades --output=runs/ablation --recognizer=runs/recognizer
  python benchmarks/ablation.py --source_dir=facades --output=runs/ablation --only=paper,classes --seeds=0
  python benchmarks/ablation.py --study=street --output=runs/street

Studies are `facades` (400 training pairs at 128×128, 20 epochs: about a quarter of an hour per run on one CPU core)
and, on built-in data, `street` (photograph → LiDAR depth, 10 epochs) and `rooms` (Kinect holes → dense depth, 14
epochs), all with 32 features and, unless the variant changes it, batch size 1. If interrupted, rerun the same command
to resume. The first seed of all variants comes first. Flags of the form --config.FIELD=VALUE are passed on to every
run. A moving average does not change training, so `paper` needs no runs of its own: it is measured in those of `ema`,
with the weights before averaging, and `classes` in those of `classes_ema`.

After a run, the checkpoints of its epochs translate the validation split. The results go to the run's ablation.json,
and all checkpoints but the last are deleted. The tables hold finished runs only, as mean ± sample standard deviation
over the seeds:

  1. the means of each metric over the last five epochs (or --epochs), for façades also with the other two kinds of
     statistics for batch norm (`evaluation.norm_stats`). "Grid" is the highest peak of benchmarks/checkerboard.py;
  2. the checkpoint that each metric would choose (`train.best_metric`) in the runs with averages: its epoch and its
     metrics. Of other runs, only the last five epochs are measured.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
import dataclasses
import json
from pathlib import Path
import shutil
import subprocess
import sys

import checkerboard
import numpy as np

from pix2pix_jax.errors import run_command

ROOT = Path(__file__).resolve().parent.parent
NORM_STATS = ("image", "batch", "running")
METRICS = {  # name in ablation.json: heading, decimals, sign of the better direction
  "l1": ("L1 ↓", 4, -1),
  "psnr": ("PSNR ↑", 2, 1),
  "ssim": ("SSIM ↑", 3, 1),
  "recognizer_mean_iou": ("recognizer's mean IoU ↑", 3, 1),
  "grid": ("grid ↓", 1, -1),
  "rmse": ("RMSE ↓", 3, -1),
  "mae": ("MAE ↓", 4, -1),
  "delta1": ("δ₁ ↑", 4, 1),
  "hole_rmse": ("RMSE in the holes ↓", 3, -1),
  "hole_mae": ("MAE in the holes ↓", 3, -1),
}
NOT_CHOOSING = ("psnr", "grid")  # of the METRICS
LAST = 5  # epochs
RESULTS = "ablation.json"  # weights ("own" or "average") → norm statistics → list of {"step": …, metric: …}
BUILT_IN = {"data.num_train": 300, "data.num_val": 30, "data.num_test": 30}


@dataclasses.dataclass(frozen=True)
class Study:
  """The runs of an experiment.

  Attributes:
    config: file in configs/, with variants.
    pairs: in the training split.
    num_epochs: per run.
    fields: values by field.
    metrics: the METRICS to measure.
    variants: by name, the flags that make it; one without "=" is a variant of the configuration.
    within: variant → the variant whose runs it is measured in.
    norm_stats: the kinds of statistics to evaluate with.
  """

  config: str
  pairs: int
  num_epochs: int
  fields: dict[str, object]
  metrics: tuple[str, ...]
  variants: dict[str, tuple[str, ...]]
  within: dict[str, str]
  norm_stats: tuple[str, ...] = ("image",)


STUDIES = {
  "facades": Study(
    "facades.py",
    pairs=400,
    num_epochs=20,
    fields={"data.load_size": 143, "data.crop_size": 128},
    metrics=("l1", "psnr", "ssim", "recognizer_mean_iou", "grid"),
    variants={
      "paper": (),
      "ema": ("train.ema_decay=0.999",),
      "classes": ("classes",),
      "classes_ema": ("classes", "train.ema_decay=0.999"),
      "classes_ema_resize": ("classes", "train.ema_decay=0.999", "model.upsample=resize"),
      "batch_4": ("train.batch_size=4",),
      "batch_10": ("train.batch_size=10",),
      "resize": ("model.upsample=resize",),
      "feature_matching": ("loss.feature_matching=10.0",),
      "spectral_norm": ("model.spectral_norm=True",),
      "hinge": ("loss.gan=hinge",),
      "r1": ("loss.r1_weight=10.0",),
      "multi_scale": ("model.discriminators=2",),
      "no_dropout": ("model.dropout_blocks=()",),
      "resnet_9blocks": ("model.generator=resnet_9blocks",),
    },
    within={"paper": "ema", "classes": "classes_ema"},
    norm_stats=NORM_STATS,
  ),
  "street": Study(
    "kitti.py:procedural",
    pairs=300,
    num_epochs=10,
    fields=BUILT_IN
    | {"data.load_size": 128, "data.load_width": 416, "data.crop_size": 128, "data.crop_width": 128}
    | {"data.eval_size": 128, "data.eval_width": 384},
    metrics=("l1", "rmse", "mae", "delta1"),
    variants={
      "paper": (),
      "ema": ("train.ema_decay=0.999",),
      "no_gan": ("loss.gan=none",),
      "no_norm": ("model.norm=none",),
      "no_dropout": ("model.dropout_blocks=()",),
      "resize": ("model.upsample=resize",),
      "no_gan_norm": ("loss.gan=none", "model.norm=none"),
      "no_gan_norm_dropout_ema": (
        *("loss.gan=none", "model.norm=none"),
        *("model.dropout_blocks=()", "train.ema_decay=0.999"),
      ),
    },
    within={"paper": "ema"},
  ),
  "rooms": Study(
    "nyu.py:procedural",
    pairs=300,
    num_epochs=14,
    fields=BUILT_IN
    | {"data.load_size": 448, "data.load_width": 576, "data.crop_size": 192, "data.crop_width": 192}
    | {"data.eval_size": 448, "data.eval_width": 576, "model.levels": 6, "model.dropout_blocks": "()"}
    | {"optimizer.decay_fraction": 0.5},
    metrics=("l1", "rmse", "mae", "delta1", "hole_rmse", "hole_mae"),
    variants={"paper": (), "no_gan": ("loss.gan=none",), "best": ("best",)},
    within={},
  ),
}

Row = dict[str, float]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--study", choices=STUDIES, default="facades", help="the experiment (default: facades)")
  parser.add_argument("--source_dir", type=Path, help="folder of façades, as for data.source_dir")
  parser.add_argument("--output", type=Path, required=True, help="folder for the workdirs")
  parser.add_argument("--recognizer", type=Path, help="workdir of a recognizer (docs/results.md); default: none")
  parser.add_argument("--only", help="variants, separated by commas (default: all)")
  parser.add_argument("--seeds", default="0,1,2", help="seeds, separated by commas (default: 0,1,2)")
  parser.add_argument("--table", action="store_true", help="only print the tables of the finished runs")
  parser.add_argument(
    "--epochs", type=_epochs, metavar="FIRST-LAST", help="epochs that the first table averages (default: the last five)"
  )
  parser.add_argument("--num_epochs", type=int, help="epochs per run (default: those of the study)")
  parser.add_argument("--base_features", type=int, default=32, help="width of the networks (default: 32)")
  options, options.flags = parser.parse_known_args()
  study = STUDIES[options.study]
  if unknown := [flag for flag in options.flags if not flag.startswith("--config.")]:
    parser.error(f"unknown flags: {' '.join(unknown)}")
  if options.study == "facades" and not options.source_dir and not options.table:
    parser.error("--source_dir is missing: the folder of façades")
  for name in ("source_dir", "output", "recognizer"):
    if path := getattr(options, name):
      setattr(options, name, path.expanduser().resolve())
  variants = options.only.split(",") if options.only else list(study.variants)
  seeds = [int(seed) for seed in options.seeds.split(",")]
  if unknown := [name for name in variants if name not in study.variants]:
    parser.error(f"--only: there is no {', '.join(unknown)}; there are {', '.join(study.variants)}")
  for seed in [] if options.table else seeds:
    for name in dict.fromkeys(study.within.get(name, name) for name in variants):
      workdir = workdir_of(study, options.output, name, seed)
      if not (workdir / RESULTS).exists():
        train(study, options, name, seed)
        write_results(workdir, measure(study, workdir, options.recognizer))
  results = {name: [read_results(study, options.output, name, seed) for seed in seeds] for name in variants}
  print(table(study, results, options.epochs), choices(study, results), sep="\n\n")


def _epochs(text: str) -> slice:
  first, _, last = text.partition("-")
  if not (first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
    raise argparse.ArgumentTypeError(f"{text!r} is not a range of epochs, such as 6-10")
  return slice(int(first) - 1, int(last))


def workdir_of(study: Study, output: Path, name: str, seed: int) -> Path:
  return output / study.within.get(name, name) / f"seed_{seed}"


def train(study: Study, options: argparse.Namespace, name: str, seed: int) -> None:
  """Trains one network, or resumes its run."""
  flags = study.variants[name]
  batch_size = int(dict(flag.split("=") for flag in flags if "=" in flag).get("train.batch_size", 1))
  fields = study.fields | {
    "model.base_features": options.base_features,
    "train.batch_size": batch_size,
    "train.num_epochs": options.num_epochs or study.num_epochs,
    "train.keep_every_steps": study.pairs // batch_size,
    "seed": seed,
  }
  if options.source_dir:
    fields["data.source_dir"] = options.source_dir
  config, _, variants = study.config.partition(":")
  chosen = ",".join([*filter(None, [variants]), *(flag for flag in flags if "=" not in flag)])
  command = [sys.executable, str(ROOT / "main.py"), f"--config={ROOT}/configs/{config}{chosen and ':' + chosen}"]
  command += [f"--workdir={workdir_of(study, options.output, name, seed)}"]
  command += [f"--config.{field}={value}" for field, value in fields.items()]
  run([*command, *(f"--config.{flag}" for flag in flags if "=" in flag), *options.flags])


def run(command: Sequence[str]) -> None:
  print("$", " ".join(command), file=sys.stderr, flush=True)
  subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)


def measure(study: Study, workdir: Path, recognizer_workdir: Path | None) -> dict[str, dict[str, list[Row]]]:
  """The metrics of a run's last checkpoints, or if it has averages, of all, on the validation split, as in RESULTS."""
  from pix2pix_jax import config as config_lib  # imports TensorFlow: slow
  from pix2pix_jax.data import pipeline, prepare
  from pix2pix_jax.run import checkpoint
  from pix2pix_jax.run.experiment import Experiment, use_compilation_cache
  from pix2pix_jax.run.recognizer import Recognizer

  trained = Experiment.read(workdir)
  config = trained.config
  use_compilation_cache(config.train.compilation_cache)
  source = prepare.prepare(config.data, config.model)
  data = pipeline.load_split(source, "val", config_lib.eval_resize(config.data), cache_gib=config.data.cache_gib)
  recognizer = Recognizer(recognizer_workdir, trained.spec) if recognizer_workdir else None
  found: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
  with checkpoint.Checkpointer(workdir, config=config, read_only=True) as checkpointer:
    steps = [step for step in checkpointer.all_steps() if step]
    for weights in ("own", "average") if config.train.ema_decay else ("own",):
      for kind in study.norm_stats:
        own = config.copy_and_resolve_references()
        own.evaluation.norm_stats = kind
        own.train.ema_decay = config.train.ema_decay if weights == "average" else 0.0
        experiment = Experiment(own, trained.spec)
        for step in steps if config.train.ema_decay and kind == "image" else steps[-LAST:]:
          if weights == "average":
            variables = checkpointer.restore_variables(step)
          else:
            variables = checkpointer.restore(step, experiment.abstract()).variables
          name = f"{weights} weights, {kind} statistics, step {step}"
          row = {"step": step, **score(study, experiment, variables, data, recognizer, name)}
          found[weights][kind].append(row)
          print(f"{workdir}: {name}: {row}", file=sys.stderr, flush=True)
  return found


def score(study: Study, experiment, variables, data, recognizer, name: str) -> Row:
  """The study's metrics of one checkpoint, which the recognizer, if there is one, knows by its name."""
  from pix2pix_jax.run import evaluation

  sums: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(2))

  def add(batch: dict[str, np.ndarray], output: np.ndarray) -> None:
    if recognizer:
      recognizer.add(name, batch["input"], output)
    for period, parts in checkerboard.spectra(output).items() if "grid" in study.metrics else ():
      sums[period] += [part.sum() for part in parts]

  means = evaluation.evaluate_split(experiment, variables, data, add).means
  if recognizer:
    means |= recognizer.scores()[name]
  if sums:
    means["grid"] = float(max(energy / around for energy, around in sums.values()))
  return {name: means[name] for name in study.metrics if name in means}


def write_results(workdir: Path, results: dict[str, dict[str, list[Row]]]) -> None:
  (workdir / RESULTS).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
  last = results["own"]["image"][-1]["step"]
  for folder in (workdir / "checkpoints").glob("*"):
    if folder.name.isdigit() and int(folder.name) != last:
      shutil.rmtree(folder)


def read_results(study: Study, output: Path, name: str, seed: int) -> dict[str, list[Row]]:
  """The metrics of a variant by norm statistics; empty before its run was measured."""
  path = workdir_of(study, output, name, seed) / RESULTS
  if not path.exists():
    return {}
  found = json.loads(path.read_text(encoding="utf-8"))
  return found["own" if name in study.within else next(reversed(found))]  # of averages if there are any


def table(study: Study, results: dict[str, list[dict[str, list[Row]]]], epochs: slice | None = None) -> str:
  """Markdown: the last epochs of each variant, with each kind of norm statistics, or those `epochs` that were kept."""
  remarks = {"image": "", "batch": ", statistics of batches", "running": ", running statistics"}

  def rows() -> Iterator[tuple[str, list[Row]]]:
    for name, seeds in results.items():
      flags = f" ({', '.join(study.variants[name])})" if study.variants[name] else ""
      for kind in study.norm_stats:
        found = [seed[kind] for seed in seeds if seed]
        if epochs:  # only runs with averages have the rows of all epochs, and only of one kind
          found = [rows[epochs] for rows in found if len(rows) > LAST and len(rows) >= epochs.stop]
        yield name + (remarks[kind] or flags), [mean(rows[-LAST:] if not epochs else rows) for rows in found]

  return _markdown("variant", study.metrics, rows())


def choices(study: Study, results: dict[str, list[dict[str, list[Row]]]]) -> str:
  """Markdown: the checkpoint that each metric chooses in the runs of each variant, and the last one."""
  choosers = [*(name for name in study.metrics if name not in NOT_CHOOSING), "step"]

  def rows() -> Iterator[tuple[str, list[Row]]]:
    for name, seeds in results.items():
      checkpoints = [[{"epoch": i + 1, **row} for i, row in enumerate(seed["image"])] for seed in seeds if seed]
      for chooser in choosers if all(len(seed) > LAST for seed in checkpoints) else ():
        if all(chooser in row for seed in checkpoints for row in seed):
          label = "the last" if chooser == "step" else f"best {METRICS[chooser][0].split(' ↑')[0].split(' ↓')[0]}"
          yield f"{name}, {label}", [max(reversed(seed), key=better(chooser)) for seed in checkpoints]

  return _markdown("checkpoint", ("epoch", *study.metrics), rows())


def better(metric: str) -> Callable[[Row], float]:
  """A key that is larger for better checkpoints."""
  sign = METRICS[metric][2] if metric in METRICS else 1
  return lambda row: sign * row[metric]


def mean(rows: Sequence[Row]) -> Row:
  return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _markdown(heading: str, columns: Sequence[str], rows: Iterator[tuple[str, list[Row]]]) -> str:
  """A table with a line for each label and its metrics by seed, unless there are none."""
  headings, digits = zip(*[METRICS.get(name, (name, 1))[:2] for name in columns], strict=True)
  lines = [f"| {heading} | seeds | {' | '.join(headings)} |", "| --- | --- |" + " --- |" * len(columns)]
  for label, seeds in rows:
    if seeds:
      cells = (_spread([row[name] for row in seeds if name in row], d) for name, d in zip(columns, digits, strict=True))
      lines.append(f"| {label} | {len(seeds)} | {' | '.join(cells)} |")
  return "\n".join(lines)


def _spread(values: Sequence[float], digits: int) -> str:
  if not values:
    return ""
  spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
  return f"{np.mean(values):.{digits}f}{spread}"


if __name__ == "__main__":
  run_command(main)
