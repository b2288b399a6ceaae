"""Properties of the train step that a reader of the paper would check."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from pix2pix_jax.errors import UsageError
from pix2pix_jax.model import losses, steps
from pix2pix_jax.model import networks as models
from pix2pix_jax.model import state as train_state

GENERATOR = models.Generator(base_features=2, levels=3)
DISCRIMINATOR = models.PatchGAN(16, base_features=2)
SIZE = 16


def make_config(**loss):
  return ml_collections.ConfigDict(
    {
      "seed": 0,
      "data": {"validity_channel": False},
      "model": {"input_channels": 3, "output_channels": 3, "levels": 3},
      "train": {"num_steps": 10},
      "optimizer": {"learning_rate": 2e-4, "beta1": 0.5, "beta2": 0.999, "decay_fraction": 0.0},
      "loss": {"gan": "vanilla", "l1_weight": 100.0, "halve_discriminator": True, **loss},
    }
  )


def make_step(seed=0, **loss):
  config = make_config(**loss)
  return jax.jit(
    lambda state, batch: steps.train_step(
      state,
      batch,
      generator=GENERATOR,
      discriminator=DISCRIMINATOR,
      loss=config.loss,
      seed=seed,
      optimizer=train_state.make_optimizer(config.optimizer, 10),
    )
  )


@pytest.fixture(scope="module")
def state():
  return jax.jit(lambda: train_state.initial(make_config(), GENERATOR, DISCRIMINATOR))()


@pytest.fixture(scope="module")
def batch():
  x, y = jax.random.uniform(jax.random.key(5), (2, 2, SIZE, SIZE, 3), minval=-1)
  return {"input": x, "target": y}


@pytest.fixture(scope="module")
def stepped(state, batch):
  return make_step()(state, batch)


def differences(a, b):
  return max(jax.tree.leaves(jax.tree.map(lambda p, q: float(jnp.abs(p - q).max()), a, b)))


def test_the_discriminators_update_is_not_touched_by_l1_weight(state, batch, stepped):
  other, _ = make_step(l1_weight=1.0)(state, batch)
  assert differences(stepped[0].discriminator, other.discriminator) == 0
  assert differences(stepped[0].generator.params, other.generator.params) > 0


def test_first_adam_step_of_both_networks_against_numpy(state, batch, stepped):
  """Two losses written out plainly, in the paper's order, their gradients put through Adam by hand: after one step a
  parameter has moved by lr · g / (|g| + ε'). G's gradient is taken through the *updated* discriminator."""
  x, y = batch["input"], batch["target"]
  noise = jax.random.fold_in(jax.random.key(0), 0)

  def translate(params):
    return GENERATOR.apply(
      {"params": params, "batch_stats": state.generator.batch_stats},
      x,
      dropout=True,
      norm_stats="batch",
      rngs={"dropout": noise},
    )

  def logits(params, candidate):
    return DISCRIMINATOR.apply(
      {"params": params, "batch_stats": state.discriminator.batch_stats}, x, candidate, norm_stats="batch"
    )

  def d_loss(params):
    real, fake = jax.nn.sigmoid(logits(params, y)), jax.nn.sigmoid(logits(params, translate(state.generator.params)))
    return -(jnp.log(real).mean() + jnp.log(1 - fake).mean()) / 2

  def g_loss(params, discriminator_params):
    fake = translate(params)
    return -jnp.log(jax.nn.sigmoid(logits(discriminator_params, fake))).mean() + 100 * jnp.abs(y - fake).mean()

  def adam(params, grads):  # first step: the corrected moments are g and g²
    return jax.tree.map(lambda p, g: p - 2e-4 * g / (jnp.sqrt(g * g) + 1e-8), params, grads)

  next_state, metrics = stepped
  discriminator = adam(state.discriminator.params, jax.jit(jax.grad(d_loss))(state.discriminator.params))

  # The sign of gradients near zero is a matter of rounding: those few entries are left out.
  def compare(ours, reference, grads):
    for a, b, g in zip(*map(jax.tree.leaves, (ours, reference, grads))):
      np.testing.assert_allclose(np.where(np.abs(g) > 1e-6, a, b), b, atol=2e-6)

  compare(next_state.discriminator.params, discriminator, jax.jit(jax.grad(d_loss))(state.discriminator.params))
  value, grads = jax.jit(jax.value_and_grad(g_loss))(state.generator.params, next_state.discriminator.params)
  compare(next_state.generator.params, adam(state.generator.params, grads), grads)
  np.testing.assert_allclose(metrics["generator_loss"], value, rtol=1e-5)
  before = jax.jit(g_loss)(state.generator.params, state.discriminator.params)
  assert abs(float(before) - float(metrics["generator_loss"])) > 1e-5, (
    "the generator was judged by the old discriminator"
  )


def test_noise_is_a_function_of_seed_and_step(state, batch, stepped):
  again, _ = make_step()(state, batch)
  assert differences(stepped[0], again) == 0
  other, _ = make_step(seed=1)(state, batch)
  assert differences(stepped[0].generator.params, other.generator.params) > 0
  later, _ = make_step()(state.replace(step=state.step + 1), batch)
  assert differences(stepped[0].generator.params, later.generator.params) > 0


def test_without_gan_the_discriminator_rests(state, batch):
  next_state, metrics = make_step(gan="none")(state, batch)
  assert differences(next_state.discriminator, state.discriminator) == 0
  np.testing.assert_allclose(metrics["generator_loss"], 100 * metrics["l1_loss"], rtol=1e-6)
  assert "discriminator_loss" not in metrics


def test_what_lies_in_the_targets_holes_changes_nothing(state, batch):
  mask = jnp.ones((2, SIZE, SIZE, 1)).at[:, 3:9, 4:7].set(0)
  step = make_step()
  one, _ = step(state, {**batch, "mask": mask})
  other, _ = step(state, {**batch, "mask": mask, "target": jnp.where(mask > 0, batch["target"], 0.77)})
  assert differences(one, other) == 0


def test_linear_decay_ends_at_zero():
  optimizer = ml_collections.ConfigDict({"learning_rate": 1.0, "beta1": 0.0, "beta2": 0.0, "decay_fraction": 0.5})
  adam = train_state.make_optimizer(optimizer, 10)
  opt_state, sizes = adam.init(jnp.zeros(())), []
  for _ in range(11):
    update, opt_state = adam.update(jnp.ones(()), opt_state)
    sizes.append(-float(update))
  np.testing.assert_allclose(sizes, [1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0], atol=1e-6)


def test_evaluation_of_an_image_is_independent_of_its_companions_and_agrees_with_the_losses(state, batch):
  evaluate = jax.jit(
    lambda state, batch: steps.eval_step(
      state,
      batch,
      generator=GENERATOR,
      discriminator=DISCRIMINATOR,
      loss=make_config().loss,
      seed=0,
      dropout=True,
      norm_stats="image",
      depth_range=None,
      input_is_depth=False,
    )
  )
  fake, values = evaluate(state, {**batch, "index": jnp.array([4, 5])})
  alone = {name: jnp.stack([pictures[1]] * 2) for name, pictures in batch.items()} | {"index": jnp.array([5, 5])}
  fake_alone, values_alone = evaluate(state, alone)
  np.testing.assert_allclose(fake[1], fake_alone[0], atol=1e-6)
  for name in values:
    np.testing.assert_allclose(values[name][1], values_alone[name][0], rtol=1e-4, err_msg=name)
  np.testing.assert_allclose(values["l1_loss"], losses.l1(fake, batch["target"]), rtol=1e-6)
  np.testing.assert_allclose(values["generator_loss"], values["gan_loss"] + 100 * values["l1_loss"], rtol=1e-6)


_TWO_DEVICES = """
import json, sys
sys.path.insert(0, {tests!r})
import jax, jax.numpy as jnp, numpy as np
import test_steps
from pix2pix_jax.model import steps
from pix2pix_jax.model import state as train_state
mesh = steps.make_mesh()
config = test_steps.make_config()
step = steps.compile_train_step(mesh, generator=test_steps.GENERATOR, discriminator=test_steps.DISCRIMINATOR, loss=config.loss, seed=0,
                                optimizer=train_state.make_optimizer(config.optimizer, 10))
state = jax.jit(lambda: train_state.initial(config, test_steps.GENERATOR, test_steps.DISCRIMINATOR))()
x, y = jax.random.uniform(jax.random.key(5), (2, 2, 16, 16, 3), minval=-1)
state, metrics = step(state, {{"input": x, "target": y}})
print(json.dumps([jax.device_count(), {{k: float(v) for k, v in metrics.items()}}]))
"""


def test_two_devices_compute_what_one_does(stepped):
  """Batch norm over a split batch sees all of it: one image a device would otherwise have its own statistics."""
  env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
  code = _TWO_DEVICES.format(tests=os.path.dirname(__file__))
  done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  devices, metrics = json.loads(done.stdout.splitlines()[-1])
  assert devices == 2
  for name, value in metrics.items():
    np.testing.assert_allclose(value, stepped[1][name], rtol=1e-4, err_msg=name)


def test_a_batch_that_does_not_divide_over_the_devices_is_refused():
  class Mesh:
    size = 4

  with pytest.raises(UsageError, match="train.batch_size is 6, which does not divide over 4 devices"):
    steps.check_divides(6, Mesh)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the forms of the CPU's convolutions are what is long")
def test_the_whole_step_is_short_to_compile():
  """Time to compile varies with the machine, the length of what is to be compiled does not: 8.4 thousand lines, 16 thousand when
  it took 12 to 18 s on two cores. The paper's sizes."""
  config = make_config()
  config.model.levels = 8
  generator, discriminator = models.Generator(), models.PatchGAN()
  picture = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
  step = steps.compile_train_step(
    steps.make_mesh(),
    generator=generator,
    discriminator=discriminator,
    loss=config.loss,
    seed=0,
    optimizer=train_state.make_optimizer(config.optimizer, 10),
  )
  lowered = step.lower(
    jax.eval_shape(lambda: train_state.initial(config, generator, discriminator)), {"input": picture, "target": picture}
  )
  assert len(lowered.as_text().splitlines()) < 9500
