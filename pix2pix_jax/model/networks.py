"""The networks of pix2pix: U-Net and encoder-decoder generators, PatchGAN discriminators.

Source: Isola, Zhu, Zhou, Efros, "Image-to-Image Translation with Conditional Adversarial Networks" (arXiv 1611.07004),
section 6.1, and its Torch code. All images are NHWC in [-1, 1]. `layers` explains `dropout` and `norm_stats`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from pix2pix_jax.errors import UsageError
from pix2pix_jax.model.layers import Conv, Norm, add_to_depth, drop, dropout_masks, interpolate_holes, up_conv
from pix2pix_jax.model.resnet import NUM_BLOCKS, ResNet


class Generator(nn.Module):
  """A U-Net (`generator="unet"`), or the same without skip connections (`"encoder_decoder"`).

  Attributes:
    output_channels: channels of the output, tanh in [-1, 1].
    base_features: features of the first convolution; every other width is a multiple.
    levels: number of stride-2 convolutions; sizes must be multiples of 2**levels.
    generator: `"unet"` or `"encoder_decoder"`.
    decoder_widths: `"paper"`, or `"report"` (up to twice as wide, ends in a 3×3 convolution).
    dropout_blocks: the up blocks with dropout, counted from the bottleneck.
    norm: `"batch"`, `"instance"` (then the convolutions have biases) or `"none"`.
    residual: for depth with holes (−1), alone or among other inputs, → depth: the network sees the interpolated depth
      (`depth.interpolate`) and where it was measured. Its tanh is added to that depth, so it starts from a usable
      result and only has to learn the correction.
    dtype: type of the computation; parameters, norm statistics and the output are float32.
    remat: whether to recompute activations in the backward pass.
    upsample: how decoders double the resolution, as in `layers.up_conv`.
    residual_channel: the input channel with the depth of `residual`.
  """

  output_channels: int = 3
  base_features: int = 64
  levels: int = 8
  generator: str = "unet"
  decoder_widths: str = "paper"
  dropout_blocks: Sequence[int] = (0, 1, 2)
  norm: str = "batch"
  residual: bool = False
  dtype: Any = jnp.float32
  remat: bool = False
  upsample: str = "transpose"
  residual_channel: int = 0

  @property
  def multiple(self) -> int:
    """Heights and widths must be multiples of this."""
    return 2**self.levels

  def encoder_width(self, level: int) -> int:
    return self.base_features * min(2**level, 8)

  def decoder_width(self, block: int) -> int:
    if self.decoder_widths == "paper":  # the mirror of the encoder
      return self.encoder_width(self.levels - 2 - block)
    if self.decoder_widths == "report":
      return self.base_features * (8 if block == 0 else min(2 ** (self.levels - block), 16))
    raise UsageError(f"model.decoder_widths is {self.decoder_widths!r}; it can be 'paper' or 'report'.")

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    *,
    dropout: bool,
    norm_stats: str,
    noise_ids: jax.Array | None = None,
    is_real: jax.Array | None = None,
  ) -> jax.Array:
    """Translates `x` (N, H, W, C) in [-1, 1] to (N, H, W, output_channels) in [-1, 1], float32.

    Args:
      x: the images.
      dropout: whether the noise is on, which then needs a "dropout" PRNG key.
      norm_stats: the statistics of batch norm, one of `layers.NORM_STATS`.
      noise_ids: integers (N,) that select each image's noise: with the same key, equal ids draw equal masks. None: the
        image's position in the batch.
      is_real: bool (N,), False for images that only fill the batch, which are left out of the statistics of
        `norm_stats="batch"`. None: all are real.

    Raises:
      UsageError: height or width is not a multiple of 2**levels.
    """
    if self.generator not in ("unet", "encoder_decoder"):
      raise UsageError(f"model.generator is {self.generator!r}; it can be 'unet' or 'encoder_decoder'.")
    if x.ndim != 4 or x.shape[1] % self.multiple or x.shape[2] % self.multiple:
      raise UsageError(
        f"A generator with {self.levels} levels accepts images (N, H, W, C) whose height and width are multiples of "
        f"{self.multiple}; these have shape {x.shape}. Resize, crop or pad them (Translator pads), or set model.levels."
      )
    if noise_ids is None:
      noise_ids = jnp.arange(x.shape[0])
    if self.residual:
      base, x = interpolate_holes(x, self.residual_channel)
    skips = self.generator == "unet"
    report = self.decoder_widths == "report"
    down, up = _DownBlock, _UpBlock
    if self.remat:
      down, up = nn.remat(down, static_argnums=(2,)), nn.remat(up, static_argnums=(4,))
    shared = {"norm": self.norm, "dtype": self.dtype}
    encoded = []
    for level in range(self.levels):
      # The first and the innermost block have no norm: a batch norm over a single 1×1 image would be all zeros.
      bare = level in (0, self.levels - 1)
      x = down(self.encoder_width(level), first=level == 0, has_norm=not bare, name=f"down_{level}", **shared)(
        x, norm_stats, is_real
      )
      encoded.append(x)
    blocks = range(self.levels if report else self.levels - 1)
    kept = {}
    if noisy := [block for block in blocks if dropout and block in self.dropout_blocks]:
      shapes = [(*(2 ** (block + 1) * v for v in x.shape[1:3]), self.decoder_width(block)) for block in noisy]
      kept = dict(zip(noisy, dropout_masks(self.make_rng("dropout"), noise_ids, shapes)))
    for block in blocks:
      skip = encoded[self.levels - 1 - block] if skips and block > 0 else None
      x = up(self.decoder_width(block), upsample=self.upsample, name=f"up_{block}", **shared)(
        x, skip, kept.get(block), norm_stats, is_real
      )
    x = nn.relu(x if not skips or report else jnp.concatenate([x, encoded[0]], -1))
    if report:
      x = Conv(self.output_channels, size=3, stride=1, use_bias=True, dtype=self.dtype, name="output")(x)
    else:
      x = up_conv(self.output_channels, self.upsample, size=4, use_bias=True, dtype=self.dtype, name="output")(x)
    x = jnp.tanh(x.astype(jnp.float32))
    return add_to_depth(base, x) if self.residual else x


class _DownBlock(nn.Module):
  """LeakyReLU, 4×4 stride-2 convolution, norm.

  The activation comes first, as in the Torch code, so that skips do not need one.
  """

  features: int
  first: bool
  has_norm: bool
  norm: str
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, norm_stats: str, is_real: jax.Array | None = None) -> jax.Array:
    if not self.first:
      x = nn.leaky_relu(x, 0.2)
    x = Conv(self.features, use_bias=self.norm == "instance", dtype=self.dtype, name="conv")(x)
    return Norm(self.norm, name="norm")(x, norm_stats, is_real) if self.has_norm else x


class _UpBlock(nn.Module):
  """Concatenation with the skip, ReLU, `layers.up_conv`, norm, and dropout that keeps `kept`."""

  features: int
  norm: str
  dtype: Any
  upsample: str = "transpose"

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    skip: jax.Array | None,
    kept: jax.Array | None,
    norm_stats: str,
    is_real: jax.Array | None = None,
  ) -> jax.Array:
    x = nn.relu(x if skip is None else jnp.concatenate([x, skip], -1))
    bias = self.norm == "instance"
    x = up_conv(self.features, self.upsample, size=4, use_bias=bias, dtype=self.dtype, name="conv")(x)
    return drop(Norm(self.norm, name="norm")(x, norm_stats, is_real), kept)


# Receptive field → number of stride-2 convolutions; 1 is the 1×1 "pixel" network.
PATCH_DEPTH = {16: 1, 34: 2, 70: 3, 142: 4, 286: 5}


class PatchGAN(nn.Module):
  """Classifies every N×N patch of a candidate as real or fake; fully convolutional, returns a map of logits.

  Attributes:
    patch: receptive field N: 1, 16, 34, 70, 142 or 286.
    base_features: features of the first convolution.
    conditional: whether the network also sees the input.
    norm, dtype: as in `Generator`.
    spectral_norm: whether the kernels of all convolutions are spectrally normalised, as in `layers.Conv`.
  """

  patch: int = 70
  base_features: int = 64
  conditional: bool = True
  norm: str = "batch"
  spectral_norm: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, candidate: jax.Array, *, norm_stats: str, is_real: jax.Array | None = None
  ) -> jax.Array:
    """Logits (N, h, w, 1), float32, for `candidate` (N, H, W, C) given the input `x` (N, H, W, C').

    `norm_stats` and `is_real` are those of `Generator`.

    Raises:
      UsageError: the images are too small for the patch.
    """
    h = jnp.concatenate([x, candidate], -1) if self.conditional else candidate
    if self.patch == 1:
      sizes = [(self.base_features, 1, 1), (self.base_features * 2, 1, 1), (1, 1, 1)]
    elif self.patch in PATCH_DEPTH:
      depth = PATCH_DEPTH[self.patch]
      sizes = [(self.base_features * min(2**i, 8), 4, 2 if i < depth else 1) for i in range(depth + 1)] + [(1, 4, 1)]
    else:
      raise UsageError(f"model.patch is {self.patch}; it can be 1, 16, 34, 70, 142 or 286.")
    if self.patch > 1 and min(h.shape[1], h.shape[2]) < 2 ** PATCH_DEPTH[self.patch] * 3:
      raise UsageError(
        f"A {self.patch}×{self.patch} PatchGAN needs images of at least {2 ** PATCH_DEPTH[self.patch] * 3} pixels per "
        f"side; these are {h.shape[1]}×{h.shape[2]}. Use larger crops (data.crop_size) or a smaller model.patch"
        f"{', or fewer model.discriminators' if self.name else ''}."
      )
    for i, (features, size, stride) in enumerate(sizes):
      inner = 0 < i < len(sizes) - 1
      h = Conv(
        features,
        size=size,
        stride=stride,
        padding=int(size == 4),
        dtype=self.dtype,
        use_bias=not inner or self.norm == "instance",
        spectral_norm=self.spectral_norm,
        name=f"conv_{i}",
      )(h)
      if inner:
        h = Norm(self.norm, name=f"norm_{i}")(h, norm_stats, is_real)
      if i < len(sizes) - 1:
        h = nn.leaky_relu(h, 0.2)
        self.sow("intermediates", "features", h)  # for losses.feature_matching; stored on request only
    return h.astype(jnp.float32)


class MultiScale(nn.Module):
  """Several PatchGANs that see the images at full, half and quarter size, and so judge patches of 1, 2 and 4 times the
  size (pix2pixHD, Wang et al. 2018, arXiv 1711.11585, section 3.2).

  As in its code, images are halved by the mean over 3×3 pixels.

  Attributes:
    count: number of discriminators.
    settings: attributes of each `PatchGAN`.
  """

  count: int
  settings: Mapping[str, Any]

  @nn.compact
  def __call__(
    self, x: jax.Array, candidate: jax.Array, *, norm_stats: str, is_real: jax.Array | None = None
  ) -> tuple[jax.Array, ...]:
    """The logits of each discriminator, finest first; the arguments are those of `PatchGAN`."""
    logits = []
    for scale in range(self.count):
      if scale:
        x, candidate = (
          nn.avg_pool(image, (3, 3), (2, 2), ((1, 1), (1, 1)), count_include_pad=False) for image in (x, candidate)
        )
      network = PatchGAN(**self.settings, name=f"scale_{scale}")
      logits.append(network(x, candidate, norm_stats=norm_stats, is_real=is_real))
    return tuple(logits)


def make_networks(
  model: Any, *, dtype: str = "float32", remat: bool = False
) -> tuple[Generator | ResNet, PatchGAN | MultiScale]:
  """The generator and the discriminator of a resolved config's `model` section.

  Args:
    model: the section, with `levels` and `output_channels` resolved.
    dtype: type of the computation, `"float32"` or `"bfloat16"`.
    remat: whether to recompute the generator's activations in the backward pass.
  """
  if dtype not in ("float32", "bfloat16"):
    raise UsageError(f"train.dtype is {dtype!r}; it can be 'float32' or 'bfloat16'.")
  shared = {
    "output_channels": model.output_channels,
    "base_features": model.base_features,
    "dropout_blocks": tuple(model.dropout_blocks),
    "norm": model.norm,
    "residual": model.residual,
    "residual_channel": model.residual_channel,
    "dtype": jnp.dtype(dtype),
    "remat": remat,
    "upsample": model.upsample,
  }
  generator: Generator | ResNet
  if model.generator in NUM_BLOCKS:
    generator = ResNet(num_blocks=NUM_BLOCKS[model.generator], **shared)
  else:
    generator = Generator(levels=model.levels, generator=model.generator, decoder_widths=model.decoder_widths, **shared)
  settings = {
    "patch": model.patch,
    "base_features": model.discriminator_features or model.base_features,
    "conditional": model.conditional,
    "norm": model.norm,
    "spectral_norm": model.spectral_norm,
    "dtype": jnp.dtype(dtype),
  }
  if model.discriminators > 1:
    return generator, MultiScale(model.discriminators, settings)
  return generator, PatchGAN(**settings)
