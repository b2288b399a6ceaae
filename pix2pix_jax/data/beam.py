"""Preparation on Apache Beam: examples are made by many processes or machines, and stored in the same order.

TFDS's writer for Beam sorts by key within a shard, and shards hold ascending ranges of keys. Workers call functions of
this package, so it has to be installed where they run, and they read the raw files and write the shards themselves.
"""

from collections.abc import Callable, Sequence
import contextlib
import functools
import io
import logging
from pathlib import Path
import pickle
import shlex
from typing import Any, TypeVar

import tensorflow_datasets as tfds

from pix2pix_jax.data.formats import extras
from pix2pix_jax.errors import UsageError, nearest

T = TypeVar("T")
FIELD = "data.beam"


def _apache() -> Any:
  """The package apache_beam, without its messages: what fails is raised.

  Raises:
    UsageError: it is not installed.
  """
  logging.disable(logging.WARNING)  # importing it warns about parts that are not installed
  try:
    return extras.load("apache_beam", FIELD)
  finally:
    logging.disable(logging.NOTSET)


def configure(options: str) -> tfds.download.DownloadConfig:
  """TFDS's settings for a preparation with these pipeline options; without options, for one without Beam.

  Raises:
    UsageError: apache_beam is not installed, or the options are wrong.
  """
  if not options.strip():
    return tfds.download.DownloadConfig()
  apache = _apache()
  pipeline_options = apache.options.pipeline_options
  try:
    flags = shlex.split(options)
  except ValueError as error:
    raise UsageError(f"{FIELD} is {options!r}, which cannot be parsed as flags ({error}).") from error
  messages = io.StringIO()
  try:
    with contextlib.redirect_stderr(messages), contextlib.redirect_stdout(messages):  # argparse prints all of its flags
      parsed = pipeline_options.PipelineOptions(flags)
      known = {name.partition("=")[0] for name in parsed.get_all_options()}
  except SystemExit as error:
    problem = messages.getvalue().rpartition("error: ")[2].split("\n")[0]
    raise UsageError(f"{FIELD} is {options!r}, which Apache Beam does not accept: {problem}.") from error
  for flag in flags:
    name = flag.partition("=")[0]
    if not name.startswith("-"):
      raise UsageError(f"{FIELD} is {options!r}; {flag!r} is not a flag. Write each one as --NAME=VALUE.")
    if name.lstrip("-").replace("-", "_") not in known:
      raise UsageError(f"{FIELD}: Apache Beam has no flag {name}{nearest(name, [f'--{each}' for each in known])}")
  name = parsed.view_as(pipeline_options.StandardOptions).runner or "DirectRunner"
  try:
    apache.runners.create_runner(name)
  except (ValueError, ImportError, AttributeError) as error:
    raise UsageError(f"{FIELD}: the runner {name!r} cannot be used. {error}") from error
  log = parsed.view_as(pipeline_options.WorkerOptions)
  if "direct" in name.lower() and log.default_sdk_harness_log_level is None:
    log.default_sdk_harness_log_level = "CRITICAL"  # local workers would print to this terminal
  return tfds.download.DownloadConfig(beam_options=parsed)


def examples(items: Sequence[T], make: Callable[[T], tuple[Any, Any]], findings: Path) -> Any:
  """Beam's transform that yields (key, example) for TFDS, in which keys count the items.

  Args:
    items: the items of a split, which are sent to the workers.
    make: item → (example, or None to leave it out; finding, or None).
    findings: file that gets all findings, for `read_findings`.
  """
  apache = _apache()
  keyed = "Items" >> apache.Create(list(enumerate(items)))

  @apache.ptransform_fn
  def both(pipeline: Any) -> Any:
    made = pipeline | keyed | "Make" >> apache.Map(functools.partial(_made, make))
    listed = made | "Findings" >> apache.FlatMap(_finding) | "List" >> apache.combiners.ToList()
    _ = listed | "Write" >> apache.Map(functools.partial(_write, findings))
    return made | "Examples" >> apache.FlatMap(_example)

  return both()


def _made(make: Callable[[T], tuple[Any, Any]], keyed: tuple[int, T]) -> tuple[int, Any, Any]:
  key, item = keyed
  return key, *make(item)


def _example(made: tuple[int, Any, Any]) -> list[tuple[int, Any]]:
  key, example, _ = made
  return [] if example is None else [(key, example)]


def _finding(made: tuple[int, Any, Any]) -> list[tuple[int, Any]]:
  key, _, finding = made
  return [] if finding is None else [(key, finding)]


def _write(path: Path, findings: list[tuple[int, Any]]) -> None:
  path.write_bytes(pickle.dumps(findings))


def read_findings(path: Path) -> list[Any]:
  """The findings that a pipeline has written, in the order of its items; deletes their file."""
  found = sorted(pickle.loads(path.read_bytes()), key=lambda keyed: keyed[0])
  path.unlink()
  return [finding for _, finding in found]
