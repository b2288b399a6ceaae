"""Optional loggers, which receive every scalar and sample grid in addition to TensorBoard.

`train.logger` selects one: an entry point of the group `pix2pix_jax.loggers`, `wandb`, or `module:function`. The
function is called as `function(config, workdir)`, where `config` is a nested dictionary, and returns an object with

    log(step, scalars)          scalars: {"train/l1": 0.21, …} or {"val/l1": 0.19, …}
    log_images(step, images)    optional; images: {"val/samples": uint8 (H, W, 3)}
    close()                     optional
"""

from collections.abc import Callable
import importlib
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from pix2pix_jax.errors import UsageError
from pix2pix_jax.run import processes

GROUP = "pix2pix_jax.loggers"


def make(name: str, config: dict[str, Any], workdir: Path) -> Any:
  """Creates the logger that `train.logger` selects; None for an empty name, and on every process but the first.

  Raises:
    UsageError: there is no such entry point, module or function.
  """
  return _find(name)(config, str(workdir)) if name and processes.is_main() else None


def _find(name: str) -> Callable[[dict[str, Any], str], Any]:
  points = {point.name: point for point in metadata.entry_points(group=GROUP)}
  try:
    if name in points:
      return points[name].load()
    if name == "wandb":
      return _WandbLogger
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)
  except (ImportError, AttributeError, ValueError) as error:
    raise UsageError(
      f"train.logger is {name!r}, which cannot be loaded ({error}). Give 'wandb', MODULE:FUNCTION, or the name of an "
      f"entry point of the group {GROUP}{f' ({chr(44).join(points)})' if points else ''}."
    ) from error


class _WandbLogger:
  """Weights & Biases. Its environment variables choose the project and the entity."""

  def __init__(self, config: dict[str, Any], workdir: str):
    try:
      self._wandb = importlib.import_module("wandb")
    except ImportError as error:
      raise UsageError(
        "train.logger=wandb needs the package wandb, which is not installed: pip install wandb."
      ) from error
    self._run = self._wandb.init(config=config, dir=workdir, resume="allow", id=None)

  def log(self, step: int, scalars: dict[str, float]) -> None:
    self._run.log(scalars, step=step)

  def log_images(self, step: int, images: dict[str, np.ndarray]) -> None:
    self._run.log({name: self._wandb.Image(image) for name, image in images.items()}, step=step)

  def close(self) -> None:
    self._run.finish()
