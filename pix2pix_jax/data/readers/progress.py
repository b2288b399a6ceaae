"""Progress of long loops over files: a bar on a terminal, otherwise a line from time to time."""

from collections.abc import Callable, Iterable, Iterator
import sys
import time
from typing import TypeVar

from tqdm import tqdm

from pix2pix_jax import output

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0


def track(items: Iterable[T], total: int, label: str, say: Callable[[str], None] = output.say) -> Iterator[T]:
  """Yields the items and shows their number, the rate and the time left, on standard error or with `say`.

  Args:
    items: anything to loop over.
    total: the number of items.
    label: a verb and its object, such as "Preparing train".
    say: function that prints a line; called if standard error is not a terminal, at most every ten seconds.
  """
  if sys.stderr is not None and sys.stderr.isatty():
    yield from tqdm(items, total=total, desc=label, unit=" pairs", leave=False, dynamic_ncols=True)
    return
  begin = last = time.monotonic()
  for done, item in enumerate(items):
    now = time.monotonic()
    if done and now - last >= SECONDS_BETWEEN_LINES:
      rate = done / (now - begin)
      say(f"{label}: {done} of {total} ({rate:.3g}/s, {output.duration((total - done) / rate)} left)")
      last = now
    yield item
