"""The state of a run at one moment: the step, and for each network its parameters, statistics and optimizer state."""

import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import optax


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
  """Everything that changes between steps. Random keys and the data are functions of (seed, step).

  `average` is the `moving_average` of the generator's variables; None without `train.ema_decay`.
  """

  step: jax.Array
  generator: NetworkState
  discriminator: NetworkState
  average: Any = None

  @property
  def variables(self) -> dict[str, dict[str, Any]]:
    """Parameters and statistics of both networks, which is all that evaluation needs: the averages if there are any."""
    generator = self.generator.variables if self.average is None else self.average
    return {"generator": generator, "discriminator": self.discriminator.variables}

  def with_average(self, decay: float) -> "TrainState":
    """The state with an average that begins at the generator's present variables, if `decay` is not 0."""
    # Copies, because a step donates its state, and no buffer can be donated twice.
    return dataclasses.replace(self, average=jax.tree.map(jnp.copy, self.generator.variables) if decay else None)


def moving_average(average: Any, variables: Any, decay: float, step: jax.Array) -> Any:
  """The exponential moving average of a network's variables after an update.

  The averaged weights of a GAN's generator swing less than the weights themselves (Yazıcı et al. 2019, arXiv
  1806.04498). As in tf.train.ExponentialMovingAverage, the decay starts low, so that the initial weights are forgotten.

  Args:
    average: the average before the update.
    variables: `NetworkState.variables` after it.
    decay: share of the old average that is kept, at most (1 + step) / (10 + step).
    step: number of updates before this one.
  """
  kept = jnp.minimum(decay, (1 + step) / (10 + step))
  return jax.tree.map(lambda old, new: new + kept * (old - new), average, variables)


def make_optimizer(settings: Any) -> optax.GradientTransformation:
  """Adam without a learning rate, which `learning_rate` computes for each step.

  Because the rate is not part of the optimizer, the optimizer's state has the same structure for every schedule, so the
  rate, its decay and the length of the run may change at a resume.

  Args:
    settings: config section with `beta1`, `beta2` and `clip_norm`, the largest norm of a gradient (0: no limit). The
      state does not depend on the latter.
  """
  adam = optax.chain(_scale_by_adam(settings.beta1, settings.beta2), optax.scale(-1.0))
  if not settings.clip_norm:
    return adam
  clip = optax.clip_by_global_norm(settings.clip_norm)

  def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    return adam.update(clip.update(grads, optax.EmptyState())[0], state, params)

  return optax.GradientTransformation(adam.init, update)


def _scale_by_adam(beta1: float, beta2: float, epsilon: float = 1e-8) -> optax.GradientTransformation:
  """optax.scale_by_adam, with the same state, in a form that CPUs compute with less traffic to memory.

  Each moment moves towards its gradient by an addition, which XLA does not repeat where the update needs it, so the old
  moment needs no copy. The corrections of bias are factors, since a division takes as long as several products.
  """

  def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    del params
    count = optax.safe_increment(state.count)
    mean_scale, square_scale = 1 / (1 - beta1**count), jax.lax.rsqrt(1 - beta2**count)
    mu = jax.tree.map(lambda m, g: m + (1 - beta1) * (g - m), state.mu, grads)
    nu = jax.tree.map(lambda v, g: v + (1 - beta2) * (g * g - v), state.nu, grads)
    updates = jax.tree.map(lambda m, v: mean_scale * m / (jnp.sqrt(v) * square_scale + epsilon), mu, nu)
    return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

  return optax.GradientTransformation(optax.scale_by_adam(beta1, beta2).init, update)


def learning_rate(settings: Any, num_steps: int, step: jax.Array) -> jax.Array:
  """The learning rate of the update after `step` steps: constant, then falling linearly to zero.

  Args:
    settings: config section with `learning_rate` and `decay_fraction`, the final share of the run, in [0, 1], over
      which the rate decays.
    num_steps: length of the run.
    step: number of updates made so far.
  """
  decay_steps = int(round(settings.decay_fraction * num_steps))
  if not decay_steps:
    return jnp.float32(settings.learning_rate)
  return jnp.float32(settings.learning_rate) * jnp.clip((num_steps - step) / jnp.float32(decay_steps), 0.0, 1.0)


def update_norm(network: NetworkState, settings: Any, rate: jax.Array) -> jax.Array:
  """The Euclidean norm of a network's last update, 0 before the first one.

  Adam's state determines the update, so the norm is computed when it is wanted and costs nothing in all other steps.

  Args:
    network: the state after the update.
    settings: config section with `beta1` and `beta2`.
    rate: the learning rate of the update.
  """
  adam = network.opt_state[0]
  count = jnp.maximum(adam.count, 1).astype(jnp.float32)
  mean_scale, square_scale = 1 - settings.beta1**count, 1 - settings.beta2**count
  squares = [
    jnp.sum(jnp.square(mean / mean_scale / (jnp.sqrt(square / square_scale) + 1e-8)))
    for mean, square in zip(jax.tree.leaves(adam.mu), jax.tree.leaves(adam.nu), strict=True)
  ]
  return rate * jnp.sqrt(jnp.stack(squares).sum())
