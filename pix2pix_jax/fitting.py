"""`fit`: numpy arrays in, a trained translator out, with the names that Keras users know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import functools
import os
from pathlib import Path
import sys
import tempfile
from typing import Any

import jax
import ml_collections
import numpy as np

from pix2pix_jax import evaluate
from pix2pix_jax.configs import default
from pix2pix_jax.data import pipeline
from pix2pix_jax.data import prepare as datasets
from pix2pix_jax.errors import UsageError
from pix2pix_jax.inference import Translator
from pix2pix_jax.model import networks as models
from pix2pix_jax.model import steps
from pix2pix_jax.model.state import TrainState
from pix2pix_jax.run import history
from pix2pix_jax.train import Observer, train_and_evaluate

KINDS = ("picture", "depth")


@dataclasses.dataclass(frozen=True)
class FitResult:
  """What `fit` gives.

  Attributes:
    history: metric → one value an epoch: `generator_loss`, `discriminator_loss`, `gan_loss`, `l1`, … and `val_…` of the same.
    translator: the generator after the last step.
    workdir: of the training; `Translator.load`, `translate`, `evaluate` and `report` take it.
    state: both networks after the last step, without their optimizers.
  """

  history: dict[str, list[float]]
  translator: Translator
  workdir: Path
  state: TrainState = dataclasses.field(repr=False)

  def predict(self, x: np.ndarray, **options) -> np.ndarray:
    """Translates (n, H, W, C); `options` as of `Translator.__call__`. A bool array is understood as in `fit`."""
    x = np.asarray(x)
    return self.translator(x.astype(np.uint8) * 255 if x.dtype == bool else x, **options)

  def evaluate(self, x: np.ndarray, y: np.ndarray, batch_size: int | None = None) -> dict[str, float]:
    """Means over the pairs of what the validation measures: the `val_…` of `history`, without that prefix.

    That is `l1`, `psnr`, `ssim` on [0, 1]; for depth `rmse`, `mae`, … in metres over the pixels that the target has; and the losses.
    As in validation, pictures are resized to the evaluation size, and the noise follows from an image's number.

    Args:
      x, y: pairs as `fit` takes them.
      batch_size: pairs computed at once; None: as `evaluation.batch_size`.

    Raises:
      UsageError: shapes, types or values that do not fit.
    """
    config = self.translator.config
    kinds = (
      "depth" if dtype == "float32" else "picture" for dtype in (config.data.input_dtype, config.data.target_dtype)
    )
    x, y = (_check(name, array, kind) for name, array, kind in zip(("x", "y"), (x, y), kinds))
    if x.shape[:3] != y.shape[:3]:
      raise UsageError(f"The pairs differ in count or size: x {x.shape}, y {y.shape}.")
    channels = config.model.input_channels, config.model.output_channels - config.data.validity_channel
    if (x.shape[-1], y.shape[-1]) != channels:
      raise UsageError(
        f"This model was trained on {channels[0]} → {channels[1]} channels; x is {x.shape}, y {y.shape}."
      )
    if batch_size:
      config = config.copy_and_resolve_references()
      config.evaluation.batch_size = batch_size
    pairs = pipeline.load_split(
      pipeline.ArraySource({"train": (x, y)}),
      "train",
      datasets.eval_shape(config.data),
      cache_gib=config.data.cache_gib,
      depth_range=config.data.depth_range,
    )
    mesh, eval_step = self._eval_step
    return evaluate.evaluate_split(eval_step, self.state, pairs, config, mesh).means

  @functools.cached_property
  def _eval_step(self):
    """The mesh, and the validation's step compiled for it."""
    config, mesh = self.translator.config, steps.make_mesh()
    networks = dict(zip(("generator", "discriminator"), models.make_networks(config.model, dtype=config.train.dtype)))
    return mesh, steps.compile_eval_step(mesh, **networks, **steps.evaluation_settings(config))


def fit(
  x: np.ndarray,
  y: np.ndarray,
  *,
  batch_size: int = 1,
  epochs: int = 1,
  validation_split: float = 0.0,
  validation_data: tuple[np.ndarray, np.ndarray] | None = None,
  callbacks: Sequence[Any] = (),
  workdir: str | Path | None = None,
  input_kind: str = "picture",
  target_kind: str = "picture",
  seed: int = 0,
  config: ml_collections.ConfigDict | None = None,
  overrides: dict[str, Any] | None = None,
  verbose: int = 1,
) -> FitResult:
  """Trains pix2pix on pairs of arrays.

  Args:
    x, y: inputs and targets (n, H, W, C) of one size, multiples of 4 (better of 64 or more). Pictures are uint8 or uint16 over
      their full range, bool, or float in [0, 1] (kept in 16 bits); depth is float metres with 0 where it was not measured.
    batch_size: pairs a step.
    epochs: passes through the data.
    validation_split: share of the pairs, taken from the end, that is not trained on; in [0, 1).
    validation_data: pairs to validate on instead.
    callbacks: objects with Keras' methods, each optional: `on_train_begin/end`, `on_epoch_begin/end`, `on_train_batch_begin/end`,
      `set_params`, `set_model`. They are given `logs`; those of a batch are still on the device until they are read.
      Setting `stop_training` on the object given to `set_model` ends the training after the epoch.
    workdir: for checkpoints and logs; a training found there goes on. None: a new temporary folder.
    input_kind, target_kind: `"picture"` or `"depth"`.
    seed: of weights, order and noise.
    config: to start from, as of the files in configs/; by default the paper's model.
    overrides: field → value, such as `{"model.base_features": 32, "data.mirror": True}`. There is no jitter unless you ask for it.
    verbose: 0 prints nothing, 1 the networks, and a progress bar or a line an epoch. What callbacks print is not affected.

  Raises:
    UsageError: shapes, types or values that do not fit, with what would.
  """
  x, y = _check("x", x, input_kind), _check("y", y, target_kind)
  splits = {"train": (x, y)}
  if validation_data is not None:
    splits["val"] = (
      _check("validation_data[0]", validation_data[0], input_kind),
      _check("validation_data[1]", validation_data[1], target_kind),
    )
  elif not 0 <= validation_split < 1:
    raise UsageError(f"validation_split is {validation_split}; it is a share in [0, 1).")
  elif validation_split:
    count = len(x) - int(round(len(x) * validation_split))
    splits = {"train": (x[:count], y[:count]), "val": (x[count:], y[count:])}
  for name, (inputs, targets) in splits.items():
    if inputs.shape[:3] != targets.shape[:3] or inputs.shape[1:] != x.shape[1:] or targets.shape[1:] != y.shape[1:]:
      raise UsageError(f"The pairs of {name} differ in count or size: inputs {inputs.shape}, targets {targets.shape}.")
    if not len(inputs):
      raise UsageError(f"There are no pairs to {name} with: {len(x)} pairs and validation_split={validation_split}.")
  if min(batch_size, epochs) < 1:
    raise UsageError(f"batch_size is {batch_size} and epochs is {epochs}; both have to be at least 1.")
  if batch_size > len(splits["train"][0]):
    raise UsageError(f"batch_size is {batch_size}, but there are {len(splits['train'][0])} training pairs.")

  steps_per_epoch = len(splits["train"][0]) // batch_size
  config = (config or default.get_config()).copy_and_resolve_references()
  config.update_from_flattened_dict(
    {
      "seed": seed,
      "data.name": "arrays",
      "data.load_size": x.shape[1],
      "data.load_width": x.shape[2],
      "data.crop_size": x.shape[1],
      "data.crop_width": x.shape[2],
      "data.eval_size": 0,
      "data.mirror": False,
      "train.batch_size": batch_size,
      "train.num_steps": epochs * steps_per_epoch,
      "train.log_every_steps": steps_per_epoch,
      "train.eval_every_steps": steps_per_epoch,
      "train.checkpoint_every_steps": steps_per_epoch,
    }
  )
  try:
    config.lock().update_from_flattened_dict(overrides or {})
  except (AttributeError, KeyError) as error:
    raise UsageError(f"overrides: {' '.join(str(error.args[0]).split())}") from error
  workdir = Path(workdir or tempfile.mkdtemp(prefix="pix2pix_jax_"))
  observer = _KerasObserver(callbacks, steps_per_epoch, epochs, verbose)
  with contextlib.nullcontext() if verbose else _silence():
    state = train_and_evaluate(config, workdir, source=pipeline.ArraySource(splits), observer=observer)
  observer.train_ended()
  state = state.replace(
    generator=state.generator.replace(opt_state=()), discriminator=state.discriminator.replace(opt_state=())
  )
  return FitResult(_history(workdir, steps_per_epoch), Translator.load(workdir, step="latest"), workdir, state)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
  """Keeps what a training says, and its progress bar, from the user; warnings still reach standard error."""
  with (
    open(os.devnull, "w", encoding="utf-8") as nowhere,
    contextlib.redirect_stdout(nowhere),
    contextlib.redirect_stderr(_NoTerminal(sys.stderr)),
  ):
    yield


class _NoTerminal:
  """A stream that shows no progress bars."""

  def __init__(self, stream):
    self._stream = stream

  def __getattr__(self, name):
    return getattr(self._stream, name)

  def isatty(self) -> bool:
    return False


def _check(name: str, array: np.ndarray, kind: str) -> np.ndarray:
  """The array as the pipeline takes it: uint8, uint16, or float32 metres."""
  if kind not in KINDS:
    raise UsageError(f"The kind of {name} is {kind!r}; it can be 'picture' or 'depth'.")
  array = np.asarray(array)
  if array.ndim != 4 or 0 in array.shape:
    raise UsageError(
      f"{name} has shape {array.shape}; it should be (n, H, W, C), with C = 1 for grey pictures and depth."
    )
  if kind == "depth":
    if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all() or array.min() < 0:
      raise UsageError(
        f"{name} is depth, so it should be float metres ≥ 0 with 0 for holes, without NaN; it is {array.dtype}. "
        "Convert KITTI's uint16 by dividing by 256, millimetres by 1000, NaN to 0."
      )
    return array.astype(np.float32)
  if array.dtype == bool:
    return array.astype(np.uint8) * 255
  if array.dtype in (np.uint8, np.uint16):
    return array
  if not np.issubdtype(array.dtype, np.floating):
    raise UsageError(f"{name} is {array.dtype}; pictures are uint8, uint16, bool, or float in [0, 1].")
  if not (array.min() >= 0 and array.max() <= 1):  # also refuses NaN
    raise UsageError(
      f"{name} is float from {array.min():g} to {array.max():g}; float pictures lie in [0, 1]. "
      f"Rescale it, give uint8, or say {'target' if 'y' in name else 'input'}_kind='depth' if these are metres."
    )
  return np.round(array * 65535).astype(np.uint16)


def _history(workdir: Path, steps_per_epoch: int) -> dict[str, list[float]]:
  """history.jsonl by epoch, also of epochs before a resume."""
  result = {}
  for row in history.read(workdir):
    if row["step"] and row["step"] % steps_per_epoch == 0:
      for name, value in row.items():
        if name != "step":
          result.setdefault(name.replace("train/", "").replace("val/", "val_"), []).append(value)
  return result


class _Model:
  """What Keras callbacks find as their model: they may set `stop_training`."""

  stop_training = False


class _KerasObserver(Observer):
  """Calls Keras-style callbacks around steps and epochs."""

  def __init__(self, callbacks: Sequence[Any], steps_per_epoch: int, epochs: int, verbose: int):
    self._callbacks, self._steps_per_epoch = callbacks, steps_per_epoch
    self._streams = sys.stdout, sys.stderr  # the user's, whatever the training's are
    self._model, self._sums, self._logs, self._begun = _Model(), None, {}, False
    self._call("set_params", {"epochs": epochs, "steps": steps_per_epoch, "verbose": verbose})
    self._call("set_model", self._model)

  def _call(self, method: str, *args) -> None:
    with contextlib.redirect_stdout(self._streams[0]), contextlib.redirect_stderr(self._streams[1]):
      for callback in self._callbacks:
        if hasattr(callback, method):
          getattr(callback, method)(*args)

  def step_begins(self, step: int) -> None:
    epoch, batch = divmod(step - 1, self._steps_per_epoch)
    if not self._begun:
      self._begun = True
      self._call("on_train_begin", {})
    if batch == 0 or self._sums is None:
      self._sums, self._count = None, 0
      self._call("on_epoch_begin", epoch, {})
    self._call("on_train_batch_begin", batch, {})

  def step_ended(self, step: int, metrics: dict[str, jax.Array], evaluation: evaluate.Evaluation | None) -> bool:
    epoch, batch = divmod(step - 1, self._steps_per_epoch)
    self._sums = metrics if self._sums is None else jax.tree.map(jax.numpy.add, self._sums, metrics)
    self._count += 1
    self._call("on_train_batch_end", batch, metrics)
    if batch + 1 < self._steps_per_epoch:
      return False
    self._logs = {name: float(value) / self._count for name, value in jax.device_get(self._sums).items()}
    if evaluation:
      self._logs |= {f"val_{name}": value for name, value in evaluation.means.items()}
    self._sums = None
    self._call("on_epoch_end", epoch, self._logs)
    return self._model.stop_training

  def train_ended(self) -> None:
    self._call("on_train_end", self._logs)
