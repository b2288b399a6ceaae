"""The first state of a run: random weights, or the networks of another run (`train.init_from`)."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pix2pix_jax import config as config_lib
from pix2pix_jax import output
from pix2pix_jax.errors import UsageError, few, user_path
from pix2pix_jax.model.state import NetworkState, TrainState
from pix2pix_jax.run import replicas
from pix2pix_jax.run.checkpoint import Checkpointer
from pix2pix_jax.run.experiment import Experiment


def check(init_from: str) -> None:
  """Makes a wrong `train.init_from` an error before any data are prepared."""
  if init_from:
    find(init_from)


def find(init_from: str) -> tuple[Path, str]:
  """The workdir and the checkpoint ("best" or a number) of `train.init_from`.

  Raises:
    UsageError: no trained model in that workdir, or no such checkpoint.
  """
  name, _, step = init_from.rpartition("@") if _names_step(init_from) else (init_from, "", "best")
  workdir = user_path("train.init_from", name)
  try:
    config = config_lib.read(workdir)
    with Checkpointer(workdir, config=config, read_only=True) as checkpointer:
      replicas.require_one(config, workdir)
      return workdir, str(checkpointer.resolve_step(step))
  except UsageError as error:
    raise UsageError(f"train.init_from is {init_from!r}: {error}") from error


def _names_step(init_from: str) -> bool:
  return init_from.rpartition("@")[2] in ("best", "latest") or init_from.rpartition("@")[2].isdigit()


def initial_state(run: Experiment) -> TrainState:
  """Step 0 of a run; its networks come from `train.init_from` where the shapes fit, and their origin is printed.

  Raises:
    UsageError: as `find`, or no kernel of a network fits.
  """
  state, train = run.init(), run.config.train
  if not train.init_from:
    return state
  workdir, step = find(train.init_from)
  with Checkpointer(workdir, read_only=True) as checkpointer:
    variables = checkpointer.restore_variables(int(step), list(train.init_networks))
  networks = {"generator": state.generator, "discriminator": state.discriminator}
  for name, stored in variables.items():
    networks[name] = _take(networks[name], stored, name, f"{workdir}, step {step}", leading=len(run.stacked))
  return TrainState(state.step, **networks).with_average(train.ema_decay)


def _take(network: NetworkState, variables: dict[str, Any], name: str, origin: str, *, leading: int) -> NetworkState:
  """A network with every array of `variables` that fits: in all replicas, of which its arrays have `leading` axes. The
  optimizer starts afresh.
  """
  stored = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}
  missing: list[str] = []
  count = kernels = 0

  def choose(path: Any, leaf: jax.Array) -> jax.Array:
    nonlocal count, kernels
    key = jax.tree_util.keystr(path)
    found = stored.get(key)
    shape = leaf.shape[leading:]
    if found is None or np.shape(found) != shape:
      missing.append(key)
      return leaf
    count += 1
    kernels += len(shape) > 1
    return jax.device_put(np.broadcast_to(np.asarray(found, leaf.dtype), leaf.shape), leaf.sharding)

  taken = jax.tree_util.tree_map_with_path(choose, network.variables)
  if not kernels:
    raise UsageError(
      f"train.init_from: no kernel of the {name} in {origin} has the shape that this configuration needs. Use the same "
      "architecture (model.generator, model.base_features), or leave the network out of train.init_networks."
    )
  rest = f"; random: {few(missing)}" if missing else ""
  output.say(f"{name.capitalize()}: {count} of {count + len(missing)} arrays from {origin}{rest}.")
  return dataclasses.replace(network, params=taken["params"], batch_stats=taken["batch_stats"])
