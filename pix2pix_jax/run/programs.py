"""Compiled programs that are kept for the next start, which then neither traces nor compiles them.

JAX's own compilation cache is keyed by the lowered program, so that every start has to trace, which takes longer than
loading machine code. Here, an entry is keyed by everything that the trace depends on: the source code of this package,
the versions of the libraries, the configuration, the signals, the shapes of the arguments, JAX's settings, the
compiler's flags and the processor. What is not the same to the last character is traced. The entry names the file with
the machine code, which is keyed by the lowered program instead of the code and the configuration, so that a change that
does not matter to it compiles nothing.

A file is the SHA-256 of its content, then the content. A damaged one is ignored and written again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
import contextlib
import functools
import hashlib
from importlib import metadata
import os
from pathlib import Path
import pickle
import platform
import sys
import threading
from typing import Any, NamedTuple
import uuid

import jax
from jax._src import config as jax_config  # the only way to a setting for one thread
from jax.experimental import serialize_executable
import jax.monitoring

from pix2pix_jax.errors import URL
from pix2pix_jax.model import convolution

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "dm-pix", "numpy", "ml-collections")
FLAGS = ("XLA_", "JAX_", "FLAX_", "TF_XLA_", "LIBTPU_", "CUDA_", "NVIDIA_")  # beginnings of environment variables
KEPT = 100  # files; the oldest beyond this number are deleted
_DIGEST = hashlib.sha256().digest_size
_threads = functools.cache(lambda: futures.ThreadPoolExecutor(2, "pix2pix_jax programs"))
Signature = tuple[Any, tuple[tuple[tuple[int, ...], Any], ...]]


class Program:
  """A function under `jax.jit` that is called as usual. Each new structure or shape of its arguments is looked up among
  the kept programs, or else compiled and kept.

  Args:
    name: name of its files.
    function: the function, under `jax.jit`.
    identity: returns a text that differs whenever the function does, though the code is the same: its settings.
    options: the compiler's options, if `function` is compiled with any.
  """

  def __init__(self, name: str, function: Any, identity: Callable[[], str], options: Any = None):
    self.function = function
    self._name, self._identity, self._options = name, identity, options
    self._ready: dict[Signature, Any] = {}
    self._started: dict[Signature, futures.Future[Any]] = {}
    self._lock = threading.Lock()

  def __call__(self, *arguments: Any) -> Any:
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments)):  # inside another program
      return self.function(*arguments)
    signature = _signature(arguments)
    compiled = self._ready.get(signature)
    if compiled is None:
      with self._lock:
        started = self._started.pop(signature, None)
      compiled = started.result() if started else self._find(signature, arguments)
      self._ready[signature] = compiled
    return compiled(*arguments)

  def __len__(self) -> int:
    """The number of structures and shapes for which it has been called."""
    return len(self._ready)

  def start(self, *arguments: Any) -> None:
    """Begins to load or compile the program in a thread, for arguments of which only the shapes count."""
    if jax.process_count() > 1:
      return
    signature = _signature(arguments)
    shapes = jax.tree.map(_shape_of, arguments)
    with self._lock:
      if signature not in self._ready and signature not in self._started:
        self._started[signature] = _threads().submit(self._find, signature, shapes)

  def is_kept(self, *arguments: Any) -> bool:
    """Whether it need not be traced for these arguments."""
    return _read_entry(self._entry(_signature(arguments))) is not None

  def outputs(self, *arguments: Any) -> Any:
    """The shapes and types of what it returns."""
    if entry := _read_entry(self._entry(_signature(arguments))):
      return entry.results
    return jax.tree.map(_shape_of, jax.eval_shape(self.function, *arguments))

  def lower(self, *arguments: Any) -> Any:
    """As the method of `jax.jit`'s functions."""
    return self.function.lower(*arguments)

  def _find(self, signature: Signature, arguments: tuple[Any, ...]) -> Any:
    """The compiled program: loaded or, if it has not been kept, compiled. Where nothing is kept, JAX's own."""
    path = self._entry(signature)
    if path is None:
      return self.function
    if (entry := _read_entry(path)) and (loaded := _load(path.with_name(entry.code), entry.arguments, entry.results)):
      with contextlib.suppress(OSError):
        os.utime(path)
      return loaded
    lowered = self.function.lower(*arguments)
    key = _hash(_environment(), self._options, lowered.as_text())
    entry = Entry(_plain(arguments), _plain(lowered.out_info), f"{self._name}-{key}.code")
    loaded = _load(path.with_name(entry.code), entry.arguments, entry.results)
    if loaded:
      _write_later(path, entry)
      return loaded
    with _own_cache_only(), _cache_hits() as hits:
      compiled = lowered.compile()
    if not hits:  # what JAX has loaded from its cache lacks parts when it is serialised again
      _write_later(path, entry, compiled)
    return compiled

  def _entry(self, signature: Signature) -> Path | None:
    """The file of the entry; None: nothing is kept."""
    folder = jax.config.values["jax_compilation_cache_dir"]
    enabled = jax.config.values["jax_enable_compilation_cache"] and jax.process_count() == 1
    if not folder or URL.match(folder) or not enabled:
      return None
    key = _hash(_environment(), _code(), self._identity(), self._options, signature)
    return Path(folder) / "programs" / f"{self._name}-{key}"


def _shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
  sharding = getattr(leaf, "sharding", None)
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _signature(arguments: tuple[Any, ...]) -> Signature:
  leaves, structure = jax.tree.flatten(arguments)
  return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def _environment() -> str:
  """Everything besides a function's settings and arguments that its program depends on."""
  device = jax.devices()[0]
  flags = {name: value for name, value in os.environ.items() if name.startswith(FLAGS)}
  settings = {name: getattr(jax.config, name, value) for name, value in jax.config.values.items()}
  flags.pop("JAX_COMPILATION_CACHE_DIR", None)  # may be another name of the same folder
  settings.pop("jax_compilation_cache_dir")
  return repr(
    (
      _versions(metadata.version),
      sys.version,
      [(each.id, each.device_kind) for each in jax.devices()],
      (device.platform, device.client.platform_version, _processor()),
      sorted(flags.items()),
      sorted((name, repr(value)) for name, value in settings.items()),
      tuple(convolution._FORCED),
    )
  )


@functools.cache
def _versions(version_of: Callable[[str], str]) -> list[tuple[str, str]]:
  """The versions of the libraries; finding one takes milliseconds."""
  return [(name, version_of(name)) for name in LIBRARIES]


@functools.cache
def _code() -> str:
  """A hash of the source code of this package."""
  digest = hashlib.sha256()
  package = Path(__file__).parent.parent
  for path in sorted(package.rglob("*.py")):
    digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes() + b"\0")
  return digest.hexdigest()


@functools.cache
def _processor() -> str:
  """What distinguishes processors for which machine code differs."""
  try:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    named = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
  except OSError:
    named = []
  return "\n".join([platform.machine(), platform.processor(), *named, str(os.cpu_count())])


@contextlib.contextmanager
def _own_cache_only() -> Iterator[None]:
  """Keeps JAX from writing what is compiled inside to its cache too."""
  with jax_config.persistent_cache_min_compile_time_secs(1e9):
    yield


@contextlib.contextmanager
def _cache_hits() -> Iterator[list[str]]:
  """A list that is not empty after something inside was loaded from JAX's cache."""
  _hits.found = []
  yield _hits.found


_hits = threading.local()  # JAX reports in the thread that compiles


def _listen(event: str, **unused: Any) -> None:
  if event == "/jax/compilation_cache/cache_hits" and hasattr(_hits, "found"):
    _hits.found.append(event)


jax.monitoring.register_event_listener(_listen)


# --- Files


class Entry(NamedTuple):
  """What is known of a program without tracing it: arguments and results as shapes, and the file of its code."""

  arguments: Any
  results: Any
  code: str


def _hash(*parts: Any) -> str:
  return hashlib.sha256(repr(parts).encode()).hexdigest()[:40]


def _plain(tree: Any) -> Any:
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def _read(path: Path) -> bytes:
  """The content of a file; empty if there is none or it is damaged."""
  try:
    content = path.read_bytes()
  except OSError:
    return b""
  return content[_DIGEST:] if hashlib.sha256(content[_DIGEST:]).digest() == content[:_DIGEST] else b""


def _read_entry(path: Path | None) -> Entry | None:
  content = _read(path) if path else b""
  return pickle.loads(content) if content else None  # from this user's cache, as machine code is


def _load(path: Path, arguments: Any, results: Any) -> Any:
  """The program of a file; None if there is none or JAX refuses it."""
  if not (code := _read(path)):
    return None
  try:
    program = serialize_executable.deserialize_and_load(
      code, jax.tree.structure((arguments, {})), jax.tree.structure(results)
    )
  except Exception:  # the type depends on the platform; the program is compiled instead
    return None
  with contextlib.suppress(OSError):
    os.utime(path)  # used now
  return program


def _write_later(*arguments: Any) -> None:
  with contextlib.suppress(RuntimeError):  # the program is exiting
    _threads().submit(_write, *arguments)


def _write(path: Path, entry: Entry, compiled: Any = None) -> None:
  """Keeps an entry and, if it is new, its code. If that is not possible, the next start compiles again."""
  try:
    if compiled is not None:
      _write_file(path.with_name(entry.code), serialize_executable.serialize(compiled)[0])
    _write_file(path, pickle.dumps(entry))
    for old in sorted(path.parent.iterdir(), key=lambda each: each.stat().st_mtime)[:-KEPT]:
      old.unlink()
  except (OSError, ValueError, NotImplementedError, jax.errors.JaxRuntimeError):  # a full disk; not for this platform
    pass


def _write_file(path: Path, content: bytes) -> None:
  """Replaces a file at once, so that no other process sees a part of it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f".{uuid.uuid4().hex}.part")
  try:
    part.write_bytes(hashlib.sha256(content).digest() + content)
    os.replace(part, path)
  finally:
    part.unlink(missing_ok=True)
