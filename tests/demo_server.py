"""A demo server in a thread, which several test modules share."""

import contextlib
import threading

import httpx
import uvicorn

from pix2pix_jax import demo


@contextlib.contextmanager
def listening(service, **options):
  """A client of a service, through HTTP; its `service` is the service."""
  server = uvicorn.Server(uvicorn.Config(service.app(**options), log_level="critical", lifespan="off"))
  place = demo._listen("127.0.0.1", 0)
  thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
  thread.start()
  try:
    with httpx.Client(base_url=f"http://127.0.0.1:{place.getsockname()[1]}", timeout=30) as client:
      client.service = service
      yield client
  finally:
    server.should_exit = True
    thread.join(20)
    place.close()
