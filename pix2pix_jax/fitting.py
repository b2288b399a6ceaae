"""`fit`: NumPy arrays in, a trained translator out, with argument names from Keras."""

from __future__ import annotations

import atexit
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import hashlib
import os
from pathlib import Path
import shutil
import sys
import tempfile
from typing import Any
import warnings

import jax
import ml_collections
import numpy as np

from pix2pix_jax import config as config_lib
from pix2pix_jax import output, signals
from pix2pix_jax.data import pipeline, summary
from pix2pix_jax.errors import UsageError, few, require_integer, user_path
from pix2pix_jax.inference import Translator, as_array
from pix2pix_jax.model.state import TrainState
from pix2pix_jax.run import evaluation, history, replicas, startup
from pix2pix_jax.run.experiment import Experiment
from pix2pix_jax.signals import DataSpec, Signal
from pix2pix_jax.train import Observer, train_and_evaluate

Pairs = tuple[np.ndarray, np.ndarray]
LARGEST = 1e30  # limit of a range, with room for arithmetic in float32


@dataclasses.dataclass(frozen=True)
class FitResult:
  """The result of `fit`.

  Attributes:
    history: metric → one value per epoch: `generator_loss`, `discriminator_loss`, `gan_loss`, `l1`, …, and the
      same with the prefix `val_`.
    translator: the generator after the last step.
    workdir: folder of the run, which `Translator.load`, `translate`, `evaluate` and `report` accept.
    state: both networks after the last step, without their optimizers.
  """

  history: dict[str, list[float]] = dataclasses.field(repr=False)
  translator: Translator
  workdir: Path
  state: TrainState = dataclasses.field(repr=False)

  def predict(self, x: np.ndarray, **options: Any) -> np.ndarray:
    """Translates (n, H, W, C); `options` are those of `Translator.__call__`."""
    return self.translator(x, **options)

  def evaluate(self, x: np.ndarray, y: np.ndarray, batch_size: int | None = None) -> dict[str, float]:
    """Returns the means of the validation metrics over the given pairs, named as in `history` but without `val_`.

    These are `l1`, `psnr`, `ssim` on [0, 1], `rmse`, `mae`, … in metres for depth, and the losses. As in validation,
    images are resized to the evaluation size, and each image's noise depends only on the seed and its position.

    Args:
      x, y: pairs, as for `fit`.
      batch_size: number of pairs computed at once; None: `evaluation.batch_size`.

    Raises:
      UsageError: invalid shapes, dtypes or values; the message says what is accepted.
    """
    spec = self._experiment.spec
    pairs = _store(("x", "y"), (x, y), spec)
    _require_pairs("the data to evaluate", pairs)
    if (pairs[0].shape[-1], pairs[1].shape[-1]) != (spec.input.raw_channels, spec.target.raw_channels):
      raise UsageError(
        f"This model was trained on {spec.input.raw_channels} → {spec.target.raw_channels} channels; x is "
        f"{pairs[0].shape}, y {pairs[1].shape}."
      )
    run = self._experiment
    if batch_size is not None:
      config = run.config.copy_and_resolve_references()
      config.evaluation.batch_size = require_integer("batch_size", batch_size, 1)
      run = dataclasses.replace(run, config=config)
      vars(run).update(
        {name: vars(self._experiment)[name] for name in ("mesh", "eval_step") if name in vars(self._experiment)}
      )
    source = pipeline.ArraySource({"all": pairs}, dataclasses.replace(spec, counts={"all": len(pairs[0])}))
    data = run.config.data
    split = pipeline.load_split(source, "all", config_lib.eval_resize(data), cache_gib=data.cache_gib)
    return evaluation.evaluate_split(run, self.state.variables, split).means

  @functools.cached_property
  def _experiment(self) -> Experiment:
    translator = self.translator
    run = Experiment(translator.config, DataSpec(translator.input_signal, translator.target_signal, counts={}))
    run.eval_step  # noqa: B018  (compiled programs are kept with it)
    return run


def fit(
  x: np.ndarray,
  y: np.ndarray,
  *,
  batch_size: int | None = None,
  epochs: int | None = None,
  validation_split: float = 0.0,
  validation_data: Pairs | None = None,
  callbacks: Sequence[Any] = (),
  workdir: str | Path | None = None,
  input_kind: str | None = None,
  target_kind: str | None = None,
  input_range: tuple[float, ...] | None = None,
  target_range: tuple[float, ...] | None = None,
  input_unit: str | None = None,
  target_unit: str | None = None,
  num_classes: int | None = None,
  seed: int | None = None,
  config: ml_collections.ConfigDict | None = None,
  overrides: dict[str, Any] | None = None,
  verbose: int = 1,
) -> FitResult:
  """Trains pix2pix on pairs of arrays.

  Args:
    x, y: inputs and targets (n, H, W, C) of one size, multiples of 4 (better of 64 or more). Images are uint8 or uint16
      over their full range, bool, or float in [0, 1] (kept in 16 bits); depth is float metres, in which zero, negative,
      NaN and infinite values mark pixels without a measurement.
    batch_size: pairs per step; None: `train.batch_size` of `config` if that is given, else 1.
    epochs: passes through the data; None: as in `config` if that is given, else 1.
    validation_split: share of the pairs, taken from the end, that is held out for validation; in [0, 1).
    validation_data: pairs to validate on instead.
    callbacks: objects with Keras' methods, each optional: `on_train_begin/end`, `on_epoch_begin/end`,
      `on_train_batch_begin/end`, `set_params` and `set_model`. They receive `logs`; the values of a batch stay on
      the device until they are read. Setting `stop_training` on the object given to `set_model` ends the run after the
      epoch.
    workdir: for checkpoints and logs; a run found there is resumed. None: a temporary folder, which is deleted when the
      program exits.
    input_kind, target_kind: `"image"` (`"picture"` is accepted too), `"depth"`, `"quantity"` or `"classes"`; None: as
      `config` says, by default image.
    input_range, target_range: nearest and farthest metres of depth, one range for both sides; lowest and highest value
      of a quantity, one pair or one for each channel (lowest, highest, lowest, …). None: as `config` says, by default
      0 to 80 m, and for a quantity the 0.1 and 99.9 percentiles of the training pairs.
    input_unit, target_unit: unit of a quantity, for display.
    num_classes: number of classes of the sides that are label maps; None: as `config` says, by default the largest
      index plus one.
    seed: seed of the weights, data order and noise; None: `seed` of `config` if that is given, else 0.
    config: configuration to start from, as `config.load("facades")` returns it. If all its sizes are at their defaults,
      they follow the arrays. None: the paper's model, without crops or mirroring.
    overrides: field → value, such as `{"model.base_features": 32, "data.mirror": True}`; wins over everything else.
    verbose: 0 prints nothing; 1 prints the networks, and a progress bar or a line per epoch. Callbacks may always
      print.

  Raises:
    UsageError: invalid shapes, dtypes, values or fields; the message says what is accepted.
  """
  x, y = as_array("x", x), as_array("y", y)
  callbacks = _checked_callbacks(callbacks)
  _check_workdir(workdir)
  settings = _settings(x, config, overrides, seed=seed, batch_size=batch_size, epochs=epochs)
  _declare(
    settings.data, (input_kind, target_kind), (input_range, target_range), (input_unit, target_unit), num_classes
  )
  config_lib.check(settings)
  settings, _ = startup.recall(settings, Path(workdir or os.devnull))
  spec = _spec(x, y, settings)
  splits = _splits((x, y), spec, validation_split, validation_data)
  spec = _complete(spec, splits["train"])
  count = len(splits["train"][0])
  if settings.train.batch_size > count:
    pairs = f"there {'is' if count == 1 else 'are'} only {output.counted(count, 'training pair')}"
    raise UsageError(f"batch_size is {settings.train.batch_size}, but {pairs}. Lower it to {count} or less.")
  counts = {name: len(inputs) for name, (inputs, _) in splits.items()}
  spec = DataSpec.of(spec.input, spec.target, counts, _content(splits))

  steps_per_epoch = count // settings.train.batch_size
  if settings.train.log_every_steps == config_lib.FIELDS["train"]["log_every_steps"].default:
    settings.train.log_every_steps = steps_per_epoch  # `history` has one value per epoch
  num_steps = settings.train.num_steps or settings.train.num_epochs * steps_per_epoch
  settings.train.num_steps = num_steps
  if not workdir and verbose:
    output.say(
      "No workdir was given, so the checkpoints are deleted when the program exits. To keep them: workdir=DIR."
    )
  workdir = user_path("workdir", workdir or _temporary_folder())
  old = config_lib.previous(workdir)
  if old and not signals.same_data(old.data.fingerprint, spec.fingerprint):
    warnings.warn(f"{workdir} was trained on other data; further steps use the new data.", stacklevel=2)
  observer = _KerasObserver(callbacks, steps_per_epoch, -(-num_steps // steps_per_epoch), verbose)
  with contextlib.nullcontext() if verbose else _silence():
    state = train_and_evaluate(
      settings, workdir, source=pipeline.ArraySource(splits, spec), observer=observer if callbacks else None
    )
  observer.train_ended()
  generator, discriminator = (
    dataclasses.replace(network, opt_state=()) for network in (state.generator, state.discriminator)
  )
  state = dataclasses.replace(state, generator=generator, discriminator=discriminator)
  translator = Translator(config_lib.read(workdir), state.variables["generator"], step=int(state.step))
  return FitResult(_history(workdir, steps_per_epoch), translator, workdir, state)


def _checked_callbacks(callbacks: Any) -> Sequence[Any]:
  """
  Raises:
    UsageError: no list of objects that have some of Keras' methods.
  """
  if callbacks is not None and not isinstance(callbacks, list | tuple):
    raise UsageError(f"callbacks is a {type(callbacks).__name__}; give a list of objects, as in callbacks=[callback].")
  for callback in callbacks or ():
    there = [name for name in _KerasObserver.METHODS if hasattr(callback, name)]
    if isinstance(callback, type) or not there:
      what = f"the class {callback.__name__}" if isinstance(callback, type) else f"a {type(callback).__name__}"
      raise UsageError(
        f"callbacks holds {what}; a callback is an object with some of the methods {', '.join(_KerasObserver.METHODS)}."
      )
    if wrong := [name for name in there if not callable(getattr(callback, name))]:
      raise UsageError(f"{wrong[0]} of a {type(callback).__name__} in callbacks is not a method.")
  return callbacks or ()


def _check_workdir(workdir: Any) -> None:
  if workdir is not None and (
    not isinstance(workdir, str | os.PathLike) or not isinstance(os.fspath(workdir), str) or "\0" in os.fspath(workdir)
  ):
    raise UsageError(f"workdir is {workdir!r}; it has to be the path of a folder, a string or a pathlib.Path.")
  user_path("workdir", str(workdir or ""))


def _temporary_folder() -> str:
  """A new folder that exists until the program exits."""
  folder = tempfile.mkdtemp(prefix="pix2pix_jax_")
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  return folder


def _settings(
  x: np.ndarray,
  config: ml_collections.ConfigDict | None,
  overrides: dict[str, Any] | None,
  *,
  seed: int | None,
  batch_size: int | None,
  epochs: int | None,
) -> ml_collections.ConfigDict:
  """The configuration of a run on arrays: `config`, then the arguments, then `overrides`.

  Raises:
    UsageError: wrong types, unknown fields, or several replicas.
  """
  shape = np.shape(x)
  _require_channels_last("x", shape)
  if len(shape) != 4 or 0 in shape:
    raise UsageError(f"x has shape {shape}; it should be (n, H, W, C), with C = 1 for grey images and depth.")
  if config is not None and not isinstance(config, ml_collections.ConfigDict):
    raise UsageError(
      f"config is a {type(config).__name__}; give a ConfigDict, such as pix2pix_jax.config.load('facades')."
    )
  if config is not None and (missing := sorted(set(config_lib.default()) - set(config))):
    raise UsageError(
      f"config lacks {few(missing)}. Start from one that is complete: pix2pix_jax.config.load('facades')."
    )
  if overrides is not None and not (
    isinstance(overrides, Mapping) and all(isinstance(each, str) for each in overrides)
  ):
    raise UsageError(f"overrides is {overrides!r}; it has to be a dict such as {{'model.base_features': 32}}.")
  settings = config_lib.default() if config is None else config.copy_and_resolve_references()
  settings.unlock()
  changes: dict[str, Any] = {"data.name": "arrays"}
  sizes = {"load_size": shape[1], "load_width": shape[2], "crop_size": shape[1], "crop_width": shape[2]}
  if all(settings.data[name] == config_lib.FIELDS["data"][name].default for name in sizes):
    changes |= {f"data.{name}": size for name, size in sizes.items()}  # default sizes follow the arrays
  if config is None:
    changes |= {"data.mirror": False, "train.num_epochs": 1}
  if seed is not None:
    changes["seed"] = require_integer("seed", seed, 0, config_lib.LARGEST_SEED)
  if batch_size is not None:
    changes["train.batch_size"] = require_integer("batch_size", batch_size, 1)
  if epochs is not None:
    changes |= {"train.num_epochs": require_integer("epochs", epochs, 1), "train.num_steps": 0}
  config_lib.update(settings, changes)
  try:
    config_lib.update(settings, overrides or {})
  except UsageError as error:
    raise UsageError(f"overrides: {error}") from error
  replicas.refuse(settings, "fit trains one network", "Call it once for each seed, or use pix2pix_jax train on files.")
  return settings.lock()


def _content(splits: dict[str, Pairs]) -> str:
  """A hash of all arrays."""
  digest = hashlib.sha256()
  for pairs in splits.values():
    for array in pairs:
      digest.update(repr((array.shape, array.dtype)).encode())
      digest.update(np.ascontiguousarray(array).data)
  return digest.hexdigest()[:16]


def _spec(x: np.ndarray, y: np.ndarray, settings: ml_collections.ConfigDict) -> DataSpec:
  made = []
  for side, array in (("input", x), ("target", y)):
    declared = config_lib.settings_of(settings.data, side)
    made.append(declared.make(array.shape[-1] if array.ndim == 4 else 1, array.dtype))
    declared.check_display(made[-1], f"data.{side}_display")
  return DataSpec(made[0], made[1], {})


def _declare(
  data: ml_collections.ConfigDict,
  kinds: tuple[str | None, str | None],
  ranges: tuple[tuple[float, ...] | None, tuple[float, ...] | None],
  units: tuple[str | None, str | None],
  num_classes: int | None,
) -> None:
  """Sets the fields that declare the input and the target from the arguments of `fit`.

  Raises:
    UsageError: an unknown kind, or an argument that does not belong to the kind.
  """
  sides = ("input", "target")
  for side, kind in zip(sides, kinds, strict=True):
    if kind is not None:
      data[f"{side}_kind"] = signals.check_kind(kind if isinstance(kind, str) else repr(kind), f"{side}_kind")
    elif data[f"{side}_kind"] == "auto":
      data[f"{side}_kind"] = "image"
  for side, limits, unit in zip(sides, ranges, units, strict=True):
    kind = data[f"{side}_kind"]
    for name, value, takers in (
      (f"{side}_range", limits, ("depth", "quantity")),
      (f"{side}_unit", unit, ("quantity",)),
    ):
      if value is None:
        continue
      if kind not in takers:
        raise UsageError(f"{name} is {value!r}, but the {side}'s kind is {kind}; it belongs to {' and '.join(takers)}.")
      is_depth_range = kind == "depth"
      if is_depth_range and side == "target" and data.input_kind == "depth" and ranges[0] not in (None, limits):
        raise UsageError(
          f"input_range {ranges[0]} and target_range {limits} differ; depth has one range for both sides."
        )
      if name.endswith("_unit"):
        if not isinstance(value, str):
          raise UsageError(f"{name} is {value!r}; it has to be a string.")
        data[name] = value
      else:
        data["depth_range" if is_depth_range else name] = _range(name, value)
  if num_classes is not None:
    labelled = [side for side in sides if data[f"{side}_kind"] == "classes"]
    if not labelled:
      raise UsageError(f"num_classes is {num_classes}, but neither side's kind is classes.")
    for side in labelled:
      data[f"{side}_classes"] = require_integer("num_classes", num_classes, 2, 256)


def _range(name: str, value: Any) -> tuple[float, ...]:
  """A range that is given: (lowest, highest), or these of each channel. Their order is checked with the other fields.

  Raises:
    UsageError: no finite numbers, or two equal ones, which in a config leave the range to the data.
  """
  numbers = tuple(value) if isinstance(value, tuple | list | np.ndarray) and np.ndim(value) == 1 else ()
  if (
    not numbers
    or any(isinstance(each, bool) or not isinstance(each, int | float | np.number) for each in numbers)
    or any(low == high for low, high in zip(numbers[::2], numbers[1::2]))
    or not all(abs(each) < LARGEST for each in numbers)
  ):
    raise UsageError(f"{name} is {value!r}; it has to be (lowest, highest), finite numbers in this order.")
  return tuple(each.item() if isinstance(each, np.number) else each for each in numbers)


def _complete(spec: DataSpec, train: Pairs) -> DataSpec:
  """A spec whose open ranges and numbers of classes follow from the training pairs."""
  completed = []
  for side, signal, stored in zip(("input", "target"), (spec.input, spec.target), train, strict=True):
    ranges = summary.percentiles(stored.reshape(-1, stored.shape[-1])) if signal.kind == "quantity" else []
    values = np.unique(stored).tolist() if signal.kind == "classes" else []
    completed.append(summary.complete_signal(signal, ranges, values, side))
  return dataclasses.replace(spec, input=completed[0], target=completed[1])


def _splits(pairs: Pairs, spec: DataSpec, validation_split: float, validation_data: Pairs | None) -> dict[str, Pairs]:
  """The checked arrays of each split, as the pipeline stores them."""
  x, y = _store(("x", "y"), pairs, spec)
  _require_pairs("train", (x, y))
  if validation_data is not None:
    if not isinstance(validation_data, tuple | list) or len(validation_data) != 2:
      raise UsageError(f"validation_data is a {type(validation_data).__name__}; it has to be a pair of arrays (x, y).")
    held_out = _store(("validation_data[0]", "validation_data[1]"), (validation_data[0], validation_data[1]), spec)
    splits = {"train": (x, y), "val": held_out}
  elif not isinstance(validation_split, int | float) or not 0 <= validation_split < 1:
    raise UsageError(f"validation_split is {validation_split!r}; it has to be a share in [0, 1).")
  elif validation_split:
    count = len(x) - int(round(len(x) * validation_split))
    splits = {"train": (x[:count], y[:count]), "val": (x[count:], y[count:])}
  else:
    splits = {"train": (x, y)}
  for name, (inputs, targets) in splits.items():
    if not len(inputs):
      raise UsageError(f"The split {name!r} would be empty: {len(x)} pairs and validation_split={validation_split}.")
    _require_pairs(name, (inputs, targets))
    if inputs.shape[1:] != x.shape[1:] or targets.shape[1:] != y.shape[1:]:
      raise UsageError(
        f"Pairs of {name} have another size or other channels than x and y: {inputs.shape} and {targets.shape}."
      )
  return splits


def _require_pairs(name: str, pairs: Pairs) -> None:
  x, y = pairs
  if x.shape[:3] != y.shape[:3]:
    raise UsageError(f"The pairs of {name} differ in count or size: x {x.shape}, y {y.shape}.")


def _store(names: tuple[str, str], arrays: Pairs, spec: DataSpec) -> Pairs:
  """Both arrays as the pipeline stores them."""
  stored = [
    _store_one(name, array, signal)
    for name, array, signal in zip(names, arrays, (spec.input, spec.target), strict=True)
  ]
  return stored[0], stored[1]


def _require_channels_last(name: str, shape: tuple[int, ...]) -> None:
  if len(shape) == 4 and shape[1] <= 16 < shape[3]:
    raise UsageError(
      f"{name} has shape {shape}, so it would have {shape[3]} channels. If the channels come first, as in PyTorch, "
      f"move them to the end: np.moveaxis({name}, 1, -1)."
    )


def _store_one(name: str, array: np.ndarray, signal: Signal) -> np.ndarray:
  array = as_array(name, array)
  _require_channels_last(name, array.shape)
  if array.ndim != 4 or 0 in array.shape:
    raise UsageError(
      f"{name} has shape {array.shape}; it should be (n, H, W, C), with C = 1 for grey images and depth."
    )
  accepted = signal.accept(array, name)
  signal.check_range(accepted, name)
  return signal.store(accepted)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
  """Silences a run's output and progress bar; warnings still reach standard error."""
  with (
    open(os.devnull, "w", encoding="utf-8") as nowhere,
    contextlib.redirect_stdout(nowhere),
    contextlib.redirect_stderr(_NoTerminal(sys.stderr)),
  ):
    yield


class _NoTerminal:
  """A stream that is not a terminal, so that no progress bar is drawn on it."""

  def __init__(self, stream: Any):
    self._stream = stream

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)

  def isatty(self) -> bool:
    return False


def _history(workdir: Path, steps_per_epoch: int) -> dict[str, list[float]]:
  """The values in history.jsonl at the end of each epoch, including the epochs before a resume."""
  result: dict[str, list[float]] = {}
  for row in history.read(workdir):
    if row["step"] and row["step"] % steps_per_epoch == 0:
      for name, value in row.items():
        if name != "step":
          result.setdefault(name.replace("train/", "").replace("val/", "val_"), []).append(value)
  return result


class _Model:
  """The object that `set_model` receives; callbacks may set its `stop_training`."""

  stop_training = False


class _KerasObserver(Observer):
  """Calls Keras-style callbacks around steps and epochs."""

  METHODS = (
    *("on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end", "on_train_batch_begin", "on_train_batch_end"),
    *("set_params", "set_model"),
  )

  def __init__(self, callbacks: Sequence[Any], steps_per_epoch: int, epochs: int, verbose: int):
    self._callbacks, self._steps_per_epoch = callbacks, steps_per_epoch
    self._streams = sys.stdout, sys.stderr  # for callbacks, even while the run's output is silenced
    self._model, self._begun = _Model(), False
    self._sums: dict[str, jax.Array] | None = None
    self._count = 0
    self._logs: dict[str, float] = {}
    self._call("set_params", {"epochs": epochs, "steps": steps_per_epoch, "verbose": verbose})
    self._call("set_model", self._model)

  def _call(self, method: str, *args: Any) -> None:
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

  def step_ended(self, step: int, metrics: dict[str, jax.Array], validation: evaluation.Evaluation | None) -> bool:
    epoch, batch = divmod(step - 1, self._steps_per_epoch)
    self._sums = metrics if self._sums is None else jax.tree.map(jax.numpy.add, self._sums, metrics)
    self._count += 1
    self._call("on_train_batch_end", batch, metrics)
    if batch + 1 < self._steps_per_epoch:
      return False
    self._logs = {name: float(value) / self._count for name, value in jax.device_get(self._sums).items()}
    if validation:
      self._logs |= {f"val_{name}": value for name, value in validation.means.items()}
    self._sums = None
    self._call("on_epoch_end", epoch, self._logs)
    return self._model.stop_training

  def train_ended(self) -> None:
    self._call("on_train_end", self._logs)
