"""One step of training and one of evaluation, as pure functions of (state, batch).

A batch is a dict of float32 arrays: `input` (N, H, W, C) and `target` (N, H, W, C') in [-1, 1], and optionally `mask`
(N, H, W, 1), 1 where the target is valid. For evaluation, it also has `index` (N,), the image's number in its split,
and `is_real` (N,), False for rows that only fill the last batch.
"""

from collections.abc import Callable, Sequence
import functools
import operator
from typing import Any, NamedTuple

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


class _Judgement(NamedTuple):
  """What the discriminator says about candidates: `logits`, the `features` of its layers if the loss compares them, and
  its `batch_stats` after them if they are updated.
  """

  logits: losses.Logits
  features: Any
  batch_stats: Any


def _judge(
  variables: Any,
  candidate: jax.Array,
  *,
  discriminator: Any,
  batch: Batch,
  loss: Any,
  updates: Sequence[str] = (),
  **options: Any,
) -> _Judgement:
  """Shows the discriminator candidates beside the batch's inputs, with the target's holes.

  Args:
    variables: the discriminator's `params` and `batch_stats`.
    candidate: (N, H, W, C), targets or outputs.
    discriminator, batch, loss: as for `train_step`.
    updates: the collections that the call may update.
    options: arguments of the discriminator.
  """
  features = ["intermediates"] if loss.feature_matching else []
  candidate = losses.apply_holes(candidate, batch.get("mask"))
  logits, updated = discriminator.apply(variables, batch["input"], candidate, mutable=[*updates, *features], **options)
  return _Judgement(logits, updated.get("intermediates", {}), updated.get("batch_stats", {}))


def _judge_with_penalty(judge: Callable[[jax.Array], _Judgement], target: jax.Array) -> tuple[_Judgement, Metrics]:
  """The judgement of the targets, and the penalty on its gradient."""

  def logits_of(candidate):
    judged = judge(candidate)
    return judged.logits, judged

  logits, pull, judged = jax.vjp(logits_of, target, has_aux=True)
  return judged, {"r1_penalty": losses.gradient_penalty(logits, lambda cotangents: pull(cotangents)[0])}


def _discriminator_terms(real: _Judgement, fake: _Judgement, loss: Any) -> Metrics:
  """The discriminator's loss and its accuracies, one value per image."""
  value = losses.discriminator(real.logits, fake.logits, loss.gan, loss.halve_discriminator)
  return {"discriminator_loss": value, **losses.accuracy(real.logits, fake.logits, loss.gan)}


def _adversarial_terms(real: _Judgement | None, fake: _Judgement, loss: Any) -> Metrics:
  """The terms of the generator's loss that come from the discriminator, one value per image.

  `real` is the judgement of the targets, which only feature matching needs.
  """
  terms = {"gan_loss": losses.generator(fake.logits, loss.gan)}
  if real is not None and loss.feature_matching:
    terms["feature_loss"] = losses.feature_matching(real.features, fake.features, len(jax.tree.leaves(fake.logits)))
  return terms


def _total(terms: Metrics, loss: Any) -> jax.Array:
  """The generator's loss: its terms, each with its weight."""
  weights = losses.weights(loss)
  weighted = [value if weights[name] == 1 else weights[name] * value for name, value in terms.items()]
  return functools.reduce(operator.add, weighted)


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
    loss: the config's section of that name.
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
  judge = functools.partial(
    _judge, discriminator=discriminator, batch=batch, loss=loss, updates=["batch_stats"], norm_stats="batch"
  )

  def discriminator_loss(params):
    before = {"params": params, "batch_stats": state.discriminator.batch_stats}
    if loss.r1_weight:
      real, penalty = _judge_with_penalty(functools.partial(judge, before), target)
    else:
      real, penalty = judge(before, target), {}
    shown = target_signal.activate(fake[..., :channels])
    judged = judge({"params": params, "batch_stats": real.batch_stats}, shown)
    terms = jax.tree.map(jnp.mean, _discriminator_terms(real, judged, loss) | penalty)
    value = terms["discriminator_loss"]
    if penalty:
      value += loss.r1_weight / 2 * terms["r1_penalty"]
    return value, (judged.batch_stats, terms)

  metrics = {"learning_rate": rate}
  next_discriminator = state.discriminator
  if loss.gan != "none":
    grads, (batch_stats, terms) = jax.grad(discriminator_loss, has_aux=True)(state.discriminator.params)
    next_discriminator = _apply_gradients(state.discriminator, grads, batch_stats, optimizer, rate)
    metrics |= terms

  def generator_loss(output):
    candidate, validity = output[..., :channels], output[..., channels:]
    terms = {losses.PIXEL[loss.pixel]: losses.pixel(candidate, target, mask, loss.pixel)}
    if loss.gan != "none":
      real = judge(next_discriminator.variables, target) if loss.feature_matching else None
      judged = judge(next_discriminator.variables, target_signal.activate(candidate))
      terms |= _adversarial_terms(real, judged, loss)
    if mask is not None and validity.shape[-1]:
      terms["validity_loss"] = losses.l1(validity, 2 * mask - 1)
    pixel = terms.pop(losses.PIXEL[loss.pixel])
    terms = {name: values.mean() for name, values in terms.items()}
    # Images without a valid pixel have no pixel loss, so they do not count in its mean.
    count = len(x) if mask is None else jnp.maximum(mask.any((1, 2, 3)).sum(), 1)
    terms[losses.PIXEL[loss.pixel]] = pixel.sum() / count
    return _total(terms, loss), terms

  (value, terms), output_gradient = jax.value_and_grad(generator_loss, has_aux=True)(fake)
  (grads,) = generator_gradient(output_gradient)
  batch_stats = generator_updates.get("batch_stats", {})
  next_generator = _apply_gradients(state.generator, grads, batch_stats, optimizer, rate)
  metrics |= {"generator_loss": value, **terms}
  if loss.pixel == "l1":
    metrics["l1"] = terms["l1_loss"] / 2
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
  terms = {losses.PIXEL[loss.pixel]: pixel_loss}
  if mask is not None and validity.shape[-1]:
    terms["validity_loss"] = losses.l1(validity, 2 * mask - 1, inside)
    values["validity_accuracy"] = ((validity > 0) == (mask > 0)).mean(
      (1, 2, 3), where=None if inside is None else inside > 0
    )
  if loss.gan != "none":
    judge = functools.partial(
      _judge, variables["discriminator"], discriminator=discriminator, batch=batch, loss=loss, norm_stats=norm_stats
    )
    real, judged = judge(target, is_real=rows), judge(target_signal.activate(fake), is_real=rows)
    terms |= _adversarial_terms(real, judged, loss)
    values |= _discriminator_terms(real, judged, loss)
  return output, {**values, **terms, "generator_loss": _total(terms, loss)}
