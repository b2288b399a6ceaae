"""One step of training and one of evaluation, as pure functions of (state, batch).

A batch is a dict of float32 arrays: `input` (N, H, W, C) and `target` (N, H, W, C') in [-1, 1], and optionally `mask`
(N, H, W, 1), 1 where the target is valid. For evaluation, it also has `index` (N,), the image's number in its split,
and `is_real` (N,), False for rows that only fill the last batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pix2pix_jax import prng
from pix2pix_jax.model import losses
from pix2pix_jax.model import metrics as metrics_lib
from pix2pix_jax.model.state import NetworkState, TrainState, moving_average
from pix2pix_jax.signals import Signal

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def _apply_gradients(
  network: NetworkState, grads: Any, batch_stats: Any, optimizer: optax.GradientTransformation, rate: jax.Array
) -> NetworkState:
  updates, opt_state = optimizer.update(grads, network.opt_state, network.params)
  params = jax.tree.map(lambda p, u: p + rate * u, network.params, updates)
  return NetworkState(params, batch_stats, opt_state)


def train_step(
  state: TrainState,
  batch: Batch,
  *,
  generator: Any,
  discriminator: Any,
  optimizer: optax.GradientTransformation,
  learning_rate: Callable[[jax.Array], jax.Array],
  loss: Any,
  seed: int,
  target_signal: Signal,
  ema_decay: float = 0.0,
) -> tuple[TrainState, Metrics]:
  """Updates the discriminator, then the generator through the *updated* discriminator (arXiv 1611.07004, section 3.3).

  Args:
    state: state before the step; `state.step` is the number of updates made so far.
    batch: see the module's docstring.
    generator, discriminator: the modules whose parameters the state holds.
    optimizer: optimizer of both networks, without a learning rate.
    learning_rate: function from the number of updates made to the learning rate of the next one.
    loss: config section with `gan`, `pixel`, `l1_weight`, `halve_discriminator`, `validity_weight`.
    seed: seed of the dropout noise. Its key at step n is that of the "dropout" stream folded with n.
    target_signal: signal of the target, which determines what the discriminator sees of the generator's output.
    ema_decay: decay of `state.average`, if there is one.

  Returns:
    The next state, and scalars: the losses, `l1` on [0, 1] if the pixel loss is L1, the fraction of patches that the
      discriminator classified correctly before its update, and the learning rate.
  """
  x, target, mask = batch["input"], batch["target"], batch.get("mask")
  key = jax.random.fold_in(prng.key(seed, "dropout"), state.step)
  rate = learning_rate(state.step)
  channels = target.shape[-1]  # one more channel of the generator is its validity channel

  def generate(params):
    return generator.apply(
      {"params": params, "batch_stats": state.generator.batch_stats},
      x,
      dropout=True,
      norm_stats="batch",
      rngs={"dropout": key},
      mutable=["batch_stats"],
    )

  # One forward pass serves both updates: only the generator's loss is differentiated through it.
  fake, generator_gradient, generator_updates = jax.vjp(generate, state.generator.params, has_aux=True)

  def classify(params, batch_stats, candidate):
    logits, updates = discriminator.apply(
      {"params": params, "batch_stats": batch_stats},
      x,
      losses.apply_holes(candidate, mask),
      norm_stats="batch",
      mutable=["batch_stats"],
    )
    return logits, updates.get("batch_stats", {})

  def discriminator_loss(params):
    real_logits, batch_stats = classify(params, state.discriminator.batch_stats, target)
    fake_logits, batch_stats = classify(params, batch_stats, target_signal.activate(fake[..., :channels]))
    value = losses.discriminator(real_logits, fake_logits, loss.gan, loss.halve_discriminator).mean()
    return value, (batch_stats, jax.tree.map(jnp.mean, losses.accuracy(real_logits, fake_logits, loss.gan)))

  metrics = {"learning_rate": rate}
  next_discriminator = state.discriminator
  if loss.gan != "none":
    (value, (batch_stats, accuracy)), grads = jax.value_and_grad(discriminator_loss, has_aux=True)(
      state.discriminator.params
    )
    next_discriminator = _apply_gradients(state.discriminator, grads, batch_stats, optimizer, rate)
    metrics |= {"discriminator_loss": value, **accuracy}

  def generator_loss(output):
    candidate, validity = output[..., :channels], output[..., channels:]
    pixel_loss = losses.pixel(candidate, target, mask, loss.pixel).mean()
    total, parts = loss.l1_weight * pixel_loss, {losses.PIXEL[loss.pixel]: pixel_loss}
    if loss.pixel == "l1":
      parts["l1"] = pixel_loss / 2
    if loss.gan != "none":
      logits, _ = classify(next_discriminator.params, next_discriminator.batch_stats, target_signal.activate(candidate))
      parts["gan_loss"] = losses.adversarial(logits, True, loss.gan).mean()
      total += parts["gan_loss"]
    if mask is not None and validity.shape[-1]:
      parts["validity_loss"] = losses.l1(validity, 2 * mask - 1).mean()
      total += loss.validity_weight * parts["validity_loss"]
    return total, parts

  (value, parts), output_gradient = jax.value_and_grad(generator_loss, has_aux=True)(fake)
  (grads,) = generator_gradient(output_gradient)
  batch_stats = generator_updates.get("batch_stats", {})
  next_generator = _apply_gradients(state.generator, grads, batch_stats, optimizer, rate)
  metrics |= {"generator_loss": value, **parts}
  average = state.average
  if average is not None:
    average = moving_average(average, next_generator.variables, ema_decay, state.step)
  return TrainState(state.step + 1, next_generator, next_discriminator, average), metrics


def eval_step(
  variables: dict[str, Any],
  batch: Batch,
  *,
  generator: Any,
  discriminator: Any,
  loss: Any,
  seed: int,
  dropout: bool,
  norm_stats: str,
  input_signal: Signal,
  target_signal: Signal,
) -> tuple[jax.Array, Metrics]:
  """Translates a batch and measures every image; each image's result is independent of the rest of the batch.

  The exception is `norm_stats="batch"`, where the real rows of a batch share their statistics.

  Args:
    variables: `generator` and `discriminator`, each with `params` and `batch_stats`.
    batch: see the module's docstring.
    generator, discriminator: the modules.
    loss: config section, as for `train_step`.
    seed: seed of the dropout noise.
    dropout, norm_stats: the two switches of the networks (see `layers`).
    input_signal, target_signal: signals of the two sides, which determine the metrics.

  Returns:
    The translations in [-1, 1], validity channel included, and per-image metrics, each (N,), with `confusion`
    (N, classes, classes) for classes. A metric of an image without any valid pixel is NaN.
  """
  x, target, mask, inside = batch["input"], batch["target"], batch.get("mask"), batch.get("inside")
  rows = batch["is_real"] if norm_stats == "batch" else None
  key = prng.key(seed, "evaluation")

  def classify(candidate: jax.Array) -> jax.Array:
    shown = losses.apply_holes(candidate, mask)
    return discriminator.apply(variables["discriminator"], x, shown, norm_stats=norm_stats, is_real=rows)

  output: jax.Array = generator.apply(
    variables["generator"],
    x,
    dropout=dropout,
    norm_stats=norm_stats,
    noise_ids=batch["index"],
    is_real=rows,
    rngs={"dropout": key},
  )
  fake, validity = output[..., : target.shape[-1]], output[..., target.shape[-1] :]
  values = metrics_lib.measure(fake, x, target, mask, input_signal, target_signal, inside)
  counted = inside if mask is None else mask
  pixel_loss = losses.pixel(fake, target, counted, loss.pixel)
  if mask is not None:
    pixel_loss = jnp.where(mask.any((1, 2, 3)), pixel_loss, jnp.nan)
  values[losses.PIXEL[loss.pixel]] = pixel_loss
  values["generator_loss"] = loss.l1_weight * pixel_loss
  if mask is not None and validity.shape[-1]:
    values["validity_loss"] = losses.l1(validity, 2 * mask - 1, inside)
    values["generator_loss"] += loss.validity_weight * values["validity_loss"]
    values["validity_accuracy"] = ((validity > 0) == (mask > 0)).mean(
      (1, 2, 3), where=None if inside is None else inside > 0
    )
  if loss.gan != "none":
    real_logits, fake_logits = classify(target), classify(target_signal.activate(fake))
    values["gan_loss"] = losses.adversarial(fake_logits, True, loss.gan)
    values["generator_loss"] += values["gan_loss"]
    values["discriminator_loss"] = losses.discriminator(real_logits, fake_logits, loss.gan, loss.halve_discriminator)
    values |= losses.accuracy(real_logits, fake_logits, loss.gan)
  return output, values
