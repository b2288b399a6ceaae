"""The networks: parameter counts, receptive fields, padding, norm statistics, noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2pix_jax import config as config_lib
from pix2pix_jax.errors import UsageError
from pix2pix_jax.model import convolution, layers
from pix2pix_jax.model import networks as models
from pix2pix_jax.model.resnet import ResNet


def parameter_count(network, *args, **kwargs) -> int:
  variables = jax.eval_shape(lambda: network.init(jax.random.key(0), *args, **kwargs))
  return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(
  "settings, count",
  [
    ({}, 54_413_955),
    ({"decoder_widths": "report"}, 129_783_683),
    ({"generator": "encoder_decoder"}, 39_075_459),
    # Convolutions get biases (encoder 3008 and decoder 2496 features), norms lose scale and bias (9856).
    ({"norm": "instance"}, 54_413_955 - 9_856 + 3_008 + 2_496),
    ({"norm": "none"}, 54_413_955 - 9_856),
  ],
)
def test_generator_parameter_count_at_256(settings, count):
  x = jnp.zeros((1, 256, 256, 3))
  assert parameter_count(models.Generator(**settings), x, dropout=False, norm_stats="batch") == count


@pytest.mark.parametrize("widths", ["paper", "report"])
def test_an_encoder_decoder_is_a_unet_that_ignores_its_skips(widths):
  """Zeros for the skips' features, the last ones that a kernel sees, make a U-Net of its kernels."""
  settings = {"base_features": 2, "levels": 3, "decoder_widths": widths}
  plain, unet = (models.Generator(generator=name, **settings) for name in ("encoder_decoder", "unet"))
  x = jax.random.uniform(jax.random.key(1), (2, 16, 16, 3), minval=-1)
  options = {"dropout": True, "norm_stats": "image", "rngs": {"dropout": jax.random.key(2)}}
  variables = plain.init(jax.random.key(0), x, dropout=False, norm_stats="batch")
  shapes = jax.eval_shape(lambda: unet.init(jax.random.key(0), x, dropout=False, norm_stats="batch"))
  padded = jax.tree.map(
    lambda leaf, like: jnp.pad(leaf, [(0, large - small) for large, small in zip(like.shape, leaf.shape)]),
    variables,
    shapes,
  )
  assert sum(map(jnp.size, jax.tree.leaves(padded))) > sum(map(jnp.size, jax.tree.leaves(variables)))
  np.testing.assert_allclose(plain.apply(variables, x, **options), unet.apply(padded, x, **options), atol=1e-6)


def resnet_parameter_count(features, blocks, norm):
  """By hand, RGB to RGB: kernels, then a bias (instance norm) or a scale and a bias (batch norm) per channel."""
  widths = [features, 2 * features, 4 * features, *[4 * features] * 2 * blocks, 2 * features, features]
  sizes = [7, *[3] * (len(widths) - 1)]
  kernels = sum(size**2 * a * b for size, a, b in zip(sizes, [3, *widths], widths)) + 7**2 * features * 3 + 3
  return kernels + sum(widths) * {"batch": 2, "instance": 1, "none": 0}[norm]


@pytest.mark.parametrize(
  "blocks, norm, count",
  [(9, "instance", 11_378_179), (9, "batch", 11_383_427), (6, "instance", 7_837_699), (6, "batch", 7_841_411)],
)
def test_resnet_parameter_count(blocks, norm, count):
  x = jnp.zeros((1, 256, 256, 3))
  assert parameter_count(ResNet(num_blocks=blocks, norm=norm), x, dropout=False, norm_stats="batch") == count
  assert resnet_parameter_count(64, blocks, norm) == count


def test_resize_convolutions_have_nine_taps():
  """A U-Net's 4×4 up convolutions become 3×3; a ResNet's are 3×3 in both forms."""
  x, count = jnp.zeros((1, 256, 256, 3)), lambda network: parameter_count(network, x, dropout=False, norm_stats="batch")
  widths = [512, 512, 512, 512, 256, 128, 64]  # of the paper's decoder; each block but the first also sees its skip
  inputs = [512, *[1024] * 4, 512, 256, 128]
  channels = sum(a * b for a, b in zip(inputs, [*widths, 3]))
  assert count(models.Generator(upsample="resize")) == 54_413_955 - (16 - 9) * channels
  assert count(ResNet(upsample="resize")) == 11_383_427
  with pytest.raises(UsageError, match="model.upsample is 'bilinear'; it can be"):
    count(models.Generator(upsample="bilinear"))


@pytest.mark.parametrize("form", convolution.FORMS)
def test_a_resize_convolution_by_its_two_steps(form):
  """np.repeat along both axes, then a convolution by loops, in float64; and its gradients by JAX's of the two steps."""
  rng = np.random.default_rng(0)
  x, kernel, dy = (rng.standard_normal(shape) for shape in ((2, 3, 4, 2), (3, 3, 2, 5), (2, 6, 8, 5)))
  big = np.pad(x.repeat(2, 1).repeat(2, 2), ((0, 0), (1, 1), (1, 1), (0, 0)))
  expected = sum(big[:, i : i + 6, j : j + 8] @ kernel[i, j] for i, j in np.ndindex(3, 3))
  conv = layers.up_conv(5, "resize", size=4)
  with convolution.use_form(form):
    y, gradients = jax.vjp(
      lambda x, kernel: conv.apply({"params": {"kernel": kernel}}, x), *map(jnp.float32, (x, kernel))
    )
    dx, dkernel = gradients(jnp.float32(dy))
  np.testing.assert_allclose(y, expected, atol=1e-5)
  padded = np.pad(dy, ((0, 0), (1, 1), (1, 1), (0, 0)))
  of_big = sum(padded[:, 2 - i : 8 - i, 2 - j : 10 - j] @ kernel[i, j].T for i, j in np.ndindex(3, 3))
  np.testing.assert_allclose(dx, of_big.reshape(2, 3, 2, 4, 2, 2).sum((2, 4)), atol=1e-4)
  of_kernel = [[np.einsum("nhwi,nhwo->io", big[:, i : i + 6, j : j + 8], dy) for j in range(3)] for i in range(3)]
  np.testing.assert_allclose(dkernel, of_kernel, atol=1e-4)


@pytest.mark.parametrize("upsample, has_checkerboard", [("transpose", True), ("resize", False)])
def test_resize_convolutions_of_a_constant_are_constant(upsample, has_checkerboard):
  """Away from the border: every output pixel gets the same sum of taps; in a transposed convolution, one of four."""
  conv = layers.up_conv(1, upsample, size=4)
  y = conv.init_with_output(jax.random.key(0), jnp.ones((1, 8, 8, 3)))[0][0, 2:-2, 2:-2, 0]
  assert (np.ptp(y) > 1e-3) == has_checkerboard and np.abs(y[2:, 2:] - y[:-2, :-2]).max() < 1e-6


@pytest.mark.parametrize("name, blocks", [("resnet_6blocks", 6), ("resnet_9blocks", 9)])
def test_make_networks_chooses_the_class(name, blocks):
  model = config_lib.default().model
  model.update(generator=name, output_channels=2, base_features=4, norm="instance", dropout_blocks=(1,))
  generator, _ = models.make_networks(model, dtype="bfloat16", remat=True)
  assert generator == ResNet(2, 4, blocks, (1,), "instance", False, jnp.dtype("bfloat16"), True)
  assert generator.multiple == 4
  model.update(generator="unet", levels=5)
  assert models.make_networks(model)[0].multiple == 32


@pytest.mark.parametrize(
  "patch, side, count",
  [(1, 256, 9_025), (16, 126, 139_585), (34, 62, 666_433), (70, 30, 2_768_705), (286, 6, 11_159_361)],
)
def test_discriminator_size_at_256(patch, side, count):
  x = jnp.zeros((2, 256, 256, 3))
  network = models.PatchGAN(patch)
  assert parameter_count(network, x, x, norm_stats="batch") == count
  logits, _ = jax.eval_shape(lambda: network.init_with_output(jax.random.key(0), x, x, norm_stats="batch"))
  assert logits.shape == (2, side, side, 1)


def test_unconditional_discriminator_sees_the_candidate_alone():
  x = jnp.zeros((1, 256, 256, 3))
  assert parameter_count(models.PatchGAN(70, conditional=False), x, x, norm_stats="batch") == 2_768_705 - 3 * 16 * 64


@pytest.mark.parametrize("patch, size", [(1, 16), (16, 64), (34, 96), (70, 160), (286, 448)])
def test_receptive_field_is_the_footprint_of_the_gradient(patch, size):
  network = models.PatchGAN(patch, base_features=2, norm="none")
  x = jax.random.normal(jax.random.key(0), (1, size, size, 1))
  variables = network.init(jax.random.key(1), x, x, norm_stats="batch")

  def middle_logit(candidate):
    logits = network.apply(variables, x, candidate, norm_stats="batch")
    return logits[0, logits.shape[1] // 2, logits.shape[2] // 2, 0]

  with convolution.use_form("lax"):  # the other forms leave rounding errors, not zeros, beyond the receptive field
    gradient = np.asarray(jax.grad(middle_logit)(x))
  rows, columns = np.nonzero(gradient[0, :, :, 0])
  assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (patch, patch)


def test_padding_is_one_on_every_side_not_same():
  """A 4×4 convolution of ones with stride 1: SAME padding would give another size and another far edge."""
  conv = layers.Conv(1, stride=1)
  x = jnp.ones((1, 5, 6, 1))
  y = conv.apply({"params": {"kernel": jnp.ones((4, 4, 1, 1))}}, x)
  expected = np.outer([3, 4, 4, 3], [3, 4, 4, 4, 3])  # 5 → 4 rows, 6 → 5 columns
  np.testing.assert_array_equal(y[0, :, :, 0], expected)


@pytest.mark.parametrize("generator", ["unet", "encoder_decoder"])
@pytest.mark.parametrize("widths", ["paper", "report"])
def test_output_has_the_size_of_the_input_and_the_channels_of_the_target(generator, widths):
  network = models.Generator(output_channels=5, base_features=2, levels=4, generator=generator, decoder_widths=widths)
  x = jnp.zeros((2, 32, 48, 1))
  y = jax.eval_shape(lambda: network.init_with_output(jax.random.key(0), x, dropout=False, norm_stats="batch")[0])
  assert (y.shape, y.dtype) == ((2, 32, 48, 5), jnp.float32)


def test_resnet_accepts_every_multiple_of_four():
  network = ResNet(output_channels=5, base_features=2, num_blocks=2)
  for height, width in ((16, 36), (4, 8)):
    x = jnp.zeros((2, height, width, 1))
    y = jax.eval_shape(lambda x=x: network.init_with_output(jax.random.key(0), x, dropout=False, norm_stats="batch")[0])
    assert (y.shape, y.dtype) == ((2, height, width, 5), jnp.float32)
  with pytest.raises(UsageError, match="multiples of 4.*18, 16"):
    network.init(jax.random.key(0), jnp.zeros((1, 18, 16, 1)), dropout=False, norm_stats="batch")


def test_transposed_3x3_convolution_by_loops():
  """torch.nn.ConvTranspose2d(3, 2, 1, output_padding=1): y[2h + kh - 1, 2w + kw - 1] += x[h, w] kernel[kh, kw]."""
  rng = np.random.default_rng(0)
  x, kernel = rng.standard_normal((1, 3, 4, 2)), rng.standard_normal((3, 3, 2, 5))
  expected = np.zeros((1, 6, 8, 5))
  for h, w, kh, kw in np.ndindex(3, 4, 3, 3):
    row, column = 2 * h + kh - 1, 2 * w + kw - 1
    if 0 <= row < 6 and 0 <= column < 8:
      expected[0, row, column] += x[0, h, w] @ kernel[kh, kw]
  conv = layers.Conv(5, size=3, transpose=True)
  y = conv.apply({"params": {"kernel": jnp.float32(kernel)}}, jnp.float32(x))
  np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize(
  "height, width, levels", [(256, 256, 8), (512, 512, 8), (128, 128, 7), (64, 256, 6), (352, 1216, 5)]
)
def test_levels_follow_from_the_size(height, width, levels):
  assert config_lib.levels_for(height, width) == levels


def test_the_error_for_an_invalid_size_names_the_multiple():
  with pytest.raises(UsageError, match="multiples of 16.*30, 32"):
    models.Generator(levels=4).init(jax.random.key(0), jnp.zeros((1, 30, 32, 3)), dropout=False, norm_stats="batch")
  with pytest.raises(UsageError, match="517×301"):
    config_lib.levels_for(301, 517)
  with pytest.raises(UsageError, match="at least 96"):
    models.PatchGAN(286).init(
      jax.random.key(0), jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, 64, 64, 3)), norm_stats="batch"
    )


@pytest.mark.parametrize("setting, value", [("generator", "resnet"), ("decoder_widths", "wide"), ("norm", "layer")])
def test_the_error_for_an_unknown_choice_lists_the_choices(setting, value):
  with pytest.raises(UsageError, match=f"model.{setting} is '{value}'; it can be"):
    models.Generator(levels=3, **{setting: value}).init(
      jax.random.key(0), jnp.zeros((1, 8, 8, 3)), dropout=False, norm_stats="batch"
    )


# --- Norm -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def features():
  return np.random.default_rng(0).normal(3, 2, (4, 5, 6, 7)).astype(np.float32)


def run_norm(kind, x, norm_stats, mutable=False):
  norm = layers.Norm(kind)
  variables = norm.init(jax.random.key(3), x, "batch")
  return variables, norm.apply(variables, x, norm_stats, mutable=["batch_stats"] if mutable else False)


@pytest.mark.parametrize(
  "kind, norm_stats, axes",
  [
    ("batch", "batch", (0, 1, 2)),
    ("batch", "image", (1, 2)),
    ("instance", "batch", (1, 2)),
    ("instance", "running", (1, 2)),
  ],
)
def test_norm_against_float64(features, kind, norm_stats, axes):
  variables, y = run_norm(kind, features, norm_stats)
  wide = features.astype(np.float64)
  expected = (wide - wide.mean(axes, keepdims=True)) / np.sqrt(wide.var(axes, keepdims=True) + 1e-5)
  if kind == "batch":
    params = variables["params"]
    expected = expected * np.asarray(params["scale"], np.float64) + np.asarray(params["bias"], np.float64)
  np.testing.assert_allclose(y, expected, atol=2e-6)


def test_running_statistics_begin_with_the_first_batch_and_move_a_tenth_towards_the_next(features):
  variables, (_, updates) = run_norm("batch", features, "batch", mutable=True)
  first, second = features.astype(np.float64), 3 * features.astype(np.float64) + 1
  mean, var = first.mean((0, 1, 2)), first.var((0, 1, 2), ddof=1)
  np.testing.assert_allclose(updates["batch_stats"]["mean"], mean, rtol=1e-5)
  np.testing.assert_allclose(updates["batch_stats"]["var"], var, rtol=1e-5)
  variables = {**variables, **updates}
  _, updates = layers.Norm("batch").apply(variables, second.astype(np.float32), "batch", mutable=["batch_stats"])
  expected = 0.9 * mean + 0.1 * second.mean((0, 1, 2)), 0.9 * var + 0.1 * second.var((0, 1, 2), ddof=1)
  np.testing.assert_allclose(updates["batch_stats"]["mean"], expected[0], rtol=1e-5)
  np.testing.assert_allclose(updates["batch_stats"]["var"], expected[1], rtol=1e-5)


def test_running_statistics_are_used_on_request(features):
  norm = layers.Norm("batch")
  variables = {
    "params": {"scale": jnp.full(7, 2.0), "bias": jnp.full(7, 0.5)},
    "batch_stats": {"mean": jnp.full(7, 3.0), "var": jnp.full(7, 4.0)},
  }
  np.testing.assert_allclose(
    norm.apply(variables, features, "running"), (features - 3) / np.sqrt(4 + 1e-5) * 2 + 0.5, atol=1e-5
  )


IS_REAL = np.array([True, False, True, True])


@pytest.mark.parametrize("filler", [0.0, 1e3, np.nan])
@pytest.mark.parametrize("norm_stats", ["batch", "image"])
def test_rows_that_fill_the_batch_do_not_affect_the_norm_of_real_rows(features, norm_stats, filler):
  filled = np.where(IS_REAL[:, None, None, None], features, np.float32(filler))
  norm = layers.Norm("batch")
  variables = norm.init(jax.random.key(3), features, "batch")
  y, updates = norm.apply(variables, filled, norm_stats, jnp.asarray(IS_REAL), mutable=["batch_stats"])
  expected, wanted = norm.apply(variables, features[IS_REAL], norm_stats, mutable=["batch_stats"])
  np.testing.assert_allclose(y[IS_REAL], expected, atol=2e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, wanted)


@pytest.mark.parametrize(
  "network",
  [
    models.Generator(base_features=4, levels=3),
    models.Generator(base_features=4, levels=3, remat=True),
    ResNet(base_features=4, num_blocks=1),
    ResNet(base_features=4, num_blocks=1, remat=True),
  ],
)
def test_three_real_images_and_five_fillers_give_the_batch_of_three(network):
  x = jax.random.uniform(jax.random.key(1), (3, 16, 16, 3), minval=-1)
  filled = jnp.concatenate([x, jnp.repeat(x[-1:], 5, axis=0)])
  is_real = jnp.arange(8) < 3
  variables = jax.jit(lambda: network.init(jax.random.key(0), x, dropout=False, norm_stats="batch"))()

  @jax.jit
  def translate(x, is_real=None):
    return network.apply(variables, x, dropout=False, norm_stats="batch", is_real=is_real)

  expected = translate(x)
  np.testing.assert_allclose(translate(filled, is_real)[:3], expected, atol=1e-5)
  assert np.abs(translate(filled)[:3] - expected).max() > 1e-4  # what the fillers change otherwise


def test_fillers_do_not_affect_the_logits_of_real_rows():
  network = models.PatchGAN(16, base_features=4)
  x = jax.random.uniform(jax.random.key(1), (3, 16, 16, 3), minval=-1)
  filled = jnp.concatenate([x, jnp.repeat(x[-1:], 5, axis=0)])
  variables = jax.jit(lambda: network.init(jax.random.key(0), x, x, norm_stats="batch"))()

  @jax.jit
  def classify(x, is_real=None):
    return network.apply(variables, x, x, norm_stats="batch", is_real=is_real)

  expected = classify(x)
  np.testing.assert_allclose(classify(filled, jnp.arange(8) < 3)[:3], expected, atol=1e-5)
  assert np.abs(classify(filled)[:3] - expected).max() > 1e-4


# --- Noise and independence -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
  """A small generator, its variables, four images, and the function that translates them with dropout."""
  network = models.Generator(base_features=4, levels=4)
  x = jax.random.uniform(jax.random.key(1), (4, 16, 16, 3), minval=-1)
  variables = jax.jit(lambda: network.init(jax.random.key(0), x, dropout=False, norm_stats="batch"))()

  @jax.jit
  def translate(x, key, noise_ids):
    return network.apply(variables, x, dropout=True, norm_stats="image", noise_ids=noise_ids, rngs={"dropout": key})

  return network, variables, x, translate


def test_the_dropout_key_determines_the_output(small):
  _, _, x, translate = small
  ids = jnp.arange(4)
  first = translate(x, jax.random.key(0), ids)
  np.testing.assert_array_equal(first, translate(x, jax.random.key(0), ids))
  assert np.abs(first - translate(x, jax.random.key(1), ids)).max() > 1e-4


def test_an_image_is_independent_of_the_rest_of_the_batch(small):
  _, _, x, translate = small
  together = translate(x, jax.random.key(0), jnp.array([7, 8, 9, 10]))
  others = translate(x.at[:3].set(0.3), jax.random.key(0), jnp.array([1, 2, 3, 10]))
  np.testing.assert_array_equal(together[3], others[3])
  alone = translate(x[3:], jax.random.key(0), jnp.array([10]))
  np.testing.assert_allclose(together[3], alone[0], atol=1e-6)


def test_batch_statistics_depend_on_the_rest_of_the_batch(small):
  network, variables, x, _ = small
  together = network.apply(variables, x, dropout=False, norm_stats="batch")
  alone = network.apply(variables, x[:1], dropout=False, norm_stats="batch")
  assert np.abs(together[0] - alone[0]).max() > 1e-4


def test_dropout_acts_in_the_chosen_blocks_and_keeps_half(small):
  _, variables, x, _ = small
  plain = models.Generator(base_features=4, levels=4, dropout_blocks=())
  np.testing.assert_array_equal(
    plain.apply(variables, x, dropout=True, norm_stats="image", rngs={"dropout": jax.random.key(0)}),
    plain.apply(variables, x, dropout=False, norm_stats="image"),
  )
  shapes = [(2, 2, 64), (4, 4, 64), (64, 64, 8)]
  masks = layers.dropout_masks(jax.random.key(0), jnp.arange(2), shapes)
  assert [mask.shape for mask in masks] == [(2, *shape) for shape in shapes]
  for mask in masks:
    assert abs(float(mask.mean()) - 0.5) < 2.5 / mask.size**0.5  # five standard deviations
    assert np.any(mask[0] != mask[1])
  assert np.any(masks[0].reshape(-1) != masks[1].reshape(-1)[: masks[0].size])

  block = models._UpBlock(4, "none", jnp.float32)
  x, kept = jnp.ones((1, 2, 2, 4)), jnp.arange(64).reshape(1, 4, 4, 4) % 3 == 0
  y, parameters = block.init_with_output(jax.random.key(0), x, None, None, "batch")
  dropped = block.apply(parameters, x, None, kept, "batch")
  np.testing.assert_array_equal(dropped, np.where(kept, 2 * y, 0))


def test_resnet_dropout_acts_in_the_chosen_residual_blocks():
  """Block 1 of 3 has dropout: its second convolution sees zeros, and the same mask is drawn for the same noise id."""
  x = jax.random.uniform(jax.random.key(1), (2, 16, 16, 3), minval=-1)
  networks = {blocks: ResNet(base_features=4, num_blocks=3, dropout_blocks=blocks) for blocks in ((), (1,), (7,))}
  variables = networks[()].init(jax.random.key(0), x, dropout=False, norm_stats="image")

  def translate(blocks, dropout=True, ids=None, seed=0):
    return networks[blocks].apply(
      variables,
      x,
      dropout=dropout,
      norm_stats="image",
      noise_ids=ids,
      rngs={"dropout": jax.random.key(seed)},
      capture_intermediates=lambda module, _: "block" in (module.name or ""),
      mutable=["intermediates"],
    )

  plain, inner = translate((), dropout=False)
  for blocks, dropout in (((), True), ((7,), True), ((1,), False)):
    np.testing.assert_array_equal(translate(blocks, dropout)[0], plain)
  noisy, noisy_inner = translate((1,))
  changed = [
    bool(
      np.any(
        inner["intermediates"][f"block_{i}"]["__call__"][0] != noisy_inner["intermediates"][f"block_{i}"]["__call__"][0]
      )
    )
    for i in range(3)
  ]
  assert changed == [False, True, True]
  np.testing.assert_array_equal(translate((1,))[0], noisy)
  np.testing.assert_array_equal(
    translate((1,), ids=jnp.array([5, 0]))[0][1], translate((1,), ids=jnp.array([0, 0]))[0][1]
  )
  assert np.abs(translate((1,), seed=1)[0] - noisy).max() > 1e-5


def test_a_residual_resnet_adds_to_interpolated_depth():
  network = ResNet(output_channels=2, base_features=2, num_blocks=1, residual=True)
  x = jnp.where(jax.random.uniform(jax.random.key(1), (1, 8, 8, 1)) < 0.3, -1.0, 0.25)  # holes in a plane
  variables = network.init(jax.random.key(0), x, dropout=False, norm_stats="image")
  assert variables["params"]["input_conv"]["kernel"].shape == (7, 7, 2, 2)
  silent = jax.tree.map(jnp.zeros_like, variables["params"])
  y = network.apply({**variables, "params": silent}, x, dropout=False, norm_stats="image")
  np.testing.assert_allclose(y[..., 0], 0.25, atol=1e-5)
  np.testing.assert_array_equal(y[..., 1], 0)


def test_bfloat16_computes_in_bfloat16_but_stays_close_and_returns_float32(small):
  network, variables, x, _ = small
  low = models.Generator(base_features=4, levels=4, dtype=jnp.bfloat16)
  y = low.apply(variables, x, dropout=False, norm_stats="image")
  reference = network.apply(variables, x, dropout=False, norm_stats="image")
  assert y.dtype == jnp.float32
  difference = np.abs(y - reference).max()
  assert 1e-6 < difference < 0.1


def test_remat_changes_no_value(small):
  network, variables, x, _ = small
  lean = models.Generator(base_features=4, levels=4, remat=True)

  def loss(network, params):
    y = network.apply(
      {**variables, "params": params}, x, dropout=True, norm_stats="image", rngs={"dropout": jax.random.key(0)}
    )
    return jnp.square(y).sum()

  plain, rematerialised = (
    jax.jit(jax.grad(lambda params, n=n: loss(n, params)))(variables["params"]) for n in (network, lean)
  )
  # XLA fuses the two programs differently, so sums round differently: 1e-5 of the largest gradient of each kernel.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max() + 1e-5), plain, rematerialised
  )
