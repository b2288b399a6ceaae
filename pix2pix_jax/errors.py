"""The one exception type whose message is meant for users, and how commands show it."""

from collections.abc import Callable, Iterable
import difflib
import operator
import os
from pathlib import Path
import sys
from typing import Any

from absl import logging

from pix2pix_jax import output


class UsageError(ValueError):
  """An error that the user can correct, in a path, a config field, a file or a size.

  The message is one paragraph that names the thing, its value and what to do. The commands print it without a traceback
  and exit with status 2.
  """


def run_command(main: Callable[[], None]) -> None:
  """Runs a command and turns exceptions into messages on standard error and exit statuses.

  A UsageError becomes one paragraph and status 2; Ctrl-C, or a run that a signal stopped, becomes status 130. Output
  that nobody can read any more does not stop the command or change its status. Log messages of libraries are hidden.
  """
  logging.set_verbosity(logging.ERROR)
  with output.unbreakable():
    try:
      main()
    except UsageError as error:
      output.say(f"error: {error}", error=True)
      sys.exit(2)
    except KeyboardInterrupt as interrupt:
      if not interrupt.args:  # those with a text have been told already
        output.say("interrupted", error=True)
      sys.exit(130)


def few(names: Iterable[object], limit: int = 3) -> str:
  """The first few names joined by commas, and how many more there are."""
  listed = [str(name) for name in names]
  rest = f" and {len(listed) - limit} more" if len(listed) > limit else ""
  return ", ".join(listed[:limit]) + rest


def reason(error: Exception) -> str:
  """Why an exception was raised, for a message that names the path already: str() of an OSError would repeat it."""
  return getattr(error, "strerror", None) or str(error)


def nearest_path(path: Path) -> str:
  """The part of a sentence that suggests an existing path for one that does not exist; empty if none is similar.

  For example "; did you mean data/photos?".
  """
  existing = next(parent for parent in path.absolute().parents if parent.is_dir())
  missing = path.absolute().relative_to(existing).parts[0]
  try:
    names = {name.casefold(): name for name in os.listdir(existing) if not name.startswith(".")}
  except OSError:
    return ""
  found = difflib.get_close_matches(missing.casefold(), names, n=1)
  if not found:
    return ""
  rest = path.absolute().relative_to(existing).parts[1:]
  suggested = existing.joinpath(names[found[0]], *rest)
  shown = suggested if suggested.exists() else existing / names[found[0]]
  return f"; did you mean {shown if path.is_absolute() else os.path.relpath(shown)}?"


def require_integer(name: str, value: Any, low: int, high: int | None = None) -> int:
  """An option as an int within its limits; bool and float are refused.

  Raises:
    UsageError: with the option, its value and the limits.
  """
  try:
    number = operator.index(value)
  except TypeError:
    number = None
  if number is None or isinstance(value, bool) or number < low or (high is not None and number > high):
    limits = f"at least {low}" if high is None else f"between {low} and {high}"
    raise UsageError(f"{name} is {value!r}; it has to be an integer, {limits}.")
  return number
