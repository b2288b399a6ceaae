"""The first state of a run: random weights, or the networks of another run (`train.init_from`)."""

import dataclasses
from pathlib import Path
import re
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from pix2pix_jax import config as config_lib
from pix2pix_jax import inputs, output
from pix2pix_jax.errors import UsageError, few, user_path
from pix2pix_jax.model import layers
from pix2pix_jax.model.state import NetworkState, TrainState
from pix2pix_jax.run import replicas
from pix2pix_jax.run.checkpoint import Checkpointer
from pix2pix_jax.run.experiment import Experiment

_KERNEL = "['params']%s['kernel']"
_VECTORS = ("['batch_stats']%s['u']", "['batch_stats']%s['v']")  # of spectral norm; they belong to a kernel


def find(init_from: str) -> tuple[Path, str]:
  """The workdir of `train.init_from`, and "best", "latest" or the number of a checkpoint that it has.

  Raises:
    UsageError: no trained model in that workdir, or no such checkpoint.
  """
  workdir, step = split(init_from)
  try:
    config = config_lib.read(workdir)
    with Checkpointer(workdir, config=config, read_only=True) as checkpointer:
      replicas.require_one(config, workdir)
      checkpointer.resolve_step(step)
  except UsageError as error:
    raise UsageError(f"train.init_from is {init_from!r}: {error}") from error
  return workdir, step


def split(init_from: str) -> tuple[Path, str]:
  """The two parts of WORKDIR[@STEP]; a folder of the whole name comes first."""
  name, _, step = init_from.rpartition("@")
  whole = user_path("train.init_from", init_from)
  if whole.is_dir() or not name or not (step in ("best", "latest") or step.isdigit()):
    return whole, "best"
  return user_path("train.init_from", name), step


def is_same(init_from: str, other: str) -> bool:
  """Whether two values of `train.init_from` are the same checkpoint of the same workdir."""
  one, two = (split(text) if text else None for text in (init_from, other))
  return one == two or bool(one and two and one[1] == two[1] and one[0].resolve() == two[0].resolve())


def adopt(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The configuration of a new run; ranges and numbers of classes that are left to the data are those of
  `train.init_from`, if the kinds are equal: other data must not change the meaning of the networks' numbers.

  Raises:
    UsageError: as `find`.
  """
  if not config.train.init_from:
    return config
  other = config_lib.read(find(config.train.init_from)[0])
  config = config.copy_and_resolve_references()
  for side in ("input", "target"):
    for kind, field, is_open in (("quantity", f"{side}_range", (0, 0)), ("classes", f"{side}_classes", 0)):
      if config.data[f"{side}_kind"] == other.data[f"{side}_kind"] == kind and config.data[field] == is_open:
        config.data[field] = other.data[field]
  if len(config.data.inputs) > 1 and len(other.data.inputs) > 1:
    config.data.inputs = inputs.keep(tuple(config.data.inputs), tuple(other.data.inputs))
  return config


def initial_state(run: Experiment) -> TrainState:
  """Step 0 of a run; its networks come from `train.init_from` where they fit, and their origin is printed.

  Raises:
    UsageError: as `find`, or no kernel of a network fits, or all checkpoints are damaged.
  """
  state, train = run.init(), run.config.train
  if not train.init_from:
    return state
  workdir, step = find(train.init_from)
  source = Experiment.read(workdir)
  try:
    with Checkpointer(workdir, config=source.config, read_only=True) as checkpointer:
      number, variables = checkpointer.load_variables(step, source.abstract(), list(train.init_networks))
  except UsageError as error:
    raise UsageError(f"train.init_from is {train.init_from!r}: {error}") from error
  differences = config_lib.describe_changes(
    config_lib.model_differences(config_lib.differences(source.config, run.config), source.config, run.config)
  )
  networks = {"generator": state.generator, "discriminator": state.discriminator}
  for name, stored in variables.items():
    arrays = {
      jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(stored)
    }
    if name == "generator":
      arrays = _aligned(arrays, source.config.model, run.config.model)
    try:
      networks[name] = _take(networks[name], arrays, name, f"{workdir}, step {number}", leading=len(run.stacked))
    except UsageError as error:
      raise UsageError(f"{error} The other run differs: {differences or 'not at all'}.") from error
  if differences:
    output.say(f"Differs from {workdir}: {differences}.")
  return TrainState(state.step, **networks).with_average(train.ema_decay)


def _aligned(arrays: dict[str, np.ndarray], source: Any, model: Any) -> dict[str, np.ndarray]:
  """A generator's arrays by the names that they have in another generator, without those that mean something else.

  Decoders are aligned at the output: with more levels, images of twice the size have one more block at the bottleneck.
  Kernels of resize-convolutions and transposed convolutions cannot replace each other, even if they have one shape. A
  generator with a residual connection has other channels at its input, and a correction in place of depth as output.
  """
  if source.generator in ("unet", "encoder_decoder") and model.generator in ("unet", "encoder_decoder"):
    shift = model.levels - source.levels

    def renamed(found: re.Match[str]) -> str:
      block = int(found[1]) + shift
      return f"['up_{block}']" if block >= 0 else f"['inner up_{found[1]}']"

    arrays = {re.sub(r"\['up_(\d+)'\]", renamed, name): array for name, array in arrays.items()}
  if source.decoder_widths != model.decoder_widths:  # a plain convolution, or one that doubles the resolution
    arrays.pop("['params']['output']['kernel']", None)
  if source.upsample != model.upsample:
    convolutions = re.compile(r"\['up_\d+(_conv)?'\]")
    kernels = [name for name in arrays if convolutions.search(name) and name.endswith("['kernel']")]
    arrays = {name: array for name, array in arrays.items() if name not in kernels}
  if source.residual != model.residual:
    ends = (
      "['params']['input']" if source.generator.startswith("resnet") else "['params']['down_0']",
      "['params']['output']",
    )
    arrays = {name: array for name, array in arrays.items() if not name.startswith(ends)}
  return arrays


def _take(
  network: NetworkState, stored: dict[str, np.ndarray], name: str, origin: str, *, leading: int
) -> NetworkState:
  """A network with those of the `stored` arrays that fit, in all replicas: its own arrays have `leading` axes for them.
  The optimizer starts afresh.

  Raises:
    UsageError: no kernel fits.
  """
  leaves, structure = jax.tree_util.tree_flatten_with_path(network.variables)
  own = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
  stored = _without_spectral_norm(stored, own)
  taken = {key for key, leaf in own.items() if key in stored and stored[key].shape == leaf.shape[leading:]}
  modules = [key.removeprefix("['params']").removesuffix("['kernel']") for key in own if key.endswith("['kernel']")]
  spectral = {module: [vector % module for vector in _VECTORS] for module in modules if _VECTORS[0] % module in own}
  for module, vectors in spectral.items():
    if _KERNEL % module not in taken or not taken.issuperset(vectors):
      taken -= set(vectors)
  if not any(_KERNEL % module in taken for module in modules):
    raise UsageError(
      f"train.init_from: no kernel of the {name} in {origin} has the shape that this configuration needs. Use the same "
      "architecture, or leave the network out of train.init_networks."
    )
  new = {key: np.broadcast_to(np.asarray(stored[key], own[key].dtype), own[key].shape) for key in taken}
  for module, (u, v) in spectral.items():
    if _KERNEL % module in taken and u not in taken:  # those of the random kernel would mean another norm
      find_vectors = layers.singular_vectors
      for _ in range(leading):
        find_vectors = jax.vmap(find_vectors)
      new[u], new[v] = map(np.asarray, find_vectors(jnp.asarray(new[_KERNEL % module]), own[u]))
  both = [jax.device_put(new[key], leaf.sharding) if key in new else leaf for key, leaf in own.items()]
  variables = jax.tree_util.tree_unflatten(structure, both)
  missing, unused = [key for key in own if key not in new], [key for key in stored if key not in own]
  rest = f"; random: {few(missing)}" if missing else ""
  rest += f"; without a place here: {few(unused)}" if unused else ""
  output.say(f"{name.capitalize()}: {len(taken)} of {len(own)} arrays from {origin}{rest}.")
  return dataclasses.replace(network, params=variables["params"], batch_stats=variables["batch_stats"])


def _without_spectral_norm(stored: dict[str, np.ndarray], own: dict[str, Any]) -> dict[str, np.ndarray]:
  """The arrays with kernels as the layers used them, for networks without spectral norm."""
  stored = dict(stored)
  for key in list(stored):
    module = key.removeprefix("['params']").removesuffix("['kernel']")
    names = [vector % module for vector in _VECTORS]
    if key == _KERNEL % module and names[0] in stored and names[0] not in own:
      kernel, (u, v) = stored[key], (stored.pop(name) for name in names)
      stored[key] = kernel / (v @ kernel.reshape(len(v), len(u)) @ u)
  return stored
