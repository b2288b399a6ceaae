"""Exported generators give what the Translator gives, without this package."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2pix_jax import Translator, UsageError
from pix2pix_jax import config as config_lib
from pix2pix_jax import export as export_lib
from pix2pix_jax.run import checkpoint
from pix2pix_jax.run.experiment import Experiment
from pix2pix_jax.signals import DataSpec

SHAPE = (24, 16)  # the height is padded to 32


def make_workdir(workdir, **fields):
  """Of an untrained generator of four levels; its weights are large enough for outputs that differ."""
  config = config_lib.default()
  settings = {
    "data.crop_size": SHAPE[0],
    "data.crop_width": SHAPE[1],
    "data.input_kind": "image",
    "data.target_kind": "image",
    "data.input_dtype": "uint8",
    "data.target_dtype": "uint8",
    "model.base_features": 4,
    "model.levels": 4,
    "model.patch": 1,
    "model.input_channels": 3,
    "model.output_channels": 3,
    "evaluation.norm_stats": "image",
  }
  config_lib.update(config, settings | fields)
  run = Experiment(config, DataSpec(*config_lib.signals_of(config), {}))
  state = run.init().replace(step=jnp.int32(7))
  kernels = {name: block for name, block in state.generator.params.items() if name != "output"}
  output = {name: value * 5 for name, value in state.generator.params["output"].items()}
  state = state.replace(generator=state.generator.replace(params=kernels | {"output": output}))
  config_lib.make_workdir(workdir)
  config_lib.write(workdir, config)
  with checkpoint.Checkpointer(workdir) as checkpointer:
    checkpointer.save(7, state)
  return workdir


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return make_workdir(tmp_path_factory.mktemp("export") / "run")


@pytest.fixture(scope="module")
def depth_workdir(tmp_path_factory):
  return make_workdir(
    tmp_path_factory.mktemp("export") / "depth",
    **{
      "data.input_kind": "depth",
      "data.target_kind": "depth",
      "data.input_dtype": "float32",
      "data.target_dtype": "float32",
      "data.depth_range": (0.0, 10.0),
      "data.validity_channel": True,
      "model.input_channels": 1,
      "model.output_channels": 2,
      "evaluation.dropout": False,
    },
  )


def images(count=3):
  return np.random.default_rng(0).integers(0, 256, (count, *SHAPE, 3), dtype=np.uint8)


def assert_same(output, workdir, x, **options):
  expected = Translator.load(workdir)(x, **options)
  assert (output.shape, output.dtype, expected.std() > 10) == (expected.shape, expected.dtype, True)
  assert np.abs(output.astype(int) - expected).max() <= 1


def test_stablehlo_runs_with_jax_alone(workdir, tmp_path):
  export_lib.main([f"--workdir={workdir}", f"--output={tmp_path / 'g.stablehlo'}"])
  np.save(tmp_path / "x.npy", images())
  code = """if True:
      import sys, jax, numpy as np
      folder = sys.argv[1]
      exported = jax.export.deserialize(open(f"{folder}/g.stablehlo", "rb").read())
      assert exported.platforms == ("cpu", "cuda", "tpu"), exported.platforms
      call, x = jax.jit(exported.call), np.load(f"{folder}/x.npy")
      np.save(f"{folder}/seed3.npy", call(x, np.uint32(3)))
      np.save(f"{folder}/seed4.npy", call(x, np.uint32(4)))
      np.save(f"{folder}/single.npy", exported.call(x[1:2], np.uint32(3)))
      print([name for name in ("pix2pix_jax", "flax", "orbax", "tensorflow") if name in sys.modules])
      """
  done = subprocess.run(
    [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, cwd=tmp_path
  )
  assert done.stdout.strip() == "[]", done.stdout + done.stderr
  outputs = {name: np.load(tmp_path / f"{name}.npy") for name in ("seed3", "seed4", "single")}
  assert_same(outputs["seed3"], workdir, images(), seed=3)
  assert_same(outputs["seed4"], workdir, images(), seed=4)
  assert_same(outputs["single"], workdir, images()[1:2], seed=3)
  assert np.abs(outputs["seed3"].astype(int) - outputs["seed4"]).max() > 10


def test_resize_convolutions_are_exported(tmp_path):
  workdir = make_workdir(tmp_path / "run", **{"model.upsample": "resize", "model.levels": 2})
  export_lib.export(workdir, tmp_path / "g.stablehlo")
  exported = jax.export.deserialize((tmp_path / "g.stablehlo").read_bytes())
  assert_same(np.asarray(exported.call(images(1), np.uint32(3))), workdir, images(1), seed=3)


def test_depth_stays_metres(depth_workdir, tmp_path):
  export_lib.export(depth_workdir, tmp_path / "new" / "g.stablehlo", height=32, width=32)
  x = np.random.default_rng(0).uniform(0, 12, (2, 32, 32, 1)).astype(np.float32)
  x[:, 3:6, :4, 0] = [0, -1, np.nan, np.inf]  # four ways to mark a hole
  output = np.asarray(jax.export.deserialize((tmp_path / "new" / "g.stablehlo").read_bytes()).call(x, np.uint32(0)))
  expected = Translator.load(depth_workdir)(x)
  assert output.dtype == np.float32 and 0.1 < (output == 0).mean() < 0.9 and output.max() > 5
  np.testing.assert_array_equal(output == 0, expected == 0)
  np.testing.assert_allclose(output, expected, atol=1e-4)


def test_savedmodel(workdir, tmp_path):
  tf = pytest.importorskip("tensorflow")
  try:
    export_lib.export(workdir, tmp_path / "saved", form="savedmodel")
  except UsageError as error:
    assert f"JAX {jax.__version__} exports" in str(error)
    pytest.skip("this TensorFlow is too old for the programs of this JAX, which export says")
  loaded = tf.saved_model.load(str(tmp_path / "saved"))
  assert_same(loaded.translate(images(), tf.constant(3, tf.uint32)).numpy(), workdir, images(), seed=3)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_tflite(workdir, tmp_path, capsys):
  tf = pytest.importorskip("tensorflow")
  export_lib.export(workdir, tmp_path / "g.tflite")
  assert "tflite of step 7, (1, 24, 16, 3) uint8 → uint8" in capsys.readouterr().out
  interpreter = tf.lite.Interpreter(model_path=str(tmp_path / "g.tflite"))
  interpreter.allocate_tensors()
  interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images(1))
  interpreter.invoke()
  assert_same(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]), workdir, images(1), dropout=False)


def test_onnx(workdir, tmp_path):
  pytest.importorskip("jax2onnx", reason="jax2onnx is not installed; --format=onnx needs it")
  runtime = pytest.importorskip("onnxruntime")
  export_lib.export(workdir, tmp_path / "g.onnx")
  session = runtime.InferenceSession(str(tmp_path / "g.onnx"))
  assert_same(session.run(None, {session.get_inputs()[0].name: images()})[0], workdir, images(), dropout=False)


def test_without_jax2onnx_the_error_says_how_to_get_it(workdir, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "jax2onnx", None)
  with pytest.raises(UsageError, match="pip install jax2onnx"):
    export_lib.export(workdir, tmp_path / "g.onnx", form="onnx")


@pytest.mark.parametrize(
  "options, message",
  [
    ({"height": -3}, "--height=-3 --width=0: sizes in pixels have to be at least 1"),
    ({"step": "8"}, "has no checkpoint '8'; it has 7"),
  ],
)
def test_what_does_not_exist_is_explained(workdir, tmp_path, options, message):
  with pytest.raises(UsageError, match=message):
    export_lib.export(workdir, tmp_path / "g.stablehlo", **options)


@pytest.mark.parametrize(
  "output, form, expected",
  [
    ("m.onnx", None, "onnx"),
    ("M.ONNX", None, "onnx"),
    ("m.v2.tflite", None, "tflite"),
    ("m.stablehlo", None, "stablehlo"),
    ("m/", None, "savedmodel"),
    ("folder", None, "savedmodel"),
    ("m", "savedmodel", "savedmodel"),
    ("m.v2", "stablehlo", "stablehlo"),
    ("m.bin", None, "stablehlo"),
    ("m.onnx", "onnx", "onnx"),
  ],
)
def test_the_output_chooses_the_format(tmp_path, monkeypatch, output, form, expected):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "folder").mkdir()
  assert export_lib.choose_format(output, form) == expected


@pytest.mark.parametrize(
  "output, form, message",
  [
    ("m", None, "'m' names no format. End it with .stablehlo, .bin, .tflite, .onnx, or with / for a SavedModel"),
    ("m.pb", None, "'m.pb' names no format"),
    ("m.onnx", "stablehlo", "--format=stablehlo, but --output 'm.onnx' ends with .onnx, as files of onnx do"),
    ("m.tflite", "savedmodel", "ends with .tflite"),
    ("m/", "onnx", "--format=onnx, but --output 'm/' is a folder"),
    ("folder", "stablehlo", "'folder' is a folder"),
    ("file", "savedmodel", "'file' is a file, but a SavedModel is a folder"),
  ],
)
def test_a_format_that_is_not_clear_is_explained_before_any_work(tmp_path, monkeypatch, output, form, message):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "folder").mkdir()
  (tmp_path / "file").touch()
  flags = ["--workdir=nowhere", f"--output={output}", *([f"--format={form}"] if form else [])]
  with pytest.raises(UsageError, match=re.escape(message)):
    export_lib.main(flags)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_help_shows_how_to_load_each_format_and_its_batch_size(capsys):
  with pytest.raises(SystemExit) as stop:
    export_lib.main(["--help"])
  shown = capsys.readouterr().out
  assert stop.value.code == 0
  for name in ("jax.export.deserialize(", "tf.saved_model.load(", "Interpreter(", "onnxruntime.InferenceSession("):
    assert name in shown
  for name, (_, _, batch_size) in export_lib.FORMATS.items():
    assert f"  {name:<12}{'Any N' if batch_size == 'N' else 'N = 1'}" in shown
