"""The one exception type whose message is meant for users, and how commands show it."""

import _thread
import argparse
from collections.abc import Callable, Iterable, Sequence
import difflib
import errno
import operator
import os
from pathlib import Path
import re
import signal
import sys
import threading
from typing import Any, NoReturn

from absl import logging

from pix2pix_jax import output

# Numbers of the operating system's errors that are due to the disk, not to the program.
FULL = {number for name in ("ENOSPC", "EDQUOT", "EFBIG") if (number := getattr(errno, name, None))}
STORAGE = FULL | {
  number for name in ("EROFS", "EACCES", "EPERM", "EIO", "ESTALE") if (number := getattr(errno, name, None))
}

URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")  # one letter before the colon is a drive of Windows


class UsageError(ValueError):
  """An error that the user can correct, in a path, a config field, a file or a size.

  The message is one paragraph that names the thing, its value and what to do. The commands print it without a traceback
  and exit with status 2.
  """


def run_command(main: Callable[[], None]) -> None:
  """Runs a command and turns exceptions into messages on standard error and exit statuses.

  A UsageError becomes one paragraph and status 2, and so does a full or read-only disk; Ctrl-C, or a run that a signal
  stopped, becomes status 130. Output that nobody can read any more does not stop the command or change its status. Log
  messages of libraries are hidden.
  """
  logging.set_verbosity(logging.ERROR)
  sys.unraisablehook = _interrupt_again
  with output.unbreakable():
    try:
      main()
    except UsageError as error:
      output.say(f"error: {error}", error=True)
      sys.exit(2)
    except OSError as error:
      if error.errno not in STORAGE:
        raise
      name = f"{error.filename}: " if error.filename else ""
      remedy = "Free space and try again." if error.errno in FULL else "Check its permissions and the disk."
      output.say(f"error: {name}{error.strerror}. {remedy}", error=True)
      sys.exit(2)
    except KeyboardInterrupt as interrupt:
      if not interrupt.args:  # those with a text have been told already
        output.say("interrupted", error=True)
      sys.exit(130)


class CommandParser(argparse.ArgumentParser):
  """A parser of flags whose errors are one line, a UsageError, instead of every flag of the command."""

  def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
    """Parses flags like the base class, but names an unknown flag before missing ones, which may be misspelt."""
    arguments = sys.argv[1:] if args is None else list(args)
    known = [option for option in self._option_string_actions if option.startswith("--")]
    for argument in arguments:
      flag = argument.partition("=")[0]
      if argument == "--":
        break
      if flag.startswith("--") and not any(option == flag or self._abbreviates(flag, option) for option in known):
        raise UsageError(f"There is no flag {flag}{nearest(flag, known)} {self._help}")
    return super().parse_args(arguments, namespace)

  def _abbreviates(self, flag: str, option: str) -> bool:
    return self.allow_abbrev and option.startswith(flag)

  @property
  def _help(self) -> str:
    return f'"{self.prog} --help" describes all flags.'

  def error(self, message: str) -> NoReturn:
    text = message.removeprefix("argument ")
    raise UsageError(f"{text[:1].upper()}{text[1:]}. {self._help}")


def nearest(name: str, known: Iterable[str], more: str = "") -> str:
  """The end of a sentence about a misspelt name: a suggestion if a known name is close, else a full stop.

  Args:
    name: the misspelt name.
    known: the names to choose from.
    more: what follows in place of the full stop, such as "; the"; after a suggestion, it starts a sentence.
  """
  found = difflib.get_close_matches(name, known, n=1)
  if not found:
    return more or "."
  start = more.lstrip("; ")
  return f"; did you mean {found[0]}?{f' {start[:1].upper()}{start[1:]}' if start else ''}"


def _interrupt_again(unraisable: Any) -> None:
  """Repeats a Ctrl-C that came while Python was in a callback, such as JAX's at a garbage collection, and was lost."""
  if issubclass(unraisable.exc_type, KeyboardInterrupt):
    threading.Timer(0.05, _interrupt).start()  # when this function, which may not raise, has returned
  else:
    sys.__unraisablehook__(unraisable)


def _interrupt() -> None:
  if hasattr(signal, "pthread_kill"):
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # also wakes a sleeping system call
  else:
    _thread.interrupt_main()


def few(names: Iterable[object], limit: int = 3) -> str:
  """The first few names joined by commas, and how many more there are."""
  listed = [str(name) for name in names]
  rest = f" and {len(listed) - limit} more" if len(listed) > limit else ""
  return ", ".join(listed[:limit]) + rest


def grouped(problems: Iterable[tuple[object, str]]) -> list[str]:
  """Lines about things that cannot be used, one for each reason: a reason that several share names the first ten.

  Args:
    problems: (name, what is wrong with it). A text may start with the name, as in "a.png is empty."; one that does not
      contain it is put after a colon.
  """
  groups: dict[tuple[str, str], list[str]] = {}
  for name, text in dict.fromkeys((str(name), text) for name, text in problems):
    if text.startswith(f"{name} "):
      key = "each ", text.removeprefix(f"{name} ")
    else:
      key = ("", text)
    groups.setdefault(key, []).append(name)
  lines = []
  for (each, shared), names in groups.items():
    if len(names) > 1:
      lines.append(f"{few(names, 10)}: {each}{shared}")
    else:
      lines.append(f"{names[0]} {shared}" if each else shared if names[0] in shared else f"{names[0]}: {shared}")
  return lines


def reason(error: Exception) -> str:
  """Why an exception was raised, for a message that names the path already: str() of an OSError would repeat it."""
  return getattr(error, "strerror", None) or str(error)


def user_path(name: str, path: str | Path) -> Path:
  """A path that a user has given, with ~ expanded.

  Args:
    name: the flag or field that the path is the value of, for the message.
    path: the path; a `Path` made of a URL has lost one of its slashes.

  Raises:
    UsageError: it is a URL, such as gs://bucket/folder, which would silently become a folder named "gs:" here.
  """
  text = str(path)
  if found := URL.match(text):
    raise UsageError(
      f"{name} is {found[1]}://{text[found.end() :]}, a URL, but files are read and written by their paths on this "
      "computer. Mount the bucket, for example with gcsfuse, mount-s3 or rclone mount, or copy the files, and give the "
      "path of that folder."
    )
  return Path(path).expanduser()


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
