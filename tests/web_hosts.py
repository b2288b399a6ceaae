"""ONNX Runtime for pages without a server, and plain web hosts for them, which several test modules share."""

import contextlib
import functools
import http.server
import shutil
import threading

import pytest

from pix2pix_jax.errors import UsageError
from pix2pix_jax.serving import static


def get_runtime(tmp_path_factory):
  """A folder with ONNX Runtime, from the npm registry; skips the test if it cannot be had."""
  if not shutil.which("npm"):
    pytest.skip("no npm to get ONNX Runtime from")
  folder = tmp_path_factory.getbasetemp() / "onnxruntime"
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
