"""Serves a page to try a trained model: draw an input, or drop a file, and see the translation while you draw.

    python -m pix2pix_jax.demo --workdir=DIR [--port=8000] [--host=127.0.0.1]
    python -m pix2pix_jax.demo --workdir=DIR --static=FOLDER [--weights=float32|float16|int8]

The same server translates for other programs: POST the bytes of a file to /translate. /openapi.json describes the
interface. It is reachable from this machine alone, unless --host says otherwise.

--static serves nothing, but writes the page and the model to a folder for any web host; the model then runs in the
browser. Values are rounded slightly differently there, and the same seed gives different noise. Weights of 16 or 8 bits
make the folder a half or a quarter as large; the command prints what they cost in quality.
"""

import argparse
from collections.abc import Callable
import importlib.util
from pathlib import Path
import signal
import socket
import sys
import threading
from typing import Any

from pix2pix_jax import launch, output
from pix2pix_jax.errors import CommandParser, UsageError, reason, require_integer, run_command, user_path

EXTRA = ("starlette", "uvicorn")  # the packages of the extra `demo`


def _check_extra() -> None:
  missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
  if missing:
    raise UsageError(
      f"The demo needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
      f"pip install {' '.join(missing)}, or pip install '.[demo]' in a clone of the repository."
    )


def _listen(host: str, port: int) -> socket.socket:
  """A listening socket; port 0: any free one."""
  try:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((host, port), family=family)
  except OSError as error:
    raise UsageError(
      f"--host={host} --port={port} cannot be listened on ({reason(error)}). Choose another port, or --port=0 for any "
      "free one."
    ) from error


def _is_loopback(host: str) -> bool:
  return host in ("localhost", "::1") or host.startswith("127.")


def make_server(service: Any, *, any_host: bool = False) -> Any:
  """The uvicorn server of a `serving.app.Service`; `any_host` is that of its `app`."""
  import uvicorn

  return uvicorn.Server(
    uvicorn.Config(
      service.app(any_host=any_host),
      log_level="warning",
      access_log=False,
      timeout_keep_alive=30,
      timeout_graceful_shutdown=5,
      limit_concurrency=512,
      lifespan="off",
    )
  )


def serve(workdir: Path, *, host: str = "127.0.0.1", port: int = 8000, step: str = "best") -> None:
  """Serves until Ctrl-C or SIGTERM.

  Args:
    workdir: folder of a trained model.
    host, port: where to listen.
    step: `"best"`, `"latest"` or a number.

  Raises:
    UsageError: a missing package, no such checkpoint, or a port that is in use.
  """
  _check_extra()
  listening = _listen(host, port)  # before the model, which takes seconds to load
  from pix2pix_jax import config as config_lib
  from pix2pix_jax.inference import Translator
  from pix2pix_jax.serving import batching
  from pix2pix_jax.serving.app import Service
  from pix2pix_jax.serving.examples import Examples

  output.say("Loading the model …")
  translator = Translator.load(workdir, step=step)
  service = Service(translator, workdir.resolve().name, examples=Examples.start(workdir))
  size = config_lib.eval_shape(translator.config.data)
  service.batcher.warm_up(size)
  server = make_server(service, any_host=not _is_loopback(host))

  def stop(number: int, frame: object) -> None:
    del number, frame
    server.should_exit = True
    service.batcher.close()

  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)

  def help_out() -> None:
    service.batcher.warm_up_batches(size)  # nobody has to wait for that
    service.batcher.run()

  # The main thread computes, because its heap keeps the memory of large arrays (launch.keep_memory).
  works: list[Callable[[], None]] = [lambda: server.run([listening]), *[help_out] * (batching.WORKERS - 1)]
  threads = [threading.Thread(target=work, daemon=True) for work in works]
  for each in threads:
    each.start()
  address = listening.getsockname()
  shown = f"[{address[0]}]" if ":" in address[0] else address[0]
  output.say(
    f"Step {translator.step}: {translator.input_signal.describe()} → {translator.target_signal.describe()}.\n"
    f"Open http://{shown}:{address[1]}/ in a browser. Ctrl-C stops the server."
  )
  try:
    service.batcher.run()
  finally:
    service.batcher.close()
    server.should_exit = True
    for each in threads:
      each.join(timeout=10)
  output.say("Stopped.")


def write_static(workdir: Path, folder: Path, *, step: str = "best", weights: str = "int8") -> None:
  """Writes the page and a model of a workdir to a folder for any web host, and prints what `weights` cost in quality,
  if the run's data can be read.

  Raises:
    UsageError: as `serving.static.write`.
  """
  from pix2pix_jax.inference import Translator
  from pix2pix_jax.run import evaluation
  from pix2pix_jax.serving import rounding, static
  from pix2pix_jax.serving.examples import Examples

  output.say("Loading the model and examples …")
  translator = Translator.load(workdir, step=step)
  examples = Examples.load(workdir)
  metrics: static.Metrics = {}
  if weights != rounding.FULL and not examples.ids:
    output.say(f"What {weights} costs in quality is unknown, because there is no data to measure it. {examples.reason}")
  elif weights != rounding.FULL:
    output.say(f"Measuring what {weights} costs in quality …")
    metrics, count = rounding.measure(workdir, step, weights)
    output.say(f"{output.counted(count, 'image')}:\n{evaluation.table(metrics, translator.target_signal.unit)}")
  static.write(translator, workdir.resolve().name, folder, examples, weights=weights, metrics=metrics)


def main(argv: list[str] | None = None) -> None:
  """Runs the command; see the top of this file."""
  parser = CommandParser(
    prog="pix2pix_jax demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--workdir", required=True, help="workdir of a trained model")
  parser.add_argument("--step", default="best", help="checkpoint: best, latest or a step number (default: best)")
  parser.add_argument("--port", type=int, default=8000, help="port of the page; 0: any free one (default: 8000)")
  parser.add_argument(
    "--host",
    default="127.0.0.1",
    help="address to listen on; 0.0.0.0: reachable from the network (default: 127.0.0.1, this machine)",
  )
  parser.add_argument("--static", metavar="FOLDER", help="write the page as a folder for any web host")
  parser.add_argument(
    "--weights",
    choices=("float32", "float16", "int8"),
    help="with --static: how the model's weights are stored (default: int8)",
  )
  options = parser.parse_args(argv)
  require_integer("--port", options.port, 0, 65535)
  workdir = user_path("--workdir", options.workdir)
  if options.static:
    folder = user_path("--static", options.static)
    write_static(workdir, folder, step=options.step, weights=options.weights or "int8")
    return
  if options.weights:
    raise UsageError("--weights is for --static: the server uses them as trained. Add --static=FOLDER.")
  serve(workdir, host=options.host, port=options.port, step=options.step)


if __name__ == "__main__":
  if not {"-h", "--help"} & set(sys.argv[1:]):
    launch.keep_memory()
  run_command(main)
