"""Settings of all tests: caches of their own, and where the real sample files are."""

import os
from pathlib import Path
import tempfile

# Compiled programs are shared by all tests and their subprocesses, but not with the user's cache.
_WORKER = os.environ.get(
  "PYTEST_XDIST_WORKER", "main"
)  # parallel test processes prepare the same data sets: each has its own
_CACHE = Path(tempfile.gettempdir()) / f"pix2pix_jax_tests_{os.getuid()}" / _WORKER
os.environ["XDG_CACHE_HOME"] = str(_CACHE)
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_CACHE / "xla")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
os.environ.pop("TFDS_DATA_DIR", None)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compile fast; only shapes, plumbing and numbers matter here

import pytest  # noqa: E402  (after the environment is set)


@pytest.fixture(scope="session")
def real_data() -> Path:
  """The folder of real sample files, PIX2PIX_TEST_DATA."""
  folder = os.environ.get("PIX2PIX_TEST_DATA")
  if not folder:
    pytest.skip("PIX2PIX_TEST_DATA is not set: no real sample files to read")
  return Path(folder)
