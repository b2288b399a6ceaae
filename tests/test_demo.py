"""The demo's server: the same bits as `Translator`, batches, limits, and what clients are told."""

import concurrent.futures
import http.client
import io
import json
from pathlib import Path
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib

import forked
import numpy as np
from PIL import Image
import pytest
from tiny_runs import ROOT, make_translator, run

from pix2pix_jax import demo, inputs, palettes
from pix2pix_jax.data import files
from pix2pix_jax.errors import UsageError
from pix2pix_jax.signals import Depth, Stack
from pix2pix_jax.signals import Image as SignalImage

for name in ("starlette", "uvicorn", "httpx"):
  pytest.importorskip(name)
from demo_server import listening  # noqa: E402  (after the checks)
import httpx  # noqa: E402

from pix2pix_jax.serving import batching, examples, payload  # noqa: E402
from pix2pix_jax.serving.app import Limits, Service, working  # noqa: E402

SMALL = Limits(bytes=30_000, pixels=5_000, samples=3, queue=8)


def draw(shape=(16, 24, 3), dtype=np.uint8, seed=0):
  return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def encode(array, suffix=".png"):
  """The bytes of a file."""
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / f"image{suffix}"
    if suffix == ".jpg":
      Image.fromarray(array).save(path)
    else:
      files.write(path, array)
    return path.read_bytes()


def encode_npy(array):
  buffer = io.BytesIO()
  np.save(buffer, array)
  return buffer.getvalue()


def claiming(width, height):
  """A small PNG whose header claims another size."""
  content = encode(draw())
  header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
  return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def decode(response):
  assert response.status_code == 200, response.text
  if response.headers["content-type"] == "application/x-npy":
    return np.load(io.BytesIO(response.content))
  if response.headers["content-type"] == "image/tiff":
    with tempfile.NamedTemporaryFile(suffix=".tif") as file:
      Path(file.name).write_bytes(response.content)
      return files.read_volume(Path(file.name)) if files.holds_slices(Path(file.name)) else files.read(Path(file.name))
  return np.asarray(Image.open(io.BytesIO(response.content)))


@pytest.fixture(scope="module")
def translator():
  return make_translator()


@pytest.fixture(scope="module")
def client(translator):
  with working(Service(translator, "tiny", limits=SMALL)) as service, listening(service) as client:
    yield client


@pytest.fixture(scope="module")
def depth_client():
  kinds = {"data__input_kind": "depth", "data__target_kind": "depth", "data__target_scale": 1000.0}
  types = {"data__input_dtype": "float32", "data__target_dtype": "float32", "data__depth_range": (0.0, 10.0)}
  translator = make_translator(model__input_channels=1, model__output_channels=1, **kinds, **types)
  with working(Service(translator, "depth")) as service, listening(service) as client:
    yield client


# --- Results


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
@pytest.mark.parametrize("size", [(16, 24), (13, 21)])
def test_a_result_has_the_bits_of_the_translator(client, translator, suffix, size):
  image = draw((*size, 3))
  for name in ("png", "tiff", "npy"):
    response = client.post(f"/translate?seed=3&format={name}", content=encode(image, suffix))
    np.testing.assert_array_equal(decode(response), translator(image, seed=3))
  assert response.headers["x-step"] == "None"  # of a model that was never trained


def test_the_accept_header_chooses_the_format_and_png_is_the_default(client, translator):
  image = draw()
  for accept, content_type in (("*/*", "image/png"), ("image/tiff, image/png;q=0.5", "image/tiff")):
    response = client.post("/translate", content=encode(image), headers={"accept": accept})
    assert response.headers["content-type"] == content_type
    np.testing.assert_array_equal(decode(response), translator(image))


def test_options_are_those_of_the_translator(client, translator):
  image = encode(draw())
  off = decode(client.post("/translate?dropout=off&format=npy", content=image))
  np.testing.assert_array_equal(off, translator(draw(), dropout=False))
  many = decode(client.post("/translate?samples=3&seed=1&format=npy", content=image))
  np.testing.assert_array_equal(many, translator(draw(), num_samples=3, seed=1))
  assert (many[0] != many[1]).any() and (many[0] != off).any()
  stack = decode(client.post("/translate?samples=3&seed=1&format=tiff", content=image))
  np.testing.assert_array_equal(stack, many)


def test_16_bits_stay_16_bits(client, translator):
  image = draw(dtype=np.uint16)
  response = client.post("/translate?format=png16", content=encode(image))
  assert response.content[24] == 16  # the header of a PNG: bits
  wide = payload.read(translator.input_signal, response.content, max_pixels=999)
  np.testing.assert_array_equal(wide, 257 * translator(image).astype(np.uint16))
  assert client.post("/translate?format=png", content=encode(image)).content[24] == 8


def test_depth_is_metres_in_npy_and_scaled_integers_in_png(depth_client):
  metres = np.random.default_rng(0).uniform(0.5, 9, (16, 16, 1)).astype(np.float32)
  expected = depth_client.service.translator(metres)
  np.testing.assert_array_equal(
    decode(depth_client.post("/translate?format=npy", content=encode(metres, ".npy"))), expected
  )
  response = depth_client.post("/translate", content=encode(metres, ".tif"))
  assert response.headers["x-depth-scale"] == "1000" and response.headers["x-unit"] == "m"
  np.testing.assert_array_equal(decode(response), np.round(expected[..., 0].astype(float) * 1000))
  assert decode(depth_client.post("/translate?format=display", content=encode(metres, ".npy"))).shape == (16, 16, 3)
  refused = depth_client.post("/translate", content=encode(np.zeros((16, 16, 1), np.float32), ".npy"))
  assert refused.status_code == 400 and "The image holds no measurement at all" in refused.json()["error"]


def test_classes_come_back_as_indices_with_their_palette():
  kinds = {"data__input_kind": "classes", "data__input_palette": "cmp", "data__target_kind": "classes"}
  counts = {
    "data__input_classes": 12,
    "data__target_classes": 4,
    "model__input_channels": 12,
    "model__output_channels": 4,
  }
  translator = make_translator(**kinds, **counts)
  indices = draw((16, 24, 1), seed=2) % 12
  with working(Service(translator, "classes")) as service, listening(service) as client:
    colors = np.array(palettes.CMP, np.uint8)[indices[..., 0]]
    for sent in (encode(colors), encode(indices, ".npy")):
      np.testing.assert_array_equal(decode(client.post("/translate", content=sent)), translator(indices)[..., 0])
    about = client.get("/model.json").json()
    assert client.post("/translate?format=png16", content=encode(colors)).status_code == 400
    assert "png16" not in about["formats"]
  assert about["input"]["classes"][2] == {"value": [2], "color": [0, 128, 255], "name": "window"}
  assert [each["name"] for each in about["target"]["classes"]] == ["0", "1", "2", "3"]


def test_several_inputs_are_one_npy_with_their_channels():
  stack = Stack((SignalImage(), Depth(range=(0.0, 50.0))), ("rgb", "lidar"))
  translator = make_translator(data__inputs=inputs.write(stack), data__input_kind="auto", model__input_channels=4)
  rgb, lidar = draw(), draw((16, 24, 1), seed=1).astype(np.float32) / 10
  joined = translator.input_signal.join({"rgb": rgb, "lidar": lidar})
  with working(Service(translator, "several")) as service, listening(service) as client:
    response = client.post("/translate?format=npy", content=encode(joined, ".npy"))
    np.testing.assert_array_equal(decode(response), translator({"rgb": rgb, "lidar": lidar}))
    refused = client.post("/translate", content=encode(rgb))
    assert refused.status_code == 415 and "an npy with the channels of all inputs" in refused.json()["error"]
    assert [part["name"] for part in client.get("/model.json").json()["input"]["parts"]] == ["rgb", "lidar"]


def test_the_page_reads_files_at_its_own_size(client, translator):
  image = draw((20, 40, 3))
  response = client.post("/read", content=encode(image))
  np.testing.assert_array_equal(decode(response), image)
  assert decode(client.post("/read?size=16x24", content=encode(image, ".jpg"))).shape == (16, 24, 3)
  checks = np.zeros((30, 50, 3), np.uint8)
  checks[:, 25:] = 200
  halves = decode(client.post("/read?size=16x16", content=encode(checks)))  # cropped around the centre, not squeezed
  assert (halves[:, :7] == 0).all() and (halves[:, 9:] > 195).all()
  for size in ("16", "0x4", "999999x999999", "axb"):
    assert client.post(f"/read?size={size}", content=encode(image)).status_code == 400


# --- Refusals


BAD = {
  "empty": (b"", 400, "is empty"),
  "text": (b"hello, this is no image", 415, "none of the formats"),
  "half a PNG": (encode(draw((40, 40, 3)))[:2000], 400, "The image cannot be read"),
  "a PNG header alone": (encode(draw())[:33], 400, "The image cannot be read"),
  "wrong channels": (encode(draw((8, 8, 7)), ".npy"), 400, "The image has 7 channels"),
  "several images": (
    encode(draw((4, 8, 8)), ".npy").replace(b"(4, 8, 8)", b"(4, 8, 8)"),
    400,
    "The image has 8 channels",
  ),
  "too many pixels": (encode(np.zeros((100, 100, 1), np.uint8)), 413, "100×100"),
  "a lie about its size": (claiming(9_000, 9_000), 413, "9000×9000"),
  "a lie beyond reason": (claiming(2**31 - 1, 100_000), 413, "claims to be huge"),
  "a lie of npy": (encode(draw(), ".npy").replace(b"(16, 24, 3)", b"(99, 99, 3)"), 400, "The image cannot be read"),
  "many channels": (encode(np.zeros((8, 8, 400), np.uint8), ".npy"), 413, "400 channels"),
  "NaN": (encode(np.full((8, 8, 3), np.nan, np.float32), ".npy"), 400, "NaN"),
  "pickled": (encode_npy(np.full((2, 2), None)), 400, "The image holds object"),
  "too long": (b"\x89PNG\r\n\x1a\n" + b"0" * 40_000, 413, "30,000 bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_refused_with_a_message_and_the_server_goes_on(client, translator, name):
  content, status, message = BAD[name]
  response = client.post("/translate", content=content)
  assert response.status_code == status and message in response.json()["error"], response.text
  assert "/tmp" not in response.text and "Traceback" not in response.text
  np.testing.assert_array_equal(decode(client.post("/translate", content=encode(draw()))), translator(draw()))


def test_a_body_without_a_length_is_cut_off_at_the_limit(client):
  sent = []

  def chunks():
    for _ in range(1000):
      sent.append(1)
      yield b"x" * 10_000

  response = client.post("/translate", content=chunks())
  assert response.status_code == 413


@pytest.mark.parametrize(
  "query, message",
  [
    ("seed=-1", "seed is '-1'; it has to be an integer between 0 and 4294967295"),
    ("seed=1e3", "seed is"),
    ("samples=4", "between 1 and 3"),
    ("samples=2", "format=tiff, npy"),
    ("format=gif", "format is 'gif'; it has to be one of png, png16"),
    ("dropout=maybe", "dropout is 'maybe'; it has to be on or off"),
    ("sed=1", "There is no parameter 'sed'; the parameters are seed"),
  ],
)
def test_bad_options_are_refused(client, query, message):
  response = client.post(f"/translate?{query}", content=encode(draw()))
  assert response.status_code == 400 and message in response.json()["error"]


def test_samples_count_as_pixels(client):
  response = client.post("/translate?samples=3&format=npy", content=encode(np.zeros((48, 48, 3), np.uint8)))
  assert response.status_code == 413 and "3 samples of 48×48" in response.json()["error"]


def test_other_sites_and_forms_are_refused(client, translator):
  image = encode(draw())
  assert client.get("/health", headers={"host": "attacker.example"}).status_code == 400
  assert client.post("/translate", content=image, headers={"sec-fetch-site": "cross-site"}).status_code == 403
  assert client.post("/translate", content=image, headers={"sec-fetch-site": "same-origin"}).status_code == 200
  form = client.post("/translate", files={"file": ("a.png", image)})
  assert form.status_code == 415 and "--data-binary" in form.json()["error"]
  with listening(Service(translator, "any"), any_host=True) as anywhere:
    assert anywhere.get("/health", headers={"host": "demo.example"}).status_code == 200


def test_paths_outside_the_page_are_not_served(client):
  for path in ("/../demo.py", "/..%2fdemo.py", "/%2e%2e/demo.py", "//etc/passwd", "/nothing", "/examples/0_input.npy"):
    connection = http.client.HTTPConnection("127.0.0.1", client.base_url.port)
    connection.request("GET", path)
    assert connection.getresponse().status == 404, path
    connection.close()


# --- Batches


class Gate:
  """A translator that waits until it may go on, and counts its images."""

  def __init__(self, translator):
    self._translator, self.sizes, self.open, self.entered = translator, [], threading.Event(), threading.Event()

  def __getattr__(self, name):
    return getattr(self._translator, name)

  def __call__(self, images, **options):
    self.sizes.append(len(images))
    self.entered.set()
    assert self.open.wait(30)
    return self._translator(images, **options)


def test_images_that_wait_share_a_batch_and_do_not_affect_each_other(translator):
  gate = Gate(translator)
  batcher = batching.Batcher(gate)
  images = [draw(seed=i) for i in range(5)]
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    pool.submit(batcher.run)
    first = batcher.submit(images[0], batching.Options())
    assert gate.entered.wait(30)
    rest = [batcher.submit(image, batching.Options()) for image in images[1:]]
    other = batcher.submit(images[0], batching.Options(seed=9))
    alone = batcher.submit(images[1], batching.Options(alone=True))
    small = batcher.submit(draw((8, 8, 3)), batching.Options())
    gate.open.set()
    results = [future.result(30)[0] for future in (first, *rest)]
    np.testing.assert_array_equal(other.result(30)[0], translator(images[0], seed=9))
    np.testing.assert_array_equal(alone.result(30)[0], translator(images[1]))
    np.testing.assert_array_equal(small.result(30)[0], translator(draw((8, 8, 3))))
    batcher.close()
  assert gate.sizes == [1, 4, 1, 1, 1] and batcher.translated == 8 and batcher.batches == 5
  np.testing.assert_array_equal(results[0], translator(images[0]))
  for index in (1, 4):  # with any companions at all, in a batch of four
    others = [images[index], *[draw(seed=100 + i) for i in range(3)]]
    np.testing.assert_array_equal(results[index], translator(np.stack(others), batch_size=4)[0])
    assert np.abs(results[index].astype(int) - translator(images[index])).max() <= 1


def test_a_model_whose_images_affect_each_other_gets_batches_of_one(translator):
  gate = Gate(make_translator(evaluation__norm_stats="batch"))
  batcher = batching.Batcher(gate)
  futures = [batcher.submit(draw(seed=i), batching.Options()) for i in range(3)]
  gate.open.set()
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    pool.submit(batcher.run)
    for i, future in enumerate(futures):
      np.testing.assert_array_equal(future.result(30)[0], gate(draw(seed=i)))
    batcher.close()


def test_a_batch_that_fails_is_tried_one_by_one(translator):
  def fails_on_white(images, **options):
    if (images == 255).all((1, 2, 3)).any():
      raise RuntimeError("white")
    return translator(images, **options)

  class Fails(Gate):
    __call__ = staticmethod(fails_on_white)

  batcher = batching.Batcher(Fails(translator))
  images = [draw(), np.full((16, 24, 3), 255, np.uint8), draw(seed=1)]
  futures = [batcher.submit(image, batching.Options()) for image in images]
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    pool.submit(batcher.run)
    with pytest.raises(RuntimeError, match="white"):
      futures[1].result(30)
    for index in (0, 2):
      np.testing.assert_array_equal(futures[index].result(30)[0], translator(images[index]))
    batcher.close()


def test_the_queue_is_bounded_forgets_who_has_left_and_fails_when_it_closes(translator):
  batcher = batching.Batcher(translator, max_waiting=2)
  first, second = (batcher.submit(draw(), batching.Options()) for _ in range(2))
  with pytest.raises(batching.Full):
    batcher.submit(draw(), batching.Options())
  assert first.cancel()
  batcher.submit(draw(), batching.Options())
  batcher.close()
  with pytest.raises(batching.Stopped):
    second.result(1)
  with pytest.raises(batching.Stopped):
    batcher.submit(draw(), batching.Options())
  batcher.run()  # returns at once


def test_programs_for_many_sizes_are_forgotten(monkeypatch):
  translator = make_translator()
  monkeypatch.setattr(batching, "MAX_PROGRAMS", 2)
  forgotten = []
  monkeypatch.setattr(
    translator, "forget_programs", lambda: forgotten.append(1) or type(translator).forget_programs(translator)
  )
  batcher = batching.Batcher(translator)
  for side in (8, 16, 5, 24, 8):
    batcher.warm_up((side, 8))
  assert len(forgotten) == 1 and translator._generate._cache_size() == 2  # those for 24 and, again, 8


def test_two_clients_at_once_get_their_own_results(client, translator):
  images = [draw(seed=i) for i in range(12)]

  def ask(index):
    return decode(client.post(f"/translate?format=npy&alone=on&seed={index % 2}", content=encode(images[index])))

  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    for index, result in enumerate(pool.map(ask, range(12))):
      np.testing.assert_array_equal(result, translator(images[index], seed=index % 2))


def test_a_full_server_says_so(translator):
  service = Service(translator, "full", limits=Limits(queue=1))
  with listening(service) as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
    waiting = pool.submit(client.post, "/translate", content=encode(draw()))
    while not service.batcher.waiting:
      time.sleep(0.01)
    refused = client.post("/translate", content=encode(draw()))
    assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
    assert client.get("/health").json()["waiting"] == 1
    with working(service):
      assert waiting.result(30).status_code == 200


def test_a_client_that_leaves_takes_its_image_out_of_the_queue(translator):
  service = Service(translator, "left")
  with listening(service) as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
    left = pool.submit(client.post, "/translate", content=encode(draw()), timeout=2)
    deadline = time.monotonic() + 20
    while not service.batcher.waiting:
      assert time.monotonic() < deadline
      time.sleep(0.01)
    (job,) = service.batcher._waiting
    while not job.future.cancelled():
      assert time.monotonic() < deadline
      time.sleep(0.01)
    assert isinstance(left.exception(5), httpx.ReadTimeout)
    with working(service):
      assert client.post("/translate", content=encode(draw())).status_code == 200
    assert service.batcher.translated == 1


def test_no_request_is_lost_among_bad_ones_and_memory_does_not_grow():
  """The benchmark's last phase, with fewer requests and a tiny network."""
  settings = ("--image_size=32", "--base_features=2", "--clients=8", "--requests=4", "--soak=280")
  command = [sys.executable, str(ROOT / "benchmarks/demo_server.py"), *settings]
  done = forked.run(command)
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout.splitlines()[-1])
  kinds = {"no_image", "damaged", "many_pixels", "wrong_option", "another_size"}
  assert found["soak_bad"].keys() == kinds | {"too_long", "slow", "stalled", "aborted", "gone"}
  assert found["soak_requests"] == 280 and found["soak_lost"] == {}
  assert found["soak_resident_mib"][-1] - found["soak_resident_mib"][0] < 30


# --- Description


def test_the_openapi_document_describes_every_route_and_parameter(client):
  document = client.get("/openapi.json").json()
  routes = {route.path.replace(":int", "").replace(":str", "") for route in client.service.app().routes if route.path}
  assert set(document["paths"]) == routes - {"/openapi.json"}
  parameters = document["paths"]["/translate"]["post"]["parameters"]
  for parameter in parameters:
    schema = parameter["schema"]
    good = schema["enum"][0] if "enum" in schema else schema["minimum"]
    assert client.post(f"/translate?{parameter['name']}={good}", content=encode(draw())).status_code == 200
    assert client.post(f"/translate?{parameter['name']}=nonsense", content=encode(draw())).status_code == 400
  named = client.post("/translate?x=1", content=b"").json()["error"].partition("are ")[2].rstrip(".").split(", ")
  assert sorted(named) == sorted(parameter["name"] for parameter in parameters)
  assert "#/components/schemas/Error" in json.dumps(document)


def test_the_page_needs_nothing_from_elsewhere(client):
  response = client.get("/")
  assert response.status_code == 200 and "default-src 'self'" in response.headers["content-security-policy"]
  for path in (ROOT / "pix2pix_jax/page").iterdir():
    if path.suffix in (".html", ".css", ".js"):
      text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
      assert "http://" not in text and "https://" not in text, path


def test_label_maps_are_recognised_and_photographs_are_not():
  labels = np.array(palettes.CMP, np.uint8)[draw((32, 32)) % 12].repeat(4, 0).repeat(4, 1)
  assert [each["name"] for each in examples.palette_of([labels])] == list(palettes.NAMES["cmp"])
  own = np.array([[1, 2, 3], [200, 0, 0]], np.uint8)[draw((9, 9)) % 2]
  assert {tuple(each["value"]) for each in examples.palette_of([own])} == {(1, 2, 3), (200, 0, 0)}
  assert examples.palette_of([draw((64, 64, 3))]) == [] == examples.palette_of([draw(dtype=np.uint16)])
  assert len(palettes.NAMES["cityscapes"]) == len(palettes.CITYSCAPES)


def test_names_are_those_of_a_depth_scale():
  assert payload.depth_scale(Depth(scale=1000.0)) == 1000 and payload.depth_scale(Depth()) == 256


# --- The command


def test_a_missing_extra_and_a_used_port_are_one_message(monkeypatch, tmp_path):
  listening = demo._listen("127.0.0.1", 0)
  with pytest.raises(UsageError, match=r"--port=\d+ cannot be listened on \(.*in use.*--port=0"):
    demo._listen("127.0.0.1", listening.getsockname()[1])
  listening.close()
  monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(
    UsageError, match=r"needs starlette and uvicorn, which are not installed: pip install .*\.\[demo\]"
  ):
    demo.main([f"--workdir={tmp_path}"])


def test_the_command_serves_a_workdir_without_tensorflow_until_it_is_stopped(tmp_path):
  """With real HTTP, and examples that another process reads."""
  assert run(tmp_path / "w").returncode == 0
  program = (
    "import sys; from pix2pix_jax import demo; demo.main(sys.argv[1:]);"
    "print('loaded', sorted({'tensorflow', 'tensorflow_datasets'} & set(sys.modules)))"
  )
  command = [sys.executable, "-c", program, f"--workdir={tmp_path / 'w'}", "--port=0"]
  server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
  try:
    lines = [server.stdout.readline() for _ in range(3)]
    address = lines[2].split()[1]
    assert address.startswith("http://127.0.0.1:") and lines[1].startswith("Step 6: 8-bit image")
    deadline = time.monotonic() + 60
    while (listed := httpx.get(f"{address}examples.json").json())[
      "status"
    ] == "loading" and time.monotonic() < deadline:
      time.sleep(0.2)
    assert len(listed["ids"]) == 7 and listed["palette"][2]["name"] == "window", listed
    example = httpx.get(f"{address}examples/1_input.npy").content
    response = httpx.post(f"{address}translate?format=npy", content=example, timeout=30)
    assert decode(response).shape == (16, 16, 3) and response.headers["x-step"] == "6"
  finally:
    server.send_signal(signal.SIGTERM)
    rest = server.communicate(timeout=30)[0]
  assert (server.returncode, rest) == (0, "Stopped.\nloaded []\n")
