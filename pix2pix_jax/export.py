"""Exports a trained generator to a file that runs without this package, for images of one height and width.

    python -m pix2pix_jax.export --workdir=DIR --output=FILE [--step=best|latest|N] [--height=H --width=W]
                                 [--format=stablehlo|savedmodel|tflite|onnx]

The exported program accepts and returns (N, H, W, C) in the data's own numbers: uint8 or uint16 images, or depth in
float32 metres. Value ranges, padding and the run's evaluation settings (dropout, norm statistics) are part of it.

  stablehlo   runs with jax alone, on CPU, CUDA and TPU, for any N; equal seeds give the results of Translator:
                jax.export.deserialize(open(FILE, "rb").read()).call(images, numpy.uint32(seed))
              (under jax.jit it compiles once). JAX guarantees that its releases of the next six months read the file.
  savedmodel  a folder for TensorFlow: tf.saved_model.load(DIR).translate(images, tf.constant(seed, tf.uint32)).
  tflite      for LiteRT, N = 1, without noise (dropout is off).
  onnx        for ONNX Runtime, any N, without noise; needs the package jax2onnx.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from pix2pix_jax import config as config_lib
from pix2pix_jax.errors import UsageError, run_command
from pix2pix_jax.inference import generate, noise_key
from pix2pix_jax.model import convolution, networks
from pix2pix_jax.run import checkpoint

PLATFORMS = ("cpu", "cuda", "tpu")


def make_program(
  config: ml_collections.ConfigDict, variables: dict[str, Any], dropout: bool
) -> Callable[..., jax.Array]:
  """`Translator` as one function (images, seed) → images that jax can trace; without `dropout` there is no seed."""
  input_signal, target_signal = config_lib.signals_of(config)
  multiple, channels = config_lib.multiple(config.model), target_signal.channels
  generator, _ = networks.make_networks(config.model, dtype=config.train.dtype)

  def program(images: jax.Array, seed: jax.Array | None = None) -> jax.Array:
    _, height, width, _ = images.shape
    pad = [(0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)]
    x = jnp.pad(input_signal.encode(input_signal.canonical(images)), pad, mode="reflect")
    key = noise_key(seed) if dropout and seed is not None else None
    output = generate(generator, variables, x, key, dropout=dropout, norm_stats=config.evaluation.norm_stats)
    output = output[:, :height, :width]
    decoded = target_signal.decode(output[..., :channels])
    return jnp.where(output[..., channels:] > 0, decoded, 0) if output.shape[-1] > channels else decoded

  return program


def _stablehlo(function, shape, dtype, output):
  images = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("n"), *shape), dtype)
  exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(images, jax.ShapeDtypeStruct((), np.uint32))
  output.write_bytes(exported.serialize())


def _concrete_function(function, images, *seed, **options):
  """(tf, a TensorFlow function of tensors of these (shape, dtype, name))."""
  from jax.experimental import jax2tf  # pylint: disable=g-import-not-at-top  (slow, as is TensorFlow)
  import tensorflow as tf  # pylint: disable=g-import-not-at-top

  from pix2pix_jax.data.source import share_gpus  # pylint: disable=g-import-not-at-top

  share_gpus()
  function = tf.function(jax2tf.convert(function, with_gradient=False, **options), autograph=False)
  return tf, function.get_concrete_function(*(tf.TensorSpec(*spec) for spec in (images, *seed)))


def _savedmodel(function, shape, dtype, output):
  specs = ((None, *shape), dtype, "images"), ((), np.uint32, "seed")
  shapes = ["(n, ...)", None]
  tf, concrete = _concrete_function(
    function, *specs, polymorphic_shapes=shapes, native_serialization_platforms=PLATFORMS
  )
  module = tf.Module()
  module.translate = concrete
  tf.saved_model.save(module, str(output), signatures={"serving_default": concrete})


def _tflite(function, shape, dtype, output):
  tf, concrete = _concrete_function(function, ((1, *shape), dtype, "images"), native_serialization_platforms=("cpu",))
  output.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())


def _onnx(function, shape, dtype, output):
  try:
    import jax2onnx  # pylint: disable=g-import-not-at-top  (optional)
  except ImportError as error:
    raise UsageError("--format=onnx needs jax2onnx, which is not installed: pip install jax2onnx.") from error
  jax2onnx.to_onnx(function, [jax.ShapeDtypeStruct(("n", *shape), dtype)], return_mode="file", output_path=str(output))


FORMATS = {  # name: (writer, whether it takes a seed)
  "stablehlo": (_stablehlo, True),
  "savedmodel": (_savedmodel, True),
  "tflite": (_tflite, False),
  "onnx": (_onnx, False),
}


def export(
  workdir: Path, output: Path, *, step: str = "best", height: int = 0, width: int = 0, form: str = "stablehlo"
) -> None:
  """Writes the generator of a workdir to `output`.

  Args:
    workdir: of a trained model.
    output: the file to write (savedmodel: folder).
    step: `"best"`, `"latest"` or a number.
    height, width: in pixels; 0: as in validation.
    form: one of `FORMATS`.

  Raises:
    UsageError: no such checkpoint, sizes that are not positive, or a format whose package is missing.
  """
  config = config_lib.read(workdir)
  input_signal, target_signal = config_lib.signals_of(config)
  default = config_lib.eval_shape(config.data)
  shape = (height or default[0], width or default[1], input_signal.channels)
  if min(shape) < 1:
    raise UsageError(f"--height={height} --width={width}: sizes in pixels have to be at least 1.")
  write, takes_seed = FORMATS[form]
  with checkpoint.Checkpointer(workdir, config=config, read_only=True) as checkpointer:
    number = checkpointer.resolve_step(step)
    variables = checkpointer.restore_variables(number, ["generator"])["generator"]
  program = make_program(config, variables, takes_seed and config.evaluation.dropout)
  output.parent.mkdir(parents=True, exist_ok=True)
  with convolution.use_form("lax"):  # the form that runs well on every platform, whichever this machine is
    write(program, shape, np.dtype(input_signal.dtype), output)
  print(
    f"{output}: {form} of step {number}, (N, {', '.join(map(str, shape))}) {input_signal.dtype} → "
    f"{target_signal.dtype}; "
    f"input: {input_signal.describe()}; output: {target_signal.describe()}"
  )


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(prog="python -m pix2pix_jax.export", description=__doc__.split("\n")[0])
  for name, meaning in (("workdir", "of a trained model"), ("output", "file (savedmodel: folder) to write")):
    parser.add_argument(f"--{name}", type=Path, required=True, help=meaning)
  parser.add_argument("--step", default="best", help="best, latest or the number of a checkpoint (default: best)")
  for side in ("height", "width"):
    parser.add_argument(f"--{side}", type=int, default=0, help="in pixels (default: as in validation)")
  parser.add_argument("--format", default="stablehlo", choices=FORMATS, help="(default: stablehlo)")
  options = parser.parse_args(argv)
  logging.set_verbosity(logging.ERROR)
  export(
    options.workdir, options.output, step=options.step, height=options.height, width=options.width, form=options.format
  )


if __name__ == "__main__":
  run_command(main)
