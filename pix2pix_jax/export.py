"""Exports a trained generator to a file that runs without this package, for images of one height and width.

    python -m pix2pix_jax.export --workdir=DIR --output=FILE.stablehlo|FILE.tflite|FILE.onnx|FOLDER/
                                 [--format=stablehlo|savedmodel|tflite|onnx] [--step=best|latest|N]
                                 [--height=H --width=W]

The suffix of the output chooses the format, and a folder means savedmodel; --format is only needed for other names. The
exported program accepts and returns arrays (N, H, W, C) in the data's own numbers: uint8 or uint16 images, or depth in
float32 metres. Value ranges, padding and the run's evaluation settings (dropout, norm statistics) are part of it.

How to load each format, and its batch size N:

  stablehlo   Any N, with noise: equal seeds give the results of Translator (with norm_stats=batch, of one that computes
              the N images as one batch). Needs jax alone, on CPU, CUDA or TPU:
                program = jax.export.deserialize(open("FILE.stablehlo", "rb").read())
                outputs = jax.jit(program.call)(images, numpy.uint32(seed))
              JAX guarantees that its releases of the next six months read the file.
  savedmodel  Any N, with noise. A folder for TensorFlow:
                model = tf.saved_model.load("FOLDER")
                outputs = model.translate(images, tf.constant(seed, tf.uint32))
  tflite      N = 1, without noise (dropout is off). For LiteRT (pip install ai-edge-litert), or tf.lite.Interpreter:
                model = ai_edge_litert.interpreter.Interpreter("FILE.tflite")
                model.allocate_tensors()
                model.set_tensor(model.get_input_details()[0]["index"], images)
                model.invoke()
                outputs = model.get_tensor(model.get_output_details()[0]["index"])
  onnx        Any N, without noise. For ONNX Runtime; writing it needs the package jax2onnx:
                session = onnxruntime.InferenceSession("FILE.onnx")
                outputs = session.run(None, {session.get_inputs()[0].name: images})[0]
"""

import argparse
from collections.abc import Callable
import os
from pathlib import Path
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from pix2pix_jax import config as config_lib
from pix2pix_jax.errors import CommandParser, UsageError, run_command, user_path
from pix2pix_jax.inference import generate, noise_key
from pix2pix_jax.model import convolution, networks
from pix2pix_jax.run import checkpoint
from pix2pix_jax.run.experiment import Experiment

PLATFORMS = ("cpu", "cuda", "tpu")


def make_program(
  config: ml_collections.ConfigDict, variables: dict[str, Any], dropout: bool
) -> Callable[..., jax.Array]:
  """`Translator` as one function (images, seed) → images that JAX can trace; without `dropout`, there is no seed."""
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
    if output.shape[-1] == channels:
      return decoded
    return jnp.where(output[..., channels:] > 0, decoded, jnp.asarray(target_signal.missing, decoded.dtype))

  return program


def _stablehlo(function, shape, dtype, output):
  images = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("n"), *shape), dtype)
  exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(images, jax.ShapeDtypeStruct((), np.uint32))
  output.write_bytes(exported.serialize())


def _concrete_function(function, images, *seed, **options):
  """Returns tf, and a TensorFlow function of tensors with these (shape, dtype, name)."""
  from jax.experimental import jax2tf  # pylint: disable=g-import-not-at-top  (slow, as is TensorFlow)

  from pix2pix_jax.data.source import import_tensorflow  # pylint: disable=g-import-not-at-top

  tf = import_tensorflow()
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
  try:  # TensorFlow reads the programs of older JAX versions only, and notices when it runs one
    tf.saved_model.load(str(output)).translate(tf.zeros((1, *shape), dtype), tf.constant(0, tf.uint32))
  except tf.errors.OpError as error:
    raise UsageError(
      f"TensorFlow {tf.__version__} cannot run what JAX {jax.__version__} exports "
      f"({str(error).splitlines()[0][:200]}). "
      "Use --format=stablehlo or tflite, or an older JAX or a newer TensorFlow."
    ) from error


def _tflite(function, shape, dtype, output):
  tf, concrete = _concrete_function(function, ((1, *shape), dtype, "images"), native_serialization_platforms=("cpu",))
  output.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())


def _onnx(function, shape, dtype, output):
  try:
    import jax2onnx  # pylint: disable=g-import-not-at-top  (optional)
  except ImportError as error:
    raise UsageError("--format=onnx needs jax2onnx, which is not installed: pip install jax2onnx.") from error
  jax2onnx.to_onnx(function, [jax.ShapeDtypeStruct(("n", *shape), dtype)], return_mode="file", output_path=str(output))


FORMATS = {  # name: (writer, whether it accepts a seed, batch size)
  "stablehlo": (_stablehlo, True, "N"),
  "savedmodel": (_savedmodel, True, "N"),
  "tflite": (_tflite, False, "1"),
  "onnx": (_onnx, False, "N"),
}
SUFFIXES = {".stablehlo": "stablehlo", ".bin": "stablehlo", ".tflite": "tflite", ".onnx": "onnx"}


def choose_format(output: str | Path, form: str | None = None) -> str:
  """The format of an output: `form`, else by its suffix; "savedmodel" for an existing folder or a name with final /.

  Raises:
    UsageError: no format is given, or `form` contradicts the suffix or an existing folder or file.
  """
  path = user_path("--output", output)
  is_folder = path.is_dir() or str(output).endswith(("/", os.sep))
  named = "savedmodel" if is_folder else SUFFIXES.get(path.suffix.lower())
  if form is None and named is None:
    raise UsageError(
      f"--output {str(output)!r} names no format. End it with {', '.join(SUFFIXES)}, or with / for a SavedModel, or "
      f"add --format ({', '.join(FORMATS)})."
    )
  if form is not None and named is not None and form != named:
    seen = "is a folder, as for savedmodel" if is_folder else f"ends with {path.suffix}, as files of {named} do"
    raise UsageError(f"--format={form}, but --output {str(output)!r} {seen}. Change one of them.")
  form = form or named
  if form == "savedmodel" and path.is_file():
    raise UsageError(f"--output {str(output)!r} is a file, but a SavedModel is a folder. Choose another name.")
  return str(form)


def export(
  workdir: Path,
  output: str | Path,
  *,
  step: str = "best",
  height: int = 0,
  width: int = 0,
  form: str | None = None,
) -> None:
  """Writes the generator of a workdir to `output`.

  Args:
    workdir: folder of a trained model.
    output: file to write (savedmodel: folder).
    step: `"best"`, `"latest"` or a number.
    height, width: in pixels; 0: as in validation.
    form: one of `FORMATS`; None: inferred from `output` (`choose_format`).

  Raises:
    UsageError: no such checkpoint, sizes that are not positive, no format or contradictory ones, or a format whose
      package is missing.
  """
  form, output = choose_format(output, form), user_path("--output", output)
  config = config_lib.read(workdir)
  input_signal, target_signal = config_lib.signals_of(config)
  default = config_lib.eval_shape(config.data)
  shape = (height or default[0], width or default[1], input_signal.raw_channels)
  if min(shape) < 1:
    raise UsageError(f"--height={height} --width={width}: sizes in pixels have to be at least 1.")
  write, takes_seed, batch_size = FORMATS[form]
  with checkpoint.Checkpointer(workdir, config=config, read_only=True) as checkpointer:
    number, variables = checkpointer.load_variables(step, Experiment.read(workdir).abstract(), ["generator"])
  program = make_program(config, variables["generator"], takes_seed and config.evaluation.dropout)
  output.parent.mkdir(parents=True, exist_ok=True)
  with convolution.use_form("lax"):  # the form for every platform, not only for this machine
    write(program, shape, np.dtype(input_signal.dtype), output)
  print(
    f"{output}: {form} of step {number}, ({', '.join([batch_size, *map(str, shape)])}) {input_signal.dtype} → "
    f"{target_signal.dtype} (images, height, width, channels); input: {input_signal.describe()}; output: "
    f"{target_signal.describe()}. "
    '"pix2pix_jax export --help" shows how to load it.'
  )


def main(argv: list[str] | None = None) -> None:
  """Runs the command; see the top of this file."""
  parser = CommandParser(
    prog="pix2pix_jax export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--workdir", type=Path, required=True, help="workdir of a trained model")
  parser.add_argument("--output", required=True, help="file (savedmodel: folder) to write")
  parser.add_argument("--step", default="best", help="checkpoint: best, latest or a step number (default: best)")
  for side in ("height", "width"):
    parser.add_argument(f"--{side}", type=int, default=0, help="in pixels (default: as in validation)")
  parser.add_argument("--format", choices=FORMATS, help="format (default: inferred from the name of the output)")
  options = parser.parse_args(argv)
  logging.set_verbosity(logging.ERROR)
  export(
    user_path("--workdir", options.workdir),
    options.output,
    step=options.step,
    height=options.height,
    width=options.width,
    form=options.format,
  )


if __name__ == "__main__":
  run_command(main)
