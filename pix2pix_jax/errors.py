"""The one exception type that a user is meant to read, and how commands show it."""

from collections.abc import Callable, Iterable
import operator
import sys
from typing import Any

from absl import logging


class UsageError(ValueError):
  """Something the user can mend: a path, a config field, a file, a size.

  The message is one paragraph that names the thing, its value and what to do. The commands print it
  without a traceback and exit with a status other than zero.
  """


def run_command(main: Callable[[], None]) -> None:
  """Runs a command; a UsageError becomes one paragraph on standard error and exit status 2. Libraries' remarks are kept
  out.
  """
  logging.set_verbosity(logging.ERROR)
  try:
    main()
  except UsageError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    sys.exit(130)


def few(names: Iterable[object], limit: int = 3) -> str:
  """The first few names joined by commas, and how many more there are."""
  listed = [str(name) for name in names]
  rest = f" and {len(listed) - limit} more" if len(listed) > limit else ""
  return ", ".join(listed[:limit]) + rest


def require_integer(name: str, value: Any, low: int, high: int | None = None) -> int:
  """An option as an int within its limits; bool and float are refused.

  Raises:
    UsageError: names the option, its value and the limits.
  """
  try:
    number = operator.index(value)
  except TypeError:
    number = None
  if number is None or isinstance(value, bool) or number < low or (high is not None and number > high):
    limits = f"at least {low}" if high is None else f"between {low} and {high}"
    raise UsageError(f"{name} is {value!r}; it has to be an integer, {limits}.")
  return number
