"""The recognizer score: whether a network that was trained on real targets finds the input's classes in the outputs.

Isola et al. 2017 (arXiv 1611.07004) call it the FCN-score and use a network that was trained elsewhere.
Here it is another run of this package, photograph → classes, so that nothing has to be downloaded.
"""

from pathlib import Path

import numpy as np

from pix2pix_jax import palettes
from pix2pix_jax.errors import UsageError
from pix2pix_jax.inference import Translator
from pix2pix_jax.model import metrics
from pix2pix_jax.signals import Classes, DataSpec

PREFIX = "recognizer_"


class Recognizer:
  """Counts the classes that a trained recognizer finds in outputs and targets, against those of the inputs.

  Args:
    workdir: a run whose input is like the evaluated model's target, and whose target is classes.
    spec: signals of the evaluated model. Its input is the same classes, or an image in the recognizer's palette.

  Raises:
    UsageError: the signals do not suit each other.
  """

  def __init__(self, workdir: Path, spec: DataSpec):
    self._translator = Translator.load(workdir)
    labels, images = self._translator.target_signal, self._translator.input_signal
    if not isinstance(labels, Classes):
      raise UsageError(
        f"--recognizer={workdir}: its target is {labels.describe()}; a recognizer is trained on photograph → classes, "
        "such as --config=facades:labels."
      )
    if (images.kind, images.channels) != (spec.target.kind, spec.target.channels):
      raise UsageError(
        f"--recognizer={workdir}: its input is {images.describe()}, but this model's target is "
        f"{spec.target.describe()}."
      )
    is_same = isinstance(spec.input, Classes) and spec.input.count == labels.count
    is_color_map = spec.input.kind == "image" and spec.input.channels == 3 and bool(labels.palette)
    if not (is_same or is_color_map):
      raise UsageError(
        f"--recognizer={workdir} knows {labels.describe()}, but this model's input is {spec.input.describe()}: neither "
        "the same classes nor colours of the recognizer's palette."
      )
    self._labels, self._spec = labels, spec
    self._counts: dict[str, np.ndarray] = {}

  def add(self, name: str, inputs: np.ndarray, images: np.ndarray) -> None:
    """Recognizes classes in images and counts them under `name`.

    Args:
      name: for example "model".
      inputs: the encoded inputs (N, H, W, C), whose classes are the truth.
      images: encoded outputs or targets (N, H, W, C').
    """
    truth, found = self._classes(inputs), self._recognize(images)
    pairs = truth.astype(np.int64) * self._labels.count + found
    count = self._labels.count**2
    self._counts[name] = self._counts.get(name, 0) + np.bincount(pairs.ravel(), minlength=count)

  def _classes(self, inputs: np.ndarray) -> np.ndarray:
    raw = self._spec.input.decode(inputs)
    if isinstance(self._spec.input, Classes):
      return raw
    return palettes.nearest(_as_uint8(raw), self._labels.palette)[0]

  def _recognize(self, images: np.ndarray) -> np.ndarray:
    return self._translator(self._spec.target.decode(images), dropout=False, check_range=False)

  def scores(self) -> dict[str, dict[str, float]]:
    """Name → `recognizer_mean_iou`, `recognizer_pixel_accuracy` and `recognizer_class_accuracy`."""
    shape = (self._labels.count, self._labels.count)
    return {
      name: {
        f"{PREFIX}{metric}": float(value) for metric, value in metrics.class_metrics(counts.reshape(shape)).items()
      }
      for name, counts in self._counts.items()
    }


def _as_uint8(raw: np.ndarray) -> np.ndarray:
  return (raw >> 8).astype(np.uint8) if raw.dtype == np.uint16 else raw
