"""Orbax checkpoints of a workdir: the two newest ones and the one with the best validation.

A checkpoint is the `TrainState`. Its step is also the data's position, because the batch of step n is a function of
(seed, n) alone. Checkpoints are written in the background and renamed when complete, so a killed run leaves no
partial checkpoint that could be restored.

Each checkpoint holds checksums of its arrays and its metrics, which are compared whenever it is read, so that bits
that change on the disk are noticed. If the newest checkpoint is damaged, the one before it is used; nothing is deleted.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
import contextlib
import dataclasses
import errno
import gc
import glob
import json
import os
from pathlib import Path
from typing import Any
import zlib

from absl import logging
import jax
from jax.experimental import multihost_utils
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from pix2pix_jax import config as config_lib
from pix2pix_jax import output, signals
from pix2pix_jax.errors import UsageError, few, reason
from pix2pix_jax.model.metrics import HIGHER_IS_BETTER
from pix2pix_jax.model.state import TrainState
from pix2pix_jax.run import replicas, storage

_DATA = "data"  # the fingerprint of the validation data, stored among the metrics
_PROTOCOL = "protocol"  # how they were translated, too
_KEPT = 2  # newest checkpoints; the second is for the day on which the newest is damaged
_DAMAGED = "damaged"  # folder of a workdir for what could not be used


class DamagedCheckpoint(UsageError):
  """A checkpoint that cannot be read, or that does not hold what was saved."""


class Checkpointer:
  """Saves and restores the states of one workdir. A context manager: on exit, it waits for running saves and
  closes Orbax.

  Args:
    workdir: folder of the run; checkpoints are in its subfolder `checkpoints`.
    config: resolved configuration of the run, which determines how checkpoints are ranked and which ones are kept.
      None: they are ranked by L1.
    read_only: whether writing is ruled out.
    keep_all: whether every checkpoint that is saved stays.

  Raises:
    UsageError: `read_only` is set and the workdir has no checkpoints.
  """

  def __init__(
    self,
    workdir: Path,
    *,
    config: ml_collections.ConfigDict | None = None,
    read_only: bool = False,
    keep_all: bool = False,
  ):
    self._folder = Path(workdir).resolve() / "checkpoints"
    self._metric = config.train.best_metric if config else "l1"
    self._data = config.data.fingerprint if config else None
    self._protocol = _protocol(config) if config else None
    self._config = config
    policies: list[preservation_policy.PreservationPolicy] = [
      preservation_policy.LatestN(_KEPT),
      preservation_policy.BestN(get_metric_fn=self._rank, n=1, keep_checkpoints_without_metrics=False),
    ]
    if keep_all:
      policies.append(preservation_policy.PreserveAll())
    if config and config.train.keep_every_steps:
      policies.append(preservation_policy.EveryNSteps(config.train.keep_every_steps))
    if read_only and not self._folder.is_dir():
      raise UsageError(
        f"{self._folder.parent} has no checkpoints. Give the workdir of a run that has saved at least once."
      )
    self._descriptor = None if _is_plain(self._folder) else _open(self._folder.parent)
    self._read_back = False
    self._path = self._folder  # as Orbax is given it
    if self._descriptor is not None:
      self._path = _DESCRIPTORS / str(self._descriptor) / self._folder.name
    if not read_only:
      damaged = {step: "metrics" for step in self._steps() if self._metrics_of(step) is None}
      for step in damaged:
        _warn(f"the validation of checkpoint {self._folder / str(step)} is damaged; it counts as none.")
      self._set_aside(damaged)
    with _quiet():
      options = ocp.CheckpointManagerOptions(
        create=not read_only,
        read_only=read_only,
        cleanup_tmp_directories=not read_only,  # of killed runs
        lightweight_initialize=read_only,  # it would read the metrics, which may be damaged
        enable_async_checkpointing=not read_only,
        preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
        best_fn=self._rank,  # without it Orbax does not save the metrics
        best_mode="max",
      )
      with futures.ThreadPoolExecutor(1) as pool:  # where a signal cannot leave it half-made
        self._manager = pool.submit(ocp.CheckpointManager, self._path, options=options).result()

  def __enter__(self) -> "Checkpointer":
    return self

  def __exit__(self, *unused: object) -> None:
    with contextlib.ExitStack() as stack:
      if self._descriptor is not None:
        stack.callback(os.close, self._descriptor)
      stack.callback(self._manager.close)
      self._manager.wait_until_finished()

  def is_better(self, value: float, other: float) -> bool:
    """Whether one value of the metric is better than another."""
    return value > other if self._metric in HIGHER_IS_BETTER else value < other

  def _is_comparable(self, metrics: dict[str, Any]) -> bool:
    """Whether a validation used the present data, and the present protocol as far as it was stored (not by 0.1)."""
    same_data = self._data is None or signals.same_data(metrics.get(_DATA, ""), self._data)
    protocol = self._protocol or {}
    return same_data and all(protocol.get(name, value) == value for name, value in metrics.get(_PROTOCOL, {}).items())

  def _rank(self, metrics: dict[str, Any]) -> float:
    """Returns a number that is larger for better validations; -inf if they lack the metric or cannot be compared."""
    if self._metric not in metrics or not self._is_comparable(metrics):
      return -np.inf
    return metrics[self._metric] if self._metric in HIGHER_IS_BETTER else -metrics[self._metric]

  def save(self, step: int, state: TrainState, metrics: dict[str, float] | None = None) -> None:
    """Copies the state off the devices and writes it in the background.

    Args:
      step: number of the step.
      state: state after that step.
      metrics: means of the validation at this step, if there was one.
    """
    if not self._folder.is_dir():  # Orbax would create it again
      raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._folder))
    stored = None if metrics is None else {**metrics, _DATA: self._data or "", _PROTOCOL: self._protocol or {}}
    checksums = {"arrays": _checksums(state), "metrics": _checksum_of_metrics(stored)}
    with _quiet():
      self._manager.save(step, args=ocp.args.StandardSave(_saved(state)), metrics=stored, custom_metadata=checksums)
    if not self._read_back:  # a place where checkpoints cannot be read again has to be known now, not at the end
      self._manager.wait_until_finished()
      self._require_fit(step, state)
      self._read_back = True

  def _steps(self) -> list[int]:
    """The steps of all finished checkpoints in ascending order, as the folder has them."""
    names = [path.name for path in self._folder.glob("*")] if self._folder.is_dir() else []
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())

  def _metadata(self, step: int) -> dict[str, Any]:
    """What was saved beside the arrays: `arrays` and `metrics`, their checksums; empty in checkpoints of version 0.1.

    Raises:
      OSError, ValueError: the file is missing or damaged.
    """
    stored = json.loads((self._folder / str(step) / "_CHECKPOINT_METADATA").read_text(encoding="utf-8"))
    custom = stored.get("custom_metadata", {}) if isinstance(stored, dict) else None
    if not isinstance(custom, dict):
      raise ValueError("_CHECKPOINT_METADATA does not hold metadata")
    return custom

  def _metrics_of(self, step: int) -> dict[str, Any] | None:
    """The validation at a step; empty if there was none, None if the file is damaged."""
    path = self._folder / str(step) / "metrics"
    if not path.is_dir():
      return {}
    try:
      checksum = self._metadata(step).get("metrics")
      metrics = json.loads((path / "metrics").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
      return None
    if not isinstance(metrics, dict) or checksum not in (None, _checksum_of_metrics(metrics)):
      return None
    numbers = [value for key, value in metrics.items() if key not in (_DATA, _PROTOCOL)]
    valid = isinstance(metrics.get(_PROTOCOL, {}), dict) and all(isinstance(value, int | float) for value in numbers)
    return metrics if valid else None

  def best(self) -> tuple[int, float] | None:
    """(step, value) of the checkpoint with the best validation on the current data, or None if there is none."""
    ranked = self._ranked()
    return (ranked[0], (self._metrics_of(ranked[0]) or {})[self._metric]) if ranked else None

  def starts_over(self) -> bool:
    """Whether there were validations, but none that can be compared with those to come."""
    return self.best() is None and any(self._metric in (self._metrics_of(step) or {}) for step in self.all_steps())

  def _ranked(self) -> list[int]:
    """The steps with a comparable validation, best first; of equal ones the newest, which is the one that is kept."""
    scores = {step: self._rank(self._metrics_of(step) or {}) for step in self._manager.all_steps()}
    return sorted((step for step, score in scores.items() if score > -np.inf), key=lambda step: (-scores[step], -step))

  def validation(self, step: int) -> dict[str, float] | None:
    """The validation at a step; None if there was none, or one on other data or by another protocol."""
    found = dict(self._metrics_of(step) or {})
    numbers = {key: value for key, value in found.items() if key not in (_DATA, _PROTOCOL)}
    return numbers if numbers and self._is_comparable(found) else None

  def all_steps(self) -> list[int]:
    """The steps of all checkpoints in ascending order."""
    return sorted(self._manager.all_steps())

  def latest_step(self) -> int | None:
    """The step of the newest checkpoint, or None."""
    return self._manager.latest_step()

  def resolve_step(self, step: str | int) -> int:
    """The step of a checkpoint given as `"best"`, `"latest"` or a number.

    Raises:
      UsageError: no such checkpoint.
    """
    return self._candidates(step)[0]

  def _candidates(self, step: str | int) -> list[int]:
    """The checkpoints that a description stands for: the one to use, and those to use if it is damaged."""
    steps = sorted(self._manager.all_steps(), reverse=True)
    if not steps:
      if renamed := [path.name for path in self._folder.iterdir() if (path / "default").is_dir()]:
        raise UsageError(
          f"{self._folder} holds {few(renamed)}, but the folder of a checkpoint is named by its step. Rename it back."
        )
      raise UsageError(
        f"{self._folder} has no finished checkpoint. Train for longer, or to the end: the final step is always saved."
      )
    if step == "latest":
      return steps
    if step == "best":
      ranked = self._ranked()
      return [*ranked, *(other for other in steps if other not in ranked)]
    text = str(step)
    if not (text.isascii() and text.isdigit()) or int(text) not in steps:
      raise UsageError(
        f"{self._folder} has no checkpoint {step!r}; it has {', '.join(map(str, steps[::-1]))}, 'best' and 'latest'."
      )
    return [int(text)]

  def restore_newest(self, like: TrainState) -> tuple[int, TrainState]:
    """The newest checkpoint that is intact, and its step. Damaged newer ones are moved to the workdir's `damaged/`.

    Raises:
      UsageError: the checkpoint belongs to other networks, or all are damaged.
    """
    state, step, damaged = _first_intact(self._candidates("latest"), lambda step: self.restore(step, like))
    if jax.process_count() > 1 and len(set(multihost_utils.process_allgather(np.int32(step)).ravel().tolist())) > 1:
      raise UsageError(f"The processes of this run read different checkpoints in {self._folder}. Is it one folder?")
    for error in damaged.values():
      _warn(f"{error} It moves to {self._folder.parent / _DAMAGED}; the run resumes from step {step}.")
    self._set_aside({number: "" for number in damaged})
    if damaged:
      self._manager.reload()
    return step, state

  def load_variables(
    self, step: str | int, like: TrainState, networks: Sequence[str] = ("generator", "discriminator")
  ) -> tuple[int, dict[str, Any]]:
    """The step of a checkpoint that `resolve_step` accepts, and its `restore_variables`.

    If the best or the latest one is damaged, the next best or the one before it is used, and a line says so.

    Args:
      step: `"best"`, `"latest"` or a number.
      like: the state that the configuration describes (`Experiment.abstract`).
      networks: the networks to read.

    Raises:
      UsageError: no such checkpoint, or it belongs to other networks or is damaged, or it holds several replicas.
    """
    if self._config:
      replicas.require_one(self._config, self._folder.parent)

    def load(number: int) -> dict[str, Any]:
      self._require_fit(number, like)
      return self.restore_variables(number, networks)

    variables, used, damaged = _first_intact(self._candidates(step), load)
    for error in damaged.values():
      _warn(f"{error} Using the checkpoint of step {used} instead.")
    return used, variables

  def restore(self, step: int, like: TrainState) -> TrainState:
    """Restores the whole state of `step`, with the shapes and shardings of `like` (`Experiment.abstract`).

    Raises:
      UsageError: the checkpoint belongs to other networks or another step, or is damaged.
    """
    stored = self._require_fit(step, like)
    with self._explained(step), _quiet():
      if stored.keys() == _shapes(like).keys():
        parts = self._manager.restore(step, args=ocp.args.StandardRestore(_saved(like)))
        state = dataclasses.replace(like, **parts)
      else:  # of version 0.1, with a decaying learning rate; or train.ema_decay was turned on or off
        path = self._path / str(step) / "default"
        with ocp.PyTreeCheckpointer() as checkpointer:
          leaves = _by_path(_restore_as_numpy(checkpointer, path, _stored_tree(checkpointer, path)))
        if not any(map(_is_average, stored)):  # it begins at the weights; copies, because buffers are donated
          of_generator = {name: leaf for name, leaf in leaves.items() if name.startswith("generator/")}
          leaves |= {name.replace("generator", "average", 1): np.array(leaf) for name, leaf in of_generator.items()}

        def place(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
          array = leaves[_path_name(path)]
          return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: array[index])

        state = jax.tree_util.tree_map_with_path(place, like)
    self._verify(step, state)
    return state

  def as_stored(self, step: int, like: TrainState) -> TrainState:
    """The state `like`, with an average exactly if the checkpoint has one, whatever `train.ema_decay` is now."""
    has_average = any(map(_is_average, self._require_fit(step, like)))
    return dataclasses.replace(like, average=like.generator.variables if has_average else None)

  def restore_variables(self, step: int, networks: Sequence[str] = ("generator", "discriminator")) -> dict[str, Any]:
    """Restores `params` and `batch_stats` of the networks as NumPy arrays; the generator's are averages if the run
    kept averages (`train.ema_decay`). Optimizer states are not read.

    Raises:
      UsageError: the checkpoint is that of another step, or damaged.
    """
    path = self._path / str(step) / "default"
    with self._explained(step), _quiet(), ocp.PyTreeCheckpointer() as checkpointer:
      stored = _stored_tree(checkpointer, path)
      places = {
        network: "average" if network == "generator" and "average" in stored else network for network in networks
      }
      like = {
        place: {name: stored[place][name] for name in ("params", "batch_stats") if name in stored[place]}
        for place in places.values()
      }
      tree = _restore_as_numpy(checkpointer, path, like | {"step": stored["step"]})
    self._verify(step, tree)
    return {network: {"batch_stats": {}, **tree[place]} for network, place in places.items()}

  def _verify(self, step: int, tree: Any) -> None:
    """Compares restored arrays with the checksums of the saved ones, and their step with the name of their folder.

    Raises:
      UsageError: an array, or the step, differs.
    """
    with self._explained(step):
      saved = self._metadata(step).get("arrays", {})
      restored = _checksums(tree)
      if differing := [name for name, checksum in restored.items() if saved.get(name, checksum) != checksum]:
        raise ValueError(f"{few(differing)} differ from what was saved")
    number = int(_by_path(tree)["step"])
    if number != step:
      raise UsageError(
        f"The checkpoint {self._folder / str(step)} holds step {number}. Rename the folder to {number}, or move it "
        "away."
      )

  def _require_fit(self, step: int, like: TrainState) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of the arrays in a checkpoint, after comparing them with those of `like`."""
    with self._explained(step), _quiet(), ocp.PyTreeCheckpointer() as checkpointer:
      stored = _shapes(_stored_tree(checkpointer, self._path / str(step) / "default"))
    wanted = _shapes(like)
    # Version 0.1 stored the position in a decaying learning rate, which now follows from the step. Averages come and go
    # with train.ema_decay.
    differing = [
      f"{name} ({_size(stored.get(name))} in the checkpoint, {_size(wanted.get(name))} configured)"
      for name in sorted(stored.keys() | wanted.keys())
      if stored.get(name) != wanted.get(name)
      and not name.endswith("/opt_state/1/count")
      and not (_is_average(name) and None in (stored.get(name), wanted.get(name)))
    ]
    if differing:
      raise UsageError(
        f"The checkpoint {self._folder / str(step)} belongs to other networks than the configuration describes: "
        f"{few(differing)}. Use the configuration that this workdir was started with, or a new --workdir."
      )
    return stored

  @contextlib.contextmanager
  def _explained(self, step: int) -> Iterator[None]:
    """Turns Orbax's exceptions for a damaged checkpoint into a UsageError."""
    fault = ""
    with storage.quiet_tasks():
      try:
        yield
      except UsageError:
        raise
      except Exception as error:  # the type depends on where the damage is
        fault = f"{type(error).__name__}: {' '.join(reason(error).split())[:300]}"
      if fault:
        gc.collect()  # frees them now that the exception, which refers to them, is gone
    if fault:
      others = [str(other) for other in sorted(self._manager.all_steps()) if other != step]
      remedy = (
        f"Other checkpoints of this workdir: {', '.join(others)}."
        if others
        else "It is the only checkpoint of this workdir; restore the folder from a backup, or start in a new --workdir."
      )
      raise DamagedCheckpoint(f"The checkpoint {self._folder / str(step)} is damaged ({fault}). {remedy}")

  def _set_aside(self, parts: dict[int, str]) -> None:
    """Moves checkpoints to the workdir's `damaged/`: step → the part to move; empty: the whole checkpoint."""
    _synchronize("all processes have seen what is damaged")
    for step, part in parts.items() if jax.process_index() == 0 else ():
      source = self._folder / str(step) / part
      base = target = self._folder.parent / _DAMAGED / "_".join(filter(None, [str(step), part]))
      while target.exists():
        target = base.with_name(f"{target.name}+")
      if source.exists():
        target.parent.mkdir(exist_ok=True)
        source.rename(target)
    _synchronize("damaged checkpoints are moved")


def _protocol(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """What decides whether two validations on equal data can be compared, as JSON holds it."""
  settings, data = config.evaluation, config.data
  return {
    "dropout": settings.dropout,
    "norm_stats": settings.norm_stats,
    "batch_size": settings.batch_size if settings.norm_stats == "batch" else 0,
    "size": list(config_lib.eval_resize(data) or ()),
    "input_resampling": data.input_resampling,
    "target_resampling": data.target_resampling,
    "target_ignore": data.target_ignore,
  }


def _warn(text: str) -> None:
  if jax.process_index() == 0:
    output.say(f"Warning: {text}")


def _synchronize(name: str) -> None:
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def _path_name(path: tuple[Any, ...]) -> str:
  """The path of a leaf, which is the same in a state and in plain dictionaries with the same content."""
  return "/".join(str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path)


def _by_path(tree: Any) -> dict[str, Any]:
  """All arrays in a tree by their paths."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {_path_name(path): leaf for path, leaf in leaves if hasattr(leaf, "shape")}


def _is_average(name: str) -> bool:
  return name.startswith("average/")


def _saved(state: Any) -> Any:
  """The parts of a state that a checkpoint holds: without `average` if there is none, as in earlier versions."""
  if not isinstance(state, TrainState):  # any other tree as it is
    return state
  parts = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
  return {name: part for name, part in parts.items() if part is not None}


def _stored_tree(checkpointer: ocp.PyTreeCheckpointer, path: Path) -> Any:
  """The tree of shapes and types that a checkpoint holds, read from its metadata."""
  metadata = checkpointer.metadata(path).item_metadata
  if metadata is None:
    raise ValueError("the list of its arrays cannot be read")
  return metadata.tree


def _restore_as_numpy(checkpointer: ocp.PyTreeCheckpointer, path: Path, like: Any) -> Any:
  """Restores a part of a checkpoint's tree as NumPy arrays, whatever devices it was saved from."""
  restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
  like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
  args = ocp.args.PyTreeRestore(item=like, restore_args=restore_args, partial_restore=True)
  return checkpointer.restore(path, args=args)


def _first_intact(steps: Sequence[int], load: Callable[[int], Any]) -> tuple[Any, int, dict[int, DamagedCheckpoint]]:
  """What `load` returns for the first step that is not damaged, that step, and why those before it are damaged."""
  damaged: dict[int, DamagedCheckpoint] = {}
  for step in steps:
    try:
      return load(step), step, damaged
    except DamagedCheckpoint as error:
      damaged[step] = error
  raise next(iter(damaged.values()))


def _checksums(tree: Any) -> dict[str, int]:
  """CRC-32 of the bytes of every array in a tree by its path. Every process holds all arrays of a state."""

  def checksum(leaf: Any) -> int:
    array = np.ascontiguousarray(leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf)
    return zlib.crc32(array.reshape(-1).view(np.uint8).data)

  leaves = _by_path(tree)
  with futures.ThreadPoolExecutor() as pool:
    return dict(zip(leaves, pool.map(checksum, leaves.values()), strict=True))


def _checksum_of_metrics(metrics: dict[str, Any] | None) -> int | None:
  return None if metrics is None else zlib.crc32(json.dumps(metrics, sort_keys=True).encode())


_DESCRIPTORS = Path("/proc/self/fd")  # on Linux, a second name for every folder that this process has open


def _is_plain(folder: Path) -> bool:
  """Whether Orbax takes a path literally: its `glob` reads `[`, `?` and `*` as patterns, and TensorStore reads a
  backslash as `/`.
  """
  name = str(folder)
  return name == glob.escape(name) and (os.sep == "\\" or "\\" not in name)


def _open(folder: Path) -> int:
  """The descriptor of a folder, which gives it a plain name.

  Raises:
    UsageError: this system has no such names.
  """
  if not _DESCRIPTORS.is_dir():
    raise UsageError(
      f"--workdir {str(folder)!r}: this system cannot save checkpoints below a path with [, ?, * or a backslash. "
      "Choose another name."
    )
  folder.mkdir(parents=True, exist_ok=True)
  return os.open(folder, os.O_RDONLY)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  return {name: tuple(leaf.shape) for name, leaf in _by_path(tree).items()}


def _size(shape: tuple[int, ...] | None) -> str:
  return "absent" if shape is None else "×".join(map(str, shape)) or "scalar"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences expected Orbax warnings (about read-only use, parts of checkpoints, steps without metrics) and what it
  logs beside its exceptions.
  """
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.FATAL)
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)
