"""How a training program starts, before anything large is imported."""

import os
import platform
import sys

HUGE_PAGES = "glibc.malloc.hugetlb=1"


def use_huge_pages() -> None:
  """On Linux with glibc ≥ 2.35 starts the program anew, with malloc asking the kernel for huge pages; elsewhere does nothing.

  XLA's CPU backend asks malloc for every large buffer in every step, and each 4 KiB page that comes back to the process costs a
  fault: about a tenth of a step at 256×256 (benchmarks/NOTES.md). malloc reads this setting before Python runs, hence the new
  start. A GLIBC_TUNABLES that is set already stays as it is.
  """
  if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ and platform.libc_ver()[0] == "glibc":
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"GLIBC_TUNABLES": HUGE_PAGES})
