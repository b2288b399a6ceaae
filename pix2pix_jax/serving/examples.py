"""Examples of a run's data to start drawing from.

The readers need TensorFlow, which a server should neither load nor keep in memory. So another process reads a few pairs
and leaves them in a file:

    python -m pix2pix_jax.serving.examples --workdir=DIR --output=FILE.npz [--split=val] [--count=12]
"""

import argparse
from collections.abc import Sequence
import dataclasses
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import threading
from typing import Any

import numpy as np

from pix2pix_jax import palettes
from pix2pix_jax.errors import UsageError, run_command

COUNT = 12
TIMEOUT = 300  # seconds; data that is not prepared yet is prepared first
MAX_COLORS = 32  # of images that count as label maps


@dataclasses.dataclass
class Examples:
  """Pairs of a run's data, which appear some seconds after the start.

  Attributes:
    status: `"loading"`, `"ready"` or `"absent"`.
    reason: why there are none.
    ids: their names.
    arrays: `input` and `target` of each, (H, W, C) in raw numbers.
  """

  status: str = "loading"
  reason: str = ""
  ids: list[str] = dataclasses.field(default_factory=list)
  arrays: list[dict[str, np.ndarray]] = dataclasses.field(default_factory=list)

  @classmethod
  def start(cls, workdir: Path) -> "Examples":
    """Reads the examples of a workdir in another process, in the background."""
    examples = cls()
    threading.Thread(target=examples._load, args=(workdir,), name="examples", daemon=True).start()
    return examples

  @classmethod
  def load(cls, workdir: Path) -> "Examples":
    """Reads the examples of a workdir in another process, and waits for it."""
    examples = cls()
    examples._load(workdir)
    return examples

  def _load(self, workdir: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="pix2pix_jax_") as folder:
      path = Path(folder) / "examples.npz"
      command = [sys.executable, "-m", __name__, f"--workdir={workdir}", f"--output={path}"]
      environment = os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}  # leaves the accelerator alone
      try:
        done = subprocess.run(
          command, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=TIMEOUT, check=False
        )
      except (OSError, subprocess.TimeoutExpired) as error:
        self.status, self.reason = "absent", f"Reading the run's data failed: {error}."
        return
      if done.returncode:
        lines = done.stderr.strip().splitlines() or ["the process ended early"]
        self.status, self.reason = "absent", lines[-1].removeprefix("error: ")
        return
      self.read(path)

  def read(self, path: Path) -> None:
    """Takes the examples of a file that `write` wrote."""
    with np.load(path, allow_pickle=False) as stored:
      self.ids = [str(name) for name in stored["ids"]]
      self.arrays = [{side: stored[f"{side}_{i}"] for side in ("input", "target")} for i in range(len(self.ids))]
    self.status = "ready" if self.ids else "absent"

  def describe(self) -> dict[str, Any]:
    """The contents of examples.json."""
    inputs = [each["input"] for each in self.arrays]
    return {"status": self.status, "reason": self.reason, "ids": self.ids, "palette": palette_of(inputs)}


def palette_of(images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
  """The colours of 8-bit RGB images that are label maps, with names; empty for photographs.

  Label maps in JPEG have many colours close to the true ones: those of a named palette are recognised even there.
  """
  if not images or any(image.dtype != np.uint8 or image.shape[-1] != 3 for image in images):
    return []
  colors: tuple[palettes.Color, ...] = ()
  for palette in palettes.NAMED.values():
    try:
      for image in images:
        palettes.match(image, palette, "")
      colors = palette
      break
    except UsageError:
      continue
  if not colors:
    pixels = np.concatenate([image.reshape(-1, 3) for image in images])
    found, counts = np.unique(pixels, axis=0, return_counts=True)
    order = np.argsort(-counts)[:MAX_COLORS]
    if counts[order].sum() < 0.98 * len(pixels):
      return []
    colors = tuple((int(red), int(green), int(blue)) for red, green, blue in found[order])
  names = palettes.names_of(colors)
  return [{"value": list(color), "name": name} for color, name in zip(colors, names)]


def write(workdir: Path, output: Path, split: str, count: int) -> None:
  """Writes the first pairs of a split, or of the run's first one if it has no such split."""
  from pix2pix_jax import config as config_lib
  from pix2pix_jax.data import pipeline, prepare  # imports TensorFlow

  config = config_lib.read(workdir)
  source = prepare.prepare(config.data, config.model)
  split = split if split in source.spec.counts else next(iter(source.spec.counts))
  data = pipeline.load_split(source, split, config_lib.eval_resize(config.data), cache_gib=0, limit=count)
  arrays: dict[str, np.ndarray] = {}
  for index in range(len(data)):
    example = data.read(index)
    arrays |= {f"{side}_{index}": example[side] for side in ("input", "target")}
  arrays["ids"] = np.array(data.ids[: len(data)], dtype=str)
  np.savez(output, **arrays)  # type: ignore[arg-type]  # its stub takes them for its own switch


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", type=Path, required=True)
  parser.add_argument("--output", type=Path, required=True)
  parser.add_argument("--split", default="val")
  parser.add_argument("--count", type=int, default=COUNT)
  options = parser.parse_args()
  write(options.workdir, options.output, options.split, options.count)


if __name__ == "__main__":
  run_command(main)
