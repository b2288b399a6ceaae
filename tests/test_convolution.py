"""Every form of the convolutions against sums written out in float64 NumPy and against plain XLA."""

import os
import pathlib
import subprocess
import sys

import jax
from jax import export
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import pytest
from tiny_runs import with_devices

from pix2pix_jax.model import convolution

CHOICES = (None, *convolution.FORMS)

# (N, H, W), channels in, channels out. 2x2 goes down to 1x1; 1x1 goes up to 2x2. The last has enough pixels and
# channels for the choice on CPU to be winograd at stride 2, and tiles that do not divide its sizes.
DOWN = [((1, 2, 2), 3, 2), ((2, 5, 7), 1, 3), ((3, 8, 6), 3, 1), ((2, 12, 14), 16, 17), ((3, 38, 44), 16, 16)]
UP = [((1, 1, 1), 3, 2), ((2, 5, 4), 1, 3), ((1, 7, 6), 17, 16), ((2, 22, 25), 16, 16)]
ALL = [(convolution.conv, dict(stride=2), *c) for c in DOWN]
ALL += [(convolution.conv, dict(stride=1), *c) for c in DOWN[1:3]]
ALL += [(convolution.conv_transpose, {}, *c) for c in UP]
IDS = [f"{f.__name__}{kw.get('stride', '')}-{'x'.join(map(str, n))}-{i}-{o}" for f, kw, n, i, o in ALL]


def reference(x, kernel, dy, stride):
  """Output and the gradients of sum(output * dy), pixel by pixel of the smaller image. stride 0: transposed."""
  x, kernel, dy = (np.asarray(a, np.float64) for a in (x, kernel, dy))
  k = len(kernel)
  big, small = (dy, x) if stride == 0 else (x, dy)
  step = stride or 2
  padded = np.pad(big, ((0, 0), (1, 1), (1, 1), (0, 0)))
  y_big, y_small, dk = np.zeros_like(padded), np.zeros_like(small), np.zeros_like(kernel)
  to_small, to_big = ("nhwi,hwio->no", "no,hwio->nhwi") if stride else ("nhwo,hwio->ni", "ni,hwio->nhwo")
  for r in range(small.shape[1]):
    for c in range(small.shape[2]):
      window = np.s_[:, step * r : step * r + k, step * c : step * c + k]
      y_small[:, r, c] = np.einsum(to_small, padded[window], kernel)
      y_big[window] += np.einsum(to_big, small[:, r, c], kernel)
      dk += (
        np.einsum("nhwi,no->hwio", padded[window], small[:, r, c])
        if stride
        else np.einsum("nhwo,ni->hwio", padded[window], small[:, r, c])
      )
  y_big = y_big[:, 1:-1, 1:-1]
  return (y_small, y_big, dk) if stride else (y_big, y_small, dk)


def inputs(f, kwargs, shape, i, o, dtype=jnp.float32):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(*shape, i)), dtype)
  kernel = jnp.asarray(rng.normal(size=(4, 4, i, o)), dtype)
  dy = jax.eval_shape(lambda x, k: f(x, k, **kwargs), x, kernel)
  return x, kernel, jnp.asarray(rng.normal(size=dy.shape), dtype)


def results(f, kwargs, form, x, kernel, dy):
  @jax.jit
  def run(x, kernel, dy):
    y, back = jax.vjp(lambda x, k: f(x, k, form=form, **kwargs), x, kernel)
    return y, *back(dy)

  return run(x, kernel, dy)


def assert_close(actual, desired, tolerance):
  """Relative to the largest number: sums of products cancel, so single numbers may be small."""
  for name, a, d in zip(("y", "dx", "dk"), actual, desired, strict=True):
    assert a.shape == d.shape
    a, d = np.asarray(a, np.float64), np.asarray(d, np.float64)
    np.testing.assert_allclose(a, d, rtol=0, atol=tolerance * np.abs(d).max(), err_msg=name)


@pytest.mark.parametrize("f,kwargs,shape,i,o", ALL, ids=IDS)
def test_value_and_gradients(f, kwargs, shape, i, o):
  args = inputs(f, kwargs, shape, i, o)
  desired = reference(*args, kwargs.get("stride", 0))
  for form in CHOICES:
    assert_close(results(f, kwargs, form, *args), desired, 1e-5)


@pytest.mark.parametrize(
  "kwargs,k",
  [
    (dict(stride=1, padding=0), 1),
    (dict(stride=1), 3),
    (dict(stride=2), 3),
    (dict(stride=2, padding=0), 4),
    (dict(stride=1, padding=2), 4),
  ],
)
def test_other_kernels_and_paddings(kwargs, k):
  rng = np.random.default_rng(0)
  x, kernel = rng.normal(size=(2, 7, 6, 3)).astype("f"), rng.normal(size=(k, k, 3, 2)).astype("f")
  padding, stride = kwargs.get("padding", 1), kwargs["stride"]
  desired = jax.lax.conv_general_dilated(
    x, kernel, (stride,) * 2, ((padding,) * 2,) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  for form in CHOICES:
    np.testing.assert_allclose(convolution.conv(x, kernel, form=form, **kwargs), desired, atol=1e-5)


@pytest.mark.parametrize(
  "f,kwargs", [(convolution.conv, dict(stride=1)), (convolution.conv, dict(stride=2)), (convolution.conv_transpose, {})]
)
@pytest.mark.parametrize("form", CHOICES)
def test_bfloat16(f, kwargs, form):
  args = inputs(f, kwargs, (2, 8, 10), 16, 16, jnp.bfloat16)
  actual = results(f, kwargs, form, *args)
  assert {a.dtype for a in actual} == {jnp.dtype(jnp.bfloat16)}
  assert_close(actual, reference(*args, kwargs.get("stride", 0)), 2e-2)


@pytest.mark.parametrize("r", [2, 4])
def test_winograd_matrices(r):
  """A [(G g) * (B d)] is the correlation for all g and d: the coefficient of g[k] d[l] in y[i] is (l == i + k)."""
  b, g, a = convolution._WINOGRAD[r]
  coefficients = np.einsum("ij,jk,jl->ikl", a, g, b)
  i, k, position = np.indices(coefficients.shape)
  np.testing.assert_allclose(coefficients, position == i + k, atol=1e-15)


@pytest.mark.parametrize("form", CHOICES)
def test_vmap_and_export(form):
  f = lambda x, k: convolution.conv_transpose(convolution.conv(x, k, stride=2, form=form), k, form=form)
  gradient = jax.jit(jax.grad(lambda x, k: jnp.sum(f(x, k) ** 2), (0, 1)))
  rng = np.random.default_rng(0)
  x, k = jnp.asarray(rng.normal(size=(2, 2, 6, 6, 2)), "f"), jnp.asarray(rng.normal(size=(2, 4, 4, 2, 2)), "f")
  assert jax.eval_shape(f, x[0], k[0]).shape == (2, 6, 6, 2)
  desired = [jnp.stack(g) for g in zip(*[gradient(*a) for a in zip(x, k)])]
  for actual, d in zip(jax.jit(jax.vmap(gradient))(x, k), desired):
    np.testing.assert_allclose(actual, d, atol=1e-4 * jnp.abs(d).max())
  exported = export.deserialize(export.export(gradient)(x[0], k[0]).serialize())
  np.testing.assert_allclose(exported.call(x[0], k[0])[1], desired[1][0], atol=1e-4 * jnp.abs(desired[1]).max())


def test_batch_on_a_mesh():
  """Sharded over the images: the same numbers, and the kernel gradient is the sum over all of them."""
  here = pathlib.Path(__file__).parent
  env = with_devices(2) | {"PYTHONPATH": os.pathsep.join([str(here.parent), os.environ.get("PYTHONPATH", "")])}
  script = "import test_convolution; test_convolution.check_mesh()"
  subprocess.run([sys.executable, "-c", script], cwd=here, env=env, check=True)


def check_mesh():
  mesh = Mesh(np.array(jax.devices()), ("data",))
  assert mesh.size == 2
  images, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
  for f, kwargs in (
    (convolution.conv, dict(stride=2)),
    (convolution.conv, dict(stride=1)),
    (convolution.conv_transpose, {}),
  ):
    args = inputs(f, kwargs, (2, 6, 6), 3, 2)
    desired = results(f, kwargs, "lax", *args)
    for form in ("taps", "winograd"):
      placed = [jax.device_put(a, s) for a, s in zip(args, (images, whole, images))]
      assert_close(results(f, kwargs, form, *placed), desired, 1e-5)


def test_choice(monkeypatch):
  """`use_form` and `form` decide; elsewhere than on CPU it is always XLA's convolution."""
  x, k = jnp.ones((1, 8, 8, 16)), jnp.ones((4, 4, 16, 16))

  def text():
    return str(jax.make_jaxpr(lambda x, k: convolution.conv(x, k, stride=2))(x, k))

  with convolution.use_form("lax"):
    assert "conv_general_dilated" in text() and "custom_vjp" not in text()
    with convolution.use_form("winograd"):
      assert "conv_general_dilated" not in text()
    assert "conv_general_dilated" in text()
  with pytest.raises(ValueError, match="form must be"), convolution.use_form("fft"):
    pass
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert "conv_general_dilated" in text() and "custom_vjp" not in text()


def test_transposed_kernel_must_be_4x4():
  with pytest.raises(ValueError, match="4, 4, I, O"):
    convolution.conv_transpose(jnp.ones((1, 2, 2, 3)), jnp.ones((3, 3, 3, 2)))
