"""Options of the adversarial losses and of the discriminator, against plain NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_steps import GENERATOR, SIZE, differences, make_experiment, make_step

from pix2pix_jax import prng
from pix2pix_jax.errors import UsageError
from pix2pix_jax.model import convolution, layers, losses


@pytest.fixture(scope="module")
def batch():
  x, y = jax.random.uniform(jax.random.key(5), (2, 2, SIZE, SIZE, 3), minval=-1)
  return {"input": x, "target": y}


@pytest.fixture(scope="module")
def state():
  """Of networks without norm; the discriminator's kernels are large and its biases are not 0."""
  state = make_experiment(model__norm="none").init()
  params = jax.tree.map(lambda leaf: 10 * leaf if leaf.ndim > 1 else leaf + 0.1, state.discriminator.params)
  return state.replace(discriminator=state.discriminator.replace(params=params))


@pytest.fixture(scope="module")
def plain(state, batch):
  """The state after a step without options."""
  return make_step(model__norm="none")(state, batch)[0]


def features(params, x, candidate):
  """A 16×16 PatchGAN without norm, or with batch norm over the whole batch: its inner layers, then the logits."""
  h, layers = np.concatenate([x, candidate], -1).astype(np.float64), []
  for i, stride in enumerate([2, 1, 1]):
    kernel = np.asarray(params[f"conv_{i}"]["kernel"], np.float64)
    padded = np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = ((side - 4) // stride + 1 for side in padded.shape[1:3])
    taps = [padded[:, a : a + stride * rows : stride, b : b + stride * columns : stride] for a, b in np.ndindex(4, 4)]
    h = sum(tap @ k for tap, k in zip(taps, kernel.reshape(16, *kernel.shape[2:])))
    h = h + np.asarray(params[f"conv_{i}"].get("bias", 0), np.float64)
    if f"norm_{i}" in params:
      h = (h - h.mean((0, 1, 2))) / np.sqrt(h.var((0, 1, 2)) + 1e-5)
      h = h * params[f"norm_{i}"]["scale"] + params[f"norm_{i}"]["bias"]
    h = np.where(h > 0, h, 0.2 * h) if i < 2 else h
    layers.append(h)
  return layers


def translate(state, x):
  key = jax.random.fold_in(prng.key(0, "dropout"), 0)
  network = GENERATOR.clone(norm="none")
  return network.apply(state.generator.variables, x, dropout=True, norm_stats="batch", rngs={"dropout": key})


def test_feature_matching_by_hand():
  real = [jnp.zeros((2, 1, 2, 1)), jnp.ones((2, 1, 1, 1))]
  fake = [jnp.array([[[[1.0], [3.0]]], [[[0.0], [0.0]]]]), jnp.array([[[[0.0]]], [[[5.0]]]])]
  np.testing.assert_allclose(losses.feature_matching(real, fake), [2 + 1, 0 + 4])


def test_feature_matching_against_float64(state, batch, plain):
  """Through the updated discriminator, and as a term of the generator's loss, in training and evaluation."""
  settings = {"model__norm": "none", "loss__feature_matching": 10.0}
  after, metrics = make_step(**settings)(state, batch)
  real = features(after.discriminator.params, batch["input"], batch["target"])
  fake = features(after.discriminator.params, batch["input"], translate(state, batch["input"]))
  expected = sum(np.abs(r - f).mean() for r, f in zip(real[:2], fake[:2]))
  np.testing.assert_allclose(metrics["feature_loss"], expected, rtol=1e-4)
  total = metrics["gan_loss"] + 100 * metrics["l1_loss"] + 10 * expected
  np.testing.assert_allclose(metrics["generator_loss"], total, rtol=1e-5)
  assert differences(after.discriminator, plain.discriminator) == 0
  assert differences(after.generator.params, plain.generator.params) > 0

  run = make_experiment(**settings)
  assert run.loss_formula() == "gan_loss + 100 · l1_loss + 10 · feature_loss"
  rows = {"index": jnp.arange(2), "is_real": jnp.ones(2, bool)}
  output, values = run.eval_step(after.variables, {**batch, **rows})
  fake = features(after.discriminator.params, batch["input"], output)
  expected = sum(np.abs(r - f).mean((1, 2, 3)) for r, f in zip(real[:2], fake[:2]))
  np.testing.assert_allclose(values["feature_loss"], expected, rtol=1e-4)


def sum_of_logits_gradient(params, x, y):
  """∇_y Σ logits of one image (H, W, C) by central differences, exact but at the kinks of the activations."""
  steps = 1e-7 * np.eye(y.size).reshape(-1, *y.shape)
  tiled = np.broadcast_to(x, (len(steps), *x.shape))
  up, down = (features(params, tiled, y + sign * steps)[-1].sum((1, 2, 3)) for sign in (1, -1))
  return (up - down).reshape(y.shape) / 2e-7


def test_r1_against_differences_in_float64(state, batch):
  """The penalty by differences at every pixel; the gradient of loss and penalty, of which Adam's first moment is half,
  by differences at some weights.
  """
  after, metrics = make_step(model__norm="none", loss__r1_weight=10.0)(state, batch)
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state.discriminator.params)
  arrays = batch["input"], batch["target"], translate(state, batch["input"])
  x, y, fake = (np.asarray(array, np.float64) for array in arrays)

  def penalty(params):
    squares = [np.square(sum_of_logits_gradient(params, *pair)).sum() for pair in zip(x, y)]
    return np.mean(squares) / 6**2  # logits

  def objective(params):
    real_logits, fake_logits = features(params, x, y)[-1], features(params, x, fake)[-1]
    loss = np.log1p(np.exp(-real_logits)).mean() + np.log1p(np.exp(fake_logits)).mean()
    return loss / 2 + 10 / 2 * penalty(params)

  np.testing.assert_allclose(metrics["r1_penalty"], penalty(params), rtol=1e-3)
  kernel, gradient = params["conv_1"]["kernel"], 2 * after.discriminator.opt_state[0].mu["conv_1"]["kernel"]
  for index in list(np.ndindex(*kernel.shape))[::9]:
    values = []
    for change in (1e-4, -1e-4):
      moved = kernel.copy()
      moved[index] += change
      values.append(objective({**params, "conv_1": {**params["conv_1"], "kernel": moved}}))
    slope = (values[0] - values[1]) / 2e-4
    np.testing.assert_allclose(gradient[index], slope, atol=0.02 * np.abs(gradient).max())
  assert metrics["r1_penalty"] > 0.1


def test_r1_under_batch_norm_is_the_gradient_through_the_statistics(batch):
  """Each image's gradient of the logits of the whole batch, to whose statistics it contributes."""
  state = make_experiment().init()
  params = jax.tree.map(lambda leaf: 10 * leaf if leaf.ndim > 1 else leaf + 0.1, state.discriminator.params)
  state = state.replace(discriminator=state.discriminator.replace(params=params))
  _, metrics = make_step(loss__r1_weight=10.0)(state, batch)
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  x, y = (np.asarray(batch[name], np.float64) for name in ("input", "target"))
  squares = 0.0
  for index in np.ndindex(*y.shape):
    change = np.zeros_like(y)
    change[index] = 1e-6
    up, down = (features(params, x, y + sign * change)[-1].sum() for sign in (1, -1))
    squares += ((up - down) / 2e-6) ** 2
  np.testing.assert_allclose(metrics["r1_penalty"], squares / 2 / 6**2, rtol=1e-3)


@pytest.mark.parametrize("stride", [1, 2])
def test_second_derivatives_of_every_form_of_a_convolution(stride):
  """R1 differentiates a gradient: the CPU's forms, whose gradients are written by hand, give those of XLA's own."""
  rng = np.random.default_rng(0)
  x, kernel = jnp.float32(rng.normal(size=(2, 8, 8, 3))), jnp.float32(rng.normal(0, 0.1, (4, 4, 3, 5)))

  def penalty(x, kernel):
    value = lambda x: jnp.tanh(convolution.conv(x, kernel, stride=stride)).sum()
    return jnp.square(jax.grad(value)(x)).sum()

  found = {}
  for form in convolution.FORMS:
    with convolution.use_form(form):
      found[form] = jax.jit(jax.grad(lambda x, kernel: penalty(x, kernel), (0, 1)))(x, kernel)
  for form in ("taps", "winograd"):
    for ours, theirs in zip(found[form], found["lax"]):
      np.testing.assert_allclose(ours, theirs, atol=1e-3 * np.abs(theirs).max())


@pytest.fixture(scope="module")
def spectral():
  """A convolution with spectral norm, its variables, and an input."""
  conv = layers.Conv(5, spectral_norm=True)
  x = jax.random.normal(jax.random.key(1), (2, 6, 8, 3))
  return conv, conv.init(jax.random.key(0), x), x


def test_spectral_norm_against_singular_values(spectral):
  """15 iterations at the start come near the largest singular value; more of them reach it, one a pass."""
  conv, variables, x = spectral
  kernel = np.asarray(variables["params"]["kernel"], np.float64)
  expected = layers.Conv(5).apply({"params": {"kernel": kernel / np.linalg.svd(kernel.reshape(-1, 5))[1][0]}}, x)
  np.testing.assert_allclose(conv.apply(variables, x), expected, rtol=0.05, atol=0.05)
  for _ in range(60):
    y, updated = conv.apply(variables, x, mutable=["batch_stats"])
    variables = {**variables, **updated}
  np.testing.assert_allclose(y, expected, atol=1e-5)


def test_spectral_norm_is_pytorchs(spectral):
  """Three training passes, their power iterations, the gradient of the kernel, and a pass of evaluation."""
  torch = pytest.importorskip("torch")
  conv, variables, x = spectral
  vectors = {name: np.random.default_rng(0).normal(size=leaf.shape) for name, leaf in variables["batch_stats"].items()}
  vectors = {name: np.float32(vector / np.linalg.norm(vector)) for name, vector in vectors.items()}
  peer = torch.nn.utils.spectral_norm(torch.nn.Conv2d(3, 5, 4, 2, 1, bias=False))
  with torch.no_grad():
    peer.weight_orig.copy_(torch.tensor(np.array(variables["params"]["kernel"]).transpose(3, 2, 0, 1)))
    peer.weight_u.copy_(torch.tensor(vectors["u"]))
    peer.weight_v.copy_(torch.tensor(vectors["v"].reshape(4, 4, 3).transpose(2, 0, 1).ravel()))
  images = torch.tensor(np.array(x).transpose(0, 3, 1, 2))

  def loss(params, stats):
    y, updated = conv.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])
    return jnp.square(y - 1).sum(), (y, updated["batch_stats"])

  stats = vectors
  for _ in range(3):
    gradient, (y, stats) = jax.grad(loss, has_aux=True)(variables["params"], stats)
    peer.zero_grad()
    theirs = peer(images)
    (theirs - 1).square().sum().backward()
    np.testing.assert_allclose(y, theirs.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats["u"], peer.weight_u, atol=1e-5)
    expected = peer.weight_orig.grad.numpy().transpose(2, 3, 1, 0)
    np.testing.assert_allclose(gradient["kernel"], expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
  y = conv.apply({**variables, "batch_stats": stats}, x)
  np.testing.assert_allclose(y, peer.eval()(images).detach().numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-5)


def test_spectral_norm_in_a_step(batch):
  """Two passes of the discriminator, two power iterations of every kernel; evaluation makes none."""
  run = make_experiment(model__spectral_norm=True, model__norm="none")
  state = run.init()
  plain = make_experiment(model__norm="none")
  assert run.parameters == plain.parameters
  stats = state.discriminator.batch_stats
  assert {name: (leaf["u"].shape, leaf["v"].shape) for name, leaf in stats.items()} == {
    "conv_0": ((2,), (96,)),
    "conv_1": ((4,), (32,)),
    "conv_2": ((1,), (64,)),
  }
  before = jax.device_get(state.discriminator)
  after, metrics = run.train_step(state, batch)
  for name, leaf in after.discriminator.batch_stats.items():
    matrix, u = before.params[name]["kernel"].reshape(-1, leaf["u"].size), before.batch_stats[name]["u"]
    for _ in range(2):
      v = matrix @ u / np.linalg.norm(matrix @ u)
      u = v @ matrix / np.linalg.norm(v @ matrix)
    np.testing.assert_allclose(leaf["u"], u, atol=1e-5)
    np.testing.assert_allclose(leaf["v"], v, atol=1e-5)
  assert np.isfinite(metrics["generator_loss"]) and "spectral norm" in run.describe()[1]


def halve(images):
  """The mean over the pixels that exist of 3×3 around every second one."""
  images = np.asarray(images, np.float64)
  height, width = images.shape[1:3]
  rows = [slice(max(row - 1, 0), row + 2) for row in range(0, height, 2)]
  columns = [slice(max(column - 1, 0), column + 2) for column in range(0, width, 2)]
  return np.stack([np.stack([images[:, r, c].mean((1, 2)) for c in columns], 1) for r in rows], 1)


def test_discriminators_at_two_scales_against_float64(batch):
  """Losses, accuracies and features are means over the discriminators, and R1 penalises each by itself."""
  settings = {"model__norm": "none", "model__discriminators": 2, "loss__feature_matching": 10.0, "loss__r1_weight": 1.0}
  run = make_experiment(**settings)
  state = run.init()
  params = jax.device_get(state.discriminator.params)
  single = make_experiment(model__norm="none").parameters["discriminator"]
  assert run.parameters["discriminator"] == {
    f"scale_{scale}/{name}": shape for scale in (0, 1) for name, shape in single.items()
  }
  x, y = (np.asarray(batch[name], np.float64) for name in ("input", "target"))
  output, values = run.eval_step(state.variables, {**batch, "index": jnp.arange(2), "is_real": jnp.ones(2, bool)})
  pairs = (x, y, np.asarray(output)), tuple(map(halve, (x, y, output)))
  real = [features(params[f"scale_{i}"], pair[0], pair[1]) for i, pair in enumerate(pairs)]
  fake = [features(params[f"scale_{i}"], pair[0], pair[2]) for i, pair in enumerate(pairs)]
  assert [layers[-1].shape for layers in real] == [(2, 6, 6, 1), (2, 2, 2, 1)]

  def mean(function):
    return np.mean([function(r, f) for r, f in zip(real, fake)], axis=0)

  expected = {
    "gan_loss": mean(lambda _, f: np.log1p(np.exp(-f[-1])).mean((1, 2, 3))),
    "discriminator_loss": mean(lambda r, f: (np.log1p(np.exp(-r[-1])) + np.log1p(np.exp(f[-1]))).mean((1, 2, 3)) / 2),
    "discriminator_accuracy_real": mean(lambda r, _: (r[-1] > 0).mean((1, 2, 3))),
    "feature_loss": mean(lambda r, f: sum(np.abs(a - b).mean((1, 2, 3)) for a, b in zip(r[:2], f[:2]))),
  }
  for name, value in expected.items():
    np.testing.assert_allclose(values[name], value, rtol=1e-3, atol=1e-7, err_msg=name)

  penalties = []
  for scale, shrink, patches in ((0, lambda images: images, 36), (1, halve, 4)):
    for i in range(2):
      steps = 1e-7 * np.eye(y[i].size).reshape(-1, *y[i].shape)
      shown = shrink(np.broadcast_to(x[i], steps.shape))
      up, down = (features(params[f"scale_{scale}"], shown, shrink(y[i] + s * steps))[-1] for s in (1, -1))
      penalties.append(np.square((up - down).sum((1, 2, 3)) / 2e-7).sum() / patches)
  after, metrics = run.train_step(state, batch)
  np.testing.assert_allclose(metrics["r1_penalty"], np.mean(penalties), rtol=0.01)
  assert "Discriminator: 2 × PatchGAN 16" in run.describe()[1]


def test_scales_that_are_too_small_are_refused(batch):
  run = make_experiment(model__discriminators=3)
  with pytest.raises(UsageError, match="at least 6 pixels per side; these are 4×4. .*fewer model.discriminators"):
    run.train_step.lower(run.abstract(), batch)


@pytest.mark.parametrize("field", ["feature_matching", "r1_weight"])
def test_terms_that_need_a_discriminator_are_refused_without_one(field):
  with pytest.raises(UsageError, match=f"loss.{field} is 10, but loss.gan is 'none'"):
    make_experiment(**{f"loss__{field}": 10.0, "loss__gan": "none"})
