"""The 4x4 convolutions of pix2pix, each pass in the form that runs fastest on the backend.

Images are NHWC, kernels HWIO. `conv` is torch.nn.Conv2d(4, stride, 1), `conv_transpose` is
torch.nn.ConvTranspose2d(4, 2, 1). On GPU and TPU, both are simply `lax.conv_general_dilated`. On CPU, XLA runs the
dilated convolutions that gradients need at a small fraction of the speed of a matrix product (the kernel gradient of
the transposed convolution at 1 to 2 GFLOP/s). For CPUs, the forward pass, the input gradient and the kernel gradient
are therefore implemented here, and the form of each is chosen separately.

A stride-2 convolution and the transposed one are the same bilinear map between a big image X, a small image Y and a
kernel K, read in different directions, so there are three passes to write, not six:

              forward          input gradient    kernel gradient
  conv        Y = down(X, K)   X = up(Y, K)      K = corr(X, Y)
  transpose   X = up(Y, K)     Y = down(X, K)    K = corr(X, Y)

Each exists in three forms:

  lax       XLA's strided convolution and its transposes. Fast for images with few channels.
  taps      Sixteen shifted copies of X and a matrix product, which reads the kernel once and in place. Fast for the
            inner layers, whose kernels (up to 33 MB) are larger than their images.
  winograd  Minimal filtering, Lavin & Gray 2015 (arXiv 1509.09308). A tile of 4x4 outputs needs 25 products instead of
            64 (stride 2, seen as a 2x2 convolution of the 4 phases of X) or 49 instead of 256 (stride 1). The
            transformed kernel is 6 or 3 times as large, so this pays off for large images. Numbers that should cancel
            to 0, such as gradients outside a receptive field, do so only up to rounding.

benchmarks/convolution.py measures the forms, and benchmarks/NOTES.md has the results. Only reverse-mode differentiation
is supported (`jax.custom_vjp`).
"""

import contextlib
from fractions import Fraction
import functools
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

FORMS = ("lax", "taps", "winograd")
_FORCED: list[str | None] = []  # the forms set by use_form, innermost last

_TILE = 4


def _cook_toom(outputs: int, taps: int, points: str):
  """Matrices (B, G, A) of F(outputs, taps): y = A [(G g) * (B d)] are the outputs of a filter g with `taps` taps on
  inputs d.

  This is the transpose of multiplying polynomials by their values at `points` and at infinity. B is scaled to integers.
  """
  nodes = [Fraction(point) for point in points.split()]

  def values(length):
    return [[point**k for k in range(length)] for point in nodes] + [[Fraction(k == length - 1) for k in range(length)]]

  size = outputs + taps - 1
  rows = [[*row, *(Fraction(i == j) for j in range(size))] for i, row in enumerate(values(size))]
  for c in range(size):  # Gauss-Jordan, exactly
    pivot = next(i for i in range(c, size) if rows[i][c])
    rows[c], rows[pivot] = rows[pivot], rows[c]
    rows[c] = [v / rows[c][c] for v in rows[c]]
    for i in range(size):
      if i != c:
        rows[i] = [v - rows[i][c] * w for v, w in zip(rows[i], rows[c])]
  b, g = list(zip(*(row[size:] for row in rows))), values(taps)
  scales = [math.lcm(*(v.denominator for v in row)) for row in b]
  return (
    np.array([[float(v * scale) for v in row] for row, scale in zip(b, scales)]),
    np.array([[float(v / scale) for v in row] for row, scale in zip(g, scales)]),
    np.array(values(outputs), float).T,
  )


# By taps: 2 for stride 2, 4 for stride 1. Rounding is 7 and 11 times that of the direct sum (2.6e-6 and 4.6e-6 rms for
# outputs of unit variance).
_WINOGRAD = {2: _cook_toom(_TILE, 2, "0 1 -1 2"), 4: _cook_toom(_TILE, 4, "0 1 -1 2 -2 1/2")}


@contextlib.contextmanager
def use_form(form: str | None):
  """Forces one of FORMS on all calls traced inside; None: as usual. Functions that are already compiled keep theirs."""
  if form is not None and form not in FORMS:
    raise ValueError(f"form must be one of {FORMS} or None, got {form!r}")
  _FORCED.append(form)
  try:
    yield
  finally:
    _FORCED.pop()


def conv(x, kernel, *, stride: int, padding: int = 1, form: str | None = None):
  """Cross-correlation, like torch.nn.Conv2d(k, stride, padding) without bias.

  Args:
    x: (N, H, W, I).
    kernel: (k, k, I, O). Forms other than lax exist for k = 4, padding 1, strides 1 and 2.
    form: one of FORMS; None: the fastest.

  Returns:
    (N, H', W', O) with H' = floor((H + 2 padding - k) / stride) + 1.
  """
  form = _form(form)
  if (
    form == "lax"
    or kernel.shape[:2] != (4, 4)
    or padding != 1
    or stride not in (1, 2)
    or min(x.shape[1:3]) < 2
    or (stride == 1 and min(x.shape[1:3]) < 3)
  ):
    return _lax_conv(x, kernel, stride, padding)
  return _in_float32(lambda x, kernel: _conv(x, kernel, stride, form), x, kernel)


def conv_transpose(x, kernel, *, form: str | None = None):
  """y[2h + kh - 1, 2w + kw - 1, o] += x[h, w, i] kernel[kh, kw, i, o], like torch.nn.ConvTranspose2d(4, 2, 1)
  without bias.

  Args:
    x: (N, H, W, I).
    kernel: (4, 4, I, O); torch has (I, O, kh, kw).
    form: one of FORMS; None: the fastest.

  Returns:
    (N, 2H, 2W, O).
  """
  form = _form(form)
  if kernel.shape[:2] != (4, 4):
    raise ValueError(f"kernel must be (4, 4, I, O), got {kernel.shape}")
  if form == "lax":
    return lax.conv_general_dilated(
      x, kernel[::-1, ::-1], (1, 1), ((2, 2), (2, 2)), lhs_dilation=(2, 2), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
  return _in_float32(lambda x, kernel: _transposed(x, kernel, form), x, kernel)


def _form(form):
  form = form or (_FORCED[-1] if _FORCED else None)
  return "lax" if form is None and jax.default_backend() != "cpu" else form


def _in_float32(f, x, kernel):
  """Computes f in at least float32: on CPU, bfloat16 products are no faster, and would round every transform."""
  dtype = jnp.result_type(x, kernel)
  wide = jnp.promote_types(dtype, jnp.float32)
  return f(x.astype(wide), kernel.astype(wide)).astype(dtype)


# The choice of a form for each pass. `order` is the order of a kernel's channel axes, b for the channels of the big
# image X and s for those of the small image Y: "bs" in conv, "sb" in conv_transpose.


def _choose(what, form, stride, small_shape, kernel, order):
  """The form of one pass ("down", "up", "corr"), a class below.

  Winograd saves work in proportion to pixels x big x small channels. It pays pixels x channels to transform the images
  and big x small channels to transform the kernel, so it wants many of both. XLA has passes that are fast for small
  kernels. The bounds are measured; near them the forms differ little.
  """
  pixels = int(np.prod(small_shape))
  if form:
    return {"lax": _Lax, "taps": _Taps, "winograd": _Winograd}[form]
  if min(kernel.shape[2:]) < 16:
    return _Narrow if what == "corr" else _Lax
  if pixels >= (512 if stride == 1 else 1024):
    return _Winograd
  channels = kernel.shape[2] * kernel.shape[3]
  if pixels >= 64 and (channels <= 2**15 and what == "corr" if order == "bs" else channels <= 2**16 and what != "corr"):
    return _Lax
  return _Taps


def _down(big, kernel, stride, order, form):
  size = tuple((v - 2) // stride + 1 for v in big.shape[1:3])
  chosen = _choose("down", form, stride, (len(big), *size), kernel, order)
  return chosen.down(big, kernel, stride, order, size)


def _up(small, kernel, stride, order, form, size):
  return _choose("up", form, stride, small.shape[:3], kernel, order).up(small, kernel, stride, order, size)


def _corr(big, small, kernel, stride, order, form):
  return _choose("corr", form, stride, small.shape[:3], kernel, order).corr(big, small, stride, order)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x, kernel, stride, form):
  return _down(x, kernel, stride, "bs", form)


def _conv_backward(stride, form, inputs, dy):
  x, kernel = inputs
  return _in_order(_up(dy, kernel, stride, "bs", form, x.shape[1:3]), _corr(x, dy, kernel, stride, "bs", form))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _transposed(x, kernel, form):
  return _up(x, kernel, 2, "sb", form, tuple(2 * v for v in x.shape[1:3]))


def _transposed_backward(form, inputs, dy):
  x, kernel = inputs
  return _in_order(_down(dy, kernel, 2, "sb", form), _corr(dy, x, kernel, 2, "sb", form))


def _in_order(dx, dk):
  """(dx, dk), where dk needs dx: so XLA knows that the kernel has been read when dk updates it, and does not copy it.

  The sum adds 0. (`lax.optimization_barrier` does not help, because the CPU compiler removes it early.)
  """
  if min(dk.shape[2:]) < 16:  # the first layer of a network needs no dx
    return dx, dk
  return dx, dk + jnp.minimum(jnp.abs(dx[0, 0, 0, 0]), 0)


# The backward pass repeats the transforms of the forward pass; XLA detects the duplicates and keeps one copy.
_conv.defvjp(lambda x, kernel, stride, form: (_conv(x, kernel, stride, form), (x, kernel)), _conv_backward)
_transposed.defvjp(lambda x, kernel, form: (_transposed(x, kernel, form), (x, kernel)), _transposed_backward)


def _lax_conv(x, kernel, stride, padding=1):
  return lax.conv_general_dilated(
    x, kernel, (stride, stride), ((padding, padding), (padding, padding)), dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def _bs(kernel, order):
  return kernel if order == "bs" else kernel.swapaxes(2, 3)


class _Lax:
  @staticmethod
  def down(big, kernel, stride, order, size):
    del size
    return _lax_conv(big, _bs(kernel, order), stride)

  @staticmethod
  def up(small, kernel, stride, order, size):
    kernel = _bs(kernel, order)
    big = jax.ShapeDtypeStruct((len(small), *size, kernel.shape[2]), small.dtype)
    return jax.linear_transpose(lambda big: _lax_conv(big, kernel, stride), big)(small)[0]

  @staticmethod
  def corr(big, small, stride, order):
    kernel = jax.ShapeDtypeStruct((4, 4, big.shape[-1], small.shape[-1]), big.dtype)
    return _bs(jax.linear_transpose(lambda kernel: _lax_conv(big, kernel, stride), kernel)(small)[0], order)


class _Narrow(_Lax):
  @staticmethod
  def corr(big, small, stride, order):
    """Sixteen copies of the image with few channels are cheap; XLA needs 20 to 50 ms."""
    if stride == 2 or big.shape[-1] < small.shape[-1]:
      return _bs(_Taps.corr(big, small, stride, "bs"), order)
    b, s = big.shape[-1], small.shape[-1]
    copies = _windows(small, 2, big.shape[1:3], 4, 1, axis=3)
    kernel = (big.reshape(-1, b).T @ copies.reshape(-1, 16 * s)).reshape(b, 4, 4, s)
    return kernel[:, ::-1, ::-1].transpose(1, 2, 0, 3)


class _Taps:
  """p: pixels of Y, t: taps. Order "sb" uses sixteen products, because transposing the kernel would cost more."""

  @staticmethod
  def down(big, kernel, stride, order, size):
    b = big.shape[-1]
    if order == "bs":
      y = _windows(big, 1, size, 4, stride, axis=3).reshape(-1, 16 * b) @ kernel.reshape(16 * b, -1)
    else:
      x, kernel = _windows(big, 1, size, 4, stride).reshape(16, -1, b), kernel.reshape(16, -1, b)
      zeros = jnp.zeros((x.shape[1], kernel.shape[1]), x.dtype)
      y, _ = lax.scan(
        lambda y, tap: (y + tap[0] @ tap[1].T, None), zeros, (x, kernel)
      )  # sixteen separate results would be slower to add up
    return y.reshape(-1, *size, y.shape[-1])

  @staticmethod
  def up(small, kernel, stride, order, size):
    n, h, w, s = small.shape
    y = small.reshape(-1, s)
    if order == "bs":
      x = (y @ kernel.reshape(-1, s).T).reshape(n, h, w, 4, 4, -1).transpose(3, 4, 0, 1, 2, 5)
    else:
      x = jnp.einsum("tps,tsb->tpb", jnp.broadcast_to(y, (16, *y.shape)), kernel.reshape(16, s, -1))
      x = x.reshape(4, 4, n, h, w, -1)
    return _overlap(x, stride)[:, 1 : 1 + size[0], 1 : 1 + size[1]]

  @staticmethod
  def corr(big, small, stride, order):
    size, b, s = small.shape[1:3], big.shape[-1], small.shape[-1]
    y = small.reshape(-1, s)
    if order == "bs":
      kernel = _windows(big, 1, size, 4, stride, axis=3).reshape(-1, 16 * b).T @ y
      return kernel.reshape(4, 4, b, s)
    if len(y) >= (64 if b * s <= 2**16 else 256):  # one product, and a transposition of the kernel
      kernel = y.T @ _windows(big, 1, size, 4, stride, axis=3).reshape(-1, 16 * b)
      return kernel.reshape(s, 4, 4, b).transpose(1, 2, 0, 3)
    x = _windows(big, 1, size, 4, stride).reshape(16, -1, b)
    return jnp.einsum("tps,tpb->tsb", jnp.broadcast_to(y, (16, *y.shape)), x).reshape(4, 4, s, b)


class _Winograd:
  """g: products of a tile along both axes, p: tiles, b: channels of X times its stride^2 phases."""

  @staticmethod
  def down(big, kernel, stride, order, size):
    u = jnp.einsum("gpb,gbs->gps", _big_tiles(big, stride), _transform_kernel(_bs(kernel, order), stride))
    y = _transform_tiles(_WINOGRAD[4 // stride][2], u)
    return _overlap(_untiled(y, len(big), size), _TILE)[:, : size[0], : size[1]]

  @staticmethod
  def up(small, kernel, stride, order, size):
    u = jnp.einsum("gps,gbs->gpb", _small_tiles(small, stride), _transform_kernel(_bs(kernel, order), stride))
    x = _transform_tiles(_WINOGRAD[4 // stride][0].T, u)
    x = _overlap(_untiled(x, len(small), small.shape[1:3]), _TILE, phases=stride)
    return x[:, 1 : 1 + size[0], 1 : 1 + size[1]]

  @staticmethod
  def corr(big, small, stride, order):
    b, s = big.shape[-1], small.shape[-1]
    u = jnp.einsum("gpb,gps->gbs", _big_tiles(big, stride), _small_tiles(small, stride))
    kernel = jnp.asarray(_kernel_matrix(stride).T, u.dtype) @ u.reshape(-1, b * s)
    return _bs(kernel.reshape(4, 4, b, s), order)


@functools.cache
def _kernel_matrix(stride):
  """(g stride^2, 16): G on both axes, for each phase of X on those taps that meet it."""
  g = _WINOGRAD[4 // stride][1]
  g = np.einsum("ak,st->askt", g, np.eye(stride)).reshape(len(g), stride, 4)
  return np.einsum("ask,btl->abstkl", g, g).reshape(-1, 16)


def _transform_kernel(kernel, stride):
  """(4, 4, B, S) -> (g, stride^2 B, S)."""
  *_, b, s = kernel.shape
  u = jnp.asarray(_kernel_matrix(stride), kernel.dtype) @ kernel.reshape(16, -1)
  return u.reshape(-1, stride * stride * b, s)


def _transform_tiles(matrix, x):
  """Products of a constant with both axes of all windows (l l, p, c): less to compile than sums, and as fast."""
  y = jnp.asarray(np.kron(matrix, matrix), x.dtype) @ x.reshape(len(x), -1)
  return y.reshape(-1, *x.shape[1:])


def _big_tiles(big, stride):
  """(N, H, W, B) -> (g, p, stride^2 B)."""
  matrix = _WINOGRAD[4 // stride][0]
  x = _windows(big, 1, _tiles((v - 2) // stride + 1 for v in big.shape[1:3]), len(matrix), _TILE, phases=stride)
  return _transform_tiles(matrix, x.reshape(len(matrix) ** 2, -1, x.shape[-1]))


def _small_tiles(small, stride):
  """(N, h, w, S) -> (g, p, S): the transpose of how `down` ends."""
  y = _windows(small, 0, _tiles(small.shape[1:3]), _TILE, _TILE)
  return _transform_tiles(_WINOGRAD[4 // stride][2].T, y.reshape(_TILE**2, -1, y.shape[-1]))


def _tiles(size):
  return tuple(-(-v // _TILE) for v in size)


def _untiled(x, n, size):
  """(l l, p, C) -> (l, l, N, tiles, tiles, C) for a Y of N images of this size."""
  length = math.isqrt(len(x))
  return x.reshape(length, length, n, *_tiles(size), x.shape[-1])


def _windows(x, begin, count, length, step, *, phases=1, axis=0):
  """Square windows of `length` cells, `step` apart; a cell is phases x phases pixels.

  Args:
    x: (N, H, W, C), zero outside its borders.
    begin: number of zero rows and columns before it.
    count: number of windows down and across.

  Returns:
    (length, length, N, *count, phases^2 C) for axis 0, (N, *count, length, length, phases^2 C) for axis 3.
  """
  h, w = count
  more = (length - 1) // step  # number of following windows that a window overlaps
  after = ((t + more) * step * phases - begin - v for t, v in zip(count, x.shape[1:3]))  # negative: crops
  x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((begin, v, 0) for v in after), (0, 0, 0)))
  x = x.reshape(len(x), h + more, step, phases, w + more, step, phases, -1).transpose(2, 5, 0, 1, 4, 3, 6, 7)
  rows = []
  for i in range(more + 1):  # `step` cells of a window at once: less to compile
    parts = [x[: length - i * step, : length - j * step, :, i : i + h, j : j + w] for j in range(more + 1)]
    rows.append(jnp.concatenate([part.transpose(2, 3, 4, 0, 1, 5, 6, 7) if axis else part for part in parts], axis + 1))
  x = jnp.concatenate(rows, axis)
  return x.reshape(*x.shape[:5], -1)


def _overlap(windows, step, *, phases=1):
  """The transpose of `_windows` with axis 0 and begin 0: (N, H, W, C), sums where windows overlap."""
  length, _, n, h, w, _ = windows.shape
  more = (length - 1) // step
  windows = windows.reshape(*windows.shape[:5], phases, phases, -1)
  x: Any = None
  for i in range(more + 1):
    for j in range(more + 1):
      part = windows[i * step : (i + 1) * step, j * step : (j + 1) * step].transpose(2, 3, 0, 5, 4, 1, 6, 7)
      if x is None:
        x = jnp.pad(part, [(0, more if axis in (1, 4) else 0) for axis in range(8)])
      else:
        start = (0, i, 0, 0, j, 0, 0, 0)
        x = lax.dynamic_update_slice(x, lax.dynamic_slice(x, start, part.shape) + part, start)
  return x.reshape(n, (h + more) * step * phases, (w + more) * step * phases, -1)
