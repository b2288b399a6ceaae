"""Measures each option in runs that differ from the paper's recipe in that option alone, with several seeds each.

  python benchmarks/ablation.py --source_dir=facades --output=runs/ablation
  python benchmarks/ablation.py --source_dir=facades --output=runs/ablation --only=paper,ema --seeds=0

The defaults are façades at 128×128, 32 features, batch size 1 and 20 epochs, or about a quarter of an hour per run on
two CPU cores. If interrupted, rerun the same command to resume. The first seed of all variants comes first. Every run
also gets the flags of the form --config.FIELD=VALUE.

Each metric is averaged over the last five validations of a run; the table shows the mean ± sample standard deviation
over the seeds, for finished runs only. The rows "evaluated with" show the last checkpoints with each kind of batch norm
statistics (`evaluation.norm_stats`).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
import subprocess
import sys

import numpy as np

from pix2pix_jax.run import evaluation, history

ROOT = Path(__file__).resolve().parent.parent
VARIANTS: dict[str, tuple[str, ...]] = {  # name: the flags that make it; a name without "=" is a variant of the config
  "paper": (),
  "classes": ("classes",),
  "ema": ("train.ema_decay=0.999",),
  "resize": ("model.upsample=resize",),
  "feature_matching": ("loss.feature_matching=10.0",),
  "hinge": ("loss.gan=hinge",),
  "r1": ("loss.r1_weight=10.0",),
  "spectral_norm": ("model.spectral_norm=True",),
  "multi_scale": ("model.discriminators=2",),
  "resnet_9blocks": ("model.generator=resnet_9blocks",),
  "batch_4": ("train.batch_size=4",),
  "batch_10": ("train.batch_size=10",),
  "classes_ema": ("classes", "train.ema_decay=0.999"),
}
METRICS = {"l1": ("L1 ↓", 4), "psnr": ("PSNR ↑", 2), "ssim": ("SSIM ↑", 3)}  # heading, decimals
NORM_STATS = ("image", "batch", "running")
LAST = 5  # validations


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--source_dir", type=Path, required=True, help="folder of façades, as for data.source_dir")
  parser.add_argument("--output", type=Path, required=True, help="folder for the workdirs")
  parser.add_argument("--only", default=",".join(VARIANTS), help="variants, separated by commas (default: all)")
  parser.add_argument("--seeds", default="0,1,2", help="seeds, separated by commas (default: 0,1,2)")
  parser.add_argument("--table", action="store_true", help="only print the table of the finished runs")
  parser.add_argument("--num_epochs", type=int, default=20, help="epochs per run (default: 20)")
  parser.add_argument("--crop_size", type=int, default=128, help="height and width (default: 128)")
  parser.add_argument("--base_features", type=int, default=32, help="width of the networks (default: 32)")
  options, options.flags = parser.parse_known_args()
  if unknown := [flag for flag in options.flags if not flag.startswith("--config.")]:
    parser.error(f"unknown flags: {' '.join(unknown)}")
  options.source_dir, options.output = (each.expanduser().resolve() for each in (options.source_dir, options.output))
  variants, seeds = options.only.split(","), [int(seed) for seed in options.seeds.split(",")]
  if unknown := [name for name in variants if name not in VARIANTS]:
    parser.error(f"--only: there is no {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
  if not options.table:
    for seed in seeds:
      for name in variants:
        train(options, name, seed)
  print(table(options.output, variants, seeds))


def workdir_of(output: Path, name: str, seed: int) -> Path:
  return output / name / f"seed_{seed}"


def train(options: argparse.Namespace, name: str, seed: int) -> None:
  """Trains one network, or goes on with it, and evaluates it with each kind of norm statistics."""
  workdir, size = workdir_of(options.output, name, seed), options.crop_size
  chosen = ",".join(flag for flag in VARIANTS[name] if "=" not in flag)
  fields = {
    "data.source_dir": options.source_dir,
    "data.load_size": round(size * 286 / 256),
    "data.crop_size": size,
    "model.base_features": options.base_features,
    "train.batch_size": 1,
    "train.num_epochs": options.num_epochs,
    "seed": seed,
  }
  command = [sys.executable, str(ROOT / "main.py"), f"--config={ROOT}/configs/facades.py{chosen and ':' + chosen}"]
  command += [f"--workdir={workdir}", *(f"--config.{field}={value}" for field, value in fields.items())]
  run([*command, *(f"--config.{flag}" for flag in VARIANTS[name] if "=" in flag), *options.flags])
  for kind in NORM_STATS:
    if not evaluated(workdir, kind):
      evaluate = [sys.executable, "-m", "pix2pix_jax.evaluate", f"--workdir={workdir}", "--split=val", "--step=latest"]
      run([*evaluate, f"--norm_stats={kind}"])


def run(command: Sequence[str]) -> None:
  print("$", " ".join(command), file=sys.stderr, flush=True)
  subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)


def evaluated(workdir: Path, kind: str) -> dict[str, float]:
  """The metrics of the last checkpoint with norm statistics of this kind; empty if there are none."""
  for path in sorted(workdir.glob("eval/val*/metrics.json")):
    summary = evaluation.read_summary(path.parent)
    if summary and summary["protocol"]["norm_stats"] == kind and summary["step"] == last_step(workdir):
      return summary["metrics"]
  return {}


def last_step(workdir: Path) -> int:
  """The last step of a finished run; -1 before it has finished."""
  rows = validations(workdir)
  finished = (workdir / "eval/val/metrics.json").exists()  # written at the end
  return int(rows[-1]["step"]) if rows and finished else -1


def validations(workdir: Path) -> list[dict[str, float]]:
  """The rows of the history that hold a validation of trained networks."""
  return [row for row in history.read(workdir) if "val/l1" in row and row["step"]]


def means(workdir: Path) -> dict[str, float]:
  """The mean of each metric over the last validations of a finished run; empty before it has finished."""
  rows = validations(workdir)[-LAST:] if last_step(workdir) > 0 else []
  return {name: float(np.mean([row[f"val/{name}"] for row in rows])) for name in METRICS} if rows else {}


def table(output: Path, variants: Sequence[str], seeds: Sequence[int]) -> str:
  """Markdown: a row for each variant, and for its kinds of norm statistics; finished runs only."""
  lines = [f"| variant | seeds | {' | '.join(heading for heading, _ in METRICS.values())} |"]
  lines.append("| --- | --- |" + " --- |" * len(METRICS))
  for name in variants:
    workdirs = [workdir_of(output, name, seed) for seed in seeds]
    label = f"{name} ({', '.join(VARIANTS[name])})" if VARIANTS[name] else name
    lines += row(label, [means(workdir) for workdir in workdirs])
    for kind in NORM_STATS:
      lines += row(f"{name}, evaluated with {kind}", [evaluated(workdir, kind) for workdir in workdirs])
  return "\n".join(lines)


def row(label: str, found: Sequence[dict[str, float]]) -> list[str]:
  """A line of the table from the metrics of each seed; none if there are none."""
  found = [one for one in found if one]
  cells = []
  for name, (_, digits) in METRICS.items() if found else ():
    values = [one[name] for one in found]
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    cells.append(f"{np.mean(values):.{digits}f}{spread}")
  return [f"| {label} | {len(found)} | {' | '.join(cells)} |"] if found else []


if __name__ == "__main__":
  main()
