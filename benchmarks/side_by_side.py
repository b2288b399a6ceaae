"""A long run beside the same recipe in PyTorch: metrics and images at equal epochs.

  python main.py --config=configs/facades.py --workdir=runs/facades200 --config.data.source_dir=facades ... \
    --config.train.keep_every_steps=4000
  python benchmarks/torch_peer.py --source_dir=facades --output=runs/peer --keep_epochs=10,50,100,200 ...
  python benchmarks/side_by_side.py --workdir=runs/facades200 --peer=runs/peer --source_dir=facades \
    --recognizer=runs/recognizer --epochs=10,50,100,200 --output=facades_epochs.png

Single epochs vary, so the first table has means over the five validations up to each epoch, and over all after the
tenth. The second is about the outputs of the checkpoints of these epochs: how far a grid stands out at periods of 2, 4
and 8 pixels (benchmarks/checkerboard.py), and the recognizer's mean IoU. The image has a row for each of the first
validation pairs: the labels, the outputs of this package and of PyTorch at each epoch, and the photograph.
"""

import argparse
from collections.abc import Iterator
import json
from pathlib import Path

import checkerboard
import numpy as np
from PIL import Image
import torch
import torch_peer

from pix2pix_jax.inference import Translator
from pix2pix_jax.run import history
from pix2pix_jax.run.experiment import Experiment
from pix2pix_jax.run.recognizer import Recognizer
from pix2pix_jax.signals import DataSpec

METRICS = ("l1", "psnr", "ssim")
WINDOW = 5  # epochs
EARLY = 10  # epochs that the mean over the whole run leaves out


def own_metrics(workdir: Path, steps_per_epoch: int) -> dict[int, list[float]]:
  """Epoch → its validation metrics."""
  rows = [row for row in history.read(workdir) if "val/l1" in row]
  return {int(row["step"]) // steps_per_epoch: [row[f"val/{name}"] for name in METRICS] for row in rows}


def peer_metrics(folder: Path) -> dict[int, list[float]]:
  rows = torch.load(folder / "state.pt", weights_only=False)["history"]  # written by torch_peer.py
  return {row["epoch"]: [row[f"val_{name}"] for name in METRICS] for row in rows if "val_l1" in row}


def means(metrics: dict[int, list[float]], first: int, last: int) -> str:
  """The means over these epochs; empty if one was not validated."""
  rows = [metrics[each] for each in range(first, last + 1) if each in metrics]
  if len(rows) < last - first + 1:
    return ""
  l1, psnr, ssim = np.mean(rows, 0)
  return f"{l1:.4f} / {psnr:.2f} / {ssim:.3f}"


def table(ours: dict[int, list[float]], peer: dict[int, list[float]], epochs: list[int]) -> str:
  lines = ["| epochs | this package: L1 ↓ / PSNR ↑ / SSIM ↑ | PyTorch |", "|---|---|---|"]
  windows = [(epoch - WINDOW + 1, epoch) for epoch in epochs]
  if (both := min(max(ours), max(peer))) > EARLY:
    windows.append((EARLY + 1, both))
  for first, last in windows:
    lines.append(f"| {first} to {last} | {means(ours, first, last)} | {means(peer, first, last)} |")
  return "\n".join(lines)


def translations(
  options: argparse.Namespace, inputs: np.ndarray, targets: np.ndarray, steps_per_epoch: int
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields a name and arrays (N, H, W, 3) uint8: the labels, what both programs make of them, and the photographs."""
  yield "labels", inputs
  for epoch in options.epochs:
    step = epoch * steps_per_epoch
    if (options.workdir / "checkpoints" / str(step)).is_dir():
      yield f"this package, epoch {epoch}", Translator.load(options.workdir, step=step)(inputs)
    saved = options.peer / f"generator_{epoch:03}.pt"
    if saved.exists():
      weights = torch.load(saved, weights_only=True)
      generator = torch_peer.UNet(3, 3, options.base_features, torch_peer.num_levels(inputs.shape[1]))
      generator.load_state_dict(weights)
      yield f"PyTorch, epoch {epoch}", torch_peer.evaluate(generator, inputs, targets)[1]
  yield "photographs", targets


def describe(name: str, images: np.ndarray, inputs: np.ndarray, recognizer: Recognizer | None, spec: DataSpec) -> str:
  """A line of the second table."""
  encoded = spec.target.encode(images)
  peaks = [energy.sum() / around.sum() for energy, around in checkerboard.spectra(encoded).values()]
  score = ""
  if recognizer:
    recognizer.add(name, spec.input.encode(inputs), encoded)
    score = f"{recognizer.scores()[name]['recognizer_mean_iou']:.3f}"
  return f"| {name} | {' | '.join(f'{peak:.1f}' for peak in peaks)} | {score} |"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--workdir", type=Path, required=True, help="workdir of this package's run")
  parser.add_argument("--peer", type=Path, required=True, help="folder of the PyTorch run")
  parser.add_argument("--source_dir", type=Path, required=True, help="the data of both: train/N.jpg and val/N.jpg")
  parser.add_argument("--recognizer", type=Path, help="workdir of a recognizer (docs/results.md); default: none")
  parser.add_argument("--epochs", type=lambda text: [int(each) for each in text.split(",")], default=[10, 50, 100, 200])
  parser.add_argument("--pairs", type=int, default=4, help="rows of the image (default: 4)")
  parser.add_argument("--output", type=Path, required=True, help="the image")
  options = parser.parse_args()
  config = json.loads((options.workdir / "config.json").read_text(encoding="utf-8"))
  options.base_features = config["model"]["base_features"]
  num_train = len([*(options.source_dir / "train").glob("*.jpg")])
  steps_per_epoch = num_train // config["train"]["batch_size"]
  print(table(own_metrics(options.workdir, steps_per_epoch), peer_metrics(options.peer), options.epochs))
  inputs, targets = torch_peer.read_pairs(options.source_dir / "val", config["data"]["crop_size"])
  spec = Experiment.read(options.workdir).spec
  recognizer = Recognizer(options.recognizer, spec) if options.recognizer else None
  print("\n| images | grid of 2 ↓ | of 4 ↓ | of 8 pixels ↓ | recognizer's mean IoU ↑ |\n|---|---|---|---|---|")
  columns = []
  for name, images in translations(options, inputs, targets, steps_per_epoch):
    if images is not inputs:
      print(describe(name, images, inputs, recognizer, spec), flush=True)
    columns.append(images[: options.pairs])
  Image.fromarray(np.concatenate(np.concatenate(columns, axis=2))).save(options.output)


if __name__ == "__main__":
  main()
