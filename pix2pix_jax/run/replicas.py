"""Several networks that one program trains side by side (`train.num_replicas`), and that differ in their seeds alone.

Replica k is the run of a single network whose seed is larger by k: it has the same initial weights, batches and noise,
to the bit. Its steps are computed under `jax.vmap`, where sums may be rounded in another order. The arrays of a state
are stacked (`Experiment.stacked`); only the step is common.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
import re
import shlex
from typing import Any

import jax
import ml_collections
import numpy as np

from pix2pix_jax import config as config_lib
from pix2pix_jax.errors import UsageError

_COMMON = ("train/learning_rate",)  # scalars that are the same for all replicas
_PART = re.compile(r"/(std|replica_\d+)$")  # the end of a scalar's name that belongs to another one


def seeds(config: ml_collections.ConfigDict) -> range:
  """The seed of every replica."""
  return range(config.seed, config.seed + config.train.num_replicas)


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses replicas where they cannot be trained.

  Raises:
    UsageError: there are several devices or processes, or the last seed is too large.
  """
  count = config.train.num_replicas
  if count == 1:
    return
  if jax.device_count() > 1:
    where = f"{jax.process_count()} processes" if jax.process_count() > 1 else f"{jax.device_count()} devices"
    raise UsageError(
      f"train.num_replicas is {count}, but replicas are trained on one device by one process, and there are {where}. "
      "Use one device (CUDA_VISIBLE_DEVICES), or a run for each seed with train.num_replicas=1."
    )
  if seeds(config)[-1] > config_lib.LARGEST_SEED:
    raise UsageError(
      f"seed is {config.seed} and train.num_replicas is {count}, so the last replica would have the seed "
      f"{seeds(config)[-1]}, but seeds are at most {config_lib.LARGEST_SEED}. Lower seed."
    )


def refuse(config: ml_collections.ConfigDict, why: str, remedy: str) -> None:
  """Refuses to start with replicas.

  Raises:
    UsageError: why not, and what to do instead.
  """
  if config.train.num_replicas > 1:
    raise UsageError(f"train.num_replicas is {config.train.num_replicas}, but {why}. {remedy}")


def require_one(config: ml_collections.ConfigDict, workdir: Path) -> None:
  """Refuses the workdir of several replicas where one network is needed.

  Raises:
    UsageError: with the command that makes a workdir of one.
  """
  count = config.train.num_replicas
  if count > 1:
    command = f"pix2pix_jax extract --workdir={shlex.quote(str(workdir))} --replica=K --output=DIR"
    raise UsageError(
      f"{workdir} holds {count} generators, one for each seed from {config.seed} to {seeds(config)[-1]} "
      f"(train.num_replicas). Make a workdir of one, and use that: {command}, where K is 0 to {count - 1}."
    )


def describe(config: ml_collections.ConfigDict) -> list[str]:
  """A line for the start of a run; none for one network."""
  count, last = config.train.num_replicas, seeds(config)[-1]
  if count == 1:
    return []
  return [f"Replicas: {count} of both networks, seeds {config.seed} to {last}; metrics are mean ± standard deviation."]


def protocol(config: ml_collections.ConfigDict) -> str:
  """How results of replicas are meant, for readers of an evaluation."""
  return (
    f"metrics are means over seeds {config.seed} to {seeds(config)[-1]}, ± is their standard deviation; images, the "
    f"confusion matrix and per_image.csv are those of seed {config.seed}"
  )


def config_of(config: ml_collections.ConfigDict, replica: int) -> ml_collections.ConfigDict:
  """The configuration of the run that a replica is."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.seed, config.train.num_replicas = seeds(config)[replica], 1
  return config


def state_of(state: Any, replica: int) -> Any:
  """The state of a replica, from a stacked one."""
  return jax.tree.map(lambda array: array[replica] if array.ndim else array, state)


# --- Scalars: the mean has the usual name, such as val/l1; then there are val/l1/std and val/l1/replica_0, …


def steps_mean(rows: Iterable[Mapping[str, Any]], count: int) -> dict[str, np.ndarray]:
  """Means over steps: name → (count,), one for each replica.

  Args:
    rows: metrics of one dispatch each: (), (steps,), (count,) or (steps, count).
    count: number of replicas.
  """
  rows = list(rows)
  flat = {name: np.hstack([np.ravel(row[name]) for row in rows]) for name in rows[0]}
  return {name: np.array([np.mean(values[k::count]) for k in range(count)]) for name, values in flat.items()}


def scalars(values: Mapping[str, Any]) -> dict[str, float]:
  """The scalars of a log from the value, or the values of all replicas, of each metric."""
  found: dict[str, float] = {}
  for name, each in values.items():
    each = np.atleast_1d(each)
    found[name] = float(each[0]) if len(each) == 1 else float(np.mean(each, dtype=np.float64))
    if len(each) > 1 and name not in _COMMON:
      found[f"{name}/std"] = float(np.std(each, dtype=np.float64, ddof=1))
      found |= {f"{name}/replica_{k}": float(value) for k, value in enumerate(each)}
  return found


def scalars_of(row: Mapping[str, Any], replica: int) -> dict[str, Any]:
  """The scalars of a replica under their usual names, from those of a log."""
  own = f"/replica_{replica}"
  kept = {name: value for name, value in row.items() if not _PART.search(name)}
  return kept | {name.removesuffix(own): value for name, value in row.items() if name.endswith(own)}


def shown(values: Mapping[str, float], name: str, form: str = ".4f") -> str:
  """A scalar, with its spread if there is one: "0.0978 ± 0.0021"."""
  spread = f" ± {values[f'{name}/std']:{form}}" if f"{name}/std" in values else ""
  return f"{values[name]:{form}}{spread}"
