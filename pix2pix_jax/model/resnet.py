"""The ResNet generator of pytorch-CycleGAN-and-pix2pix, `resnet_6blocks` and `resnet_9blocks`.

Source: Johnson, Alahi, Fei-Fei, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution" (arXiv
1603.08155), with the sizes and padding of https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix, so that its weights
can be imported. Two down and two up convolutions surround residual blocks at a quarter of the resolution.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from flax import linen as nn
import jax
import jax.numpy as jnp

from pix2pix_jax.errors import UsageError
from pix2pix_jax.model.layers import Conv, Norm, add_to_depth, drop, dropout_masks, interpolate_holes, up_conv

NUM_BLOCKS = {"resnet_6blocks": 6, "resnet_9blocks": 9}


class ResNet(nn.Module):
  """A 7×7 convolution, two downs, residual blocks, two ups and a 7×7 convolution. Stride-1 layers pad by reflection.

  Attributes:
    output_channels: channels of the output, tanh in [-1, 1].
    base_features: features of the first convolution; the residual blocks have four times as many.
    num_blocks: number of residual blocks.
    dropout_blocks: indices, from 0, of the residual blocks with dropout between their two convolutions. Indices of
      blocks that do not exist are ignored.
    norm, residual, dtype, remat, upsample, residual_channel: as in `networks.Generator`.
  """

  output_channels: int = 3
  base_features: int = 64
  num_blocks: int = 9
  dropout_blocks: Sequence[int] = (0, 1, 2)
  norm: str = "batch"
  residual: bool = False
  dtype: Any = jnp.float32
  remat: bool = False
  upsample: str = "transpose"
  residual_channel: int = 0

  multiple: ClassVar[int] = 4  # heights and widths must be multiples of this

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

    The arguments are those of `networks.Generator`.

    Raises:
      UsageError: height or width is not a multiple of 4.
    """
    if x.ndim != 4 or x.shape[1] % self.multiple or x.shape[2] % self.multiple:
      raise UsageError(
        f"A ResNet generator accepts images (N, H, W, C) whose height and width are multiples of {self.multiple}; "
        f"these have shape {x.shape}. Resize, crop or pad them (Translator pads)."
      )
    if noise_ids is None:
      noise_ids = jnp.arange(x.shape[0])
    if self.residual:
      base, x = interpolate_holes(x, self.residual_channel)
    bias = self.norm == "instance"
    features = self.base_features

    def normed(x: jax.Array, name: str) -> jax.Array:
      return nn.relu(Norm(self.norm, name=name)(x, norm_stats, is_real))

    conv = Conv(features, size=7, stride=1, padding=0, use_bias=bias, dtype=self.dtype, name="input_conv")
    x = normed(conv(_reflect(x, 3)), "input_norm")
    for i in range(2):
      features *= 2
      x = Conv(features, size=3, use_bias=bias, dtype=self.dtype, name=f"down_{i}_conv")(x)
      x = normed(x, f"down_{i}_norm")

    noisy = [block for block in range(self.num_blocks) if dropout and block in self.dropout_blocks]
    kept = {}
    if noisy:
      shapes = [x.shape[1:]] * len(noisy)
      kept = dict(zip(noisy, dropout_masks(self.make_rng("dropout"), noise_ids, shapes)))
    residual_block = nn.remat(_ResidualBlock, static_argnums=(3,)) if self.remat else _ResidualBlock
    for i in range(self.num_blocks):
      x = residual_block(self.norm, self.dtype, name=f"block_{i}")(x, kept.get(i), norm_stats, is_real)

    for i in range(2):
      features //= 2
      x = up_conv(features, self.upsample, size=3, use_bias=bias, dtype=self.dtype, name=f"up_{i}_conv")(x)
      x = normed(x, f"up_{i}_norm")
    conv = Conv(self.output_channels, size=7, stride=1, padding=0, use_bias=True, dtype=self.dtype, name="output")
    x = jnp.tanh(conv(_reflect(x, 3)).astype(jnp.float32))
    return add_to_depth(base, x) if self.residual else x


class _ResidualBlock(nn.Module):
  """x + norm(conv(dropout(relu(norm(conv(x)))))), where dropout keeps the features marked in `kept`."""

  norm: str
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, kept: jax.Array | None, norm_stats: str, is_real: jax.Array | None) -> jax.Array:
    y = x
    for i in range(2):
      conv = Conv(
        x.shape[-1],
        size=3,
        stride=1,
        padding=0,
        use_bias=self.norm == "instance",
        dtype=self.dtype,
        name=f"conv_{i}",
      )
      y = Norm(self.norm, name=f"norm_{i}")(conv(_reflect(y, 1)), norm_stats, is_real)
      if i == 0:
        y = drop(nn.relu(y), kept)
    return x + y


def _reflect(x: jax.Array, width: int) -> jax.Array:
  """Pads height and width by reflection."""
  return jnp.pad(x, ((0, 0), (width, width), (width, width), (0, 0)), mode="reflect")
