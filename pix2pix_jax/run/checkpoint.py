"""Orbax checkpoints of a workdir: the newest one and the one with the best validation.

A checkpoint is the `TrainState`. Its step is also the data's position, because the batch of step n is a function of
(seed, n) alone. Checkpoints are written in the background and renamed when complete, so a killed run leaves no
partial checkpoint that could be restored.
"""

from collections.abc import Iterator, Sequence
import contextlib
import glob
import os
from pathlib import Path
from typing import Any

from absl import logging
import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from pix2pix_jax import signals
from pix2pix_jax.errors import UsageError, few
from pix2pix_jax.model.metrics import HIGHER_IS_BETTER
from pix2pix_jax.model.state import TrainState

_DATA = "data"  # the fingerprint of the validation data, stored among the metrics


class Checkpointer:
  """Saves and restores the states of one workdir. A context manager: on exit, it waits for running saves and
  closes Orbax.

  Args:
    workdir: folder of the run; checkpoints are in its subfolder `checkpoints`.
    config: resolved configuration of the run, which determines how checkpoints are ranked and which ones are kept.
      None: they are ranked by L1.
    read_only: whether writing is ruled out.

  Raises:
    UsageError: `read_only` is set and the workdir has no checkpoints.
  """

  def __init__(self, workdir: Path, *, config: ml_collections.ConfigDict | None = None, read_only: bool = False):
    self._folder = Path(workdir).resolve() / "checkpoints"
    self._metric = config.train.best_metric if config else "l1"
    self._data = config.data.fingerprint if config else None
    policies: list[preservation_policy.PreservationPolicy] = [
      preservation_policy.LatestN(1),
      preservation_policy.BestN(get_metric_fn=self._rank, n=1, keep_checkpoints_without_metrics=False),
    ]
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
    with _quiet():
      options = ocp.CheckpointManagerOptions(
        create=not read_only,
        read_only=read_only,
        enable_async_checkpointing=not read_only,
        preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
        best_fn=self._rank,  # without it Orbax does not save the metrics
        best_mode="max",
      )
      self._manager = ocp.CheckpointManager(self._path, options=options)

  def __enter__(self) -> "Checkpointer":
    return self

  def __exit__(self, *unused: object) -> None:
    try:
      self._manager.wait_until_finished()
    finally:
      self._manager.close()
      if self._descriptor is not None:
        os.close(self._descriptor)

  def is_better(self, value: float, other: float) -> bool:
    """Whether one value of the metric is better than another."""
    return value > other if self._metric in HIGHER_IS_BETTER else value < other

  def _rank(self, metrics: dict[str, Any]) -> float:
    """Returns a number that is larger for better validations; -inf if they lack the metric or used other data."""
    other_data = self._data is not None and not signals.same_data(metrics.get(_DATA, ""), self._data)
    if self._metric not in metrics or other_data:
      return -np.inf
    return metrics[self._metric] if self._metric in HIGHER_IS_BETTER else -metrics[self._metric]

  def save(self, step: int, state: TrainState, metrics: dict[str, float] | None = None) -> None:
    """Copies the state off the devices and writes it in the background.

    Args:
      step: number of the step.
      state: state after that step.
      metrics: means of the validation at this step, if there was one.
    """
    stored = None if metrics is None else {**metrics, _DATA: self._data or ""}
    with _quiet():
      self._manager.save(step, args=ocp.args.StandardSave(state), metrics=stored)
    if not self._read_back:  # a place where checkpoints cannot be read again has to be known now, not at the end
      self._manager.wait_until_finished()
      self._require_fit(step, state)
      self._read_back = True

  def best(self) -> tuple[int, float] | None:
    """(step, value) of the checkpoint with the best validation on the current data, or None if there is none."""
    scored = {step: self._manager.metrics(step) for step in self._manager.all_steps()}
    ranked = {step: self._rank(metrics) for step, metrics in scored.items() if metrics}
    if not ranked or max(ranked.values()) == -np.inf:
      return None
    step = max(ranked, key=lambda number: ranked[number])
    return step, scored[step][self._metric]

  def latest_step(self) -> int | None:
    """The step of the newest checkpoint, or None."""
    return self._manager.latest_step()

  def resolve_step(self, step: str | int) -> int:
    """The step of a checkpoint given as `"best"`, `"latest"` or a number.

    Raises:
      UsageError: no such checkpoint.
    """
    steps = sorted(self._manager.all_steps())
    if not steps:
      raise UsageError(
        f"{self._folder} has no finished checkpoint. Train for longer, or to the end: the final step is always saved."
      )
    if step == "latest":
      return steps[-1]
    if step == "best":
      best = self.best()
      return best[0] if best else steps[-1]
    text = str(step)
    if not (text.isascii() and text.isdigit()) or int(text) not in steps:
      raise UsageError(
        f"{self._folder} has no checkpoint {step!r}; it has {', '.join(map(str, steps))}, 'best' and 'latest'."
      )
    return int(text)

  def restore(self, step: int, like: TrainState) -> TrainState:
    """Restores the whole state of `step`, with the shapes and shardings of `like` (`Experiment.abstract`).

    Raises:
      UsageError: the checkpoint belongs to other networks, or is damaged.
    """
    stored = self._require_fit(step, like)
    with self._explained(step), _quiet():
      if stored.keys() == _shapes(like).keys():
        return self._manager.restore(step, args=ocp.args.StandardRestore(like))
      with ocp.PyTreeCheckpointer() as checkpointer:  # of version 0.1, with a decaying learning rate
        leaves = _by_path(checkpointer.restore(self._path / str(step) / "default"))
      return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.device_put(leaves[_path_name(path)], leaf.sharding), like
      )

  def restore_variables(self, step: int, networks: Sequence[str] = ("generator", "discriminator")) -> dict[str, Any]:
    """Restores `params` and `batch_stats` of the networks as NumPy arrays. Optimizer states are not read.

    Raises:
      UsageError: the checkpoint is damaged.
    """
    path = self._path / str(step) / "default"
    with self._explained(step), _quiet(), ocp.PyTreeCheckpointer() as checkpointer:
      stored = checkpointer.metadata(path).item_metadata.tree
      like = {
        network: {name: stored[network][name] for name in ("params", "batch_stats") if name in stored[network]}
        for network in networks
      }
      restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
      like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
      args = ocp.args.PyTreeRestore(item=like, restore_args=restore_args, partial_restore=True)
      tree = checkpointer.restore(path, args=args)
    return {network: {"batch_stats": {}, **tree[network]} for network in networks}

  def _require_fit(self, step: int, like: TrainState) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of the arrays in a checkpoint, after comparing them with those of `like`."""
    with self._explained(step), _quiet(), ocp.PyTreeCheckpointer() as checkpointer:
      stored = _shapes(checkpointer.metadata(self._path / str(step) / "default").item_metadata.tree)
    wanted = _shapes(like)
    # Version 0.1 stored the position in a decaying learning rate, which now follows from the step.
    differing = [
      f"{name} ({_size(stored.get(name))} in the checkpoint, {_size(wanted.get(name))} configured)"
      for name in sorted(stored.keys() | wanted.keys())
      if stored.get(name) != wanted.get(name) and not name.endswith("/opt_state/1/count")
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
    try:
      yield
    except UsageError:
      raise
    except Exception as error:  # the type depends on where the damage is
      others = [other for other in sorted(self._manager.all_steps()) if other != step]
      remedy = (
        f"Other checkpoints of this workdir: {', '.join(map(str, others))}. To resume from one of those, move the "
        f"damaged folder away."
        if others
        else "It is the only checkpoint of this workdir; restore the folder from a backup, or start in a new --workdir."
      )
      reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
      raise UsageError(f"The checkpoint {self._folder / str(step)} is damaged ({reason}). {remedy}") from error


def _path_name(path: tuple[Any, ...]) -> str:
  """The path of a leaf, which is the same in a state and in plain dictionaries with the same content."""
  return "/".join(str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path)


def _by_path(tree: Any) -> dict[str, Any]:
  """All arrays in a tree by their paths."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {_path_name(path): leaf for path, leaf in leaves if hasattr(leaf, "shape")}


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
  """Silences expected Orbax warnings: about read-only use, parts of checkpoints, and steps without metrics."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)
