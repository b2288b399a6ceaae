"""Memory settings for programs that train or translate, to be made before JAX computes anything."""

import ctypes
import os
import platform
import sys

# A heap of huge pages that grows by 128 MiB and is never returned to the kernel.
KEEP_MEMORY = ":".join(
  f"glibc.malloc.{setting}"
  for setting in ("hugetlb=1", "mmap_max=0", "trim_threshold=1099511627776", "top_pad=134217728")
)


def keep_memory(restart: bool = True) -> None:
  """Makes glibc's malloc keep freed memory, and JAX run CPU programs in the main thread. Without glibc, does nothing.

  XLA's CPU backend allocates every large buffer in every call. By default, malloc returns each of them to the kernel
  afterwards, so the next call faults in and clears every page again, which costs a tenth to a third of a training step
  at 256×256 (benchmarks/NOTES.md). The price is a larger process. Call this before JAX computes anything.

  Args:
    restart: True: restart the program with malloc's settings in GLIBC_TUNABLES (glibc ≥ 2.35), which malloc reads
      before Python starts; if that variable is already set, nothing changes. False, for notebooks: change the running
      process, which then has no huge pages and still returns free memory beyond 2 GiB.
  """
  libc = _glibc()
  if libc is None:
    return
  if not restart:
    # The parameters are M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD of malloc.h.
    for parameter, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**27)):
      libc.mallopt(parameter, value)
  elif "GLIBC_TUNABLES" not in os.environ:
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"GLIBC_TUNABLES": KEEP_MEMORY})
  if not restart or os.environ["GLIBC_TUNABLES"] == KEEP_MEMORY:
    import jax

    # Only the main thread's heap can hold blocks of any size, so programs run there and not in a worker thread.
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def trim_memory() -> None:
  """Returns free memory to the kernel, after work that needed much of it and is not repeated; only with glibc."""
  libc = _glibc()
  if libc is not None:
    libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
  return ctypes.CDLL(None) if sys.platform == "linux" and platform.libc_ver()[0] == "glibc" else None
