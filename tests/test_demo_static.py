"""The demo as a folder for any web host: the ONNX graph against `Translator`, and the page in a browser."""

import contextlib
import functools
import http.server
import io
import json
import shutil
import threading

import jax
import numpy as np
import pytest
from tiny_runs import make_translator

from pix2pix_jax import palettes
from pix2pix_jax.errors import UsageError
from pix2pix_jax.serving import static
from pix2pix_jax.serving.examples import Examples

pytest.importorskip("onnx")
from pix2pix_jax.serving import onnx_graph

MODELS = {
  "unet": {},
  "running": {"evaluation__norm_stats": "running"},
  "instance": {"model__norm": "instance"},
  "no norm": {"model__norm": "none"},
  "encoder_decoder": {"model__generator": "encoder_decoder"},
  "report": {"model__decoder_widths": "report"},
  "resnet": {"model__generator": "resnet_6blocks"},
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
  assert len(masks) == (3 if name in ("resnet", "report") else 2)


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


# --- In a browser


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
  """A folder with ONNX Runtime, from the npm registry."""
  if not shutil.which("npm"):
    pytest.skip("no npm to get ONNX Runtime from")
  folder = tmp_path_factory.mktemp("runtime") / "onnxruntime"
  try:
    static._copy_runtime(folder)
  except UsageError as error:
    pytest.skip(str(error))
  return folder


@contextlib.contextmanager
def hosted(folder):
  """The address of a plain web host, which knows nothing of this package."""
  handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
  handler.log_message = lambda *ignored: None
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
  server.RequestHandlerClass.log_message = lambda *ignored: None
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  try:
    yield f"http://127.0.0.1:{server.server_port}/"
  finally:
    server.shutdown()
    thread.join()
    server.server_close()


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
  static.write(
    translator, "tiny", tmp_path / "site", Examples("ready", "", ["a"], [{"input": image, "target": expected}])
  )
  assert json.loads((tmp_path / "site/model.json").read_text())["network"]["multiple"] == 8
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
