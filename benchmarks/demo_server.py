"""Speed and memory of the demo's server under load: PNG in and out through HTTP on loopback, random weights.

  python benchmarks/demo_server.py
  python benchmarks/demo_server.py --base_features=32 --clients=32

The clients are threads of another process. Each sends drawn label maps one after the other and checks every answer. In
addition to the keys that all benchmarks share (see measure.py; `median_s` is the latency of a client alone), the JSON
has

  alone_per_s, alone_p50_ms, alone_p99_ms       images a second and latencies of a single client
  loaded_per_s, loaded_p50_ms, loaded_p99_ms    the same with `--clients` at once
  gain                                          loaded_per_s / alone_per_s
  mean_batch                                    images in a batch under that load
  soak_requests, soak_bad                       requests of the last phase, and how many of them were bad: not an image,
                                                a damaged one, one with too many pixels, a wrong option
  soak_resident_mib                             resident memory of the server at five moments of that phase
"""

import http.client
import io
import json
import os
from pathlib import Path
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import measure
import numpy as np
from PIL import Image
import uvicorn

from pix2pix_jax import demo
from pix2pix_jax.data.synthesis import facades
from pix2pix_jax.inference import Translator
from pix2pix_jax.serving.app import Service

BAD_EVERY = 7


def resident_mib() -> float:
  fields = Path("/proc/self/statm").read_text(encoding="utf-8").split()
  return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


# --- Clients


def encode(array: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, "PNG")
  return buffer.getvalue()


def run_clients(port: int, clients: int, requests: int, image_size: int, has_bad: bool) -> dict[str, object]:
  """Sends `requests` in all; every seventh is bad if `has_bad`. Returns latencies in seconds and the time of all."""
  bodies = [encode(facades.draw(0, index, (image_size, image_size))["input"]) for index in range(8)]
  bad = [b"no image", bodies[0][: len(bodies[0]) // 2], encode(np.zeros((3000, 3000), np.uint8)), bodies[0]]
  numbers = iter(range(requests))
  lock = threading.Lock()
  latencies: list[float] = []
  count_bad = 0

  def work() -> None:
    nonlocal count_bad
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    while True:
      with lock:
        number = next(numbers, None)
      if number is None:
        return
      is_bad = has_bad and number % BAD_EVERY == 0
      kind = number // BAD_EVERY % len(bad)
      body = bad[kind] if is_bad else bodies[number % len(bodies)]
      query = "?seed=x" if is_bad and kind == 3 else ""
      begin = time.perf_counter()
      connection.request("POST", f"/translate{query}", body)
      response = connection.getresponse()
      content = response.read()
      seconds = time.perf_counter() - begin
      if is_bad:
        assert response.status in (400, 413, 415), (response.status, content[:200])
      else:
        assert response.status == 200 and Image.open(io.BytesIO(content)).size == (image_size, image_size)
      with lock:
        count_bad += is_bad
        latencies.append(seconds)

  begin = time.perf_counter()
  threads = [threading.Thread(target=work) for _ in range(clients)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(latencies) == requests, "a client failed"
  return {"latencies": latencies, "seconds": time.perf_counter() - begin, "bad": count_bad}


def in_another_process(port: int, clients: int, requests: int, image_size: int, has_bad: bool = False) -> dict:
  """`run_clients` there, so that clients and server share no interpreter."""
  command = [sys.executable, __file__, "--as_clients", *map(str, (port, clients, requests, image_size, int(has_bad)))]
  done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
  return json.loads(done.stdout.splitlines()[-1])


# --- Server


def summarize(prefix: str, phase: dict) -> dict[str, float]:
  p50, p99 = np.quantile(phase["latencies"], (0.5, 0.99)) * 1000
  rate = len(phase["latencies"]) / phase["seconds"]
  return {f"{prefix}_per_s": rate, f"{prefix}_p50_ms": p50, f"{prefix}_p99_ms": p99}


def measure_phases(service: Service, port: int, options) -> dict[str, object]:
  """All phases, in a thread beside the batcher."""
  run = lambda clients, requests, has_bad=False: in_another_process(
    port, clients, requests, options.image_size, has_bad
  )
  run(options.clients, 4 * options.clients)
  alone = run(1, options.requests)
  before = service.batcher.translated, service.batcher.batches
  loaded = run(options.clients, 2 * options.requests)
  translated, batches = service.batcher.translated - before[0], service.batcher.batches - before[1]
  resident, bad = [resident_mib()], 0
  for _ in range(4):
    bad += run(options.clients, options.soak // 4, has_bad=True)["bad"]
    resident.append(resident_mib())
  values = summarize("alone", alone) | summarize("loaded", loaded)
  return {
    **measure.summary(alone["latencies"]),
    **values,
    "gain": values["loaded_per_s"] / values["alone_per_s"],
    "mean_batch": translated / batches,
    "clients": options.clients,
    "soak_requests": options.soak // 4 * 4,
    "soak_bad": bad,
    "soak_resident_mib": resident,
  }


def main() -> None:
  load = measure.load()
  parser = measure.flags(__doc__)
  parser.add_argument("--base_features", type=int, default=64, help="width of the generator (default: 64)")
  parser.add_argument("--clients", type=int, default=16, help="clients at once (default: 16)")
  parser.add_argument("--requests", type=int, default=60, help="timed requests of a client alone (default: 60)")
  parser.add_argument("--soak", type=int, default=2000, help="requests of the last phase (default: 2000)")
  options = measure.parse(parser)
  experiment = measure.experiment(options)
  generator = experiment.networks["generator"]
  x = jnp.zeros((1, options.image_size, options.image_size, 3))
  variables = jax.jit(lambda: generator.init(jax.random.key(0), x, dropout=False, norm_stats="batch"))()
  service = Service(Translator(experiment.config, variables), "benchmark")
  for count in (1, 2, 4, 8):
    service.batcher.warm_up((options.image_size, options.image_size), count)
  listening = demo._listen("127.0.0.1", 0)
  server = uvicorn.Server(uvicorn.Config(service.app(), log_level="critical", lifespan="off"))
  threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True).start()
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
