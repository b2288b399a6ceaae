"""The 4x4 convolutions of pix2pix, each in the form its backend runs fastest.

Image tensors are NHWC, kernels HWIO. `conv` is torch.nn.Conv2d(4, stride, 1),
`conv_transpose` is torch.nn.ConvTranspose2d(4, 2, 1). On GPU and TPU both are
`lax.conv_general_dilated` and nothing else. On CPU, XLA runs some of their
passes very slowly (the kernel gradient of the transposed convolution at 1-2
GFLOP/s, hundreds of times below a matrix product), so there every pass is
chosen by hand.

A stride-2 convolution and the transposed one are the same bilinear map between
a big image X, a small image Y and a kernel K, read in different directions:

              forward          input gradient    kernel gradient
  conv        Y = down(X, K)   X = up(Y, K)      K = corr(X, Y)
  transpose   X = up(Y, K)     Y = down(X, K)    K = corr(X, Y)

so three passes are all there is to write. Each exists in three forms:

  lax       XLA's own convolution of the strided orientation, which it runs
            well on images with few channels.
  taps      sixteen shifted copies of X and one matrix product. It reads the
            kernel once, where it lies, hence for the inner layers, whose
            kernels (up to 33 MB) outweigh their images.
  winograd  minimal filtering, Lavin & Gray 2015 (arXiv:1509.09308): tiles of
            3x3 outputs are made with 16 products in place of 36 (stride 2, as
            a stride-1 convolution by 2x2 of 4x the channels) or 36 in place of
            144 (stride 1). It transforms the kernel into 4 (2.25) times its
            size, hence for large images.

benchmarks/convolution.py measures them, benchmarks/NOTES.md has the numbers.
"""

import contextlib
import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

FORMS = ('lax', 'taps', 'winograd')
_FORCED = []  # innermost last, see use_form

# Cook-Toom matrices of F(3, r): y = A [(G g) * (B d)] are 3 outputs of a filter
# g of r taps over r + 2 inputs d. Points of interpolation 0, 1, -1, (2, -2),
# infinity. r -> (B, G, A). Rounding errors are those of the direct sum for
# r = 2 and about three times those for r = 4.
_WINOGRAD = {
    2: (np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]]),
        np.array([[2, 0], [1, 1], [1, -1], [0, 2]]) / 2,
        np.array([[1, 1, 1, 0], [0, 1, -1, 0], [0, 1, 1, 1]])),
    4: (np.array([[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0],
                  [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0],
                  [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]),
        np.array([[6, 0, 0, 0], [-4, -4, -4, -4], [-4, 4, -4, 4],
                  [1, 2, 4, 8], [1, -2, 4, -8], [0, 0, 0, 24]]) / 24,
        np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0],
                  [0, 1, 1, 4, 4, 1]])),
}
_TILE = 3


# ---------------------------------------------------------------- interface


@contextlib.contextmanager
def use_form(form):
  """Forces one of FORMS on all calls traced inside (None: choose as usual).

  Applies at trace time: a function jitted before keeps the form it has.
  """
  if form is not None and form not in FORMS:
    raise ValueError(f'form must be one of {FORMS} or None, got {form!r}')
  _FORCED.append(form)
  try:
    yield
  finally:
    _FORCED.pop()


def conv(x, kernel, *, stride, padding=1, form=None):
  """Cross-correlation, as torch.nn.Conv2d(k, stride, padding) without bias.

  Args:
    x: (N, H, W, I) images.
    kernel: (k, k, I, O).
    stride: 1 or 2.
    padding: zeros on each side of H and W.
    form: one of FORMS, or None for the fastest; see `use_form`.

  Returns:
    (N, H', W', O), H' = floor((H + 2 padding - k) / stride) + 1.
  """
  form = _given(form)
  if (form == 'lax' or kernel.shape[:2] != (4, 4) or padding != 1
      or stride not in (1, 2) or min(x.shape[1:3]) < 2 + (stride == 1)):
    return _lax_conv(x, kernel, stride, padding)
  return _wide(lambda x, k: _conv(x, k, stride, form), x, kernel)


def conv_transpose(x, kernel, *, form=None):
  """Transposed convolution, as torch.nn.ConvTranspose2d(4, 2, 1) without bias.

  y[2h + kh - 1, 2w + kw - 1, o] += x[h, w, i] kernel[kh, kw, i, o]

  Args:
    x: (N, H, W, I) images.
    kernel: (4, 4, I, O), torch's (I, O, kh, kw) permuted.
    form: one of FORMS, or None for the fastest; see `use_form`.

  Returns:
    (N, 2H, 2W, O).
  """
  form = _given(form)
  if kernel.shape[:2] != (4, 4):
    raise ValueError(f'kernel must be (4, 4, I, O), got {kernel.shape}')
  if form == 'lax':
    return lax.conv_general_dilated(
        x, kernel[::-1, ::-1], (1, 1), ((2, 2), (2, 2)), lhs_dilation=(2, 2),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  return _wide(lambda x, k: _transposed(x, k, form), x, kernel)


def _given(form):
  form = form or (_FORCED[-1] if _FORCED else None)
  if form is None and jax.default_backend() != 'cpu':
    form = 'lax'
  return form


def _wide(f, x, kernel):
  """f in float32 where the inputs are narrower: the CPU gains nothing by them."""
  dtype = jnp.result_type(x, kernel)
  if dtype.itemsize < 4:
    x, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
  return f(x, kernel).astype(dtype)


# --------------------------------------------------- choice of form, gradients


def _choose(form, stride, pixels, kernel, what, order):
  """The form of one pass; `pixels` counts those of all small images.

  Winograd saves work in proportion to pixels * big * small channels, and pays
  pixels * channels to transform the images, big * small to transform the
  kernel: it wants many channels and many pixels. The bounds are measured, and
  the times near them differ little.
  """
  if form:
    return _FORM[form]
  if min(kernel.shape[2:]) < 16:
    return _Narrow if stride == 1 and what == 'corr' else _Lax
  if stride == 1 or pixels >= 1024:
    return _Winograd
  if (what, order) == ('down', 'sb') and pixels >= 256:
    return _Lax  # Here taps have sixteen products to add up.
  return _Taps


def _down(big, kernel, stride, order, form):
  h, w = [(v - 2) // stride + 1 for v in big.shape[1:3]]
  f = _choose(form, stride, big.shape[0] * h * w, kernel, 'down', order)
  return f.down(big, kernel, stride, order, (h, w))


def _up(small, kernel, stride, order, form, size):
  f = _choose(form, stride, np.prod(small.shape[:3]), kernel, 'up', order)
  return f.up(small, kernel, stride, order, size)


def _corr(big, small, kernel, stride, order, form):
  f = _choose(form, stride, np.prod(small.shape[:3]), kernel, 'corr', order)
  return f.corr(big, small, stride, order)


# `order` names the channel axes of a kernel, b for those of the big image and s
# for those of the small one: 'bs' in `conv`, 'sb' in `conv_transpose`.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x, kernel, stride, form):
  return _down(x, kernel, stride, 'bs', form)


def _conv_fwd(x, kernel, stride, form):
  return _conv(x, kernel, stride, form), (x, kernel)


def _conv_bwd(stride, form, saved, dy):
  x, kernel = saved
  return (_up(dy, kernel, stride, 'bs', form, x.shape[1:3]),
          _corr(x, dy, kernel, stride, 'bs', form))


_conv.defvjp(_conv_fwd, _conv_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _transposed(x, kernel, form):
  size = [2 * v for v in x.shape[1:3]]
  return _up(x, kernel, 2, 'sb', form, size)


def _transposed_fwd(x, kernel, form):
  return _transposed(x, kernel, form), (x, kernel)


def _transposed_bwd(form, saved, dy):
  x, kernel = saved
  return (_down(dy, kernel, 2, 'sb', form),
          _corr(dy, x, kernel, 2, 'sb', form))


_transposed.defvjp(_transposed_fwd, _transposed_bwd)


# ------------------------------------------------------------------ form: lax


def _lax_conv(x, kernel, stride, padding=1):
  return lax.conv_general_dilated(
      x, kernel, (stride, stride), ((padding, padding), (padding, padding)),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


class _Lax:
  """XLA's convolution and its transposes; `order` 'sb' costs a kernel copy."""

  def down(big, kernel, stride, order, size):
    del size
    return _lax_conv(big, _bs(kernel, order), stride)

  def up(small, kernel, stride, order, size):
    kernel = _bs(kernel, order)
    big = jax.ShapeDtypeStruct(
        (small.shape[0], *size, kernel.shape[2]), small.dtype)
    f = lambda big: _lax_conv(big, kernel, stride)
    return jax.linear_transpose(f, big)(small)[0]

  def corr(big, small, stride, order):
    kernel = jax.ShapeDtypeStruct(
        (4, 4, big.shape[-1], small.shape[-1]), big.dtype)
    f = lambda kernel: _lax_conv(big, kernel, stride)
    return _bs(jax.linear_transpose(f, kernel)(small)[0], order)


def _bs(kernel, order):
  return kernel if order == 'bs' else kernel.swapaxes(2, 3)


class _Narrow(_Lax):
  """Stride 1, Y of few channels: copies of Y are cheaper than copies of X."""

  def corr(big, small, stride, order):
    assert (stride, order) == (1, 'bs')
    _, h, w, _ = big.shape
    big = _pad(big, 1, (1, 1))
    small = _pad(small, 3, (3, 3))
    shifted = jnp.stack([small[:, 3 - i:5 + h - i, 3 - j:5 + w - j]
                         for i in range(4) for j in range(4)], 3)
    k = jnp.einsum('nhwb,nhwts->tbs', big, shifted)
    return k.reshape(4, 4, *k.shape[1:])


# ----------------------------------------------------------------- form: taps


def _shifted(big, stride):
  """The 16 images (N, h, w, B) that the taps of the kernel meet, row-major."""
  h, w = [(v - 2) // stride * stride + 1 for v in big.shape[1:3]]
  big = _pad(big, 1, (1, 1))
  return [big[:, i:i + h:stride, j:j + w:stride]
          for i in range(4) for j in range(4)]


class _Taps:
  """One matrix product; for 'sb' sixteen in one call, to leave kernels alone."""

  def down(big, kernel, stride, order, size):
    n, b = big.shape[0], big.shape[-1]
    taps = _shifted(big, stride)
    if order == 'bs':
      x = jnp.concatenate(taps, -1).reshape(-1, 16 * b)
      y = x @ kernel.reshape(16 * b, -1)
    else:
      x = jnp.stack(taps).reshape(16, -1, b)
      y = jnp.einsum('tpb,tsb->tps', x, kernel.reshape(16, -1, b)).sum(0)
    return y.reshape(n, *size, -1)

  def up(small, kernel, stride, order, size):
    n, h, w, s = small.shape
    y = small.reshape(-1, s)
    if order == 'bs':
      z = (y @ kernel.reshape(-1, s).T).reshape(n, h, w, 4, 4, -1)
      z = z.transpose(3, 4, 0, 1, 2, 5)
    else:
      y = jnp.broadcast_to(y, (16, *y.shape))
      z = jnp.einsum('tps,tsb->tpb', y, kernel.reshape(16, s, -1))
      z = z.reshape(4, 4, n, h, w, -1)
    return _collect(z, np.eye(4), stride)[:, 1:1 + size[0], 1:1 + size[1]]

  def corr(big, small, stride, order):
    b, s = big.shape[-1], small.shape[-1]
    taps = _shifted(big, stride)
    y = small.reshape(-1, s)
    if order == 'bs':
      x = jnp.concatenate(taps, -1).reshape(-1, 16 * b)
      return (x.T @ y).reshape(4, 4, b, s)
    x = jnp.stack(taps).reshape(16, -1, b)
    y = jnp.broadcast_to(y, (16, *y.shape))
    return jnp.einsum('tps,tpb->tsb', y, x).reshape(4, 4, s, b)


# ------------------------------------------------------------- form: winograd


class _Winograd:
  """g: products of a tile, p: tiles, B: channels of X, times its 4 phases."""

  def down(big, kernel, stride, order, size):
    u = _transform(_bs(kernel, order), stride)
    m = jnp.einsum('gpb,gbs->gps', _big_tiles(big, stride), u)
    m = _untiled(m, big.shape[0], size)
    y = _collect(m, _WINOGRAD[4 // stride][2], _TILE)
    return y[:, :size[0], :size[1]]

  def up(small, kernel, stride, order, size):
    u = _transform(_bs(kernel, order), stride)
    v = jnp.einsum('gps,gbs->gpb', _small_tiles(small, stride), u)
    v = _untiled(v, small.shape[0], small.shape[1:3])
    x = _collect(v, _WINOGRAD[4 // stride][0].T, _TILE)
    if stride == 2:
      x = _from_phases(lax.optimization_barrier(x))
    return x[:, 1:1 + size[0], 1:1 + size[1]]

  def corr(big, small, stride, order):
    v, z = _big_tiles(big, stride), _small_tiles(small, stride)
    u = jnp.einsum('gpb,gps->gbs', v, z)
    b, s = big.shape[-1], small.shape[-1]
    k = jnp.asarray(_kernel_matrix(stride).T, u.dtype) @ u.reshape(-1, b * s)
    return _bs(k.reshape(4, 4, b, s), order)


@functools.cache
def _kernel_matrix(stride):
  """(g stride^2, 16): G along rows and columns of the taps that meet each phase."""
  g = _WINOGRAD[4 // stride][1]
  g = np.einsum('ak,st->askt', g, np.eye(stride)).reshape(len(g), stride, 4)
  return np.einsum('ask,btl->abstkl', g, g).reshape(-1, 16)


def _transform(kernel, stride):
  """(4, 4, B, S) -> (g, stride^2 B, S), a product with a small constant."""
  _, _, b, s = kernel.shape
  u = jnp.asarray(_kernel_matrix(stride), kernel.dtype) @ kernel.reshape(16, -1)
  return u.reshape(-1, stride * stride * b, s)


def _big_tiles(big, stride):
  """(N, H, W, B) -> (g, p, stride^2 B)."""
  b_matrix = _WINOGRAD[4 // stride][0]
  overlap = len(b_matrix) - _TILE
  ends = []
  for v in big.shape[1:3]:
    tiles = -(-((v - 2) // stride + 1) // _TILE)
    ends.append(stride * (tiles * _TILE + overlap) - 1 - v)
  x = _pad(big, 1, ends)
  if stride == 2:
    # Fused with what follows, this copy would be made once for every use.
    x = lax.optimization_barrier(_to_phases(x))
  v = _spread(x, b_matrix, _TILE)
  return v.reshape(v.shape[0]**2, -1, v.shape[-1])


def _small_tiles(small, stride):
  """(N, h, w, S) -> (g, p, S), the transpose of the last step of `down`."""
  a_matrix = _WINOGRAD[4 // stride][2]
  y = _pad(small, 0, [-v % _TILE for v in small.shape[1:3]])
  z = _spread(y, a_matrix.T, _TILE)
  return z.reshape(z.shape[0]**2, -1, small.shape[-1])


def _untiled(m, n, size):
  """(g, p, C) -> (a, a, N, rows, columns, C) of tiles, g = a^2."""
  a = round(m.shape[0]**.5)
  return m.reshape(a, a, n, *[-(-v // _TILE) for v in size], m.shape[-1])


def _to_phases(x):
  """(N, 2h, 2w, C) -> (N, h, w, 4C)."""
  n, h, w, c = x.shape
  x = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(n, h // 2, w // 2, 4 * c)


def _from_phases(x):
  """(N, h, w, 4C) -> (N, 2h, 2w, C)."""
  n, h, w, c = x.shape
  x = x.reshape(n, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(n, 2 * h, 2 * w, c // 4)


def _pad(x, before, after):
  return jnp.pad(x, ((0, 0), (before, after[0]), (before, after[1]), (0, 0)))


def _combine(matrix, parts):
  """matrix @ parts, written out: the matrix is small and mostly zeros."""
  return [functools.reduce(lambda a, b: a + b, [
      float(c) * part for c, part in zip(row, parts) if c]) for row in matrix]


def _spread(x, matrix, step):
  """(N, H, W, C) -> (a, a, N, tiles, tiles, C).

  Multiplies windows of matrix.shape[1] pixels, `step` apart, by matrix (a, .),
  rows first, then columns.
  """
  length = matrix.shape[1]
  for d in (0, 1):
    axis = x.ndim - 3 + d
    last = (x.shape[axis] - length) // step * step
    x = jnp.stack(_combine(matrix, [
        lax.slice_in_dim(x, i, i + last + 1, step, axis)
        for i in range(length)]), d)
  return x


def _collect(z, matrix, step):
  """The transpose of `_spread` by matrix.T: adds up overlapping windows."""
  length = len(matrix)
  more = (length - 1) // step
  for d in (1, 0):
    parts = _combine(matrix, [
        lax.index_in_dim(z, i, d, keepdims=False) for i in range(z.shape[d])])
    axis = parts[0].ndim - 3 + d
    def shift(part, by):
      widths = [(0, 0)] * part.ndim
      widths[axis] = (by, more - by)
      return jnp.pad(part, widths) if more else part
    x = jnp.stack([
        functools.reduce(lambda a, b: a + b, [
            shift(parts[i], i // step) for i in range(phase, length, step)])
        for phase in range(step)], axis + 1)
    z = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2:])
  return z


_FORM = {'lax': _Lax, 'taps': _Taps, 'winograd': _Winograd}
