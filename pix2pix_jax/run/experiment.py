"""Experiments: everything that follows from a resolved configuration and a data spec.

Training, evaluation, `fit` and import all get their mesh, networks, optimizer, states and compiled steps from here.
"""

import dataclasses
import functools
import math
import os
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import ml_collections
import numpy as np
import optax

from pix2pix_jax import config as config_lib
from pix2pix_jax import launch, output, prng
from pix2pix_jax.errors import UsageError
from pix2pix_jax.model import losses, networks, steps
from pix2pix_jax.model import state as state_lib
from pix2pix_jax.model.state import NetworkState, TrainState
from pix2pix_jax.run import replicas
from pix2pix_jax.run.programs import Program
from pix2pix_jax.signals import DataSpec

# For programs that run only once. (An option of a program comes before JAX_DISABLE_MOST_OPTIMIZATIONS.)
_FAST_TO_COMPILE = {"xla_backend_optimization_level": 0 if jax.config.values["jax_disable_most_optimizations"] else 1}
# The axis of the replicas in a state, for `jax.vmap`: every array but the step has it first.
_STACKED = TrainState(step=None, generator=0, discriminator=0, average=0)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Networks, optimizer, mesh and compiled steps of one configuration. Everything is built on first use.

  Attributes:
    config: resolved configuration (from `config.resolve`, or read from a workdir).
    spec: signals of both sides; the counts are not used.
  """

  config: ml_collections.ConfigDict
  spec: DataSpec

  @classmethod
  def read(cls, workdir: Path) -> "Experiment":
    """The experiment of a workdir, from its config.json."""
    config = config_lib.read(workdir)
    return cls(config, DataSpec(*config_lib.signals_of(config), counts={}))

  @functools.cached_property
  def mesh(self) -> Mesh:
    """All devices of all processes along one `data` axis."""
    return make_mesh()

  @property
  def replicated(self) -> NamedSharding:
    return NamedSharding(self.mesh, PartitionSpec())

  @property
  def split_rows(self) -> NamedSharding:
    return NamedSharding(self.mesh, PartitionSpec("data"))

  @property
  def stacked(self) -> tuple[int, ...]:
    """The leading axis of the networks' arrays, of training batches and of metrics: that of the replicas, or none."""
    return () if self.config.train.num_replicas == 1 else (self.config.train.num_replicas,)

  def _for_each(self, function: Any, in_axes: tuple[Any, ...], out_axes: Any) -> Any:
    """A function of one network, for every replica at once; the axes are as for `jax.vmap`."""
    return jax.vmap(function, in_axes, out_axes) if self.stacked else function

  def _seeded(self, function: Any, in_axes: tuple[Any, ...], out_axes: Any) -> Any:
    """The same for a function that also needs a `seed`: the run's, to which a replica adds its number."""
    if not self.stacked:
      return functools.partial(function, seed=self.config.seed)
    mapped = jax.vmap(lambda seed, *arguments: function(*arguments, seed=seed), (0, *in_axes), out_axes)
    return lambda *arguments: mapped(jnp.asarray(replicas.seeds(self.config)), *arguments)

  @functools.cached_property
  def networks(self) -> dict[str, Any]:
    """The `generator` and `discriminator` modules."""
    generator, discriminator = networks.make_networks(
      self.config.model, dtype=self.config.train.dtype, remat=self.config.train.remat
    )
    return {"generator": generator, "discriminator": discriminator}

  @functools.cached_property
  def optimizer(self) -> optax.GradientTransformation:
    return state_lib.make_optimizer(self.config.optimizer)

  def learning_rate(self, step: jax.Array) -> jax.Array:
    """The learning rate of the update after `step` steps."""
    return state_lib.learning_rate(self.config.optimizer, self.config.train.num_steps, step)

  def _draw(self, seed: int | jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
    side = 2 ** max(
      self.config.model.levels, 6 + self.config.model.discriminators
    )  # any size that suits both networks: no parameter depends on it
    x = jnp.zeros((1, side, side, self.spec.input.channels))
    y = jnp.zeros((1, side, side, self.spec.target.channels))  # the discriminator does not see the validity channel
    keys = jax.random.split(prng.key(seed, "init"))
    return (
      self.networks["generator"].init(keys[0], x, dropout=False, norm_stats="batch"),
      self.networks["discriminator"].init(keys[1], x, y, norm_stats="batch"),
    )

  def _begin_with(self, variables: tuple[dict[str, Any], dict[str, Any]]) -> TrainState:
    states = [
      NetworkState(each["params"], each.get("batch_stats", {}), self.optimizer.init(each["params"]))
      for each in variables
    ]
    return TrainState(jnp.zeros((), jnp.int32), *states).with_average(self.config.train.ema_decay)

  def init(self) -> TrainState:
    """A fresh state on every device: weights N(0, 0.02), norm scales N(1, 0.02)."""
    # The weights come first, because drawing them takes memory that the optimizer's zeros can use afterwards.
    state = self._begin(jax.block_until_ready(self.draw()))
    launch.trim_memory()
    return state

  @functools.cached_property
  def draw(self) -> Program:
    """A compiled function without arguments that returns the variables of both networks."""
    return self.program("draw", self._once(self._seeded(self._draw, (), 0)), _FAST_TO_COMPILE)

  @functools.cached_property
  def _begin(self) -> Program:
    """A compiled function from the variables, which it consumes, to the state before the first step."""
    begin = self._for_each(self._begin_with, (0,), _STACKED)
    return self.program("begin", self._once(begin, donate_argnums=0), _FAST_TO_COMPILE)

  def _once(self, function: Any, **settings: Any) -> Any:
    return jax.jit(function, out_shardings=self.replicated, compiler_options=_FAST_TO_COMPILE, **settings)

  def program(self, name: str, function: Any, options: Any = None) -> Program:
    """A function under `jax.jit` that depends on nothing but this experiment, to be kept for the next start."""
    return Program(name, function, lambda: repr((self.config.to_dict(), self.spec.input, self.spec.target)), options)

  @functools.cached_property
  def _shapes(self) -> TrainState:
    """The shapes of the state."""
    return self._begin.outputs(self.draw.outputs())

  def abstract(self) -> TrainState:
    """The shapes and shardings of the state, for restoring a checkpoint."""
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.replicated), self._shapes
    )

  @functools.cached_property
  def parameters(self) -> dict[str, dict[str, tuple[int, ...]]]:
    """The shape of every parameter, such as `up_0/conv/kernel`, by network (of one replica); from shapes alone."""
    variables = self._shapes.variables
    return {
      network: {name: leaf.shape[len(self.stacked) :] for name, leaf in flatten_dict(each["params"], sep="/").items()}
      for network, each in variables.items()
    }

  def count_parameters(self) -> dict[str, int]:
    """Parameters of each network."""
    return {network: sum(map(math.prod, shapes.values())) for network, shapes in self.parameters.items()}

  def describe_parameters(self) -> list[str]:
    """A line about each parameter: its name, shape and size."""
    lines = []
    for network, shapes in self.parameters.items():
      lines.append(f"Parameters of the {network}:")
      width = max(map(len, shapes))
      for name, shape in shapes.items():
        lines.append(f"  {name:<{width}}  {'×'.join(map(str, shape)):>16}  {math.prod(shape):>12,}")
    return lines

  def describe(self) -> list[str]:
    """One line each about the generator, the discriminator, the losses in the log, and the run."""
    model, train, counts = self.config.model, self.config.train, self.count_parameters()
    height, width = config_lib.crop_shape(self.config.data)
    devices = output.counted(self.mesh.size, f"{jax.devices()[0].platform.upper()} device")
    several = f"{model.discriminators} × " if model.discriminators > 1 else ""
    spectral = ", spectral norm" if model.spectral_norm else ""
    discriminator = f"{several}PatchGAN {model.patch}{spectral}, {counts['discriminator']:,} parameters"
    if self.config.loss.gan == "none":
      discriminator = "not used (loss.gan is none)"
    return [
      f"Generator: {model.generator}, {model.levels} levels, {model.base_features} features, "
      f"{counts['generator']:,} parameters.",
      f"Discriminator: {discriminator}.",
      f"Loss: {self.describe_loss()}.",
      f"Run: {train.num_steps} step{'s' * (train.num_steps != 1)}, batch size {train.batch_size}, crops of "
      f"{width}×{height} (width × height), {devices}.",
      *replicas.describe(self.config),
    ]

  def describe_loss(self) -> str:
    """For example "generator_loss = gan_loss + 100 · l1_loss; l1 = l1_loss / 2 is the error on [0, 1]"."""
    formula = self.loss_formula()
    return f"generator_loss = {formula}{'; l1 = l1_loss / 2 is the error on [0, 1]' if 'l1_loss' in formula else ''}"

  def loss_formula(self) -> str:
    """The terms of the generator's loss by their names in the log, for example "gan_loss + 100 · l1_loss"."""
    loss = self.config.loss
    used = {
      "gan_loss": loss.gan != "none",
      losses.PIXEL[loss.pixel]: True,
      "feature_loss": loss.feature_matching > 0,
      "validity_loss": self.config.data.validity_channel,
    }
    weights = losses.weights(loss)
    return " + ".join(name if name == "gan_loss" else f"{weights[name]:g} · {name}" for name in used if used[name])

  @functools.cached_property
  def train_step(self) -> Program:
    """`steps.train_step` under jit, with the batch split along `data` and the state replicated and donated. Batch norm
    sees the whole batch. Replicas each have their own state and batch; only the step is common.
    """
    step = functools.partial(
      steps.train_step,
      **self.networks,
      optimizer=self.optimizer,
      learning_rate=self.learning_rate,
      loss=self.config.loss,
      target_signal=self.spec.target,
      ema_decay=self.config.train.ema_decay,
    )
    compiled = jax.jit(
      self._seeded(step, (_STACKED, 0), (_STACKED, 0)),
      in_shardings=(self.replicated, self.split_rows),
      out_shardings=(self.replicated, self.replicated),
      donate_argnums=0,
    )
    return self.program("train_step", compiled)

  @functools.cached_property
  def update_norms(self):
    """A compiled function from the state after a step to the norms of both networks' updates, by name."""

    def compute(state: TrainState) -> dict[str, jax.Array]:
      rate = self.learning_rate(state.step - 1)
      names = ("generator", "discriminator") if self.config.loss.gan != "none" else ("generator",)
      return {
        f"{name}_update_norm": state_lib.update_norm(getattr(state, name), self.config.optimizer, rate)
        for name in names
      }

    norms = self._for_each(compute, (_STACKED,), 0)
    return jax.jit(norms, in_shardings=self.replicated, out_shardings=self.replicated)

  @functools.cached_property
  def eval_step(self) -> Program:
    """`steps.eval_step` under jit, with outputs on every device, so that process 0 can read all of them. Replicas all
    translate the same batch.
    """
    step = functools.partial(
      steps.eval_step,
      **self.networks,
      loss=self.config.loss,
      dropout=self.config.evaluation.dropout,
      norm_stats=self.config.evaluation.norm_stats,
      input_signal=self.spec.input,
      target_signal=self.spec.target,
    )
    step = self._seeded(step, (0, None), 0)
    compiled = jax.jit(step, in_shardings=(self.replicated, self.split_rows), out_shardings=self.replicated)
    return self.program("eval_step", compiled)


def make_mesh() -> Mesh:
  """All devices of all processes along one `data` axis."""
  return Mesh(np.asarray(jax.devices()), ("data",))


def check_batch_size(batch_size: int) -> None:
  """Refuses a training batch that cannot be divided evenly among the devices.

  Raises:
    UsageError: with suitable batch sizes and device counts.
  """
  devices = jax.device_count()
  if batch_size % devices:
    divisors = [n for n in range(1, devices + 1) if batch_size % n == 0]
    raise UsageError(
      f"train.batch_size is {batch_size}, which cannot be divided evenly among {devices} devices. Use a multiple "
      f"of {devices}, or {' or '.join(map(str, divisors))} device(s) (CUDA_VISIBLE_DEVICES)."
    )


def use_compilation_cache(folder: str) -> None:
  """Keeps compiled programs for the next start in `folder`; empty: the user's cache directory; "none": nowhere.

  A cache that is set already (JAX_COMPILATION_CACHE_DIR) stays.
  """
  if folder != "none" and not jax.config.values["jax_compilation_cache_dir"]:
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    jax.config.update("jax_compilation_cache_dir", os.path.expanduser(folder or f"{user}/pix2pix_jax/xla"))
