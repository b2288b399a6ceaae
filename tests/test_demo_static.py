"""The demo as a folder for any web host: the ONNX graph against `Translator`, and the page in a browser."""

import io
import json
import shutil

import jax
import numpy as np
import pytest
from tiny_runs import make_translator
from web_hosts import get_runtime, hosted

from pix2pix_jax import demo, palettes
from pix2pix_jax.errors import UsageError
from pix2pix_jax.inference import Translator
from pix2pix_jax.serving import static
from pix2pix_jax.serving.examples import Examples

pytest.importorskip("onnx")
from pix2pix_jax.serving import onnx_graph, rounding

MODELS = {
  "unet": {},
  "running": {"evaluation__norm_stats": "running"},
  "instance": {"model__norm": "instance"},
  "no norm": {"model__norm": "none"},
  "encoder_decoder": {"model__generator": "encoder_decoder"},
  "report": {"model__decoder_widths": "report"},
  "resnet": {"model__generator": "resnet_6blocks"},
  "resize": {"model__upsample": "resize"},
  "resnet, resize": {"model__generator": "resnet_6blocks", "model__upsample": "resize"},
}


def random(shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def spread(translator):
  """The same translator with larger weights, so that its outputs differ from grey, and with running statistics."""
  rng = np.random.default_rng(0)
  variables = jax.tree.map(lambda leaf: np.asarray(leaf) * 8, translator.variables)
  if "batch_stats" in variables:
    draw = lambda path, leaf: (rng.random(leaf.shape) + (0.5 if "var" in str(path[-1]) else -0.5)).astype(np.float32)
    variables["batch_stats"] = jax.tree_util.tree_map_with_path(draw, variables["batch_stats"])
  return type(translator)(translator.config, variables)


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_computes_what_the_translator_does(name):
  runtime = pytest.importorskip("onnxruntime")
  translator = spread(make_translator(**MODELS[name]))
  model, masks = onnx_graph.make(translator.config, translator.variables)
  session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
  for height, width in ((16, 24), (8, 40)):
    image = random((height, width, 3))
    x = translator.input_signal.encode(image).transpose(2, 0, 1)[None]
    ones = {}
    for mask in masks:
      shape = 1, mask.channels, *(side * mask.size // translator.multiple for side in (height, width))
      ones[mask.name] = np.ones(shape, np.float32)
    output = session.run(["y"], {"x": x, **ones})[0][0].transpose(1, 2, 0)
    expected = translator(image, dropout=False)
    assert expected.std() > 5
    assert np.abs(translator.target_signal.decode(output).astype(int) - expected).max() <= 1
    twos = {
      key: 2 * (np.random.default_rng(1).random(mask.shape) < 0.5).astype(np.float32) for key, mask in ones.items()
    }
    assert np.abs(session.run(["y"], {"x": x, **twos})[0][0].transpose(1, 2, 0) - output).max() > 0.01
  assert len(masks) == (3 if "resnet" in name or name == "report" else 2)


@pytest.mark.parametrize("weights", ["float16", "int8"])
@pytest.mark.parametrize("name", ["unet", "resnet", "resize"])
def test_smaller_weights_are_those_whose_loss_is_measured(name, weights):
  runtime = pytest.importorskip("onnxruntime")
  translator = spread(make_translator(**MODELS[name], evaluation__dropout=False, model__base_features=8))
  rounded = rounding.rounded(translator.variables["params"], weights)
  expected = type(translator)(translator.config, translator.variables | {"params": rounded})
  image, sizes = random((16, 24, 3)), {}
  for form in ("float32", weights):
    model, masks = onnx_graph.make(translator.config, translator.variables, form)
    sizes[form] = len(model)
  session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
  sides = [[side * mask.size // translator.multiple for side in image.shape[:2]] for mask in masks]
  ones = {mask.name: np.ones((1, mask.channels, *side), np.float32) for mask, side in zip(masks, sides)}
  x = translator.input_signal.encode(image).transpose(2, 0, 1)[None]
  output = translator.target_signal.decode(session.run(["y"], {"x": x, **ones})[0][0].transpose(1, 2, 0))
  assert np.abs(output.astype(int) - expected(image)).max() <= 1
  assert (expected(image) != translator(image)).any()
  assert sizes[weights] < {"float16": 0.65, "int8": 0.45}[weights] * sizes["float32"]


def test_int8_keeps_the_largest_weight_of_each_channel_and_zeros():
  kernel = np.random.default_rng(0).normal(size=(4, 4, 3, 5)).astype(np.float32)
  kernel[..., 2] = 0
  integers, scales = rounding.to_int8(kernel)
  assert integers.dtype == np.int8 and np.abs(integers).max((0, 1, 2)).tolist() == [127, 127, 0, 127, 127]
  assert np.abs(integers * scales - kernel).max() <= np.abs(kernel).max() / 127 / 2 * 1.001


def test_a_model_that_interpolates_depth_is_refused():
  kinds = {"data__input_kind": "depth", "data__target_kind": "depth", "data__input_dtype": "float32"}
  channels = {"model__input_channels": 1, "model__output_channels": 1, "data__target_dtype": "float32"}
  translator = make_translator(**kinds, **channels, model__residual=True)
  with pytest.raises(UsageError, match="model.residual"):
    onnx_graph.make(translator.config, translator.variables)


def test_without_npm_the_message_names_the_files(tmp_path, monkeypatch):
  monkeypatch.setattr(static.shutil, "which", lambda name: None)
  with pytest.raises(UsageError, match=r"npm, which is not installed.*ort.wasm.min.mjs.*onnxruntime-web@.* yourself"):
    static.write(make_translator(), "tiny", tmp_path / "site", Examples("absent"))


def test_what_weights_cost_is_unknown_without_data(monkeypatch, capsys, tmp_path):
  given = {}
  monkeypatch.setattr(Translator, "load", lambda workdir, step: make_translator())
  monkeypatch.setattr(Examples, "load", lambda workdir: Examples("absent", "The data of the run does not exist."))
  monkeypatch.setattr(static, "write", lambda *unused, **options: given.update(options))
  demo.main([f"--workdir={tmp_path}", f"--static={tmp_path / 'site'}"])
  assert given == {"weights": "int8", "metrics": {}}
  assert "What int8 costs in quality is unknown, because there is no data" in capsys.readouterr().out
  demo.main([f"--workdir={tmp_path}", f"--static={tmp_path / 'site'}", "--weights=float32"])
  assert "costs" not in capsys.readouterr().out  # nothing
  with pytest.raises(UsageError, match="--weights is for --static"):
    demo.main([f"--workdir={tmp_path}", "--weights=int8"])


# --- In a browser


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
  return get_runtime(tmp_path_factory)


KINDS = {
  "image": ({}, lambda: np.array(palettes.CMP, np.uint8)[random((13, 21)) % 12]),  # padded by reflection
  "classes": (
    {
      "data__input_kind": "classes",
      "data__input_classes": 12,
      "data__input_palette": "cmp",
      "data__target_kind": "classes",
      "data__target_classes": 5,
      "model__input_channels": 12,
      "model__output_channels": 5,
    },
    lambda: random((16, 24, 1)) % 12,
  ),
  "depth": (
    {
      "data__input_kind": "depth",
      "data__input_dtype": "float32",
      "data__target_kind": "quantity",
      "data__target_dtype": "int16",
      "data__target_unit": "HU",
      "data__target_range": (-1000.0, 1800.0),
      "data__depth_range": (0.0, 10.0),
      "model__input_channels": 1,
      "model__output_channels": 1,
    },
    lambda: 12 * np.random.default_rng(0).random((16, 24, 1), np.float32) * (random((16, 24, 1)) > 60),
  ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_translates_without_a_server(kind, runtime, tmp_path):
  pages = pytest.importorskip("playwright.sync_api")
  chromium = shutil.which("chromium") or shutil.which("google-chrome")
  if not chromium:
    pytest.skip("no Chromium to show the page in")
  fields, make_input = KINDS[kind]
  translator, image = spread(make_translator(**fields, evaluation__dropout=False)), make_input()
  expected = translator(image)
  shutil.copytree(runtime, tmp_path / "site/onnxruntime")
  examples = Examples("ready", "", ["a"], [{"input": image, "target": expected}])
  static.write(translator, "tiny", tmp_path / "site", examples, weights="float32")
  about = json.loads((tmp_path / "site/model.json").read_text())
  assert (
    about["network"]["multiple"] == 8 and about["bytes"]["model"] == (tmp_path / "site/model.onnx.gz").stat().st_size
  )
  faults = []
  flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
  with hosted(tmp_path / "site") as address, pages.sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=chromium, args=flags)
    page = browser.new_page()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.goto(address)
    pages.expect(page.locator("#thumbnails button[aria-pressed=true]")).to_have_count(1, timeout=20_000)
    pages.expect(page.locator("#outputs")).to_have_attribute("data-version", "2", timeout=20_000)
    page.locator("#download summary").click()
    with page.expect_download() as download:
      page.locator("[data-format=npy]").click()
    found = np.load(io.BytesIO(open(download.value.path(), "rb").read()))
    browser.close()
  assert faults == []
  assert found.dtype == expected.dtype and found.shape == expected.shape and expected.std() > 0.5
  if kind == "classes":
    assert (found != expected).mean() < 0.02
  else:
    assert np.abs(found.astype(float) - expected).max() <= 1
