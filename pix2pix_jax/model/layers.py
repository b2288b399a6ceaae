"""The layers that the networks share: convolutions, norms, dropout and the residual connection for depth.

Images are NHWC. Two switches replace the usual single "train" flag, because pix2pix keeps its noise at test time:

* `dropout` draws new dropout masks from the "dropout" PRNG stream; dropout is the model's only noise.
* `norm_stats` selects the statistics of batch norm: `"batch"` (all images of the batch together), `"image"` (each image
  separately, as in the paper's test with batch size 1) or `"running"` (the average over training).
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
DROPOUT_RATE = 0.5

_kernel_init = nn.initializers.normal(0.02)


def _scale_init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
  return 1.0 + 0.02 * jax.random.normal(key, shape, dtype)


class Norm(nn.Module):
  """Batch norm, instance norm or none.

  Batch norm has a scale and a bias, and keeps a running mean and variance (momentum 0.1, unbiased variance, as in
  PyTorch) in the `batch_stats` collection. They begin with the statistics of the first batch, because the usual 0 and 1
  would make the outputs of short runs flat. Instance norm has neither. Statistics are computed in float32.

  Attributes:
    kind: `"batch"`, `"instance"` or `"none"`.
    epsilon: added to the variance.
  """

  kind: str
  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: jax.Array, norm_stats: str, is_real: jax.Array | None = None) -> jax.Array:
    """Normalises `x` (N, H, W, C).

    Args:
      x: the features.
      norm_stats: one of `NORM_STATS`; instance norm ignores it.
      is_real: bool (N,), False for images that only fill the batch and must not affect the batch's statistics. None:
        all are real.
    """
    if norm_stats not in NORM_STATS:
      raise UsageError(f"norm_stats is {norm_stats!r}; it can be one of {NORM_STATS}.")
    if self.kind == "none":
      return x
    if self.kind not in ("batch", "instance"):
      raise UsageError(f"model.norm is {self.kind!r}; it can be 'batch', 'instance' or 'none'.")
    channels = x.shape[-1]
    wide = x.astype(jnp.float32)
    per_image = self.kind == "instance" or norm_stats == "image"
    where = None if is_real is None or per_image else is_real[:, None, None, None]
    if self.kind == "batch":
      scale = self.param("scale", _scale_init, (channels,))
      bias = self.param("bias", nn.initializers.zeros, (channels,))
      running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
      running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
    if self.kind == "batch" and norm_stats == "running":
      mean, var = running_mean.value, running_var.value
    else:
      axes = (1, 2) if per_image else (0, 1, 2)
      # jax2onnx refuses the argument, even as None.
      selection: dict[str, Any] = {} if where is None else {"where": where}
      mean = jnp.mean(wide, axes, keepdims=True, **selection)
      var = jnp.mean(jnp.square(wide - mean), axes, keepdims=True, **selection)
    inverse = jax.lax.rsqrt(var + self.epsilon)
    if self.kind == "instance":
      return ((wide - mean) * inverse).astype(x.dtype)
    if norm_stats == "batch" and self.is_mutable_collection("batch_stats") and not self.is_initializing():
      count = x.size // channels
      unbiased: float | jax.Array = count / max(count - 1, 1)
      if where is not None:
        real_count = jnp.sum(where) * (x.shape[1] * x.shape[2])
        unbiased = real_count / jnp.maximum(real_count - 1, 1)
      moved = jnp.any(running_mean.value != 0) | jnp.any(running_var.value != 1)
      momentum = jnp.where(moved, jnp.float32(0.1), 1)
      for running, new in ((running_mean, mean.reshape(-1)), (running_var, var.reshape(-1) * unbiased)):
        running.value = (1 - momentum) * running.value + momentum * new
    return ((wide - mean) * (inverse * scale) + bias).astype(x.dtype)


class Conv(nn.Module):
  """A square convolution with explicit zero padding, its stride-2 transpose, or a resize-convolution.

  The last two double height and width. Transposed convolutions have 4×4 kernels (torch.nn.ConvTranspose2d(4, 2, 1)) or
  3×3 kernels (torch.nn.ConvTranspose2d(3, 2, 1, output_padding=1)). A resize-convolution doubles by nearest neighbour
  and convolves with a 3×3 kernel, so that no pixel gets more taps than its neighbours, which makes checkerboards (Odena
  et al. 2016, https://doi.org/10.23915/distill.00003).

  Attributes:
    features: output channels.
    size: side of the kernel.
    stride, padding: of an ordinary convolution; ignored if `transpose` or `resize`.
    transpose: whether the convolution is transposed.
    resize: whether it is a resize-convolution; `size` has to be 3.
    use_bias: whether to add a bias.
    spectral_norm: whether the kernel is divided by its largest singular value (`_spectrally_normed`).
    dtype: type of the computation; kernel and bias are float32.
  """

  features: int
  size: int = 4
  stride: int = 2
  padding: int = 1
  transpose: bool = False
  resize: bool = False
  use_bias: bool = False
  spectral_norm: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, H, W, C) → (N, H', W', features)."""
    kernel = self.param("kernel", _kernel_init, (self.size, self.size, x.shape[-1], self.features))
    if self.spectral_norm:
      kernel = self._spectrally_normed(kernel)
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    if self.resize:
      y = convolution.conv_transpose(x, _resizing_kernel(kernel))
    elif self.transpose:
      if self.size == 3:  # equals a 4×4 kernel whose last row and column are zero
        kernel = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
      y = convolution.conv_transpose(x, kernel)
    else:
      y = convolution.conv(x, kernel, stride=self.stride, padding=self.padding)
    if self.use_bias:
      y = y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
    return y

  def _spectrally_normed(self, kernel: jax.Array) -> jax.Array:
    """The kernel divided by its spectral norm as a matrix (k k I, O) (Miyato et al. 2018, arXiv 1802.05957).

    As in torch.nn.utils.spectral_norm, each training pass improves the vectors `u` (O,) and `v` (k k I,) of the
    `batch_stats` collection by one power iteration, and the gradient takes them for constants. They begin with 15.
    """
    matrix = kernel.reshape(-1, self.features)
    fixed = jax.lax.stop_gradient(matrix)

    def first_u() -> jax.Array:
      return singular_vectors(fixed, jax.random.normal(self.make_rng("params"), (self.features,)))[0]

    u = self.variable("batch_stats", "u", first_u)
    v = self.variable("batch_stats", "v", lambda: _unit(fixed @ u.value))
    if self.is_mutable_collection("batch_stats") and not self.is_initializing():
      v.value = _unit(fixed @ u.value)
      u.value = _unit(v.value @ fixed)
    return kernel / (v.value @ matrix @ u.value)


def singular_vectors(kernel: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The vectors `u` (O,) and `v` (k k I,) of spectral norm for a kernel (…, O): 15 power iterations from `u`."""
  matrix = kernel.reshape(-1, kernel.shape[-1])
  u = jax.lax.fori_loop(0, 15, lambda _, u: _unit(_unit(matrix @ u) @ matrix), _unit(u))
  return u, _unit(matrix @ u)


def _unit(vector: jax.Array) -> jax.Array:
  return vector / jnp.maximum(jnp.linalg.norm(vector), 1e-12)


def up_conv(features: int, upsample: str, *, size: int, **settings: Any) -> Conv:
  """The layer that doubles height and width: `upsample` is `"transpose"`, with kernels of `size`, or `"resize"`.

  Raises:
    UsageError: another `upsample`.
  """
  if upsample == "transpose":
    return Conv(features, size=size, transpose=True, **settings)
  if upsample == "resize":
    return Conv(features, size=3, resize=True, **settings)
  raise UsageError(f"model.upsample is {upsample!r}; it can be 'transpose' or 'resize'.")


def _resizing_kernel(kernel: jax.Array) -> jax.Array:
  """The 4×4 kernel (4, 4, I, O) with which a transposed convolution equals a resize-convolution with `kernel`.

  Doubling by nearest neighbour is a transposed convolution with a 2×2 kernel of ones, so the two convolutions are one,
  which reads the small image once and costs less than half.
  """
  kernel = kernel[::-1, ::-1]  # a transposed convolution spreads what a convolution gathers
  for axis in (0, 1):
    ends = [[(0, 0)] * kernel.ndim for _ in range(2)]
    ends[0][axis], ends[1][axis] = (0, 1), (1, 0)
    kernel = jnp.pad(kernel, ends[0]) + jnp.pad(kernel, ends[1])
  return kernel


def dropout_masks(key: jax.Array, noise_ids: jax.Array, shapes: Sequence[Sequence[int]]) -> list[jax.Array]:
  """Returns, for each shape (without the batch axis), a bool mask (N, *shape) of the features that dropout keeps.

  Each image has its own key, so its noise is independent of the rest of the batch. All masks come from a single draw,
  because compiling one draw per shape is slow.
  """
  ends = np.cumsum([0, *map(math.prod, shapes)])
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, noise_ids)
  coins = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - DROPOUT_RATE, (int(ends[-1]),)))(keys)
  return [coins[:, begin:end].reshape(-1, *shape) for begin, end, shape in zip(ends, ends[1:], shapes)]


def drop(x: jax.Array, kept: jax.Array | None) -> jax.Array:
  """Zeroes the features that are not kept and rescales the others. With None, returns `x` unchanged."""
  return x if kept is None else jnp.where(kept, x / (1 - DROPOUT_RATE), 0)


def interpolate_holes(x: jax.Array, channel: int = 0) -> tuple[jax.Array, jax.Array]:
  """Interpolates the encoded depth in a channel of (N, H, W, C), in which -1 marks holes, for a residual connection.

  Returns:
    The depth with its holes interpolated (N, H, W, 1), to which the network's output is added, and the network's input
    (N, H, W, C + 1): `x` with that depth in its channel and, last, 1 where it was measured, else -1.
  """
  values = x[..., channel : channel + 1]
  measured = values > -1
  base = depth.interpolate(values, measured)
  return base, jnp.concatenate([x[..., :channel], base, x[..., channel + 1 :], jnp.where(measured, 1.0, -1.0)], -1)


def add_to_depth(base: jax.Array, x: jax.Array) -> jax.Array:
  """Adds the first output channel to the depth; further channels (validity) are not depth."""
  return jnp.concatenate([jnp.clip(x[..., :1] + base, -1, 1), x[..., 1:]], -1)
