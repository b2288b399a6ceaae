"""Makes a file of a trained generator that runs without this package, for pictures of one height and width.

    python -m pix2pix_jax.export --workdir=DIR --output=FILE [--step=best|latest|N] [--height=H --width=W]
                                 [--format=stablehlo|savedmodel|tflite|onnx]

It takes and gives what the data had: uint8 (or uint16) pictures, depth in float32 metres with 0 for holes, as (N, H, W, C).
Value ranges, padding and the protocol of the training's `evaluation` (dropout, norm statistics) are inside.

  stablehlo   runs with jax alone, on CPU, CUDA and TPU, for any N; the same seed gives the picture that Translator gives:
                jax.export.deserialize(open(FILE, "rb").read()).call(pictures, numpy.uint32(seed))
              (jax.jit that method: it then compiles once). jax of the next six months reads it, by its guarantee.
  savedmodel  a folder for TensorFlow: tf.saved_model.load(DIR).translate(pictures, tf.constant(seed, tf.uint32)).
  tflite      for LiteRT, N = 1, no noise: dropout is off, for the format has no counterpart of jax's random numbers.
  onnx        for ONNX Runtime, any N, no noise for the same reason. Needs pip install jax2onnx.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from absl import logging
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from pix2pix_jax import checkpoint, convolution, depth, models
from pix2pix_jax.data import images
from pix2pix_jax.errors import UsageError, run_command

PLATFORMS = ("cpu", "cuda", "tpu")


def make_function(config: ml_collections.ConfigDict, variables, *, dropout: bool) -> Callable[..., jax.Array]:
  """(pictures (N, H, W, C), seed) → their translations, as `Translator` has them; without `seed` if there is no dropout."""
  data, multiple = config.data, 2**config.model.levels
  generator, _ = models.make_networks(config.model, dtype=config.train.dtype)

  def translate(pictures, seed=None):
    count, height, width, _ = pictures.shape
    x = images.normalise(pictures, data.depth_range)
    if height % multiple or width % multiple:
      x = jnp.pad(x, [(0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)], mode="reflect")
    rngs = {"dropout": jax.random.fold_in(jax.random.key(seed), 0)} if dropout else {}
    output = generator.apply(variables, x, dropout=dropout, norm_stats=config.evaluation.norm_stats,
                             noise_ids=jnp.zeros(count, jnp.int32), rngs=rngs)[:, :height, :width]
    channels = output.shape[-1] - data.validity_channel
    output, validity = output[..., :channels], output[..., channels:]
    if data.target_dtype == "float32":
      metres = depth.decode(output, data.depth_range)
      return jnp.where(validity > 0, metres, 0) if data.validity_channel else metres
    largest = np.iinfo(data.target_dtype).max
    return jnp.round((jnp.clip(output, -1, 1) + 1) / 2 * largest).astype(data.target_dtype)

  return translate


def _stablehlo(function, shape, dtype, output):
  pictures = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("n"), *shape), dtype)
  exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(pictures, jax.ShapeDtypeStruct((), np.uint32))
  output.write_bytes(exported.serialize())


def _savedmodel(function, shape, dtype, output):
  from pix2pix_jax.data import pipeline  # pylint: disable=g-import-not-at-top,unused-import  (keeps TensorFlow off the GPU)
  import tensorflow as tf  # pylint: disable=g-import-not-at-top
  from jax.experimental import jax2tf  # pylint: disable=g-import-not-at-top
  converted = jax2tf.convert(function, polymorphic_shapes=["(n, ...)", None], native_serialization_platforms=PLATFORMS, with_gradient=False)
  module = tf.Module()
  module.translate = tf.function(converted, autograph=False, input_signature=[
      tf.TensorSpec((None, *shape), dtype, "pictures"), tf.TensorSpec((), tf.uint32, "seed")])
  tf.saved_model.save(module, str(output), signatures={"serving_default": module.translate.get_concrete_function()})


def _tflite(function, shape, dtype, output):
  from pix2pix_jax.data import pipeline  # pylint: disable=g-import-not-at-top,unused-import
  import tensorflow as tf  # pylint: disable=g-import-not-at-top
  from jax.experimental import jax2tf  # pylint: disable=g-import-not-at-top
  converted = tf.function(jax2tf.convert(function, with_gradient=False), autograph=False,
                          input_signature=[tf.TensorSpec((1, *shape), dtype, "pictures")])
  output.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([converted.get_concrete_function()]).convert())


def _onnx(function, shape, dtype, output):
  try:
    import jax2onnx  # pylint: disable=g-import-not-at-top  (optional)
  except ImportError as error:
    raise UsageError("--format=onnx needs jax2onnx, which is not installed: pip install jax2onnx.") from error
  jax2onnx.to_onnx(function, [jax.ShapeDtypeStruct(("n", *shape), dtype)], return_mode="file", output_path=str(output))


FORMATS = {"stablehlo": (_stablehlo, True), "savedmodel": (_savedmodel, True), "tflite": (_tflite, False), "onnx": (_onnx, False)}  # name: (writer, has noise)


def export(workdir: Path, output: Path, *, step: str = "best", height: int = 0, width: int = 0, form: str = "stablehlo") -> None:
  """Writes `output`; height and width 0 are those of the training's validation."""
  config = checkpoint.load_config(workdir)
  checkpointer = checkpoint.Checkpointer(workdir, read_only=True)
  number = checkpointer.resolve_step(step)
  data = config.data
  shape = (height or data.eval_size or data.crop_size,
           width or data.eval_size and (data.eval_width or data.eval_size) or data.crop_width or data.crop_size, config.model.input_channels)
  if min(shape) < 1:
    raise UsageError(f"--height={height} --width={width} is no size of a picture.")
  write, noise = FORMATS[form]
  function = make_function(config, checkpointer.restore_generator(number), dropout=noise and config.evaluation.dropout)
  output.parent.mkdir(parents=True, exist_ok=True)
  with convolution.use_form("lax"):  # the one form that every platform runs well
    write(function, shape, np.dtype(data.input_dtype), output)
  print(f"{output}: {form} of step {number}, {data.input_dtype} (N, {', '.join(map(str, shape))}) → {data.target_dtype}")


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(prog="python -m pix2pix_jax.export", description=__doc__.split("\n")[0])
  parser.add_argument("--workdir", type=Path, required=True, help="of a training")
  parser.add_argument("--output", type=Path, required=True, help="file (savedmodel: folder) to write")
  parser.add_argument("--step", default="best", help="best, latest or the number of a checkpoint (default: best)")
  parser.add_argument("--height", type=int, default=0, help="of the pictures (default: as in validation)")
  parser.add_argument("--width", type=int, default=0, help="of the pictures (default: as in validation)")
  parser.add_argument("--format", default="stablehlo", choices=FORMATS, help="(default: stablehlo)")
  options = parser.parse_args(argv)
  logging.set_verbosity(logging.ERROR)
  export(options.workdir, options.output, step=options.step, height=options.height, width=options.width, form=options.format)


if __name__ == "__main__":
  run_command(main)
