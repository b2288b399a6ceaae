"""The HTTP interface: the page's files, the model's description, and `POST /translate` for any program."""

import asyncio
from collections.abc import Awaitable, Callable
import concurrent.futures
import contextlib
import dataclasses
import functools
from pathlib import Path
import re
import time
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pix2pix_jax.errors import UsageError
from pix2pix_jax.inference import Translator
from pix2pix_jax.serving import batching, openapi, payload
from pix2pix_jax.serving.describe import describe
from pix2pix_jax.serving.examples import Examples

PAGE = Path(__file__).parent.parent / "page"
LOOPBACK = ("localhost", "127.0.0.1")
DECODERS = 4  # threads that read and write files

# The page needs nothing from elsewhere, so a browser may refuse everything else.
SECURITY_HEADERS = {
  "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
  "object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cache-control": "no-cache",
}


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a request may ask for, and the server hold.

  Attributes:
    bytes: of a body.
    pixels: height · width · samples of a translation.
    samples: results for one image.
    queue: requests that are being read, wait or are computed.
    memory: bytes of all bodies that are being received.
    seconds: to send a body.
  """

  bytes: int = 32 * 2**20
  pixels: int = 2**22
  samples: int = 16
  queue: int = 64
  memory: int = 256 * 2**20
  seconds: float = 30.0


class Service:
  """A model behind the HTTP interface.

  Attributes:
    translator: the model.
    batcher: its queue; some thread has to call its `run`.
    limits: of requests.
    examples: pairs of the run's data.
    about: the contents of model.json.
  """

  def __init__(
    self, translator: Translator, name: str, *, examples: Examples | None = None, limits: Limits | None = None
  ):
    """Accepts a model, the name to show for it, its examples (None: none) and the limits (None: the defaults)."""
    self.translator, self.limits = translator, limits or Limits()
    self.batcher = batching.Batcher(translator, max_waiting=self.limits.queue)
    self.examples = examples or Examples("absent", "No examples were asked for.")
    about = describe(translator, name)
    self.about = about | {
      "limits": dataclasses.asdict(self.limits),
      "formats": payload.possible_formats(translator.target_signal),
    }
    self._begin = time.monotonic()
    self._active = self._received = 0
    self._threads = concurrent.futures.ThreadPoolExecutor(DECODERS, "files")

  def app(self, *, any_host: bool = False) -> Starlette:
    """The ASGI application.

    Args:
      any_host: whether requests may name any host. Otherwise only loopback ones may, so that no web page can reach a
        server on this machine under a name of its own (DNS rebinding).
    """
    hosts = [] if any_host else [Middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK], www_redirect=False)]
    return Starlette(
      routes=[
        Route("/translate", self._post_translate, methods=["POST"]),
        Route("/read", self._post_read, methods=["POST"]),
        Route("/health", self._get_health),
        Route("/model.json", self._get_model),
        Route("/examples.json", self._get_examples),
        Route("/examples/{index:int}_{side:str}.npy", self._get_example),
        Route("/openapi.json", self._get_openapi),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
      ],
      middleware=[*hosts, Middleware(_Headers)],
      exception_handlers={HTTPException: _on_http_error, Exception: _on_fault},
    )

  # --- What there is

  async def _get_health(self, request: Request) -> Response:
    del request
    batcher = self.batcher
    counts = {"waiting": batcher.waiting, "translated": batcher.translated, "batches": batcher.batches}
    uptime = round(time.monotonic() - self._begin, 1)
    return JSONResponse({"status": "ok", "step": self.translator.step, **counts, "uptime_s": uptime})

  async def _get_model(self, request: Request) -> Response:
    del request
    return JSONResponse(self.about)

  async def _get_examples(self, request: Request) -> Response:
    del request
    return JSONResponse(self.examples.describe())

  async def _get_example(self, request: Request) -> Response:
    index, side = request.path_params["index"], request.path_params["side"]
    arrays = self.examples.arrays
    if index >= len(arrays) or side not in arrays[index]:
      raise HTTPException(404, f"There is no example {index} {side}; examples.json lists them.")
    return _npy(arrays[index][side])

  async def _get_openapi(self, request: Request) -> Response:
    del request
    return JSONResponse(openapi.document(self.about))

  # --- Work

  async def _post_read(self, request: Request) -> Response:
    """The image in the body, as numbers in the form that the model accepts."""

    async def work() -> Response:
      size = _parse_size(request, self.limits.pixels)
      image = await self._read(await self._body(request), size)
      return _npy(image)

    return await self._admit(work)

  async def _post_translate(self, request: Request) -> Response:
    """The translation of the image in the body."""

    async def work() -> Response:
      options, name = self._parse(request)
      image = await self._read(await self._body(request), None)
      height, width = image.shape[:2]
      if height * width * options.samples > self.limits.pixels:
        raise payload.Refused(
          413,
          f"{options.samples} samples of {width}×{height} are more than {self.limits.pixels:,} pixels. Ask for fewer "
          "samples, or shrink the image.",
        )
      results = await self._compute(request, image, options)
      content = await self._in_thread(payload.write, self.translator.target_signal, results, name)
      return Response(content, media_type=payload.FORMATS[name].media_type, headers=self._describe_result(name))

    return await self._admit(work)

  async def _admit(self, work: Callable[[], Awaitable[Response]]) -> Response:
    """Does the work unless the server is full, and turns what is wrong with a request into a message."""
    if self._active >= self.limits.queue:
      return _busy()
    self._active += 1
    try:
      return await work()
    except payload.Refused as error:
      return _error(error.status, str(error))
    except UsageError as error:
      return _error(400, str(error))
    except (batching.Full, batching.Stopped):
      return _busy()
    except ClientDisconnect:
      return _error(499, "The client has left.")
    finally:
      self._active -= 1

  def _parse(self, request: Request) -> tuple[batching.Options, str]:
    """The options and the format that the query names."""
    query = request.query_params
    known = ("seed", "samples", "dropout", "format", "alone")
    if unknown := sorted(set(query) - set(known)):
      raise payload.Refused(400, f"There is no parameter {unknown[0]!r}; the parameters are {', '.join(known)}.")
    samples = _integer(request, "samples", 1, 1, self.limits.samples)
    options = batching.Options(
      _integer(request, "seed", 0, 0, 2**32 - 1),
      samples,
      _switch(request, "dropout"),
      _switch(request, "alone") is True,
    )
    name = query.get("format") or _preferred(request.headers.get("accept", ""), self.about["formats"])
    payload.check_format(self.translator.target_signal, name, samples)
    return options, name

  async def _body(self, request: Request) -> bytes:
    """The body, refused as soon as it is too long."""
    if request.headers.get("content-type", "").startswith("multipart/"):
      raise payload.Refused(415, "Send the bytes of the file as the body, not as a form (curl --data-binary @FILE).")
    limit = self.limits.bytes
    too_long = payload.Refused(413, f"The body is longer than {limit:,} bytes. Send a smaller file.")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
      raise too_long
    content = bytearray()
    held = 0
    try:
      async with asyncio.timeout(self.limits.seconds):
        async for chunk in request.stream():
          if len(content) + len(chunk) > limit:
            raise too_long
          if self._received + len(chunk) > self.limits.memory:
            raise batching.Full
          self._received += len(chunk)
          held += len(chunk)
          content += chunk
    except TimeoutError as error:
      raise payload.Refused(408, f"The body did not arrive within {self.limits.seconds:g} s.") from error
    finally:
      self._received -= held
    return bytes(content)

  async def _read(self, content: bytes, size: tuple[int, int] | None) -> np.ndarray:
    signal = self.translator.input_signal
    return await self._in_thread(payload.read, signal, content, max_pixels=self.limits.pixels, size=size)

  async def _in_thread(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    call = functools.partial(function, *arguments, **options)
    return await asyncio.get_running_loop().run_in_executor(self._threads, call)

  async def _compute(self, request: Request, image: np.ndarray, options: batching.Options) -> np.ndarray:
    """Waits for the translation; a client that leaves takes its image out of the queue."""
    future = self.batcher.submit(image, options)
    waiting = asyncio.wrap_future(future)
    leaving = asyncio.create_task(_left(request))
    try:
      await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
      if not waiting.done():
        raise ClientDisconnect
      return waiting.result()
    finally:
      waiting.cancel()  # and with it the future, unless its batch is being computed
      leaving.cancel()
      with contextlib.suppress(asyncio.CancelledError):
        await leaving

  def _describe_result(self, name: str) -> dict[str, str]:
    """Headers that say what the numbers of an answer mean."""
    signal = self.translator.target_signal
    headers = {"x-step": str(self.translator.step), "x-unit": signal.unit}
    if signal.kind == "depth" and name in ("png", "png16"):
      headers["x-depth-scale"] = f"{payload.depth_scale(signal):g}"
    return {key: value for key, value in headers.items() if value.isascii()}


async def _left(request: Request) -> None:
  """Returns when the client has closed the connection."""
  while (await request.receive())["type"] != "http.disconnect":
    pass


def _npy(array: np.ndarray) -> Response:
  return Response(payload.to_npy(array), media_type=payload.FORMATS["npy"].media_type)


def _integer(request: Request, name: str, default: int, low: int, high: int) -> int:
  text = request.query_params.get(name, str(default))
  if not re.fullmatch(r"[0-9]{1,12}", text) or not low <= int(text) <= high:
    raise payload.Refused(400, f"{name} is {text[:40]!r}; it has to be an integer between {low} and {high}.")
  return int(text)


def _switch(request: Request, name: str) -> bool | None:
  text = request.query_params.get(name)
  if text not in (None, "on", "off"):
    raise payload.Refused(400, f"{name} is {text[:40]!r}; it has to be on or off.")
  return None if text is None else text == "on"


def _parse_size(request: Request, max_pixels: int) -> tuple[int, int] | None:
  """The parameter `size`, HEIGHTxWIDTH."""
  text = request.query_params.get("size")
  if text is None:
    return None
  match = re.fullmatch(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", text)
  if not match or int(match[1]) * int(match[2]) > max_pixels:
    raise payload.Refused(400, f"size is {text[:40]!r}; it has to be HEIGHTxWIDTH, at most {max_pixels:,} pixels.")
  return int(match[1]), int(match[2])


def _preferred(accept: str, possible: list[str]) -> str:
  """The first format that an Accept header names, without its weights; else the first that is possible."""
  for part in accept.split(","):
    media_type = part.partition(";")[0].strip()
    for name, form in payload.FORMATS.items():
      if media_type == form.media_type and name in possible:
        return name
  return possible[0]


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
  return JSONResponse({"error": message}, status, headers)


def _busy() -> Response:
  return _error(503, "Too many images are waiting. Try again in a second.", {"retry-after": "1"})


async def _on_http_error(request: Request, error: Exception) -> Response:
  del request
  assert isinstance(error, HTTPException)
  return _error(error.status_code, error.detail, dict(error.headers or {}))


async def _on_fault(request: Request, error: Exception) -> Response:
  """The answer to the client; uvicorn logs the traceback."""
  del request, error
  return _error(500, "The server failed at this request; its log says why.")


class _Headers:
  """Adds `SECURITY_HEADERS`, and refuses work for pages of other sites, which browsers mark."""

  def __init__(self, app: ASGIApp):
    self._app = app

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
      await self._app(scope, receive, send)
      return
    headers = dict(scope["headers"])
    if scope["method"] == "POST" and headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site"):
      await _error(403, "This server works for its own page and for programs, not for pages of other sites.")(
        scope, receive, send
      )
      return

    async def send_with_headers(message: Message) -> None:
      if message["type"] == "http.response.start":
        present = {name for name, _ in message["headers"]}
        added = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
        message["headers"] = [*message["headers"], *(pair for pair in added if pair[0] not in present)]
      await send(message)

    await self._app(scope, receive, send_with_headers)


@contextlib.contextmanager
def working(service: Service):
  """Runs the service's batcher in threads: for tests and programs with a server of their own."""
  with concurrent.futures.ThreadPoolExecutor(batching.WORKERS) as pool:
    done = [pool.submit(service.batcher.run) for _ in range(batching.WORKERS)]
    try:
      yield service
    finally:
      service.batcher.close()
      for each in done:
        each.result()
