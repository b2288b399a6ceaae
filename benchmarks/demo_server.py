"""Speed and memory of the demo's server under load: PNG in and out through HTTP on loopback, random weights.

  python benchmarks/demo_server.py --base_features=32
  python benchmarks/demo_server.py --image_size=64 --base_features=32 --soak=10000    the network of make demo

The clients are threads of another process on the same machine, whose time counts, too. Each sends its next label map
when the answer to the last one has come. In addition to the keys that all benchmarks share (see measure.py; `median_s`
is the latency of a client alone), the JSON has

  alone_per_s, alone_p50_ms, alone_p99_ms       images a second and latencies of a single client: one at a time
  loaded_per_s, loaded_p50_ms, loaded_p99_ms    the same with `clients` at once, together
  gain                                          loaded_per_s / alone_per_s
  mean_batch                                    images in a batch under that load
  stages_ms                                     time of each stage for one image, one after the other: reading the PNG,
                                                translating, writing the PNG; translating one of a batch of eight
  stage_cores                                   cores that translating one image, and a batch of eight, keeps busy
  soak_requests, soak_bad                       requests of the last phase, and how many of each kind were bad ones
  soak_lost                                     how many of each kind got no answer, or not the expected one
  soak_resident_mib                             resident memory of the server, before that phase and after each quarter
"""

import collections
import contextlib
import http.client
import io
import json
import os
from pathlib import Path
import socket
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import measure
import numpy as np
from PIL import Image

from pix2pix_jax import demo
from pix2pix_jax.data.synthesis import facades
from pix2pix_jax.inference import Translator
from pix2pix_jax.serving import batching, payload
from pix2pix_jax.serving.app import Limits, Service

BAD_EVERY = 7
BODY_SECONDS = 3.0  # that the server waits for a body, so that clients which stall do not take too long


def resident_mib() -> float:
  fields = Path("/proc/self/statm").read_text(encoding="utf-8").split()
  return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


# --- Clients


def encode(array: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, "PNG")
  return buffer.getvalue()


class Client:
  """A program that sends one request after the other.

  Attributes:
    bad: the kinds of bad requests; each method returns whether the answer is what it has to be.
  """

  def __init__(self, port: int, bodies: list[bytes], size: int):
    self._port, self._bodies, self._size = port, bodies, size
    self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    self.bad = {
      "no_image": lambda body: self._status(b"no image") == 415,
      "damaged": lambda body: self._status(body[: len(body) // 2]) == 400,
      "many_pixels": lambda body: self._status(encode(np.zeros((3000, 3000), np.uint8))) == 413,
      "wrong_option": lambda body: self._status(body, "?seed=x") == 400,
      "another_size": lambda body: self.translate(encode(np.zeros((self._size + 5, 31, 3), np.uint8)), (31, size + 5)),
      "too_long": self._too_long,
      "slow": lambda body: self._in_pieces(body, 3, 0.2) == 200,
      "stalled": lambda body: self._in_pieces(body, 2, 2 * BODY_SECONDS) == 408,
      "aborted": lambda body: self._leave(body[: len(body) // 2], len(body)),
      "gone": lambda body: self._leave(body, len(body)),
    }

  def _send(self, body: bytes, query: str = "") -> tuple[int, bytes]:
    self._connection.request("POST", f"/translate{query}", body)
    response = self._connection.getresponse()
    return response.status, response.read()

  def _status(self, body: bytes, query: str = "") -> int:
    return self._send(body, query)[0]

  def translate(self, body: bytes, size: tuple[int, int], is_decoded: bool = True) -> bool:
    """Whether the answer is a PNG of (width, height); it is decoded only if asked, because that costs time, too."""
    status, content = self._send(body)
    while status == 503:  # full: the answer asks to try again
      time.sleep(0.05)
      status, content = self._send(body)
    if status != 200 or not content.endswith(b"IEND\xaeB`\x82"):
      return False
    with Image.open(io.BytesIO(content)) as image:
      if is_decoded:
        image.load()
      return image.size == size

  def _begin(self, length: int) -> socket.socket:
    self._connection.close()  # or the server might do so while the other one is slow
    place = socket.create_connection(("127.0.0.1", self._port), timeout=60)
    place.sendall(f"POST /translate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n".encode())
    return place

  def _too_long(self, body: bytes) -> bool:
    with self._begin(2**30) as place:
      return b" 413 " in place.recv(100)

  def _in_pieces(self, body: bytes, count: int, pause: float) -> int:
    with self._begin(len(body)) as place:
      for i in range(count):
        place.sendall(body[i * len(body) // count : (i + 1) * len(body) // count])
        if i < count - 1:
          place.settimeout(pause)
          with contextlib.suppress(TimeoutError):
            return int(place.recv(100).split()[1])  # the server does not wait for the rest
      place.settimeout(60)
      return int(place.recv(100).split()[1])

  def _leave(self, body: bytes, length: int) -> bool:
    with self._begin(length) as place:
      place.sendall(body)
    return True  # there is no answer to wait for; whatever is wrong shows in other requests


def run_clients(port: int, clients: int, requests: int, image_size: int, has_bad: bool) -> dict[str, object]:
  """Sends `requests` in all; every seventh is bad if `has_bad`. Returns latencies in seconds and the time of all."""
  bodies = [encode(facades.draw(0, index, (image_size, image_size))["input"]) for index in range(8)]
  numbers = iter(range(requests))
  lock = threading.Lock()
  latencies: list[float] = []
  bad: collections.Counter = collections.Counter()
  lost: collections.Counter = collections.Counter()

  def work() -> None:
    client = Client(port, bodies, image_size)
    while True:
      with lock:
        number = next(numbers, None)
      if number is None:
        return
      body = bodies[number % len(bodies)]
      kind = [*client.bad][number // BAD_EVERY % len(client.bad)] if has_bad and number % BAD_EVERY == 0 else ""
      begin = time.perf_counter()
      try:
        is_right = client.bad[kind](body) if kind else client.translate(body, (image_size,) * 2, number % 16 == 0)
      except Exception as error:  # whatever it is, this request is lost
        is_right = False
        print(f"{kind or 'good'}: {error!r}", file=sys.stderr)
        client = Client(port, bodies, image_size)
      seconds = time.perf_counter() - begin
      with lock:
        if kind:
          bad[kind] += 1
        else:
          latencies.append(seconds)
        if not is_right:
          lost[kind or "good"] += 1

  begin = time.perf_counter()
  threads = [threading.Thread(target=work) for _ in range(clients)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return {"latencies": latencies, "seconds": time.perf_counter() - begin, "bad": bad, "lost": lost}


def in_another_process(port: int, clients: int, requests: int, image_size: int, has_bad: bool = False) -> dict:
  """`run_clients` there, so that clients and server share no interpreter."""
  command = [sys.executable, __file__, "--as_clients", *map(str, (port, clients, requests, image_size, int(has_bad)))]
  done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
  return json.loads(done.stdout.splitlines()[-1])


# --- Server


def summarize(prefix: str, phase: dict) -> dict[str, float]:
  assert not phase["lost"], phase["lost"]
  p50, p99 = np.quantile(phase["latencies"], (0.5, 0.99)) * 1000
  rate = len(phase["latencies"]) / phase["seconds"]
  return {f"{prefix}_per_s": rate, f"{prefix}_p50_ms": p50, f"{prefix}_p99_ms": p99}


def measure_stages(service: Service, size: int, repeats: int = 20) -> dict[str, object]:
  """What one request costs, in this thread alone."""
  translator = service.translator
  body = encode(facades.draw(0, 0, (size, size))["input"])
  image = payload.read(translator.input_signal, body, max_pixels=2**22)
  results = translator(image)[None]
  stages = {
    "read": lambda: payload.read(translator.input_signal, body, max_pixels=2**22),
    "translate": lambda: translator(image, batch_size=1),
    "write": lambda: payload.write(translator.target_signal, results, "png"),
    "translate_of_8": lambda: translator(np.stack([image] * 8), batch_size=8),
  }
  times, cores = {}, {}
  for name, stage in stages.items():
    stage()
    samples, begin, used = [], time.perf_counter(), time.process_time()
    for _ in range(repeats):
      start = time.perf_counter()
      stage()
      samples.append(time.perf_counter() - start)
    cores[name] = (time.process_time() - used) / (time.perf_counter() - begin)
    times[name] = 1000 * float(np.median(samples)) / (8 if name == "translate_of_8" else 1)
  return {"stages_ms": times, "stage_cores": {name: cores[name] for name in ("translate", "translate_of_8")}}


def measure_phases(service: Service, port: int, options) -> dict[str, object]:
  """All phases, in a thread beside those of the batcher."""
  run = lambda clients, requests, has_bad=False: in_another_process(
    port, clients, requests, options.image_size, has_bad
  )
  stages = measure_stages(service, options.image_size)
  run(options.clients, 4 * options.clients)
  alone = run(1, options.requests)
  before = service.batcher.translated, service.batcher.batches
  loaded = run(options.clients, 2 * options.requests)
  translated, batches = service.batcher.translated - before[0], service.batcher.batches - before[1]
  if options.soak:
    run(options.clients, min(options.soak, 500), has_bad=True)  # the first ones compile another size
  resident, bad, lost = [resident_mib()], collections.Counter(), collections.Counter()
  for _ in range(4):
    phase = run(options.clients, options.soak // 4, has_bad=True)
    bad.update(phase["bad"])
    lost.update(phase["lost"])
    resident.append(resident_mib())
  values = summarize("alone", alone) | summarize("loaded", loaded)
  return {
    **measure.summary(alone["latencies"]),
    **values,
    "gain": values["loaded_per_s"] / values["alone_per_s"],
    "mean_batch": translated / batches,
    **stages,
    "clients": options.clients,
    "soak_requests": options.soak // 4 * 4,
    "soak_bad": dict(bad),
    "soak_lost": dict(lost),
    "soak_resident_mib": resident,
  }


def main() -> None:
  load = measure.load()
  parser = measure.flags(__doc__)
  parser.add_argument("--base_features", type=int, default=64, help="width of the generator (default: 64)")
  parser.add_argument("--clients", type=int, default=16, help="clients at once (default: 16)")
  parser.add_argument(
    "--requests", type=int, default=60, help="timed requests of a client alone (default: 60); twice as many of all"
  )
  parser.add_argument("--soak", type=int, default=2000, help="requests of the last phase (default: 2000)")
  options = measure.parse(parser)
  experiment = measure.experiment(options)
  generator = experiment.networks["generator"]
  x = jnp.zeros((1, options.image_size, options.image_size, 3))
  variables = jax.jit(lambda: generator.init(jax.random.key(0), x, dropout=False, norm_stats="batch"))()
  service = Service(Translator(experiment.config, variables), "benchmark", limits=Limits(seconds=BODY_SECONDS))
  service.batcher.warm_up((options.image_size, options.image_size))
  service.batcher.warm_up_batches((options.image_size, options.image_size))
  listening = demo._listen("127.0.0.1", 0)
  server = demo.make_server(service)
  threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True).start()
  for _ in range(batching.WORKERS - 1):
    threading.Thread(target=service.batcher.run, daemon=True).start()
  found: dict[str, object] = {}

  def phases() -> None:
    try:
      found.update(measure_phases(service, listening.getsockname()[1], options))
    finally:
      service.batcher.close()

  thread = threading.Thread(target=phases)
  thread.start()
  service.batcher.run()  # in the main thread, as in the command
  thread.join()
  server.should_exit = True
  measure.report(options, load, **found, base_features=options.base_features)


if __name__ == "__main__":
  if sys.argv[1:2] == ["--as_clients"]:
    port, clients, requests, image_size, has_bad = map(int, sys.argv[2:])
    print(json.dumps(run_clients(port, clients, requests, image_size, bool(has_bad))))
  else:
    main()
