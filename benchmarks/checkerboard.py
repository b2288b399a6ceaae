"""Checkerboards: the spectrum of a workdir's outputs at the frequencies of its strides, against that of the targets.

  python benchmarks/checkerboard.py --workdir=runs/facades --split=test

Stride-2 layers of a decoder leave patterns that repeat every 2, 4 or 8 pixels (Odena et al. 2016,
https://doi.org/10.23915/distill.00003; model.upsample=resize is against them). In a spectrum they are peaks at 1/2, 1/4
and 1/8 cycles per pixel, along the rows, the columns and both diagonals. The JSON has, for each of these frequencies,

  energy          variance of the outputs at the frequency, on the networks' scale [-1, 1], summed over channels
  target_energy   the same of the targets
  ratio           their quotient; below 1 at all frequencies if the outputs are merely blurred
  peak            power at the frequency over the power around it: 1 without a pattern, however blurred the outputs are
  target_peak     the same of the targets, which JPEG's 8×8 blocks can raise

Images are cropped to multiples of 8 and need 64 pixels per side. Where the target has holes, both sides are 0.
"""

import argparse
from collections import defaultdict
import json
from pathlib import Path

import numpy as np

from pix2pix_jax import config as config_lib
from pix2pix_jax.errors import UsageError, run_command
from pix2pix_jax.output import counted

PERIODS = (2, 4, 8)  # pixels
SMALLEST = 64  # pixels per side: the surroundings of the lowest frequency must not reach frequency 0
_PEAK, _NEAR, _FAR = 1, 3, 5  # distances in bins: of a peak, which the window widens, and of what surrounds it


def spectra(images: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
  """By period, the (energy, surroundings) of each image of (n, H, W, C), both (n,): sums over the channels.

  The energies are variances: a wave of amplitude a has a²/2, or a² if it alternates from pixel to pixel. The
  surroundings are scaled to equal the energy if the spectrum is flat there.

  Raises:
    UsageError: images smaller than `SMALLEST`.
  """
  height, width = (side - side % max(PERIODS) for side in images.shape[1:3])
  if min(height, width) < SMALLEST:
    raise UsageError(
      f"The spectrum needs images of at least {SMALLEST} pixels per side; these have {images.shape[1:3]}."
    )
  images = np.asarray(images[:, :height, :width], np.float64)
  window = np.outer(*(np.sin(np.pi * np.arange(side) / side) ** 2 for side in (height, width)))[..., None]
  centred = (images - images.mean((1, 2), keepdims=True)) * window
  power = np.square(np.abs(np.fft.fft2(centred, axes=(1, 2)))).sum(-1) / (height * width * np.square(window).sum())
  rows, columns = np.fft.fftfreq(height, 1 / height), np.fft.fftfreq(width, 1 / width)  # whole numbers: bins

  def distance(bins: np.ndarray, side: int, center: int) -> np.ndarray:
    return np.abs((bins - center + side // 2) % side - side // 2)

  found = {}
  for period in PERIODS:
    peaks, around = np.zeros((height, width), bool), np.zeros((height, width), bool)
    steps = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    for i, j in steps:
      far = np.maximum(
        distance(rows, height, i * height // period)[:, None], distance(columns, width, j * width // period)[None]
      )
      peaks |= far <= _PEAK
      around |= (far >= _NEAR) & (far <= _FAR)
    found[period] = power[:, peaks].sum(1), power[:, around].mean(1) * peaks.sum()
  return found


def measure(
  workdir: Path, split: str, step: str, dropout: bool | None = None, norm_stats: str = ""
) -> dict[str, object]:
  """What the module's docstring describes, of one checkpoint, by the run's protocol or another one."""
  from pix2pix_jax.data import pipeline, prepare  # imports TensorFlow, which is slow
  from pix2pix_jax.evaluate import configure
  from pix2pix_jax.run import checkpoint, evaluation
  from pix2pix_jax.run.experiment import Experiment

  trained = Experiment.read(workdir)
  config, channels = (
    configure(workdir, trained.config, dropout=dropout, norm_stats=norm_stats),
    trained.spec.target.channels,
  )
  run = Experiment(config, trained.spec)
  source = prepare.prepare(config.data, config.model)
  data = pipeline.load_split(source, split, config_lib.eval_resize(config.data), cache_gib=config.data.cache_gib)
  with checkpoint.Checkpointer(workdir, config=trained.config, read_only=True) as checkpointer:
    number, variables = checkpointer.load_variables(step, run.abstract())
  sums: dict[tuple[str, int], np.ndarray] = defaultdict(lambda: np.zeros(2))

  def add(batch: dict[str, np.ndarray], output: np.ndarray) -> None:
    mask = batch.get("mask", 1)
    for side, images in (("", output[..., :channels]), ("target_", batch["target"])):
      for period, parts in spectra(images * mask).items():
        sums[side, period] += [part.sum() for part in parts]

  evaluation.evaluate_split(run, variables, data, add)
  result: dict[str, object] = {
    "workdir": str(workdir),
    "step": number,
    "images": f"{counted(len(data), 'image')} of {split}",
  }
  for period in PERIODS:
    (energy, around), (target_energy, target_around) = sums["", period], sums["target_", period]
    values = {"energy": energy / len(data), "target_energy": target_energy / len(data), "ratio": energy / target_energy}
    values |= {"peak": energy / around, "target_peak": target_energy / target_around}
    result[f"1/{period}"] = {name: float(f"{value:.4g}") for name, value in values.items()}
  return result


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--workdir", type=Path, required=True, help="workdir of a trained model")
  parser.add_argument("--split", default="val", help="train, val or test (default: val)")
  parser.add_argument("--step", default="best", help="best, latest or the number of a checkpoint (default: best)")
  parser.add_argument("--dropout", choices=("on", "off"), help="default: as in the run")
  parser.add_argument("--norm_stats", choices=("image", "batch", "running"), default="", help="default: as in the run")
  options = parser.parse_args()
  dropout = None if options.dropout is None else options.dropout == "on"
  print(json.dumps(measure(options.workdir.expanduser(), options.split, options.step, dropout, options.norm_stats)))


if __name__ == "__main__":
  run_command(main)
