"""How training and translating programs start, before anything large is imported."""

import os
import platform
import sys

# A heap of huge pages that grows by 128 MiB and is never given back.
KEEP_MEMORY = ":".join(f"glibc.malloc.{setting}" for setting in ("hugetlb=1", "mmap_max=0", "trim_threshold=1099511627776", "top_pad=134217728"))


def keep_memory() -> None:
  """On Linux with glibc ≥ 2.35 starts the program anew, with malloc keeping what is freed, in huge pages; elsewhere does nothing.

  XLA's CPU backend asks malloc for every large buffer in every call. By default each goes back to the kernel afterwards, and each
  page that comes again costs a fault and is filled with zeros: a tenth to a third of a step at 256×256 (benchmarks/NOTES.md). Kept
  memory makes the process larger in exchange. malloc reads this setting before Python runs, hence the new start. A GLIBC_TUNABLES
  that is set already stays as it is. Not for notebooks, whose kernel would start anew.
  """
  if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
    return
  if "GLIBC_TUNABLES" not in os.environ:
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"GLIBC_TUNABLES": KEEP_MEMORY})
  if os.environ["GLIBC_TUNABLES"] == KEEP_MEMORY:
    import jax
    # Only the main thread's heap takes pieces of any size: run programs there, not in a worker.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
