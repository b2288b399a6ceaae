"""Orbax checkpoints of a workdir: the newest one and the one with the best validation.

A checkpoint is the `TrainState`. Its step is also the data's position, because the batch of step n is a function of
(seed, n) alone. Saving runs in the background and ends with a rename, so that a killed run leaves no partial checkpoint
that counts.
"""

from collections.abc import Iterator, Sequence
import contextlib
from pathlib import Path
from typing import Any

from absl import logging
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from pix2pix_jax.errors import UsageError, few
from pix2pix_jax.model.state import TrainState

BEST_METRIC = "l1"  # of the validation, lower is better


class Checkpointer:
  """Saves and restores the states of one workdir. A context manager: leaving it waits for running saves and releases
  Orbax.

  Args:
    workdir: checkpoints are in its folder `checkpoints`.
    read_only: never writes.

  Raises:
    UsageError: `read_only`, and the workdir has no checkpoints.
  """

  def __init__(self, workdir: Path, *, read_only: bool = False):
    self._folder = Path(workdir).resolve() / "checkpoints"
    policy = preservation_policy.AnyPreservationPolicy(
      [
        preservation_policy.LatestN(1),
        preservation_policy.BestN(
          get_metric_fn=lambda metrics: -metrics[BEST_METRIC], n=1, keep_checkpoints_without_metrics=False
        ),
      ]
    )
    if read_only and not self._folder.is_dir():
      raise UsageError(
        f"{self._folder.parent} has no checkpoints. Give the workdir of a run that has saved at least once."
      )
    with _quiet():
      options = ocp.CheckpointManagerOptions(
        create=not read_only,
        read_only=read_only,
        enable_async_checkpointing=not read_only,
        preservation_policy=policy,
        best_fn=lambda metrics: metrics[BEST_METRIC],  # without it Orbax does not save the metrics
        best_mode="min",
      )
      self._manager = ocp.CheckpointManager(self._folder, options=options)

  def __enter__(self) -> "Checkpointer":
    return self

  def __exit__(self, *unused: object) -> None:
    try:
      self._manager.wait_until_finished()
    finally:
      self._manager.close()

  def save(self, step: int, state: TrainState, metrics: dict[str, float] | None = None) -> None:
    """Copies the state off the devices and writes it in the background. `metrics` are those of a validation at this
    step.
    """
    if metrics is not None and BEST_METRIC not in metrics:
      metrics = None  # no validation image has a valid pixel
    with _quiet():
      self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics)

  def best(self) -> tuple[int, float] | None:
    """(step, validation L1) of the best checkpoint, or None if none was ever validated."""
    scored = [(self._manager.metrics(step), step) for step in self._manager.all_steps()]
    ranked = [(metrics[BEST_METRIC], step) for metrics, step in scored if metrics]
    return min(ranked)[::-1] if ranked else None

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
    """The whole state of `step`. `like` gives its shapes and shardings (`Experiment.abstract`).

    Raises:
      UsageError: the checkpoint belongs to other networks, or is damaged.
    """
    self._require_fit(step, like)
    with self._explained(step):
      return self._manager.restore(step, args=ocp.args.StandardRestore(like))

  def restore_variables(self, step: int, networks: Sequence[str] = ("generator", "discriminator")) -> dict[str, Any]:
    """`params` and `batch_stats` of the networks, as numpy arrays. Optimizer states are not read.

    Raises:
      UsageError: the checkpoint is damaged.
    """
    path = self._folder / str(step) / "default"
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

  def _require_fit(self, step: int, like: TrainState) -> None:
    """Compares the names and shapes of the arrays in a checkpoint with those of `like`."""
    with self._explained(step), _quiet(), ocp.PyTreeCheckpointer() as checkpointer:
      stored = _shapes(checkpointer.metadata(self._folder / str(step) / "default").item_metadata.tree)
    wanted = _shapes(like)
    differing = [
      f"{name} ({_size(stored.get(name))} in the checkpoint, {_size(wanted.get(name))} configured)"
      for name in sorted(stored.keys() | wanted.keys())
      if stored.get(name) != wanted.get(name)
    ]
    if differing:
      raise UsageError(
        f"The checkpoint {self._folder / str(step)} belongs to other networks than the configuration describes: "
        f"{few(differing)}. Use the configuration that this workdir was started with, or a new --workdir."
      )

  @contextlib.contextmanager
  def _explained(self, step: int) -> Iterator[None]:
    """Turns what Orbax raises for a damaged checkpoint into a UsageError."""
    try:
      yield
    except UsageError:
      raise
    except Exception as error:  # which one depends on where the damage is
      others = [other for other in sorted(self._manager.all_steps()) if other != step]
      remedy = (
        f"Other checkpoints of this workdir: {', '.join(map(str, others))}. To resume from one of those, move the "
        f"damaged folder away."
        if others
        else "It is the only checkpoint of this workdir; restore the folder from a backup, or start in a new --workdir."
      )
      reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
      raise UsageError(f"The checkpoint {self._folder / str(step)} is damaged ({reason}). {remedy}") from error


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  """Path → shape of every array in a tree; states and plain dictionaries of the same content give the same paths."""
  return {
    "/".join(str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path): tuple(
      leaf.shape
    )
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    if hasattr(leaf, "shape")
  }


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
