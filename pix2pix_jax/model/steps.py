"""One step of training and one of evaluation, as pure functions of (state, batch), and their compilation over a mesh.

A batch is a dict of float32 arrays: `input` (N, H, W, C) and `target` (N, H, W, C') in [-1, 1], optionally `mask`
(N, H, W, 1) with 1 where the target is valid; for evaluation also `index` (N,), the image's number in its split.
"""

import functools
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import optax

from pix2pix_jax.errors import UsageError
from pix2pix_jax.model import losses
from pix2pix_jax.model import metrics as metrics_lib
from pix2pix_jax.model.networks import Generator, PatchGAN
from pix2pix_jax.model.state import NetworkState, TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def _apply_gradients(network: NetworkState, grads, batch_stats, optimizer) -> NetworkState:
  updates, opt_state = optimizer.update(grads, network.opt_state, network.params)
  return NetworkState(optax.apply_updates(network.params, updates), batch_stats, opt_state)


def train_step(
  state: TrainState,
  batch: Batch,
  *,
  generator: Generator,
  discriminator: PatchGAN,
  optimizer: optax.GradientTransformation,
  loss: Any,
  seed: int,
) -> tuple[TrainState, Metrics]:
  """Updates the discriminator, then the generator through the *updated* discriminator (arXiv 1611.07004, section 3.3).

  Args:
    loss: config section with `gan`, `l1_weight`, `halve_discriminator`.
    seed: of the dropout noise; step n draws it from `fold_in(key(seed), n)`.

  Returns:
    The next state, and scalars: the losses as trained, `l1` on [0, 1], and the share of patches that the
    discriminator, before its update, judged rightly.
  """
  x, target, mask = batch["input"], batch["target"], batch.get("mask")
  key = jax.random.fold_in(jax.random.key(seed), state.step)

  def translate(params):
    return generator.apply(
      {"params": params, "batch_stats": state.generator.batch_stats},
      x,
      dropout=True,
      norm_stats="batch",
      rngs={"dropout": key},
      mutable=["batch_stats"],
    )

  channels = target.shape[-1]  # what the generator gives beyond them is its validity channel

  # One forward pass serves both updates: the discriminator's loss does not reach back through it, the generator's does.
  fake, generator_gradient, generator_updates = jax.vjp(translate, state.generator.params, has_aux=True)

  def judge(params, batch_stats, candidate):
    logits, updates = discriminator.apply(
      {"params": params, "batch_stats": batch_stats},
      x,
      losses.show_holes(candidate, mask),
      norm_stats="batch",
      mutable=["batch_stats"],
    )
    return logits, updates.get("batch_stats", {})

  def discriminator_loss(params):
    real_logits, batch_stats = judge(params, state.discriminator.batch_stats, target)
    fake_logits, batch_stats = judge(params, batch_stats, fake[..., :channels])
    value = losses.discriminator(real_logits, fake_logits, loss.gan, loss.halve_discriminator).mean()
    return value, (batch_stats, jax.tree.map(jnp.mean, losses.accuracy(real_logits, fake_logits, loss.gan)))

  metrics = {}
  next_discriminator = state.discriminator
  if loss.gan != "none":
    (value, (batch_stats, accuracy)), grads = jax.value_and_grad(discriminator_loss, has_aux=True)(
      state.discriminator.params
    )
    next_discriminator = _apply_gradients(state.discriminator, grads, batch_stats, optimizer)
    metrics |= {"discriminator_loss": value, **accuracy}

  def generator_loss(output):
    candidate, validity = output[..., :channels], output[..., channels:]
    l1 = losses.l1(candidate, target, mask).mean()
    total, parts = loss.l1_weight * l1, {"l1_loss": l1, "l1": l1 / 2}
    if loss.gan != "none":
      parts["gan_loss"] = losses.adversarial(
        judge(next_discriminator.params, next_discriminator.batch_stats, candidate)[0], True, loss.gan
      ).mean()
      total += parts["gan_loss"]
    if validity.shape[-1]:
      parts["validity_loss"] = losses.l1(validity, 2 * mask - 1).mean()
      total += loss.validity_weight * parts["validity_loss"]
    return total, parts

  (value, parts), candidate_gradient = jax.value_and_grad(generator_loss, has_aux=True)(fake)
  (grads,) = generator_gradient(candidate_gradient)
  next_generator = _apply_gradients(state.generator, grads, generator_updates.get("batch_stats", {}), optimizer)
  metrics |= {"generator_loss": value, **parts}
  return TrainState(state.step + 1, next_generator, next_discriminator), metrics


def eval_step(
  state: TrainState,
  batch: Batch,
  *,
  generator: Generator,
  discriminator: PatchGAN,
  loss: Any,
  seed: int,
  dropout: bool,
  norm_stats: str,
  depth_range: tuple[float, float] | None,
  input_is_depth: bool,
) -> tuple[jax.Array, Metrics]:
  """Translates a batch and measures it, an image at a time: no value depends on the image's batch companions.

  Args:
    depth_range: in metres, if the target encodes depth.
    input_is_depth: then -1 in the input is a hole, and how well holes are filled is measured too.

  Returns:
    The translations in [-1, 1], validity channel included, and per-image metrics, each (N,).
  """
  x, target, mask = batch["input"], batch["target"], batch.get("mask")
  output = generator.apply(
    state.generator.variables,
    x,
    dropout=dropout,
    norm_stats=norm_stats,
    noise_ids=batch["index"],
    rngs={"dropout": jax.random.key(seed)},
  )
  fake, validity = output[..., : target.shape[-1]], output[..., target.shape[-1] :]
  l1 = losses.l1(fake, target, mask)
  values = {
    "l1_loss": l1,
    "generator_loss": loss.l1_weight * l1,
    **metrics_lib.all_metrics(fake, target, mask, depth_range, (x <= -1) if input_is_depth else None),
  }
  if validity.shape[-1]:
    values["validity_loss"] = losses.l1(validity, 2 * mask - 1)
    values["generator_loss"] += loss.validity_weight * values["validity_loss"]
    values["validity_accuracy"] = ((validity > 0) == (mask > 0)).mean((1, 2, 3))
  if loss.gan != "none":
    real_logits, fake_logits = (
      discriminator.apply(state.discriminator.variables, x, losses.show_holes(candidate, mask), norm_stats=norm_stats)
      for candidate in (target, fake)
    )
    values["gan_loss"] = losses.adversarial(fake_logits, True, loss.gan)
    values["generator_loss"] += values["gan_loss"]
    values["discriminator_loss"] = losses.discriminator(real_logits, fake_logits, loss.gan, loss.halve_discriminator)
    values |= losses.accuracy(real_logits, fake_logits, loss.gan)
  return output, values


def evaluation_settings(config) -> dict[str, Any]:
  """The static arguments of `eval_step` that a config decides."""
  return {
    "loss": config.loss,
    "seed": config.seed,
    "dropout": config.evaluation.dropout,
    "norm_stats": config.evaluation.norm_stats,
    "depth_range": config.data.depth_range if config.data.target_dtype == "float32" else None,
    "input_is_depth": config.data.input_dtype == "float32",
  }


def use_compilation_cache(folder: str) -> None:
  """Keeps compiled programs for the next start in `folder`; empty: the user's cache directory; "none": nowhere.

  A cache that is set already (JAX_COMPILATION_CACHE_DIR) stays.
  """
  if folder != "none" and not jax.config.jax_compilation_cache_dir:
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    jax.config.update("jax_compilation_cache_dir", str(Path(folder or f"{user}/pix2pix_jax/xla").expanduser()))


def make_mesh() -> Mesh:
  """All devices of all processes along one `data` axis."""
  return Mesh(np.asarray(jax.devices()), ("data",))


def check_divides(batch_size: int, mesh: Mesh) -> None:
  if batch_size % mesh.size:
    raise UsageError(
      f"train.batch_size is {batch_size}, which does not divide over {mesh.size} devices; "
      f"use a multiple of {mesh.size}, or show fewer devices (CUDA_VISIBLE_DEVICES)."
    )


def compile_train_step(mesh: Mesh, **static):
  """`train_step` under jit: batch split along `data`, state on every device and donated. Batch norm sees the whole batch."""
  replicated, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
  return jax.jit(
    functools.partial(train_step, **static),
    in_shardings=(replicated, split),
    out_shardings=(replicated, replicated),
    donate_argnums=0,
  )


def compile_eval_step(mesh: Mesh, **static):
  """`eval_step` under jit, outputs on every device (so that process 0 can read all of them)."""
  replicated, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
  return jax.jit(functools.partial(eval_step, **static), in_shardings=(replicated, split), out_shardings=replicated)
