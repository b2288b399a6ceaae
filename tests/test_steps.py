"""Properties of the train step that a reader of the paper would check."""

import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from tiny_runs import with_devices

from pix2pix_jax import config as config_lib
from pix2pix_jax import prng
from pix2pix_jax.errors import UsageError
from pix2pix_jax.model import losses, steps
from pix2pix_jax.model import networks as models
from pix2pix_jax.model import state as state_lib
from pix2pix_jax.run import experiment, finite
from pix2pix_jax.run.experiment import Experiment
from pix2pix_jax.signals import DataSpec, Image

GENERATOR = models.Generator(base_features=2, levels=3)
DISCRIMINATOR = models.PatchGAN(16, base_features=2)
SIZE = 16


def make_experiment(seed=0, **fields):
  """Networks of 3 levels and 2 features for 16×16 RGB images; `fields` are of `loss`, `optimizer` or `evaluation`."""
  config = config_lib.default()
  settings = {"seed": seed, "model.base_features": 2, "model.patch": 16, "data.crop_size": SIZE, "train.num_steps": 10}
  settings |= {"data.load_size": SIZE, "model.levels": 3, "train.batch_size": 2}
  config_lib.update(config, settings | {name.replace("__", "."): value for name, value in fields.items()})
  spec = DataSpec(Image(3), Image(3), {"train": 8})
  return Experiment(config_lib.resolve(config, spec), spec)


def make_step(seed=0, **fields):
  run = make_experiment(seed, **fields)
  return jax.jit(
    functools.partial(
      steps.train_step,
      **run.networks,
      loss=run.config.loss,
      seed=seed,
      optimizer=run.optimizer,
      learning_rate=run.learning_rate,
      target_signal=run.spec.target,
    )
  )


@pytest.fixture(scope="module")
def state():
  return make_experiment().init()


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
  other, _ = make_step(loss__l1_weight=1.0)(state, batch)
  assert differences(stepped[0].discriminator, other.discriminator) < 1e-7  # another program may round differently
  assert differences(stepped[0].generator.params, other.generator.params) > 0


def test_first_adam_step_of_both_networks_against_numpy(state, batch, stepped):
  """Two losses written out plainly, in the paper's order, their gradients put through Adam by hand: after one step a
  parameter has moved by lr · g / (|g| + ε'). G's gradient is taken through the *updated* discriminator."""
  x, y = batch["input"], batch["target"]
  noise = jax.random.fold_in(prng.key(0, "dropout"), 0)

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
  next_state, metrics = make_step(loss__gan="none")(state, batch)
  assert differences(next_state.discriminator, state.discriminator) == 0
  np.testing.assert_allclose(metrics["generator_loss"], 100 * metrics["l1_loss"], rtol=1e-6)
  assert "discriminator_loss" not in metrics


def test_what_lies_in_the_targets_holes_changes_nothing(state, batch):
  mask = jnp.ones((2, SIZE, SIZE, 1)).at[:, 3:9, 4:7].set(0)
  step = make_step()
  one, _ = step(state, {**batch, "mask": mask})
  other, _ = step(state, {**batch, "mask": mask, "target": jnp.where(mask > 0, batch["target"], 0.77)})
  assert differences(one, other) == 0


def test_an_image_without_a_valid_pixel_does_not_count_in_the_pixel_loss(state, batch):
  mask, step = jnp.ones((2, SIZE, SIZE, 1)), make_step()
  both, first, second, none = (
    step(state, {**batch, "mask": mask * jnp.asarray(used)[:, None, None, None]})[1]["l1_loss"]
    for used in ([1, 1], [1, 0], [0, 1], [0, 0])
  )
  assert first != second and none == 0
  np.testing.assert_allclose((first + second) / 2, both, rtol=1e-5)


def test_linear_decay_ends_at_zero():
  settings = ml_collections.ConfigDict({"learning_rate": 1.0, "decay_fraction": 0.5})
  rates = [float(state_lib.learning_rate(settings, 10, jnp.int32(step))) for step in range(11)]
  np.testing.assert_allclose(rates, [1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0], atol=1e-6)


def test_the_schedule_is_no_part_of_the_state(state, batch, stepped):
  """One tree for every schedule, so that a decay may begin at a resume; a decayed rate scales the update."""
  decaying = make_experiment(optimizer__decay_fraction=0.5)
  assert jax.tree.structure(decaying.abstract()) == jax.tree.structure(make_experiment().abstract())
  later = state.replace(step=jnp.int32(8))
  full, _ = make_step()(later, batch)
  slowed, metrics = make_step(optimizer__decay_fraction=0.5)(later, batch)
  np.testing.assert_allclose(metrics["learning_rate"], 0.4 * 2e-4, rtol=1e-6)
  moved = lambda after: after.discriminator.params["conv_0"]["kernel"] - state.discriminator.params["conv_0"]["kernel"]
  np.testing.assert_allclose(moved(slowed), 0.4 * moved(full), atol=2e-8)


@pytest.mark.parametrize("decay_fraction", [0.0, 1.0])
def test_update_norms_are_those_of_the_differences(state, batch, decay_fraction):
  """Computed from Adam's state after the step; compared with how far the parameters have moved."""
  run = make_experiment(optimizer__learning_rate=0.01, optimizer__decay_fraction=decay_fraction)
  step = make_step(optimizer__learning_rate=0.01, optimizer__decay_fraction=decay_fraction)
  before, _ = step(state, batch)
  after, _ = step(before, batch)
  norms = run.update_norms(after)
  for name in ("generator", "discriminator"):
    moved = jax.tree.map(
      lambda p, q: np.asarray(p, np.float64) - q, getattr(after, name).params, getattr(before, name).params
    )
    expected = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(moved)))
    np.testing.assert_allclose(norms[f"{name}_update_norm"], expected, rtol=1e-4)
  assert run.update_norms(state)["generator_update_norm"] == 0
  assert make_experiment(loss__gan="none").update_norms(after).keys() == {"generator_update_norm"}


def evaluate(state, batch, **fields):
  run = make_experiment(**fields)
  return run.eval_step(state.variables, {"is_real": jnp.ones(len(batch["input"]), bool), **batch})


def test_evaluation_of_an_image_is_independent_of_the_batch_and_agrees_with_the_losses(state, batch):
  fake, values = evaluate(state, {**batch, "index": jnp.array([4, 5])})
  alone = {name: jnp.stack([images[1]] * 2) for name, images in batch.items()} | {"index": jnp.array([5, 5])}
  fake_alone, values_alone = evaluate(state, alone)
  np.testing.assert_allclose(fake[1], fake_alone[0], atol=1e-6)
  for name in values:
    np.testing.assert_allclose(values[name][1], values_alone[name][0], rtol=1e-4, err_msg=name)
  np.testing.assert_allclose(values["l1_loss"], losses.l1(fake, batch["target"]), rtol=1e-6)
  np.testing.assert_allclose(values["generator_loss"], values["gan_loss"] + 100 * values["l1_loss"], rtol=1e-6)


def test_rows_that_fill_a_batch_do_not_count_in_its_statistics(state, batch):
  """norm_stats="batch": three images and a filler give what the three give alone."""
  x, y = (jnp.concatenate([batch[name], batch[name][::-1] * 0.5]) for name in ("input", "target"))
  index = jnp.arange(4)
  real = {"input": x[:3], "target": y[:3], "index": index[:3]}
  filled = {"input": x.at[3].set(9.0), "target": y.at[3].set(-9.0), "index": index, "is_real": index < 3}
  fake, values = evaluate(state, real, evaluation__norm_stats="batch")
  fake_filled, values_filled = evaluate(state, filled, evaluation__norm_stats="batch")
  np.testing.assert_allclose(fake_filled[:3], fake, atol=2e-5)
  for name in ("gan_loss", "discriminator_loss", "l1"):
    np.testing.assert_allclose(values_filled[name][:3], values[name], rtol=1e-3, err_msg=name)


def test_a_network_that_is_no_longer_finite_is_found():
  tree = {"a": jnp.ones((3, 3)), "step": jnp.int32(2**30), "b": jnp.array([1.0, -2.0, 1e15])}
  assert bool(finite.has_finite_norm(tree))
  for bad in (np.nan, np.inf, -np.inf, 3e38):
    assert not bool(finite.has_finite_norm({**tree, "b": jnp.array([1.0, bad, 3.0])}))


def test_streams_are_independent():
  """No two streams share a key, and none has the root key or a fold of it."""
  root = jax.random.key(3)
  streams = [prng.key(3, name) for name in ("init", "dropout", "evaluation")]
  others = [root, *(jax.random.fold_in(root, n) for n in range(3)), *jax.random.split(root)]
  bits = {jax.random.key_data(key).tobytes() for key in [*streams, *others]}
  assert len(bits) >= len(streams) + 4  # split(root)[0] is fold_in(root, 0): among the others two coincide
  assert len({jax.random.key_data(key).tobytes() for key in streams}) == 3
  assert not {jax.random.key_data(key).tobytes() for key in streams} & {
    jax.random.key_data(k).tobytes() for k in others
  }
  assert prng.data_seed(0, "order") != prng.data_seed(0, "jitter") != prng.data_seed(1, "jitter")


_TWO_DEVICES = """
import json, sys
sys.path.insert(0, {tests!r})
import jax
import test_steps
run = test_steps.make_experiment()
x, y = jax.random.uniform(jax.random.key(5), (2, 2, 16, 16, 3), minval=-1)
state, metrics = run.train_step(run.init(), {{"input": x, "target": y}})
print(json.dumps([jax.device_count(), {{k: float(v) for k, v in metrics.items()}}]))
"""


def test_two_devices_compute_what_one_does(stepped):
  """Batch norm over a split batch sees all of it: one image a device would otherwise have its own statistics."""
  code = _TWO_DEVICES.format(tests=os.path.dirname(__file__))
  done = subprocess.run([sys.executable, "-c", code], env=with_devices(2), capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  devices, metrics = json.loads(done.stdout.splitlines()[-1])
  assert devices == 2
  for name, value in metrics.items():
    np.testing.assert_allclose(value, stepped[1][name], rtol=1e-4, err_msg=name)


def test_a_batch_that_does_not_divide_over_the_devices_is_refused(monkeypatch):
  monkeypatch.setattr(jax, "device_count", lambda: 4)
  with pytest.raises(
    UsageError, match="batch_size is 6, .*among 4 devices. Use a multiple of 4, or 1 or 2 or 3 device"
  ):
    experiment.check_batch_size(6)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the CPU's forms of the convolutions are the long ones")
def test_the_whole_step_is_short_to_compile():
  """Compilation time varies with the machine, the length of the program does not: 8.4 thousand lines at the paper's
  sizes, 16 thousand when compilation took 12 to 18 s on two cores."""
  config = config_lib.default()
  spec = DataSpec(Image(3), Image(3), {"train": 8})
  run = Experiment(config_lib.resolve(config, spec), spec)
  image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
  lowered = run.train_step.lower(run.abstract(), {"input": image, "target": image})
  assert len(lowered.as_text().splitlines()) < 9500
