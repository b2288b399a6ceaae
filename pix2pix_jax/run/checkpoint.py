"""What a run leaves in its workdir to go on from: `config.json` and Orbax checkpoints, the newest and the best.

A checkpoint is the `TrainState`. Its step is also the data's position, because the batch of step n is a function of
(seed, n) alone. Saving runs in the background and ends with a rename: a killed run leaves no half checkpoint that counts.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

from absl import logging
import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from pix2pix_jax.configs import default
from pix2pix_jax.errors import UsageError
from pix2pix_jax.model.state import TrainState

BEST_METRIC = "l1"  # of the validation, lower is better


class Checkpointer:
  """Saves and restores the states of one workdir; keeps the newest checkpoint and the one with the best validation L1."""

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
        f"{self._folder.parent} holds no checkpoints/. Give the workdir of a training that has saved at least once."
      )
    with _quiet():
      options = ocp.CheckpointManagerOptions(
        create=not read_only,
        read_only=read_only,
        enable_async_checkpointing=not read_only,
        preservation_policy=policy,
        best_fn=lambda metrics: metrics[BEST_METRIC],
        best_mode="min",
      )  # without best_fn the metrics are not saved
      self._manager = ocp.CheckpointManager(self._folder, options=options)

  def save(self, step: int, state: TrainState, metrics: dict[str, float] | None = None) -> None:
    """Copies the state off the devices and writes it in the background. `metrics` are those of a validation at this step."""
    with _quiet():
      self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics)

  def best(self) -> tuple[int, float] | None:
    """(step, validation L1) of the best checkpoint, if one was ever validated."""
    scored = [(self._manager.metrics(step), step) for step in self._manager.all_steps()]
    scored = [(metrics[BEST_METRIC], step) for metrics, step in scored if metrics]
    return min(scored)[::-1] if scored else None

  def latest_step(self) -> int | None:
    return self._manager.latest_step()

  def resolve_step(self, step: str | int) -> int:
    """The number of a checkpoint given as `"best"`, `"latest"` or a number."""
    steps = sorted(self._manager.all_steps())
    if not steps:
      raise UsageError(
        f"{self._folder} holds no finished checkpoint. Train for longer, or to the end: the final step is always saved."
      )
    if step == "latest":
      return steps[-1]
    if step == "best":
      best = self.best()
      return best[0] if best else steps[-1]
    if not str(step).isdigit() or int(step) not in steps:
      raise UsageError(
        f"{self._folder} has no checkpoint {step!r}; it has {', '.join(map(str, steps))}, 'best' and 'latest'."
      )
    return int(step)

  def restore(self, step: int, like: Any) -> TrainState:
    """The state of `step`. `like` gives its shapes and shardings: a tree of `jax.ShapeDtypeStruct` or a state."""
    try:
      return self._manager.restore(step, args=ocp.args.StandardRestore(like))
    except (ValueError, KeyError, FileNotFoundError) as error:
      raise UsageError(
        f"The checkpoint {self._folder / str(step)} does not fit the networks of its config.json, or is damaged "
        f"({str(error)[:300]}). Remove that folder to go on from an earlier checkpoint, or use a new workdir."
      ) from error

  def restore_generator(self, step: int) -> dict[str, Any]:
    """The generator's `params` and `batch_stats` alone, as numpy arrays: a third of the file is read."""
    path = self._folder / str(step) / "default"
    with _quiet(), ocp.PyTreeCheckpointer() as checkpointer:
      stored = checkpointer.metadata(path).item_metadata.tree["generator"]
      like = {"generator": {name: stored[name] for name in ("params", "batch_stats") if name in stored}}
      restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
      like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
      tree = checkpointer.restore(
        path, args=ocp.args.PyTreeRestore(item=like, restore_args=restore_args, partial_restore=True)
      )
    return tree["generator"]

  def close(self) -> None:
    """Waits for what is being written."""
    self._manager.wait_until_finished()
    self._manager.close()


@contextlib.contextmanager
def _quiet():
  """Keeps Orbax's remarks from the user: that it will not write, that a folder is part of a larger checkpoint, that a step has no metrics."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)


def load_config(workdir: Path) -> ml_collections.ConfigDict:
  """The configuration of a workdir, channels, levels and steps resolved."""
  path = Path(workdir) / "config.json"
  try:
    fields = json.loads(path.read_text())
  except (OSError, json.JSONDecodeError) as error:
    raise UsageError(
      f"{path} cannot be read ({error}). Give the workdir of a training: main.py writes config.json there."
    ) from error
  config = default.get_config()  # gives JSON's lists their tuples back, and older files the fields that they lack
  config.update(fields)
  return config.lock()


def save_config(workdir: Path, config: ml_collections.ConfigDict) -> None:
  """Writes config.json, or, where the workdir has checkpoints, refuses another architecture.

  Other fields may change between runs: a longer training, another place of the data.
  """
  path = workdir / "config.json"
  if path.exists() and any((workdir / "checkpoints").glob("*")):
    old = load_config(workdir).model.to_dict()
    new = config.model.to_dict()
    changed = [
      f"model.{name} {old.get(name)!r} → {new.get(name)!r}"
      for name in sorted(old | new)
      if old.get(name) != new.get(name)
    ]
    if changed:
      raise UsageError(
        f"{workdir} holds a training of another architecture ({'; '.join(changed)}). "
        "Use a new --workdir, or the configuration that this one was started with."
      )
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UsageError(f"--workdir {workdir} cannot be made into a folder: {error.strerror}.") from error
  part = path.with_suffix(".part")
  part.write_text(config.to_json_best_effort(indent=2) + "\n")
  part.replace(path)
