"""A loop whose body runs in threads."""

import collections
from collections.abc import Callable, Iterable, Iterator
import concurrent.futures
import os
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(function: Callable[[T], R], items: Iterable[T], workers: int = 0) -> Iterator[R]:
  """Yields the function of every item in order, computed in `workers` threads (0: one a core); few results
  wait at a time.
  """
  workers = workers or os.cpu_count() or 1
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    waiting: collections.deque[concurrent.futures.Future[R]] = collections.deque()
    try:
      for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > 2 * workers:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    finally:
      for future in waiting:
        future.cancel()
