"""The networks of pix2pix: U-Net and encoder-decoder generators, PatchGAN discriminators.

Source: Isola, Zhu, Zhou, Efros, "Image-to-Image Translation with Conditional Adversarial Networks"
(arXiv 1611.07004), section 6.1, and its Torch code. All images are NHWC in [-1, 1].

Two switches replace the usual single "train" flag, because pix2pix keeps its noise at test time:

* `dropout` draws fresh dropout masks from the "dropout" PRNG stream; dropout is the model's only noise.
* `norm_stats` says which statistics batch norm uses: `"batch"` (all images of the batch together),
  `"image"` (each image its own, as in the paper's batch-1 test) or `"running"` (the training average).
"""

from collections.abc import Sequence
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pix2pix_jax import depth
from pix2pix_jax.errors import UsageError
from pix2pix_jax.model import convolution

NORM_STATS = ("batch", "image", "running")
MAX_LEVELS = 8
DROPOUT_RATE = 0.5

_kernel_init = nn.initializers.normal(0.02)


def _scale_init(key, shape, dtype=jnp.float32):
  return 1.0 + 0.02 * jax.random.normal(key, shape, dtype)


class Norm(nn.Module):
  """Batch norm, instance norm or nothing.

  Batch norm has a scale and a bias, and keeps a running mean and variance (momentum 0.1, unbiased variance,
  as PyTorch does) in the `batch_stats` collection. Instance norm has neither. Statistics are computed in float32.
  """

  kind: str
  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: jax.Array, norm_stats: str) -> jax.Array:
    if norm_stats not in NORM_STATS:
      raise UsageError(f"norm_stats is {norm_stats!r}; it can be one of {NORM_STATS}.")
    if self.kind == "none":
      return x
    if self.kind not in ("batch", "instance"):
      raise UsageError(f"model.norm is {self.kind!r}; it can be 'batch', 'instance' or 'none'.")
    channels = x.shape[-1]
    wide = x.astype(jnp.float32)
    per_image = self.kind == "instance" or norm_stats == "image"
    if self.kind == "batch":
      scale = self.param("scale", _scale_init, (channels,))
      bias = self.param("bias", nn.initializers.zeros, (channels,))
      running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
      running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
    if self.kind == "batch" and norm_stats == "running":
      mean, var = running_mean.value, running_var.value
    else:
      axes = (1, 2) if per_image else (0, 1, 2)
      mean = wide.mean(axes, keepdims=True)
      var = jnp.square(wide - mean).mean(axes, keepdims=True)
    inverse = jax.lax.rsqrt(var + self.epsilon)
    if self.kind == "instance":
      return ((wide - mean) * inverse).astype(x.dtype)
    if norm_stats == "batch" and self.is_mutable_collection("batch_stats") and not self.is_initializing():
      count = x.size // channels
      running_mean.value = 0.9 * running_mean.value + 0.1 * mean.reshape(-1)
      running_var.value = 0.9 * running_var.value + 0.1 * var.reshape(-1) * (count / max(count - 1, 1))
    return ((wide - mean) * (inverse * scale) + bias).astype(x.dtype)


class Conv(nn.Module):
  """A k×k convolution with explicit zero padding, or its stride-2 transpose. Computes in `dtype`, keeps float32 kernels."""

  features: int
  size: int = 4
  stride: int = 2
  padding: int = 1
  transpose: bool = False
  use_bias: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param("kernel", _kernel_init, (self.size, self.size, x.shape[-1], self.features))
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    if self.transpose:
      y = convolution.conv_transpose(x, kernel)
    else:
      y = convolution.conv(x, kernel, stride=self.stride, padding=self.padding)
    if self.use_bias:
      y = y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
    return y


def _dropout_masks(key: jax.Array, noise_ids: jax.Array, shapes: Sequence[Sequence[int]]) -> list[jax.Array]:
  """For each shape of one image's features a mask (N, *shape) of what dropout keeps.

  Each image has a key of its own, so that its noise does not depend on its batch companions. All its coins come from one draw:
  the generator's many rounds are much to compile for every shape anew.
  """
  ends = np.cumsum([0, *map(math.prod, shapes)])
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, noise_ids)
  coins = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - DROPOUT_RATE, (int(ends[-1]),)))(keys)
  return [coins[:, begin:end].reshape(-1, *shape) for begin, end, shape in zip(ends, ends[1:], shapes)]


def levels_for(height: int, width: int) -> int:
  """The number of stride-2 levels for an image: how often both sides halve evenly, at most 8 (256×256 → 8)."""
  levels = 0
  while levels < MAX_LEVELS and height % 2 ** (levels + 1) == 0 and width % 2 ** (levels + 1) == 0:
    levels += 1
  if levels < 2:
    raise UsageError(
      f"Images of {height}×{width} (height × width) cannot be halved twice; use sizes that are multiples of 4, "
      "better of 256, 128 or 64: every further factor of two gives the network one more level."
    )
  return levels


class Generator(nn.Module):
  """U-Net (`generator="unet"`) or the same without skip connections (`"encoder_decoder"`).

  Attributes:
    output_channels: channels of the picture, tanh in [-1, 1].
    base_features: features of the first convolution; every other width is a multiple.
    levels: number of stride-2 convolutions; sizes must be multiples of 2**levels.
    generator: `"unet"` or `"encoder_decoder"`.
    decoder_widths: `"paper"`, or `"report"` (up to twice as wide, ends in a 3×3 convolution).
    dropout_blocks: the up blocks, counted from the bottleneck, that have dropout.
    norm: `"batch"`, `"instance"` (then the convolutions have biases) or `"none"`.
    residual: for depth with holes (−1) → depth: the network sees the interpolated depth (`depth.interpolate`) and where it was
      measured, and its tanh is added to that depth, so that it starts from a usable answer and learns what to mend.
    dtype: of the computation; parameters, norm statistics and the output are float32.
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

  def encoder_width(self, level: int) -> int:
    return self.base_features * min(2**level, 8)

  def decoder_width(self, block: int) -> int:
    if self.decoder_widths == "paper":  # the mirror of the encoder
      return self.encoder_width(self.levels - 2 - block)
    if self.decoder_widths == "report":
      return self.base_features * (8 if block == 0 else min(2 ** (self.levels - block), 16))
    raise UsageError(f"model.decoder_widths is {self.decoder_widths!r}; it can be 'paper' or 'report'.")

  @nn.compact
  def __call__(self, x: jax.Array, *, dropout: bool, norm_stats: str, noise_ids: jax.Array | None = None) -> jax.Array:
    """Translates `x` (N, H, W, C) in [-1, 1] to (N, H, W, output_channels) in [-1, 1], float32.

    `noise_ids` (N,) integers number the images' noise: under one "dropout" key the same id draws the same masks.
    They default to the position in the batch.
    """
    if self.generator not in ("unet", "encoder_decoder"):
      raise UsageError(f"model.generator is {self.generator!r}; it can be 'unet' or 'encoder_decoder'.")
    multiple = 2**self.levels
    if x.ndim != 4 or x.shape[1] % multiple or x.shape[2] % multiple:
      raise UsageError(
        f"A generator of {self.levels} levels takes images (N, H, W, C) whose height and width are multiples of {multiple}; "
        f"this one is {x.shape}. Resize, crop or pad it (Translator does), or set model.levels."
      )
    if noise_ids is None:
      noise_ids = jnp.arange(x.shape[0])
    if self.residual:
      measured = x > -1
      base = depth.interpolate(x, measured)
      x = jnp.concatenate([base, jnp.where(measured, 1.0, -1.0)], -1)
    skips = self.generator == "unet"
    report = self.decoder_widths == "report"
    # In the encoder the first and the innermost block have no norm: a batch norm over one 1×1 picture is all zeros.
    down, up = _DownBlock, _UpBlock
    if self.remat:
      down, up = nn.remat(down, static_argnums=(2,)), nn.remat(up, static_argnums=(4,))
    shared = {"norm": self.norm, "dtype": self.dtype}
    encoded = []
    for level in range(self.levels):
      bare = level in (0, self.levels - 1)
      x = down(self.encoder_width(level), first=level == 0, has_norm=not bare, name=f"down_{level}", **shared)(
        x, norm_stats
      )
      encoded.append(x)
    blocks = range(self.levels if report else self.levels - 1)
    kept = {}
    if noisy := [block for block in blocks if dropout and block in self.dropout_blocks]:
      shapes = [(*(2 ** (block + 1) * v for v in x.shape[1:3]), self.decoder_width(block)) for block in noisy]
      kept = dict(zip(noisy, _dropout_masks(self.make_rng("dropout"), noise_ids, shapes)))
    for block in blocks:
      skip = encoded[self.levels - 1 - block] if skips and block > 0 else None
      x = up(self.decoder_width(block), name=f"up_{block}", **shared)(x, skip, kept.get(block), norm_stats)
    x = nn.relu(x if not skips or report else jnp.concatenate([x, encoded[0]], -1))
    if report:
      x = Conv(self.output_channels, size=3, stride=1, use_bias=True, dtype=self.dtype, name="output")(x)
    else:
      x = Conv(self.output_channels, transpose=True, use_bias=True, dtype=self.dtype, name="output")(x)
    x = jnp.tanh(x.astype(jnp.float32))
    if self.residual:  # further channels (validity) are no depth
      x = jnp.concatenate([jnp.clip(x[..., :1] + base, -1, 1), x[..., 1:]], -1)
    return x


class _DownBlock(nn.Module):
  """LeakyReLU, 4×4 stride-2 convolution, norm. The activation comes first, as in the Torch code: the skip then needs none."""

  features: int
  first: bool
  has_norm: bool
  norm: str
  dtype: Any

  @nn.compact
  def __call__(self, x, norm_stats):
    if not self.first:
      x = nn.leaky_relu(x, 0.2)
    x = Conv(self.features, use_bias=self.norm == "instance", dtype=self.dtype, name="conv")(x)
    return Norm(self.norm, name="norm")(x, norm_stats) if self.has_norm else x


class _UpBlock(nn.Module):
  """Concatenation with the mirror, ReLU, 4×4 stride-2 transposed convolution, norm, dropout of all that is not `kept`."""

  features: int
  norm: str
  dtype: Any

  @nn.compact
  def __call__(self, x, skip, kept, norm_stats):
    x = nn.relu(x if skip is None else jnp.concatenate([x, skip], -1))
    x = Conv(self.features, transpose=True, use_bias=self.norm == "instance", dtype=self.dtype, name="conv")(x)
    x = Norm(self.norm, name="norm")(x, norm_stats)
    return x if kept is None else jnp.where(kept, x / (1 - DROPOUT_RATE), 0)


PATCH_DEPTH = {
  16: 1,
  34: 2,
  70: 3,
  142: 4,
  286: 5,
}  # receptive field → number of stride-2 convolutions; 1 is the 1×1 "pixel" network


class PatchGAN(nn.Module):
  """Classifies every N×N patch of a candidate as real or fake: a map of logits, fully convolutional.

  Attributes:
    patch: receptive field N: 1, 16, 34, 70, 142 or 286.
    base_features: features of the first convolution.
    conditional: whether the network sees the input picture beside the candidate.
    norm, dtype: as in `Generator`.
  """

  patch: int = 70
  base_features: int = 64
  conditional: bool = True
  norm: str = "batch"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, candidate: jax.Array, *, norm_stats: str) -> jax.Array:
    """Logits (N, h, w, 1), float32, for `candidate` (N, H, W, C) given the input `x` (N, H, W, C')."""
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
        f"A {self.patch}×{self.patch} PatchGAN needs images of at least {2 ** PATCH_DEPTH[self.patch] * 3} pixels a side; "
        f"these are {h.shape[1]}×{h.shape[2]}. Take larger crops (data.crop_size) or a smaller model.patch."
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
        name=f"conv_{i}",
      )(h)
      if inner:
        h = Norm(self.norm, name=f"norm_{i}")(h, norm_stats)
      if i < len(sizes) - 1:
        h = nn.leaky_relu(h, 0.2)
    return h.astype(jnp.float32)


def make_networks(model, *, dtype: str = "float32", remat: bool = False) -> tuple[Generator, PatchGAN]:
  """The two networks that the `model` section of a config describes (its channels and levels resolved)."""
  if dtype not in ("float32", "bfloat16"):
    raise UsageError(f"train.dtype is {dtype!r}; it can be 'float32' or 'bfloat16'.")
  generator = Generator(
    output_channels=model.output_channels,
    base_features=model.base_features,
    levels=model.levels,
    generator=model.generator,
    decoder_widths=model.decoder_widths,
    dropout_blocks=tuple(model.dropout_blocks),
    norm=model.norm,
    residual=model.residual,
    dtype=jnp.dtype(dtype),
    remat=remat,
  )
  discriminator = PatchGAN(
    patch=model.patch,
    base_features=model.discriminator_features or model.base_features,
    conditional=model.conditional,
    norm=model.norm,
    dtype=jnp.dtype(dtype),
  )
  return generator, discriminator
