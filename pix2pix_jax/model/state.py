"""What a training run is at one moment: the step, and for each network its parameters, statistics and optimizer state."""

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import optax

from pix2pix_jax.model.networks import Generator, PatchGAN


@struct.dataclass
class NetworkState:
  """One network: `params`, the running `batch_stats` of its norms, and its own Adam state."""

  params: Any
  batch_stats: Any
  opt_state: Any

  @property
  def variables(self) -> dict[str, Any]:
    return {"params": self.params, "batch_stats": self.batch_stats}


@struct.dataclass
class TrainState:
  """The whole state of training. Nothing else changes between steps: keys and data follow from (seed, step)."""

  step: jax.Array
  generator: NetworkState
  discriminator: NetworkState


def make_optimizer(optimizer, num_steps: int) -> optax.GradientTransformation:
  """Adam with a constant learning rate that optionally falls linearly to zero over the last `decay_fraction` of training.

  Args:
    optimizer: config section with `learning_rate`, `beta1`, `beta2`, `decay_fraction` in [0, 1].
    num_steps: length of the training, for the decay.
  """
  decay_steps = int(round(optimizer.decay_fraction * num_steps))
  rate = optimizer.learning_rate
  if decay_steps:
    rate = optax.join_schedules(
      [optax.constant_schedule(rate), optax.linear_schedule(rate, 0.0, decay_steps)], [num_steps - decay_steps]
    )
  return optax.adam(rate, b1=optimizer.beta1, b2=optimizer.beta2)


def initial(config, generator: Generator, discriminator: PatchGAN) -> TrainState:
  """A fresh state for a resolved config: weights N(0, 0.02), norm scales N(1, 0.02)."""
  generator_key, discriminator_key = jax.random.split(jax.random.key(config.seed))
  side = 2 ** max(config.model.levels, 7)  # any size that both networks accept: no parameter depends on it
  x = jnp.zeros((1, side, side, config.model.input_channels))
  y = jnp.zeros(
    (1, side, side, config.model.output_channels - config.data.validity_channel)
  )  # the discriminator sees no validity
  optimizer = make_optimizer(config.optimizer, config.train.num_steps)
  networks = []
  for variables in (
    generator.init(generator_key, x, dropout=False, norm_stats="batch"),
    discriminator.init(discriminator_key, x, y, norm_stats="batch"),
  ):
    params = variables["params"]
    networks.append(NetworkState(params, variables.get("batch_stats", {}), optimizer.init(params)))
  return TrainState(jnp.zeros((), jnp.int32), *networks)


def abstract(config, generator: Generator, discriminator: PatchGAN, mesh: jax.sharding.Mesh) -> TrainState:
  """The shapes of the state that `config` (resolved) describes, replicated over `mesh`, to restore a checkpoint into."""
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  shapes = jax.eval_shape(lambda: initial(config, generator, discriminator))
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)
