"""Makes a file of a trained generator that runs without this package, for pictures of one height and width.

    python -m pix2pix_jax.export --workdir=DIR --output=FILE [--step=best|latest|N] [--height=H --width=W]
                                 [--format=stablehlo|savedmodel|tflite|onnx]

It takes and gives (N, H, W, C) of what the data had, uint8 or uint16 pictures or depth in float32 metres. Value ranges,
padding and the training's `evaluation` (dropout, norm statistics) are inside.

  stablehlo   runs with jax alone, on CPU, CUDA and TPU, for any N; the same seed gives the picture that Translator gives:
                jax.export.deserialize(open(FILE, "rb").read()).call(pictures, numpy.uint32(seed))
              (under jax.jit it compiles once). By jax's promise its releases of the next six months read the file.
  savedmodel  a folder for TensorFlow: tf.saved_model.load(DIR).translate(pictures, tf.constant(seed, tf.uint32)).
  tflite      for LiteRT, N = 1, and onnx for ONNX Runtime, any N (needs pip install jax2onnx): without noise, dropout is off.
"""

import argparse
from pathlib import Path

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from pix2pix_jax import depth
from pix2pix_jax.data import images
from pix2pix_jax.errors import UsageError, run_command
from pix2pix_jax.model import convolution
from pix2pix_jax.model import networks as models
from pix2pix_jax.run import checkpoint

PLATFORMS = ("cpu", "cuda", "tpu")


def translate(config, variables, dropout: bool, pictures: jax.Array, seed: jax.Array | None = None) -> jax.Array:
  """What `Translator` gives for pictures (N, H, W, C), as one function that jax can trace."""
  data, multiple = config.data, 2**config.model.levels
  generator, _ = models.make_networks(config.model, dtype=config.train.dtype)
  count, height, width, _ = pictures.shape
  x = images.normalise(pictures, data.depth_range)
  x = jnp.pad(x, [(0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)], mode="reflect")
  rngs = {"dropout": jax.random.fold_in(jax.random.key(seed), 0)} if dropout else {}
  output = generator.apply(
    variables,
    x,
    dropout=dropout,
    norm_stats=config.evaluation.norm_stats,
    noise_ids=jnp.zeros(count, jnp.int32),
    rngs=rngs,
  )[:, :height, :width]
  if data.validity_channel:
    return jnp.where(output[..., -1:] > 0, depth.decode(output[..., :-1], data.depth_range), 0)
  if data.target_dtype == "float32":
    return depth.decode(output, data.depth_range)
  return jnp.round((jnp.clip(output, -1, 1) + 1) / 2 * np.iinfo(data.target_dtype).max).astype(data.target_dtype)


def _stablehlo(function, shape, dtype, output):
  pictures = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("n"), *shape), dtype)
  exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(pictures, jax.ShapeDtypeStruct((), np.uint32))
  output.write_bytes(exported.serialize())


def _concrete_function(function, pictures, *seed, **options):
  """(tf, a TensorFlow function of tensors of these (shape, dtype, name))."""
  from jax.experimental import jax2tf  # pylint: disable=g-import-not-at-top  (slow, as is TensorFlow)
  import tensorflow as tf  # pylint: disable=g-import-not-at-top

  tf.config.set_visible_devices([], "GPU")
  function = tf.function(jax2tf.convert(function, with_gradient=False, **options), autograph=False)
  return tf, function.get_concrete_function(*(tf.TensorSpec(*spec) for spec in (pictures, *seed)))


def _savedmodel(function, shape, dtype, output):
  specs = ((None, *shape), dtype, "pictures"), ((), np.uint32, "seed")
  shapes = ["(n, ...)", None]
  tf, concrete = _concrete_function(
    function, *specs, polymorphic_shapes=shapes, native_serialization_platforms=PLATFORMS
  )
  module = tf.Module()
  module.translate = concrete
  tf.saved_model.save(module, str(output), signatures={"serving_default": concrete})


def _tflite(function, shape, dtype, output):
  tf, concrete = _concrete_function(function, ((1, *shape), dtype, "pictures"), native_serialization_platforms=("cpu",))
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
  """Writes `output`, one of `FORMATS`; height and width 0 are those of the training's validation."""
  config = checkpoint.load_config(workdir)
  checkpointer = checkpoint.Checkpointer(workdir, read_only=True)
  number, data = checkpointer.resolve_step(step), config.data
  default = (data.eval_size, data.eval_width) if data.eval_size else (data.crop_size, data.crop_width)
  shape = (height or default[0], width or default[1] or default[0], config.model.input_channels)
  if min(shape) < 1:
    raise UsageError(
      f"Pictures of {shape[0]}×{shape[1]} (height × width) do not exist; give --height and --width in pixels."
    )
  write, takes_seed = FORMATS[form]
  given = config, checkpointer.restore_generator(number), takes_seed and config.evaluation.dropout
  output.parent.mkdir(parents=True, exist_ok=True)
  with convolution.use_form("lax"):  # whatever this machine is: the form that all platforms run well
    write(lambda *inputs: translate(*given, *inputs), shape, np.dtype(data.input_dtype), output)
  print(
    f"{output}: {form} of step {number}, {data.input_dtype} (N, {', '.join(map(str, shape))}) to {data.target_dtype}"
  )


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(prog="python -m pix2pix_jax.export", description=__doc__.split("\n")[0])
  for name, meaning in (("workdir", "of a training"), ("output", "file (savedmodel: folder) to write")):
    parser.add_argument(f"--{name}", type=Path, required=True, help=meaning)
  parser.add_argument("--step", default="best", help="best, latest or the number of a checkpoint (default: best)")
  for side in ("height", "width"):
    parser.add_argument(f"--{side}", type=int, default=0, help="of the pictures, in pixels (default: as in validation)")
  parser.add_argument("--format", default="stablehlo", choices=FORMATS, help="(default: stablehlo)")
  options = parser.parse_args(argv)
  logging.set_verbosity(logging.ERROR)
  export(
    options.workdir, options.output, step=options.step, height=options.height, width=options.width, form=options.format
  )


if __name__ == "__main__":
  run_command(main)
