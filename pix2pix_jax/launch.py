"""How training and translating programs start, before anything large is imported."""

import ctypes
import os
import platform
import sys

# A heap of huge pages that grows by 128 MiB and is never given back.
KEEP_MEMORY = ":".join(
  f"glibc.malloc.{setting}"
  for setting in ("hugetlb=1", "mmap_max=0", "trim_threshold=1099511627776", "top_pad=134217728")
)


def keep_memory(restart: bool = True) -> None:
  """On Linux with glibc has malloc keep what is freed, and JAX run its CPU programs in the main thread; elsewhere does nothing.

  XLA's CPU backend asks malloc for every large buffer in every call. By default each goes back to the kernel afterwards, and each
  page that comes again costs a fault and is filled with zeros: a tenth to a third of a step at 256×256 (benchmarks/NOTES.md). Kept
  memory makes the process larger in exchange. Call it before JAX computes anything.

  Args:
    restart: starts the program anew, with malloc's settings in GLIBC_TUNABLES (glibc ≥ 2.35), which malloc reads before Python runs.
      One that is set already stays as it is, and nothing else is done. False, for notebooks: changes the running process, which does
      without the huge pages and gives back what exceeds 2 GiB.
  """
  if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
    return
  if not restart:
    libc = ctypes.CDLL(None)
    for parameter, value in (
      (-4, 0),
      (-1, 2**31 - 1),
      (-2, 2**27),
    ):  # malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
      libc.mallopt(parameter, value)
  elif "GLIBC_TUNABLES" not in os.environ:
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"GLIBC_TUNABLES": KEEP_MEMORY})
  if not restart or os.environ["GLIBC_TUNABLES"] == KEEP_MEMORY:
    import jax

    # Only the main thread's heap takes pieces of any size: run programs there, not in a worker.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
