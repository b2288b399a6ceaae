"""Losses against hand numbers and against the definitions written with probabilities in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2pix_jax import config as config_lib
from pix2pix_jax.errors import UsageError
from pix2pix_jax.model import losses, metrics
from pix2pix_jax.run import checkpoint
from pix2pix_jax.signals import Classes, Depth, Image, Quantity


@pytest.fixture(scope="module")
def logits():
  rng = np.random.default_rng(0)
  return rng.normal(0, 3, (3, 4, 5, 1)), rng.normal(0, 3, (3, 4, 5, 1))


def test_vanilla_loss_by_probabilities(logits):
  real, fake = logits
  d_real, d_fake = 1 / (1 + np.exp(-real)), 1 / (1 + np.exp(-fake))
  expected = (-np.log(d_real) - np.log(1 - d_fake)).mean((1, 2, 3))
  real, fake = jnp.float32(real), jnp.float32(fake)
  np.testing.assert_allclose(losses.discriminator(real, fake, "vanilla", halve=False), expected, rtol=1e-5)
  np.testing.assert_allclose(losses.discriminator(real, fake, "vanilla", halve=True), expected / 2, rtol=1e-5)
  np.testing.assert_allclose(losses.adversarial(fake, True, "vanilla"), (-np.log(d_fake)).mean((1, 2, 3)), rtol=1e-5)


def test_vanilla_loss_by_hand_and_far_out():
  zero = jnp.zeros((1, 2, 2, 1))
  np.testing.assert_allclose(losses.discriminator(zero, zero, "vanilla", halve=True), np.log(2), rtol=1e-6)
  far = jnp.full((1, 2, 2, 1), -200.0)  # a probability would be 0 here and its logarithm infinite
  np.testing.assert_allclose(losses.adversarial(far, True, "vanilla"), 200.0)
  np.testing.assert_allclose(jax.grad(lambda x: losses.adversarial(x, True, "vanilla").sum())(far), -0.25)


def test_least_squares_by_hand():
  real, fake = jnp.full((1, 1, 2, 1), 0.5), jnp.array([[[[1.0], [3.0]]]])
  np.testing.assert_allclose(losses.discriminator(real, fake, "lsgan", halve=False), 0.25 + (1 + 9) / 2)
  np.testing.assert_allclose(losses.adversarial(fake, True, "lsgan"), (0 + 4) / 2)


def test_hinge_by_hand():
  """No gradient beyond the margins for the discriminator; always one for the generator."""
  real, fake = jnp.array([[[[2.0], [0.5]]]]), jnp.array([[[[-3.0], [1.0]]]])
  np.testing.assert_allclose(losses.discriminator(real, fake, "hinge", halve=False), (0 + 0.5) / 2 + (0 + 2) / 2)
  np.testing.assert_allclose(losses.generator(fake, "hinge"), 1.0)
  slope = jax.grad(lambda fake: losses.discriminator(real, fake, "hinge", halve=True).sum())(fake)
  np.testing.assert_allclose(slope.ravel(), [0, 0.25])
  np.testing.assert_allclose(jax.grad(lambda fake: losses.generator(fake, "hinge").sum())(fake).ravel(), -0.5)
  accuracy = losses.accuracy(real, fake, "hinge")
  assert (accuracy["discriminator_accuracy_real"], accuracy["discriminator_accuracy_fake"]) == (1.0, 0.5)


def test_accuracy_threshold_lies_between_the_goals():
  values = jnp.array([0.25, 0.75]).reshape(1, 1, 2, 1)
  assert losses.accuracy(values, values, "vanilla") == {
    "discriminator_accuracy_real": 1.0,
    "discriminator_accuracy_fake": 0.0,
  }
  assert losses.accuracy(values, values, "lsgan") == {
    "discriminator_accuracy_real": 0.5,
    "discriminator_accuracy_fake": 0.5,
  }


def test_masked_l1_counts_valid_pixels_only():
  prediction, target = jnp.zeros((2, 2, 2, 3)), jnp.ones((2, 2, 2, 3))
  target = target.at[0, 0, 0].set(5.0)
  mask = jnp.ones((2, 2, 2, 1)).at[0, 0, 0].set(0).at[1].set(0)
  np.testing.assert_allclose(losses.l1(prediction, target, mask), [1.0, 0.0])
  np.testing.assert_allclose(losses.l1(prediction, target), [(3 * 1 + 5) / 4, 1.0])


def test_shapes_that_would_silently_broadcast_are_refused():
  with pytest.raises(ValueError, match="differ in shape"):
    losses.l1(jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 4, 4, 1)))
  with pytest.raises(ValueError, match="mask"):
    losses.l1(jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 4, 4, 3)))
  with pytest.raises(ValueError, match="patch logits"):
    losses.adversarial(jnp.zeros((4, 1)), True, "vanilla")
  with pytest.raises(UsageError, match="loss.gan is 'wgan'"):
    losses.adversarial(jnp.zeros((1, 4, 4, 1)), True, "wgan")


def test_the_discriminator_sees_the_targets_holes():
  candidate = jnp.full((1, 2, 2, 1), 0.5)
  mask = jnp.array([1.0, 0, 0, 1]).reshape(1, 2, 2, 1)
  np.testing.assert_allclose(losses.apply_holes(candidate, mask).ravel(), [0.5, -1, -1, 0.5])


def test_metrics_against_numpy():
  rng = np.random.default_rng(1)
  prediction, target = rng.uniform(-1, 1, (2, 2, 16, 16, 3)).astype(np.float32)
  values = metrics.image_metrics(jnp.array(prediction), jnp.array(target))
  p, t = (prediction.astype(np.float64) + 1) / 2, (target.astype(np.float64) + 1) / 2
  np.testing.assert_allclose(values["l1"], np.abs(p - t).mean((1, 2, 3)), rtol=1e-5)
  np.testing.assert_allclose(values["psnr"], 10 * np.log10(1 / np.square(p - t).mean((1, 2, 3))), rtol=1e-5)


def test_ssim_against_the_definition_in_float64():
  """Wang et al. 2004 with an 11×11 Gaussian window of σ 1.5, written out window by window."""
  rng = np.random.default_rng(2)
  target = rng.uniform(-1, 1, (1, 14, 13, 1)).astype(np.float32)
  prediction = np.clip(target + rng.normal(0, 0.3, target.shape), -1, 1).astype(np.float32)
  x, y = ((a[0, :, :, 0].astype(np.float64) + 1) / 2 for a in (prediction, target))
  g = np.exp(-np.square(np.arange(11) - 5) / (2 * 1.5**2))
  window = np.outer(g, g) / g.sum() ** 2
  values = []
  for row in range(x.shape[0] - 10):
    for column in range(x.shape[1] - 10):
      a, b = x[row : row + 11, column : column + 11], y[row : row + 11, column : column + 11]
      mean_a, mean_b = (window * a).sum(), (window * b).sum()
      var_a, var_b, cov = (
        (window * p * q).sum() - m for p, q, m in ((a, a, mean_a**2), (b, b, mean_b**2), (a, b, mean_a * mean_b))
      )
      values.append(
        (2 * mean_a * mean_b + 0.01**2)
        * (2 * cov + 0.03**2)
        / ((mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2))
      )
  np.testing.assert_allclose(
    metrics.image_metrics(jnp.array(prediction), jnp.array(target))["ssim"], [np.mean(values)], atol=1e-5
  )


def test_masked_metrics_ignore_holes():
  target = jnp.zeros((1, 16, 16, 1))
  mask = jnp.ones((1, 16, 16, 1)).at[:, :8].set(0)
  prediction = target.at[:, :8].set(1.0).at[:, 8:].set(0.2)
  values = metrics.image_metrics(prediction, target, mask)
  np.testing.assert_allclose(values["l1"], 0.1, rtol=1e-5)
  np.testing.assert_allclose(values["psnr"], 20, rtol=1e-5)
  assert "ssim" not in values


def test_identical_images_have_a_finite_psnr():
  image = jnp.full((2, 16, 16, 3), 0.25)
  for mask in (None, jnp.ones((2, 16, 16, 1))):
    np.testing.assert_array_equal(metrics.image_metrics(image, image, mask)["psnr"], [120, 120])
  one_level = metrics.image_metrics(image, image + 2 / 255)["psnr"]
  np.testing.assert_allclose(one_level, 20 * np.log10(255), rtol=1e-4)


@pytest.mark.parametrize(
  "signal",
  [
    Image(3),
    Depth(range=(0.0, 80.0)),
    Quantity(1, "float32", ((-1000.0, 3000.0),), "HU"),
    Classes(4),
  ],
  ids=lambda signal: signal.kind,
)
def test_every_metric_knows_its_better_direction(signal, tmp_path):
  """By which checkpoints are ranked: targets with little noise are better than those with much."""
  rng = np.random.default_rng(0)
  raw = (
    rng.integers(0, 4, (2, 32, 32, 1)) if signal.kind == "classes" else rng.uniform(5, 75, (2, 32, 32, signal.channels))
  )
  target = np.asarray(signal.encode(raw.astype(signal.dtype)), np.float32)
  noise = rng.normal(size=target.shape).astype(np.float32)
  noisy = [
    np.clip(target + strength * noise, -1, 1) for strength in ((0.7, 2.0) if signal.kind == "classes" else (0.05, 0.3))
  ]
  mask = np.ones((*target.shape[:3], 1), np.float32) if signal.has_holes else None
  little, much = (metrics.measure(each, target, target, mask, signal, signal) for each in noisy)
  for name in signal.metrics:
    config = config_lib.default()
    config.train.best_metric = name
    (tmp_path / name).mkdir()
    with checkpoint.Checkpointer(tmp_path / name, config=config) as checkpointer:
      assert checkpointer.is_better(float(little[name].mean()), float(much[name].mean())), name
