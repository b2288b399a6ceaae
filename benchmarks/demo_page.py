"""Time and size of the demo's page without a server, in Chromium: translating one image in WebAssembly.

  python benchmarks/demo_page.py --base_features=32
  python benchmarks/demo_page.py --base_features=64 --weights=float16

needs Playwright, Chromium, npm and the package onnx. The models are untrained, which changes neither. ONNX Runtime
computes in one thread, because more need headers that few web hosts send. In addition to the keys that all benchmarks
share (see measure.py; `median_s` is the time at 256×256), the JSON has

  p50_ms            by side of the image: median time from a click on "Another" to the output, as the page shows it
  model_mb          by side of the image: the model as it is loaded, in units of 10^6 bytes
  runtime_mb        ONNX Runtime as it is loaded
  page_mb           by side of the image: the whole folder, without examples
  weights           how kernels are stored
"""

import functools
import http.server
import json
from pathlib import Path
import re
import shutil
import tempfile
import threading

import jax
import jax.numpy as jnp
import measure
from playwright.sync_api import expect, sync_playwright

from pix2pix_jax.inference import Translator
from pix2pix_jax.serving import rounding, static
from pix2pix_jax.serving.examples import Examples

SIZES = (64, 128, 256)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")


def write(options, folder: Path) -> None:
  """The folder of an untrained model of `options.image_size`."""
  experiment = measure.experiment(options)
  x = jnp.zeros((1, options.image_size, options.image_size, 3))
  init = experiment.networks["generator"].init
  variables = jax.jit(lambda: init(jax.random.key(0), x, dropout=False, norm_stats="batch"))()
  translator = Translator(experiment.config, variables)
  static.write(translator, "benchmark", folder, Examples("absent", "None."), weights=options.weights)


def time_clicks(page, count: int) -> list[float]:
  """Milliseconds of translations, after a first one."""
  samples = []
  for _ in range(count + 1):
    expect(page.locator("#outputs")).to_have_attribute("data-version", re.compile(r"\d+"), timeout=120_000)
    samples.append(float(page.locator("#status").inner_text().split()[0]))
    page.get_by_role("button", name="Another").click()
  return samples[1:]


class Handler(http.server.SimpleHTTPRequestHandler):
  def log_message(self, *ignored) -> None:
    pass


def measure_folder(browser, folder: Path, count: int) -> list[float]:
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
  threading.Thread(target=server.serve_forever, daemon=True).start()
  page = browser.new_page()
  try:
    page.goto(f"http://127.0.0.1:{server.server_port}/")
    return time_clicks(page, count)
  finally:
    page.close()
    server.shutdown()


def main() -> None:
  load = measure.load()
  parser = measure.flags(__doc__)
  parser.add_argument("--base_features", type=int, default=64, help="width of the generator (default: 64)")
  parser.add_argument("--weights", choices=rounding.WEIGHTS, default="int8", help="(default: int8)")
  parser.add_argument("--repeats", type=int, default=20, help="timed translations of each size (default: 20)")
  options = measure.parse(parser)
  chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
  if not chromium:
    parser.error("there is no Chromium to time the page in: apt-get install chromium")
  samples, about = {}, {}
  with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
    for options.image_size in SIZES:
      folder = Path(place) / str(options.image_size)
      if options.image_size != SIZES[0]:
        shutil.copytree(Path(place) / str(SIZES[0]) / "onnxruntime", folder / "onnxruntime")
      write(options, folder)
      about[options.image_size] = json.loads((folder / "model.json").read_text(encoding="utf-8"))["bytes"]
      samples[options.image_size] = measure_folder(browser, folder, options.repeats)
    browser.close()
  measure.report(
    options,
    load,
    **measure.summary([each / 1000 for each in samples[256]]),
    p50_ms={size: sorted(each)[len(each) // 2] for size, each in samples.items()},
    model_mb={size: each["model"] / 1e6 for size, each in about.items()},
    runtime_mb=about[256]["runtime"] / 1e6,
    page_mb={size: sum(each.values()) / 1e6 for size, each in about.items()},
    weights=options.weights,
    base_features=options.base_features,
  )


if __name__ == "__main__":
  main()
