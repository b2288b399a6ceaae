"""The losses of pix2pix. Every function returns one value per image; the caller averages.

Source: arXiv 1611.07004, equations 1–4 and section 3.3 (the discriminator's objective is divided by two). Images
are in [-1, 1]; discriminators return logits, so that the cross-entropy is exact at any confidence. Where there are
several discriminators, logits are tuples with the logits of each, and results are means over the discriminators.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp

from pix2pix_jax.errors import UsageError
from pix2pix_jax.signals import SHARPNESS

Logits = jax.Array | tuple[jax.Array, ...]

PIXEL = {"l1": "l1_loss", "cross_entropy": "cross_entropy"}  # kinds of pixel losses, and their names among the metrics


def _mean(function: Callable[..., jax.Array], *logits: Logits) -> jax.Array:
  """The mean over the discriminators of a function of each one's logits."""
  values = [function(*each) for each in zip(*map(jax.tree.leaves, logits), strict=True)]
  return values[0] if len(values) == 1 else jnp.stack(values).mean(0)


def adversarial(logits: Logits, is_real: bool, kind: str) -> jax.Array:
  """The loss of patch logits that should all classify their patches as real, or all as fake.

  Args:
    logits: (N, h, w, 1) patch logits.
    is_real: whether the desired class is "real".
    kind: `"vanilla"`, the cross-entropy −log D or −log(1 − D); `"lsgan"`, the squared distance to 1 or 0
      (Mao et al. 2017, arXiv 1611.04076); `"hinge"`, the distance to beyond 1 or −1 (Lim and Ye 2017, arXiv
      1705.02894).

  Returns:
    (N,) means over the patches.
  """
  return _mean(functools.partial(_adversarial, is_real=is_real, kind=kind), logits)


def _adversarial(logits: jax.Array, *, is_real: bool, kind: str) -> jax.Array:
  if logits.ndim != 4 or logits.shape[-1] != 1:
    raise ValueError(f"Expected patch logits (N, h, w, 1), got {logits.shape}.")
  if kind == "vanilla":
    values = jax.nn.softplus(-logits if is_real else logits)  # −log sigmoid(±logits)
  elif kind == "lsgan":
    values = jnp.square(logits - float(is_real))
  elif kind == "hinge":
    values = jax.nn.relu(1 - logits if is_real else 1 + logits)
  else:
    raise UsageError(f"loss.gan is {kind!r}; it can be 'vanilla', 'lsgan', 'hinge' or 'none'.")
  return values.mean((1, 2, 3))


def generator(fake_logits: Logits, kind: str) -> jax.Array:
  """(N,) the generator's loss: that its outputs are not taken for targets; with `"hinge"`, minus the mean logit."""
  if kind == "hinge":
    return _mean(lambda logits: -logits.mean((1, 2, 3)), fake_logits)
  return adversarial(fake_logits, True, kind)


def gradient_penalty(logits: Logits, pull: Callable[[Logits], jax.Array]) -> jax.Array:
  """(N,) the squared gradient norm of a discriminator at real images, R1 without its weight γ/2.

  Source: Mescheder, Geiger, Nowozin, "Which Training Methods for GANs do actually Converge?" (arXiv 1801.04406,
  equation 9). A PatchGAN has many logits, so this is ‖∇ Σ logits‖² divided by their number: the mean over the patches,
  if these did not overlap. Under batch norm, the gradient at an image also contains its effect on the logits of the
  other images, through the statistics of the batch.

  Args:
    logits: (N, h, w, 1) logits of the real images.
    pull: function from cotangents of the logits to those of the images (N, H, W, C), as `jax.vjp` returns it.
  """

  def squared_norm(chosen: jax.Array) -> jax.Array:
    gradient = pull(jax.tree.map(lambda each: jnp.full_like(each, each is chosen), logits))
    return jnp.square(gradient).sum((1, 2, 3)) / (chosen.shape[1] * chosen.shape[2])

  return _mean(squared_norm, logits)


def accuracy(real_logits: Logits, fake_logits: Logits, kind: str) -> dict[str, jax.Array]:
  """(N,) fractions of real and of fake patches whose logit is on the correct side of the decision boundary."""
  middle = {"vanilla": 0.0, "lsgan": 0.5, "hinge": 0.0}[kind]
  return {
    "discriminator_accuracy_real": _mean(lambda logits: (logits > middle).mean((1, 2, 3)), real_logits),
    "discriminator_accuracy_fake": _mean(lambda logits: (logits <= middle).mean((1, 2, 3)), fake_logits),
  }


def discriminator(real_logits: Logits, fake_logits: Logits, kind: str, halve: bool) -> jax.Array:
  """(N,) loss of real → 1 plus that of fake → 0; `halve` divides it by two to slow learning down (section 3.3)."""
  total = adversarial(real_logits, True, kind) + adversarial(fake_logits, False, kind)
  return total / 2 if halve else total


def feature_matching(real: Any, fake: Any, discriminators: int = 1) -> jax.Array:
  """(N,) differences between a discriminator's features of the targets and of the outputs.

  The mean absolute difference of each layer, summed over the layers (pix2pixHD, Wang et al. 2018, arXiv 1711.11585,
  equation 3).

  Args:
    real, fake: trees of features (N, h, w, c), which `PatchGAN` stores in the collection `intermediates`.
    discriminators: their number, by which the sum over all layers of all of them is divided.
  """
  differences = jax.tree.map(lambda r, f: jnp.abs(r - f).astype(jnp.float32).mean((1, 2, 3)), real, fake)
  return jnp.stack(jax.tree.leaves(differences)).sum(0) / discriminators


def weights(loss: Any) -> dict[str, float]:
  """The weights of the terms of the generator's loss, by their names among the metrics.

  Args:
    loss: the config's section of that name.
  """
  return {
    "gan_loss": 1.0,
    PIXEL[loss.pixel]: loss.l1_weight,
    "feature_loss": loss.feature_matching,
    "validity_loss": loss.validity_weight,
  }


def l1(prediction: jax.Array, target: jax.Array, mask: jax.Array | None = None) -> jax.Array:
  """(N,) mean absolute difference of images (N, H, W, C), over the pixels where `mask` (N, H, W, 1) is 1 if given.

  The result is 0 for an image without a valid pixel.
  """
  if prediction.shape != target.shape:
    raise ValueError(f"Prediction {prediction.shape} and target {target.shape} differ in shape.")
  difference = jnp.abs(prediction - target)
  if mask is None:
    return difference.mean((1, 2, 3))
  if mask.shape != target.shape[:-1] + (1,):
    raise ValueError(f"A mask for targets {target.shape} has shape {target.shape[:-1] + (1,)}, not {mask.shape}.")
  return (difference * mask).sum((1, 2, 3)) / jnp.maximum(mask.sum((1, 2, 3)) * target.shape[-1], 1)


def cross_entropy(output: jax.Array, target: jax.Array, mask: jax.Array | None = None) -> jax.Array:
  """(N,) mean cross-entropy of the classes of each pixel, over the pixels where `mask` (N, H, W, 1) is 1 if given.

  The class probabilities are a softmax over the generator's outputs (`signals.Classes.activate`), which lie in [-1, 1].
  The result is 0 for an image without a valid pixel.

  Args:
    output: (N, H, W, classes) in [-1, 1].
    target: one-hot, ±1.
    mask: pixels that have a label.
  """
  if output.shape != target.shape:
    raise ValueError(f"Output {output.shape} and target {target.shape} differ in shape.")
  values = -(jax.nn.log_softmax(SHARPNESS * output) * (target > 0)).sum(-1)
  if mask is None:
    return values.mean((1, 2))
  return (values * mask[..., 0]).sum((1, 2)) / jnp.maximum(mask.sum((1, 2, 3)), 1)


def pixel(output: jax.Array, target: jax.Array, mask: jax.Array | None, kind: str) -> jax.Array:
  """(N,) pixel loss of a kind in `PIXEL`."""
  return {"l1": l1, "cross_entropy": cross_entropy}[kind](output, target, mask)


def apply_holes(candidate: jax.Array, mask: jax.Array | None) -> jax.Array:
  """The candidate with the target's holes set to −1: otherwise the discriminator would just detect holes."""
  return candidate if mask is None else jnp.where(mask > 0, candidate, -1.0)
