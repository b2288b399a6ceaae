"""Settings shared by all tests: their own caches, fast compilation, and the location of real sample files."""

import gc
import os
from pathlib import Path
import signal
import tempfile
import types

# Tests and their subprocesses share compiled programs, but not with the user's cache. Parallel test processes prepare
# the same data sets, so each has its own folder for these.
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
_USER = os.getuid() if hasattr(os, "getuid") else "user"  # Windows has no user numbers
_CACHE = Path(tempfile.gettempdir()) / f"pix2pix_jax_tests_{_USER}" / _WORKER
os.environ["XDG_CACHE_HOME"] = str(_CACHE)
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_CACHE.parent / "xla")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ.pop("TFDS_DATA_DIR", None)
# Compile fast: tests depend on shapes and numbers, not on speed. XLA's fusion emitters cost two thirds of the time to
# compile a small step; compiling it in parts costs a tenth.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
_FAST = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FAST}".strip()

# A background job of a shell ignores Ctrl-C, and a program under nohup SIGHUP. Tests that send these signals to
# programs that they start need the defaults, which those programs inherit.
for _name, _default in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
  if hasattr(signal, _name) and signal.getsignal(getattr(signal, _name)) == signal.SIG_IGN:
    signal.signal(getattr(signal, _name), _default)

# Tracing makes many objects and few cycles: collecting as often as by default costs a twentieth of the time.
gc.set_threshold(200_000, 20, 100)

import jax  # noqa: E402  (after the environment is set)
import pytest  # noqa: E402

_PAGES = Path("/proc/self/statm")  # the second number is the resident memory
# Modules that take minutes come first, lest one of them run alone when all others are done.
_LONG = "test_processes test_benchmarks test_resume test_fitting test_demo_page test_demo test_train".split()


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: _LONG.index(item.path.stem) if item.path.stem in _LONG else len(_LONG))


@pytest.fixture(scope="module", autouse=True)
def _forgotten_programs():
  """Frees compiled programs between modules; those of all modules would take gigabytes."""
  yield
  if not _PAGES.exists() or int(_PAGES.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > 2.5 * 2**30:
    jax.clear_caches()


@pytest.fixture(scope="module", autouse=True)
def _few_curves(request):
  """Runs write one pixel as curves.png, whose drawing is a fifth of a short run, except in modules that set CURVES."""
  from PIL import Image

  from pix2pix_jax.run import reporter

  quick = {**vars(reporter.viz), "curves": lambda rows, path, **options: Image.new("L", (1, 1)).save(path)}
  with pytest.MonkeyPatch.context() as patch:
    if not getattr(request.module, "CURVES", False):
      patch.setattr(reporter, "viz", types.SimpleNamespace(**quick))
    yield


@pytest.fixture(scope="session")
def real_data() -> Path:
  """The folder of real sample files, PIX2PIX_TEST_DATA."""
  folder = os.environ.get("PIX2PIX_TEST_DATA")
  if not folder:
    pytest.skip("PIX2PIX_TEST_DATA is not set: no real sample files to read")
  return Path(folder)
