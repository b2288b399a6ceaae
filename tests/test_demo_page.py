"""The demo's page in a browser, as the server sends it, and as a folder of --static on a plain web host. Skipped
without Playwright or without Chromium; the folder also without onnx or npm.

pip install playwright onnx; apt-get install chromium npm
"""

import contextlib
import io
from pathlib import Path
import re
import shutil

import numpy as np
from PIL import Image
import pytest
from tiny_runs import make_translator, run
from web_hosts import get_runtime, hosted

for name in ("starlette", "uvicorn", "httpx", "playwright"):
  pytest.importorskip(name)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if not CHROMIUM:
  pytest.skip("no Chromium to show the page in", allow_module_level=True)
from demo_server import listening  # noqa: E402  (after the checks)
from playwright.sync_api import expect, sync_playwright  # noqa: E402

from pix2pix_jax import demo, inputs, palettes  # noqa: E402
from pix2pix_jax.inference import Translator  # noqa: E402
from pix2pix_jax.serving import static  # noqa: E402
from pix2pix_jax.serving.app import Service, working  # noqa: E402
from pix2pix_jax.serving.examples import Examples  # noqa: E402
from pix2pix_jax.signals import Depth, Stack  # noqa: E402
from pix2pix_jax.signals import Image as SignalImage  # noqa: E402

FLAGS = (
  *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
  *("--disable-background-networking", "--disable-component-update"),
  *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
)
SIZE = (16, 24)
WINDOW = (0, 128, 255)
LEVELS = 2
KINDS = {
  "image": {},
  "noise": {},
  "photo": {},
  "slow": {"model__base_features": 64, "model__levels": 3, "data__crop_size": 128, "data__crop_width": 128},
  "depth": {
    "data__input_kind": "depth",
    "data__input_dtype": "float32",
    "data__target_kind": "depth",
    "data__target_dtype": "float32",
    "data__target_scale": 1000.0,
    "data__depth_range": (0.0, 10.0),
    "model__input_channels": 1,
    "model__output_channels": 1,
  },
  "classes": {
    "data__input_kind": "classes",
    "data__input_palette": "cmp",
    "data__input_classes": 12,
    "data__target_kind": "classes",
    "data__target_palette": "cmp",
    "data__target_classes": 12,
    "model__input_channels": 12,
    "model__output_channels": 12,
  },
  "several": {
    "data__inputs": inputs.write(Stack((SignalImage(), Depth(range=(0.0, 10.0))), ("rgb", "lidar"))),
    "data__input_kind": "auto",
    "model__input_channels": 4,
  },
  "quantity": {
    "data__target_kind": "quantity",
    "data__target_dtype": "int16",
    "data__target_unit": "HU",
    "data__target_range": (-1000.0, 1800.0),
    "model__input_channels": 1,
    "model__output_channels": 1,
  },
}
CONTRAST = """() => {
  const luminance = (text) => {
    const linear = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const [r, g, b] = text.match(/[\\d.]+/g).map((v) => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const background = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const color = getComputedStyle(each).backgroundColor;
      if (!/, 0\\)|transparent/.test(color)) return color;
    }
  };
  const isShown = (e) => e.checkVisibility() && e.textContent.trim() && !e.closest(':disabled, .skip');
  const texts = 'h1, h2, p, span, button, label, a, kbd, code, summary, output';
  return [...document.querySelectorAll(texts)].filter(isShown).map((e) => {
    const lights = [luminance(getComputedStyle(e).color), luminance(background(e))].sort((x, y) => y - x);
    return [(lights[0] + .05) / (lights[1] + .05), e.outerHTML.slice(0, 80)];
  });
}"""
NAMELESS = """() => {
  const named = (e) => e.getAttribute('aria-label') || e.textContent.trim() || e.closest('label') || e.title;
  const controls = [...document.querySelectorAll('button, input, select, canvas, summary')];
  const inside = '[aria-hidden=true], button, #target';  // pictures within something that has a name
  return controls.filter((e) => e.checkVisibility() && !named(e) && !e.closest(inside)).map((e) => e.outerHTML);
}"""
GIVE = """([kind, name, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([Uint8Array.from(bytes)], name));
  const event = kind === 'drop' ? new DragEvent('drop', {dataTransfer: data, cancelable: true})
                                : new ClipboardEvent('paste', {clipboardData: data, cancelable: true});
  dispatchEvent(event);
}"""


def random(shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def example_inputs(kind):
  """Two inputs; those of "image" are label maps in colours."""
  indices = random((2, *SIZE, 1)) % 12
  if kind == "depth":
    return 1 + 8 * np.random.default_rng(0).random((2, *SIZE, 1), np.float32)
  if kind == "quantity":
    return random((2, *SIZE, 1))
  if kind == "several":
    return random((2, *SIZE, 4)) / np.float32([1, 1, 1, 30])  # the last channel is depth, up to 8.5 m
  if kind == "photo":
    return random((2, *SIZE, 3))
  return indices if kind == "classes" else np.array(palettes.CMP, np.uint8)[indices[..., 0]]


@pytest.fixture(scope="module")
def browser():
  with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def services():
  """A function: kind → (address, translator, inputs of the examples); a server is started when it is asked for."""
  with contextlib.ExitStack() as stack:
    started = {}

    def get(kind):
      if kind not in started:
        translator = make_translator(**KINDS[kind])
        service = stack.enter_context(working(Service(translator, kind, examples=make_examples(kind, translator))))
        started[kind] = stack.enter_context(listening(service)).base_url, translator, example_inputs(kind)
      return started[kind]

    yield get


def make_examples(kind, translator):
  return Examples("ready", "", ["one", "two"], [{"input": x, "target": translator(x)} for x in example_inputs(kind)])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """A function: kind → the same of a folder on a plain web host. That of "image" is a run of the demo's configuration,
  trained for a few steps, and the command writes the folder. "noise" and "slow" have noise, unlike the server's.
  """
  pytest.importorskip("onnx")
  with contextlib.ExitStack() as stack:
    written, runtime = {}, get_runtime(tmp_path_factory)

    def get(kind):
      if kind not in written:
        folder = tmp_path_factory.mktemp("static")
        shutil.copytree(runtime, folder / "site/onnxruntime")
        if kind == "image":
          done = run(folder / "demo", data__load_width=26, data__crop_width=24, evaluation__dropout=False)
          assert done.returncode == 0, done.stderr
          demo.main([f"--workdir={folder / 'demo'}", f"--static={folder / 'site'}"])
          translator = Translator.load(folder / "demo")
          images = [np.load(path) for path in sorted((folder / "site/examples").glob("*_input.npy"))]
        else:
          translator = make_translator(**KINDS[kind], evaluation__dropout=kind in ("noise", "slow"))
          images = example_inputs(kind)
          static.write(translator, kind, folder / "site", make_examples(kind, translator))
        written[kind] = stack.enter_context(hosted(folder / "site")), translator, images
      return written[kind]

    yield get


@pytest.fixture(params=["server", "folder"])
def form(request):
  return request.param


@pytest.fixture
def opened(browser, form, request):
  """A function that opens the page of a model; at the end, the console must have no error."""
  pages, get = [], request.getfixturevalue("services" if form == "server" else "folders")

  def open_page(kind="image", **options):
    address, translator, images = get(kind)
    context = browser.new_context(**{"viewport": {"width": 1300, "height": 900}} | options)
    page = context.new_page()
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda message: page.faults.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: page.faults.append(request.url) if not is_own(request.url, address) else None)
    page.goto(str(address))
    expect(page.locator("#thumbnails button[aria-pressed=true]")).to_have_count(1, timeout=20_000)
    pages.append((context, page))
    page.translator, page.inputs, page.form = translator, images, form
    settle(page)
    return page

  yield open_page
  for context, page in pages:
    assert page.faults == []
    context.close()


def assert_shows(page, image, **options):
  """The output is that of `Translator`: the same bits from the server; in the browser, without noise and with int8
  weights, within LEVELS.
  """
  shown = pixels(page, "#outputs canvas")
  if page.form == "server":
    np.testing.assert_array_equal(shown, page.translator(image, **options))
  else:
    assert np.abs(shown.astype(int) - page.translator(image, **options)).max() <= LEVELS


def is_own(url, address):
  return url.startswith((str(address), "blob:", "data:"))


def settle(page):
  """Waits until the output is that of the input."""
  expect(page.locator("#outputs")).to_have_attribute("data-version", re.compile(r"\d+"), timeout=20_000)


def pixels(page, selector):
  """What a canvas shows, uint8 (H, W, 3)."""
  code = """canvas => { const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
                        return [canvas.height, canvas.width, Array.from(data)]; }"""
  height, width, data = page.locator(selector).first.evaluate(code)
  return np.array(data, np.uint8).reshape(height, width, 4)[..., :3]


def drag(page, start, end):
  """Draws from one pixel of the canvas to another, (x, y)."""
  box = page.locator("#canvas").bounding_box()
  at = [
    (box["x"] + (x + 0.5) * box["width"] / SIZE[1], box["y"] + (y + 0.5) * box["height"] / SIZE[0])
    for x, y in (start, end)
  ]
  page.mouse.move(*at[0])
  page.mouse.down()
  page.mouse.move(*at[1], steps=4)
  page.mouse.up()
  settle(page)


def test_a_rectangle_changes_the_output_and_undo_takes_it_back(opened):
  page = opened()
  before, shown = pixels(page, "#canvas"), pixels(page, "#outputs canvas")
  np.testing.assert_array_equal(before, page.inputs[0])
  assert_shows(page, page.inputs[0])
  page.get_by_role("button", name="Rectangle").click()
  page.get_by_role("radio", name="window").click()
  drag(page, (4, 3), (10, 8))
  expected = before.copy()
  expected[3:9, 4:11] = WINDOW
  np.testing.assert_array_equal(pixels(page, "#canvas"), expected)
  assert_shows(page, expected)
  assert (page.translator(expected) != shown).any()
  page.get_by_role("button", name="Undo").click()
  settle(page)
  np.testing.assert_array_equal(pixels(page, "#outputs canvas"), shown)
  page.keyboard.press("Control+y")
  settle(page)
  np.testing.assert_array_equal(pixels(page, "#canvas"), expected)
  page.keyboard.press("Control+z")
  page.get_by_role("button", name="Clear").click()
  settle(page)
  assert (pixels(page, "#canvas") == palettes.CMP[0]).all()


def test_the_same_seed_shows_the_same_image(opened):
  page = opened("noise")
  first = pixels(page, "#outputs canvas")
  page.get_by_role("button", name="Another").click()
  settle(page)
  if page.form == "server":  # the noise of a seed is another one in the browser
    assert_shows(page, page.inputs[0], seed=1)
  assert (pixels(page, "#outputs canvas") != first).any()
  page.get_by_label("Seed").fill("0")
  page.get_by_label("Seed").press("Enter")
  settle(page)
  np.testing.assert_array_equal(pixels(page, "#outputs canvas"), first)
  page.get_by_label("Seed").fill("-3")
  page.get_by_label("Seed").press("Enter")
  expect(page.get_by_role("alert")).to_contain_text("The seed has to be an integer")
  page.get_by_label("Seed").fill("0")
  page.get_by_label("Samples").select_option("4")
  settle(page)
  expect(page.locator("#outputs canvas")).to_have_count(4)
  samples = [pixels(page, f"#outputs canvas:nth-child({i})") for i in range(1, 5)]
  np.testing.assert_array_equal(samples[0], first)
  assert all((one != samples[0]).any() for one in samples[1:])
  if page.form == "server":
    np.testing.assert_array_equal(samples[2], page.translator(page.inputs[0], num_samples=4)[2])
  expect(page.get_by_role("alert")).to_be_hidden()


def test_brush_and_fill(opened):
  page = opened("classes")
  page.get_by_role("button", name="Clear").click()
  page.get_by_role("radio", name="door").click()
  page.locator("#size").fill("1")
  drag(page, (0, 5), (23, 5))
  page.get_by_role("button", name="Fill").click()
  page.get_by_role("radio", name="shop").click()
  drag(page, (3, 12), (3, 12))
  expected = np.zeros((*SIZE, 1), np.uint8)
  expected[5], expected[6:] = 3, 11
  np.testing.assert_array_equal(pixels(page, "#canvas"), np.array(palettes.CMP, np.uint8)[expected[..., 0]])
  answer = page.translator(expected)[..., 0]
  shown = pixels(page, "#outputs canvas")
  differs = (shown != np.array(palettes.CMP, np.uint8)[answer]).any(-1)
  assert differs.mean() <= (0 if page.form == "server" else 0.05) and not differs[0, 0]
  expect(page.locator("#legend li")).to_have_count(12)
  page.locator("#outputs canvas").hover(position={"x": 5, "y": 5})
  expect(page.locator("#output-readout")).to_have_text(
    f"x 0, y 0: {palettes.NAMES['cmp'][answer[0, 0]]} (class {answer[0, 0]})"
  )


def test_the_keyboard_alone_draws(opened):
  page = opened()
  page.keyboard.press("r")
  page.locator("#canvas").focus()
  for key in (*["ArrowRight"] * 2, "ArrowDown", "Space", "Shift+ArrowRight", *["ArrowDown"] * 3, "Space"):
    page.keyboard.press(key)
  settle(page)
  expected = page.inputs[0].copy()
  expected[1:5, 2:11] = WINDOW  # the colour that is chosen at the start
  np.testing.assert_array_equal(pixels(page, "#canvas"), expected)
  page.locator("#palette [aria-checked=true]").focus()
  page.keyboard.press("ArrowDown")
  expect(page.get_by_role("radio", name="door")).to_have_attribute("aria-checked", "true")
  focused = set()
  page.locator(".skip").focus()
  for _ in range(40):
    page.keyboard.press("Tab")
    focused.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
  noise = {"seed", "another", "samples"} if page.form == "server" else set()  # the folder's model has none
  assert {"tool", "swatch", "canvas", "clear", "open"} | noise <= focused


def test_while_drawing_the_newest_state_wins(opened):
  page = opened()
  page.get_by_role("radio", name="shop").click()
  for row in range(0, 16, 2):
    drag(page, (1, row), (22, 15 - row))
  assert_shows(page, pixels(page, "#canvas"))


def test_the_output_follows_a_stroke_that_goes_on(opened):
  page = opened()
  page.get_by_role("radio", name="shop").click()
  box = page.locator("#canvas").bounding_box()
  page.mouse.move(box["x"] + 5, box["y"] + 5)
  page.mouse.down()
  for step in range(1, 20):
    page.mouse.move(box["x"] + 5 + step * 10, box["y"] + 5 + step * 6)
    page.wait_for_timeout(5)
  settle(page)
  shown = pixels(page, "#canvas")
  assert (shown != page.inputs[0]).any()
  assert_shows(page, shown)
  page.mouse.up()


def test_files_are_opened_dropped_and_pasted_and_others_are_refused(opened, tmp_path):
  page = opened()
  page.locator("#file").set_input_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no image"})
  expect(page.get_by_role("alert")).to_contain_text("notes.txt: The image is in none of the formats")
  assert (page.form == "server") == bool(page.faults)  # browsers log the status of a refused request
  page.faults.clear()
  np.testing.assert_array_equal(pixels(page, "#canvas"), page.inputs[0])
  image = random((*SIZE, 3), seed=5)
  content = io.BytesIO()
  Image.fromarray(image).save(content, "PNG")
  page.locator("#file").set_input_files({"name": "mine.png", "mimeType": "image/png", "buffer": content.getvalue()})
  expect(page.locator("#undo")).to_be_enabled()
  settle(page)
  np.testing.assert_array_equal(pixels(page, "#canvas"), image)
  assert_shows(page, image)
  expect(page.get_by_role("alert")).to_be_hidden()
  for kind, name, seed in (("drop", "a.npy", 6), ("paste", "b.npy", 7)):
    other = io.BytesIO()
    np.save(other, random((*SIZE, 3), seed=seed))
    page.evaluate(GIVE, [kind, name, list(other.getvalue())])
    page.wait_for_timeout(50)
    settle(page)
    np.testing.assert_array_equal(pixels(page, "#canvas"), random((*SIZE, 3), seed=seed))


def test_depth_shows_metres_under_the_pointer_and_is_saved_without_loss(opened, tmp_path):
  page = opened("depth")
  expected = page.translator(page.inputs[0])
  page.locator("#outputs canvas").hover(position={"x": 3, "y": 3})
  expect(page.locator("#output-readout")).to_contain_text(" m")
  found = float(re.search(r": ([\d.]+) m", page.locator("#output-readout").inner_text())[1])
  assert found == pytest.approx(expected[0, 0, 0], abs=0.005 if page.form == "server" else 10 * LEVELS / 255)
  expect(page.locator("#legend")).to_contain_text("10 m")
  saved = {}
  for format_name in ("npy", "png16", "display"):
    page.locator("#download summary").click()
    with page.expect_download() as download:
      page.locator(f"[data-format={format_name}]").click()
    saved[format_name] = Path(download.value.path()).read_bytes()
  metres = np.load(io.BytesIO(saved["npy"]))
  np.testing.assert_allclose(metres, expected, atol=0 if page.form == "server" else 10 * LEVELS / 255)
  wide = np.asarray(Image.open(io.BytesIO(saved["png16"])))
  np.testing.assert_array_equal(wide, np.round(metres[..., 0].astype(float) * 1000))
  assert np.asarray(Image.open(io.BytesIO(saved["display"]))).shape[:2] == SIZE
  page.locator("#value").fill("2.5")
  page.locator("#value").dispatch_event("input")
  drag(page, (2, 2), (2, 2))
  page.locator("#canvas").hover(position={"x": 60, "y": 60})
  expect(page.locator("#input-readout")).to_contain_text(": 2.50 m")


def test_quantities_have_their_unit(opened):
  page = opened("quantity")
  value = page.translator(page.inputs[0])[0, 0, 0]
  page.locator("#outputs canvas").hover(position={"x": 3, "y": 3})
  found = re.fullmatch(r"x 0, y 0: (-?\d+) HU", page.locator("#output-readout").inner_text())
  assert int(found[1]) == pytest.approx(value, abs=0 if page.form == "server" else 2800 * LEVELS / 255)
  expect(page.locator("#legend")).to_contain_text("1800 HU")


def test_several_inputs_are_shown_one_at_a_time(opened):
  page = opened("several")
  np.testing.assert_array_equal(pixels(page, "#canvas"), page.inputs[0][..., :3])
  assert_shows(page, page.inputs[0])
  page.get_by_label("Show").select_option("lidar")
  assert (pixels(page, "#canvas") != page.inputs[0][..., :3]).any()
  expect(page.get_by_role("button", name="Brush")).to_be_hidden()
  page.locator("#canvas").hover(position={"x": 3, "y": 3})
  expect(page.locator("#input-readout")).to_contain_text(" m")


def test_the_camera_is_an_input_of_photographs(opened):
  page = opened("photo")
  before = pixels(page, "#canvas")
  page.get_by_role("button", name="Camera").click()
  page.get_by_role("button", name="Take the photograph").click()
  expect(page.locator("#undo")).to_be_enabled()
  settle(page)
  after = pixels(page, "#canvas")
  assert (after != before).any() and after.std() > 5
  assert_shows(page, after)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1300])
def test_the_page_fits_and_its_text_has_contrast(opened, scheme, width):
  page = opened(viewport={"width": width, "height": 800}, color_scheme=scheme)
  assert page.evaluate("document.documentElement.scrollWidth") <= width
  ratios = page.evaluate(CONTRAST)
  assert len(ratios) > 20
  assert [each for each in ratios if each[0] < 4.5] == []


def test_every_control_has_a_name(opened):
  page = opened()
  assert page.evaluate(NAMELESS) == []


def test_without_a_camera_a_message_says_what_to_do(opened):
  page = opened("photo")
  denied = "async () => { throw new DOMException('denied', 'NotAllowedError'); }"
  page.evaluate(f"() => {{ navigator.mediaDevices.getUserMedia = {denied}; }}")
  page.get_by_role("button", name="Camera").click()
  expect(page.get_by_role("alert")).to_contain_text(
    "The camera cannot be used (denied). Allow it in the browser, or open a"
  )
  expect(page.get_by_role("dialog")).to_be_hidden()


def test_the_page_stays_responsive_while_it_translates(opened):
  """A timer of the page is late only as long as its own work takes, although a translation takes longer."""
  page = opened("slow")
  page.evaluate("""() => {
    window.late = 0;
    let last = performance.now();
    const tick = () => { const now = performance.now(); late = Math.max(late, now - last - 10); last = now; };
    setInterval(tick, 10);
  }""")
  page.get_by_role("button", name="Another").click()
  page.get_by_label("Samples").select_option("9")
  settle(page)
  milliseconds = int(page.locator("#status").inner_text().split()[0])
  assert page.evaluate("window.late") < milliseconds / 2


def test_a_folder_tells_its_parts_and_works_offline_once_it_is_loaded(browser, folders):
  address, translator, images = folders("image")
  context = browser.new_context()
  page = context.new_page()
  page.goto(str(address))
  settle(page)
  expect(page.locator("#interface")).to_contain_text("MB, int8 weights) runs in this browser")
  expect(page.locator("#interface")).to_contain_text("Validation: l1 0.")  # the run's data was there to measure it
  context.set_offline(True)
  page.form, page.translator = "folder", translator
  page.get_by_role("button", name="Clear").click()
  settle(page)
  assert_shows(page, np.zeros_like(images[0]) + np.array(palettes.CMP[0], np.uint8))
  context.close()


def test_a_folder_without_its_model_says_what_is_missing(browser, folders, tmp_path):
  site = folders("image")[0]
  context = browser.new_context()
  page = context.new_page()
  page.route("**/model.onnx.gz", lambda route: route.fulfill(status=404))
  page.goto(site)
  expect(page.get_by_role("alert")).to_contain_text("model.onnx.gz is missing on this web host: 404")
  context.close()
