"""Finds the step at which a run's numbers broke: `pix2pix_jax train --debug`.

Steps are functions of the checkpoint and the seed alone, so they can be repeated. Normally, metrics are only looked at
when they are logged and states when they are saved, so a broken step is noticed some steps later.
"""

from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from pix2pix_jax import config as config_lib
from pix2pix_jax import output
from pix2pix_jax.data import pipeline
from pix2pix_jax.data.source import Source
from pix2pix_jax.errors import UsageError, few, user_path
from pix2pix_jax.run import checkpoint, fine_tuning, replicas, startup
from pix2pix_jax.run.experiment import Experiment
from pix2pix_jax.run.finite import has_finite_norm


def repeat_steps(config: ml_collections.ConfigDict, workdir: str | Path, *, source: Source | None = None) -> int:
  """Trains from the newest checkpoint to the last step without saving anything, and checks every step.

  The first step whose numbers a run would not save (NaN, infinite, or beyond about 1e19) ends it: the batch and the
  state before it are written to `debug/step_N.npz` in the workdir, as `batch/NAME` and `before/PATH/OF/LEAF`.

  Args:
    config, workdir, source: as for `train_and_evaluate`.

  Returns:
    The number of the last step, if all were finite.

  Raises:
    UsageError: a step was not finite; the message names it, its numbers and the file. Or there are several processes,
      or whatever `train_and_evaluate` raises before the first step.
  """
  workdir = user_path("--workdir", workdir)
  if jax.process_count() > 1:
    raise UsageError("--debug repeats a run in one process. Leave out --distributed and --coordinator.")
  remedy = (
    "Use it on one: in a workdir that pix2pix_jax extract makes or, if nothing was saved, in a run of its seed alone."
  )
  replicas.refuse(config, "--debug repeats the steps of one network", remedy)
  run, source, _ = startup.settle(config, workdir, source)
  config, data = run.config, run.config.data
  split = pipeline.load_split(source, "train", config_lib.load_shape(data), cache_gib=data.cache_gib)
  start, state = _newest_state(run, workdir)
  if start >= config.train.num_steps:
    output.say(f"Nothing to check: the newest checkpoint, of step {start}, is the last, and its numbers are finite.")
    return start
  batches = pipeline.train_batches(split, data, batch_size=config.train.batch_size, seed=config.seed, start_step=start)
  output.say(f"Checking every step from {start + 1} to {config.train.num_steps}; nothing is saved.")
  for step in range(start + 1, config.train.num_steps + 1):
    batch = next(batches)
    before = jax.tree.map(np.array, jax.device_get(state))  # a copy, because the step reuses the state's memory
    state, metrics = run.train_step(state, jax.device_put(batch, run.split_rows))
    if broken := _broken({"metrics": metrics, "after": state}):
      path = _write(workdir / "debug" / f"step_{step}.npz", {"batch": batch, "before": before})
      raise UsageError(
        f"Step {step} is the first whose numbers are not finite: {few(broken)}. Its batch and the state before it are "
        f"in {path}. {_about_batch(batch)}"
      )
    if step % config.train.log_every_steps == 0:
      output.say(f"step {step}/{config.train.num_steps}  finite")
  output.say(f"All numbers are finite up to step {config.train.num_steps}.")
  return config.train.num_steps


def _newest_state(run: Experiment, workdir: Path) -> tuple[int, Any]:
  """The step and state of the newest checkpoint, or those of a fresh run."""
  if not any((workdir / "checkpoints").glob("*")):
    return 0, fine_tuning.initial_state(run)
  with checkpoint.Checkpointer(workdir, config=run.config, read_only=True) as checkpointer:
    step = checkpointer.latest_step()
    if step is None:
      return 0, fine_tuning.initial_state(run)
    return step, checkpointer.restore(step, run.abstract())


def _named(tree: Any) -> dict[str, np.ndarray]:
  """The leaves of a tree as arrays by their paths, such as `after/generator/params/down_0/conv/kernel`."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def _broken(tree: Any) -> list[str]:
  """The paths of leaves that a run would not save (`finite.has_finite_norm`)."""
  return [name for name, leaf in _named(tree).items() if leaf.dtype.kind == "f" and not has_finite_norm(leaf)]


def _about_batch(batch: dict[str, np.ndarray]) -> str:
  broken = _broken(batch)
  if broken:
    return f"The batch itself has NaN or infinite values, in {few(broken)}: check the data."
  return (
    "The batch itself is finite, so the training diverged: lower optimizer.learning_rate or set optimizer.clip_norm."
  )


def _write(path: Path, tree: Any) -> Path:
  path.parent.mkdir(exist_ok=True)
  np.savez(path, **_named(tree))  # type: ignore[arg-type]  # the stubs take arrays by name for options
  return path
