"""Speed of each convolution in a pix2pix training step, pass by pass.

  python benchmarks/convolution.py --batch=1 --forms=auto,lax

For every layer of the generator and the 70x70 discriminator (by default 256x256, 64 base features) it times the forward
pass, the input gradient (dx) and the kernel gradient (dk), each jitted separately, and prints effective GFLOP/s: the
operations of the direct sum divided by the time. These can exceed the processor's peak for forms that save operations.
`auto` is the choice of pix2pix_jax.model.convolution, `lax` is plain XLA with its autodiff; taps and winograd can be
forced too. The forms are timed in turns and the minimum is printed, because other programs may be running.

The totals weight each pass by its number of calls in a step (discriminator: forward on real, on fake, and on fake again
for the generator). The last line is JSON.
"""

from collections.abc import Callable
import json
import os
import statistics
import time
from typing import Any

if __name__ == "__main__":
  from pix2pix_jax import launch

  launch.keep_memory()

from absl import app, flags
import jax
import numpy as np

from pix2pix_jax.model import convolution

_BATCH = flags.DEFINE_integer("batch", 1, "Images per batch.", lower_bound=1)
_SIZE = flags.DEFINE_integer("image_size", 256, "Side in pixels, a power of two.", lower_bound=32)
_FEATURES = flags.DEFINE_integer("base_features", 64, "Width of the networks.", lower_bound=1)
_REPS = flags.DEFINE_integer("reps", 5, "Timed calls per pass.")
_FORMS = flags.DEFINE_list("forms", ["auto", "lax"], "Any of auto, lax, taps, winograd.")
_LAYERS = flags.DEFINE_list("layers", None, "Names of the layers; default: all.")
_DTYPE = flags.DEFINE_string("dtype", "float32", "float32 or bfloat16.")

# Name; stride, or 0 for a transposed convolution; input size; channels in and out; calls of forward, dx, dk per step.
LAYERS = [
  ("g.down1", 2, 256, 3, 64, (1, 0, 1)),
  ("g.down2", 2, 128, 64, 128, (1, 1, 1)),
  ("g.down3", 2, 64, 128, 256, (1, 1, 1)),
  ("g.down4", 2, 32, 256, 512, (1, 1, 1)),
  ("g.down5", 2, 16, 512, 512, (1, 1, 1)),
  ("g.down6", 2, 8, 512, 512, (1, 1, 1)),
  ("g.down7", 2, 4, 512, 512, (1, 1, 1)),
  ("g.down8", 2, 2, 512, 512, (1, 1, 1)),
  ("g.up8", 0, 1, 512, 512, (1, 1, 1)),
  ("g.up7", 0, 2, 1024, 512, (1, 1, 1)),
  ("g.up6", 0, 4, 1024, 512, (1, 1, 1)),
  ("g.up5", 0, 8, 1024, 512, (1, 1, 1)),
  ("g.up4", 0, 16, 1024, 256, (1, 1, 1)),
  ("g.up3", 0, 32, 512, 128, (1, 1, 1)),
  ("g.up2", 0, 64, 256, 64, (1, 1, 1)),
  ("g.up1", 0, 128, 128, 3, (1, 1, 1)),
  ("d.conv1", 2, 256, 6, 64, (3, 1, 2)),
  ("d.conv2", 2, 128, 64, 128, (3, 3, 2)),
  ("d.conv3", 2, 64, 128, 256, (3, 3, 2)),
  ("d.conv4", 1, 32, 256, 512, (3, 3, 2)),
  ("d.conv5", 1, 31, 512, 1, (3, 3, 2)),
]
PASSES = ("forward", "dx", "dk")


def scaled_layers(image_size: int, base_features: int) -> list[tuple[str, int, int, int, int, tuple[int, int, int]]]:
  """LAYERS of another size and width; small images have fewer inner layers."""
  width = lambda channels: channels * base_features // 64 if channels >= 64 else channels
  scaled = []
  for name, kind, size, i, o, calls in LAYERS:
    size = size * image_size // 256
    if size > (kind == 2):
      scaled.append((name, kind, size, width(i), width(o), calls))
  return scaled


def passes(kind: int, form: str | None) -> dict[str, Callable[..., Any]]:
  """Returns three functions of (x, kernel, dy), one per pass."""
  form = None if form == "auto" else form

  def f(x, kernel):
    if kind:
      return convolution.conv(x, kernel, stride=kind, form=form)
    return convolution.conv_transpose(x, kernel, form=form)

  return {
    "forward": lambda x, k, dy: f(x, k),
    "dx": lambda x, k, dy: jax.vjp(lambda x: f(x, k), x)[1](dy)[0],
    "dk": lambda x, k, dy: jax.vjp(lambda k: f(x, k), k)[1](dy)[0],
  }


def measure(
  kind: int, size: int, channels_in: int, channels_out: int, batch: int, forms: list[str], reps: int, dtype: str
) -> tuple[float, dict[tuple[str, str], tuple[float, float, float]]]:
  """Returns GFLOP per pass, and (minimum, median, compilation time) in seconds by (form, pass)."""
  rng = np.random.default_rng(0)
  normal = lambda shape: jax.numpy.asarray(rng.standard_normal(shape), dtype)
  x = normal((batch, size, size, channels_in))
  kernel = normal((4, 4, channels_in, channels_out)) / 64
  out = {0: 2 * size, 1: size - 1, 2: size // 2}[kind]
  dy = normal((batch, out, out, channels_out))
  small = size if kind == 0 else out
  gflop = 2 * batch * small**2 * 16 * channels_in * channels_out / 1e9
  calls, times, compiling = {}, {}, {}
  for form in forms:
    for name, f in passes(kind, form).items():
      begin = time.perf_counter()
      calls[form, name] = jax.jit(f).lower(x, kernel, dy).compile()
      compiling[form, name] = time.perf_counter() - begin
      times[form, name] = []
  for rep in range(reps + 1):
    for key, call in calls.items():
      if rep > 1 and times[key][0] > 0.5:
        continue  # one repetition of a very slow call is enough
      begin = time.perf_counter()
      jax.block_until_ready(call(x, kernel, dy))
      if rep:
        times[key].append(time.perf_counter() - begin)
  return gflop, {k: (min(t), statistics.median(t), compiling[k]) for k, t in times.items()}


def main(argv):
  del argv
  forms = _FORMS.value
  print(
    f"{jax.devices()[0].device_kind}, jax {jax.__version__}, "
    f"batch {_BATCH.value}, {_DTYPE.value}, load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
  )
  print("GFLOP/s of forward, dx, dk; in parentheses ms")
  layers, totals = {}, {f: dict(min_s=0.0, median_s=0.0, compile_s=0.0) for f in forms}
  total_gflop = 0.0
  for name, kind, size, i, o, calls in scaled_layers(_SIZE.value, _FEATURES.value):
    if _LAYERS.value and name not in _LAYERS.value:
      continue
    gflop, times = measure(kind, size, i, o, _BATCH.value, forms, _REPS.value, _DTYPE.value)
    total_gflop += gflop * sum(calls)
    print(f"{name:8} {size:3}^2 {i:4} -> {o:3} {gflop:7.3f} GFLOP", end="")
    layers[name] = {}
    for form in forms:
      ms = [1e3 * times[form, p][0] for p in PASSES]
      layers[name][form] = [round(v, 3) for v in ms]
      print(
        f" | {form:4}"
        + "".join(f" {1e3 * gflop / v:4.0f}" for v in ms)
        + " ("
        + " ".join(f"{v:7.2f}" for v in ms)
        + ")",
        end="",
      )
      for n, p in zip(calls, PASSES):
        best, median, compiling = times[form, p]
        totals[form]["min_s"] += n * best
        totals[form]["median_s"] += n * median
        totals[form]["compile_s"] += bool(n) * compiling
    print(flush=True)
  totals = {f: {k: round(v, 3) for k, v in t.items()} for f, t in totals.items()}
  print(
    json.dumps(
      dict(
        batch=_BATCH.value,
        dtype=_DTYPE.value,
        load=round(os.getloadavg()[0], 1),
        gflop=round(total_gflop, 2),
        totals=totals,
        layers_ms=layers,
      )
    )
  )


if __name__ == "__main__":
  app.run(main)
