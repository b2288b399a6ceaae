"""Convolutions of pix2pix in the form each backend runs fastest.

First working version: interface fixed, forms still being tuned.
"""

import contextlib

import jax
from jax import lax
import jax.numpy as jnp

_FORM = None


@contextlib.contextmanager
def use_form(form):
  """Forces `form` ('lax' or 'gemm') while functions are traced inside."""
  global _FORM
  before, _FORM = _FORM, form
  try:
    yield
  finally:
    _FORM = before


def _chosen(form):
  form = form or _FORM
  if form is None:
    form = 'gemm' if jax.default_backend() == 'cpu' else 'lax'
  return form


def _lax_conv(x, kernel, stride, padding):
  return lax.conv_general_dilated(
      x, kernel, (stride, stride), [(padding, padding)] * 2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def _lax_conv_transpose(x, kernel):
  return lax.conv_general_dilated(
      x, kernel[::-1, ::-1], (1, 1), [(2, 2)] * 2, lhs_dilation=(2, 2),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def _valid(x, kernel):
  """(N, H+k-1, W+k-1, I), (k, k, I, O) -> (N, H, W, O), stride 1."""
  k = kernel.shape[0]
  h, w = x.shape[1] - k + 1, x.shape[2] - k + 1
  cols = jnp.concatenate(
      [x[:, i:i + h, j:j + w] for i in range(k) for j in range(k)], -1)
  return cols @ kernel.reshape(-1, kernel.shape[-1])


def conv(x, kernel, *, stride, padding=1, form=None):
  """(N, H, W, I), (k, k, I, O) -> (N, H', W', O) as torch.nn.Conv2d."""
  k = kernel.shape[0]
  if _chosen(form) == 'lax' or stride != 2 or k != 4:
    return _lax_conv(x, kernel, stride, padding)
  n, h, w, c = x.shape
  h, w = (h + 2 * padding) // 2, (w + 2 * padding) // 2
  x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  x = x[:, :2 * h, :2 * w].reshape(n, h, 2, w, 2, c)
  x = x.transpose(0, 1, 3, 2, 4, 5).reshape(n, h, w, 4 * c)
  kernel = kernel.reshape(2, 2, 2, 2, c, -1).transpose(0, 2, 1, 3, 4, 5)
  return _valid(x, kernel.reshape(2, 2, 4 * c, -1))


def conv_transpose(x, kernel, *, form=None):
  """(N, H, W, I), (4, 4, I, O) -> (N, 2H, 2W, O) as torch.nn.ConvTranspose2d(4, 2, 1)."""
  if _chosen(form) == 'lax':
    return _lax_conv_transpose(x, kernel)
  n, h, w, c = x.shape
  kernel = kernel.reshape(2, 2, 2, 2, c, -1)[::-1, :, ::-1]
  kernel = kernel.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, c, -1)
  y = _valid(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), kernel)
  y = y.reshape(n, h + 1, w + 1, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
  return y.reshape(n, 2 * h + 2, 2 * w + 2, -1)[:, 1:-1, 1:-1]
