"""The command `pix2pix_jax`: dispatches to the subcommands, and parses the flags of `train`.

JAX and TensorFlow take seconds to import. Each command imports its own modules, so that help and flag errors appear
at once.
"""

import argparse
from collections.abc import Callable, Iterator
import contextlib
import functools
import importlib
import os
from pathlib import Path
import re
import shutil
import signal
import sys
import textwrap
import traceback
from typing import TYPE_CHECKING, NamedTuple

from pix2pix_jax import __version__, launch, output
from pix2pix_jax.errors import (
  URL,
  CommandParser,
  UsageError,
  few,
  nearest,
  nearest_path,
  require_integer,
  run_command,
  user_path,
)

if TYPE_CHECKING:
  import ml_collections

COMMANDS = {
  "train": "Train a model on a named configuration or one of your own; rerun the same command to resume.",
  "evaluate": "Compute metrics and baselines over every image of a split.",
  "translate": "Translate image and depth files with a trained model.",
  "export": "Write a trained generator to a single file: StableHLO, SavedModel, TFLite or ONNX.",
  "extract": "Make a workdir of one of the networks that train.num_replicas trained side by side.",
  "import-torch": "Turn PyTorch weights of pytorch-CycleGAN-and-pix2pix into a workdir.",
  "report": "Write one self-contained HTML page about a run.",
  "demo": "Serve a page to try a trained model in a browser, and an HTTP interface for programs.",
  "inspect": "Summarize a data set and draw training batches, without training.",
  "fields": "List the configuration fields with their defaults, meanings and limits.",
}
TRAIN_FLAGS = (
  *("--config", "--workdir", "--distributed", "--coordinator", "--num_processes", "--process_id", "--init_from"),
  *("--verbose", "--debug"),
)
_KEEP_MEMORY = ("train", "translate", "demo")  # the commands that compute the most
_DESCRIBED_IN = {  # reader of raw files → the named configuration whose docstring describes them
  "facades": "facades",
  "folder": "folder",
  "kitti_depth": "kitti",
  "nyu_depth": "nyu",
  "winter_summer": "winter_summer",
}
_DOWNLOADS = ("facades",)  # readers that need no source_dir

_HELP = """\
usage: pix2pix_jax COMMAND [--FLAG=VALUE ...]

Paired image-to-image translation with conditional adversarial networks (pix2pix).

commands:
{commands}

"pix2pix_jax COMMAND --help" lists the flags of a command.
"""

_TRAIN_HELP = """\
usage: pix2pix_jax train --config=NAME[:VARIANT] --workdir=DIR [--config.FIELD=VALUE ...] [--init_from=WORKDIR]
                         [--distributed [--coordinator=HOST:PORT --num_processes=N --process_id=I]] [--verbose]
                         [--debug]

Trains a model. If the workdir holds an interrupted run, training resumes from its newest checkpoint.
"python main.py" in a clone of the repository accepts the same flags.

flags:
  --config=NAME           a configuration listed below, or the path of a Python file that defines get_config(variant);
                          append :VARIANT to choose a variant, and join several with commas
  --workdir=DIR           folder for checkpoints, samples and logs
  --config.FIELD=VALUE    overrides a field, for example --config.data.load_size=143; tuples are quoted, "(1, 2)".
                          "pix2pix_jax fields" explains every field; so does {config_file}
  --init_from=WORKDIR     start from the networks of another run, at its best checkpoint; append @STEP for another one
  --distributed           run as one of several processes, which find each other on Slurm, TPU and Kubernetes;
                          elsewhere, add --coordinator=HOST:PORT (of process 0), --num_processes=N and --process_id=I
  --verbose               print the time of each stage of the start, and every parameter of the networks
  --debug                 train nothing; repeat the run from its newest checkpoint, check every step, and save the batch
                          and the state of the first step whose numbers are not finite

configurations:
{configurations}

example:
  pix2pix_jax train --config=kitti:procedural --workdir=runs/kitti --config.train.num_steps=2000
"""


def main(argv: list[str] | None = None) -> None:
  """Runs the command that `argv` (default: the program's arguments) names; user errors exit with status 2."""
  arguments = sys.argv[1:] if argv is None else argv
  run_command(lambda: _dispatch(arguments, can_restart=argv is None))


def _dispatch(arguments: list[str], can_restart: bool) -> None:
  if not arguments:
    raise UsageError(f'Name a command: {", ".join(COMMANDS)}. "pix2pix_jax --help" describes them.')
  name, *rest = arguments
  if name in ("-h", "--help"):
    print(_HELP.format(commands="\n".join(f"  {command:<14}{line}" for command, line in COMMANDS.items())), end="")
  elif name == "--version":
    print(f"pix2pix_jax {__version__}")
  elif name not in COMMANDS:
    raise UsageError(f"There is no command {name!r}{nearest(name, COMMANDS)} The commands are {', '.join(COMMANDS)}.")
  else:
    if can_restart and name in _KEEP_MEMORY and not {"-h", "--help"} & set(rest):
      launch.keep_memory()
    if name == "evaluate" and not {"-h", "--help"} & set(rest):  # whose module imports them
      output.say("Loading JAX …")
    _find(name)(rest)


def _find(name: str) -> Callable[[list[str]], None]:
  """The function of a command."""
  if name == "train":
    return train
  if name == "fields":
    return fields
  return importlib.import_module(f"pix2pix_jax.{name.replace('-', '_')}").main


# --- fields


def fields(argv: list[str] | None = None) -> None:
  """Prints every configuration field, or those whose name contains a text."""
  from pix2pix_jax import config as config_lib  # imports JAX

  parser = CommandParser(prog="pix2pix_jax fields", description=COMMANDS["fields"])
  parser.add_argument(
    "pattern", nargs="?", default="", help='list only fields whose name contains this, such as "data."'
  )
  pattern = parser.parse_args(argv).pattern
  known = dict(config_lib.each_field())
  chosen = {name: field for name, field in known.items() if pattern.lower() in name}
  if not chosen:
    raise UsageError(f"No field has {pattern!r} in its name{nearest(pattern, known)}")
  width = min(shutil.get_terminal_size((120, 24)).columns, 120)
  fill = functools.partial(textwrap.fill, width=width, break_on_hyphens=False, break_long_words=False)
  for name, field in chosen.items():
    limit = f"  ({field.limit.text})" if field.limit else ""
    print(fill(f"{name} = {field.default!r}{limit}", subsequent_indent=" " * 6))
    print(fill(field.meaning, initial_indent=" " * 4, subsequent_indent=" " * 4))


# --- train


def train(argv: list[str] | None = None) -> None:
  """Trains a model as specified by the flags; see `pix2pix_jax train --help`.

  Raises:
    UsageError: an invalid flag, field or value (before anything is read or written), or an error of the run.
  """
  arguments = sys.argv[1:] if argv is None else argv
  if {"-h", "--help"} & set(arguments):
    print(_train_help(), end="")
    return
  config, workdir, together, verbose, debug = parse_train(arguments)
  if verbose:
    output.be_verbose()
  check_before_imports(config)
  _check_workdir(workdir)
  from pix2pix_jax.run import processes

  if together:
    processes.join(*together)
  output.say("Loading JAX …")  # takes seconds, so flags are checked first
  with _stopping_signals_interrupt():
    try:
      with output.stage("Loading JAX"):
        from pix2pix_jax.run.debugging import repeat_steps
        from pix2pix_jax.train import train_and_evaluate

      with processes.leaving_together():
        (repeat_steps if debug else train_and_evaluate)(config, workdir)
    except KeyboardInterrupt:
      if any((workdir.expanduser() / "checkpoints").glob("*")):
        raise
      told = "Interrupted before the first checkpoint; nothing was saved."
      output.say(told, error=True)
      raise KeyboardInterrupt(told) from None


def check_before_imports(config: "ml_collections.ConfigDict") -> None:
  """Checks what needs neither data nor TensorFlow, which takes seconds to load.

  Raises:
    UsageError: sizes that do not suit each other or the generator, or no folder of raw files for a reader of those.
  """
  from pix2pix_jax import config as config_lib

  config_lib.check_shapes(config)
  reader, folder = config.data.name, config.data.source_dir
  if reader not in _DESCRIBED_IN:
    return
  if not folder and reader not in _DOWNLOADS:
    raise UsageError(f"data.source_dir is not set. Add --config.data.source_dir=DIR. {_about_source(reader)}")
  if folder and not URL.match(folder) and not os.path.exists(path := user_path("data.source_dir", folder)):
    suggestion = nearest_path(path) or "."
    raise UsageError(f"data.source_dir {folder!r} does not exist{suggestion} {_about_source(reader)}")


def _about_source(reader: str) -> str:
  """The files that a reader expects in data.source_dir, and where README describes them."""
  if reader == "folder":
    return 'The section "Your own pairs" of README describes the layouts of DIR.'
  documentation = importlib.import_module(f"pix2pix_jax.configs.{_DESCRIBED_IN[reader]}").__doc__ or ""
  found = re.search(r"^DIR .*?(?=\n\n)", documentation, re.MULTILINE | re.DOTALL)
  listed = f"{' '.join(found[0].split())} " if found else ""
  return f'{listed}The section "Choose a configuration" of README links to the data.'


def _check_workdir(workdir: Path) -> None:
  """Checks that the folder of a run can be created, without creating it.

  Raises:
    UsageError: it is a URL, or the existing part of its path is a file, or read-only.
  """
  path = user_path("--workdir", workdir).absolute()
  existing = next(each for each in (path, *path.parents) if os.path.exists(each))
  if not existing.is_dir():
    raise UsageError(f"--workdir {workdir} cannot be created as a folder: {existing} is a file.")
  if not os.access(existing, os.W_OK | os.X_OK):
    raise UsageError(f"--workdir {workdir} cannot be written: {existing} is read-only for you.")


@contextlib.contextmanager
def _stopping_signals_interrupt() -> Iterator[None]:
  """Makes SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does, until the loop takes over all three."""
  from pix2pix_jax.run.stopping import StopOnSignal

  old = {}
  try:
    for number in StopOnSignal.SIGNALS:
      if signal.getsignal(number) == signal.SIG_DFL:
        old[number] = signal.signal(number, signal.default_int_handler)
  except ValueError:  # not in the main thread
    pass
  try:
    yield
  finally:
    for number, handler in old.items():
      signal.signal(number, handler)


class Together(NamedTuple):
  """How a process finds the others of its run; None: the cluster's manager knows."""

  coordinator: str | None = None
  num_processes: int | None = None
  process_id: int | None = None


class TrainOptions(NamedTuple):
  """The flags of `train`.

  Attributes:
    config: the locked configuration, checked, with overrides applied.
    workdir: folder of the run.
    together: how to find the other processes of the run; None: this is the only one.
    verbose: whether to print the times of the start and all parameters.
    debug: whether to look for a step that is not finite, instead of training.
  """

  config: "ml_collections.ConfigDict"
  workdir: Path
  together: Together | None
  verbose: bool
  debug: bool


def parse_train(arguments: list[str]) -> TrainOptions:
  """Parses the flags of `train`.

  Raises:
    UsageError: one paragraph about the first invalid or missing flag.
  """
  from pix2pix_jax import config as config_lib  # imports JAX

  parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
  parser.add_argument("--config")
  parser.add_argument("--workdir", type=Path)
  parser.add_argument("--distributed", action="store_true")
  parser.add_argument("--coordinator", metavar="HOST:PORT")
  parser.add_argument("--num_processes", type=int)
  parser.add_argument("--process_id", type=int)
  parser.add_argument("--verbose", action="store_true")
  parser.add_argument("--debug", action="store_true")
  parser.add_argument("--init_from", metavar="WORKDIR[@STEP]")
  try:
    options, overrides = parser.parse_known_args(arguments)
  except argparse.ArgumentError as error:
    raise UsageError(f"{error.argument_name}: {error.message}.") from error
  _check_names(overrides)
  for flag in ("config", "workdir"):
    if not getattr(options, flag):
      raise UsageError(
        f"--{flag} is missing. Training needs --config=NAME and --workdir=DIR, where NAME is one of "
        f"{', '.join(config_lib.names())}, or the path of a configuration file. "
        '"pix2pix_jax train --help" describes them.'
      )
  if options.init_from:
    overrides = [*overrides, f"--config.train.init_from={options.init_from}"]
  config = load_config(options.config, overrides)
  return TrainOptions(config, options.workdir, _together(options), options.verbose, options.debug)


def _together(options: argparse.Namespace) -> Together | None:
  """The flags of a distributed run, checked."""
  together = Together(options.coordinator, options.num_processes, options.process_id)
  if together == Together():
    return together if options.distributed else None
  if None in together:
    missing = few(f"--{name}" for name, value in zip(Together._fields, together) if value is None)
    raise UsageError(
      f"{missing} is missing: --coordinator, --num_processes and --process_id have to be given together."
    )
  if not re.fullmatch(r".+:\d{1,5}", options.coordinator):
    raise UsageError(f"--coordinator={options.coordinator} has to be HOST:PORT, the same for every process.")
  require_integer("--num_processes", options.num_processes, 1)
  require_integer("--process_id", options.process_id, 0, options.num_processes - 1)
  return together


def load_config(text: str, overrides: list[str]) -> "ml_collections.ConfigDict":
  """The locked configuration of a name or path, checked, with `--config.FIELD=VALUE` arguments applied.

  Raises:
    UsageError: one paragraph about the first invalid argument.
  """
  from pix2pix_jax import config as config_lib  # imports JAX

  _check_names(overrides)
  config = _override(_load(text), overrides)
  config_lib.check(config)
  return config


def _check_names(arguments: list[str]) -> None:
  """Checks that every flag is `--config.FIELD` with an existing field; values may follow as separate arguments."""
  from pix2pix_jax import config as config_lib

  known = dict(config_lib.each_field())
  for argument in arguments:
    override = re.match(r"--?(?:no)?config\.([^=]*)", argument)
    if override and override[1] not in known:
      listed = '"pix2pix_jax fields" lists all fields.'
      raise UsageError(f"There is no field {override[1]}{nearest(override[1], known)} {listed}")
    if not override and re.match(r"-+[a-zA-Z]", argument):
      flag = argument.partition("=")[0]
      fields = [f"--config.{name}" for name in known if name.rpartition(".")[2] == flag.lstrip("-")]
      raise UsageError(f"There is no flag {flag}{nearest(flag, fields or TRAIN_FLAGS)}")


def _load(text: str) -> "ml_collections.ConfigDict":
  """The configuration of a name or path; a Python error in the file becomes a UsageError with its line."""
  import ml_collections

  from pix2pix_jax import config as config_lib

  try:
    config = config_lib.load(text)
  except UsageError:
    raise
  except Exception as error:
    path = str(config_lib.locate(text)[0])
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    where = f"{path}, line {line}" if line else path
    raise UsageError(f"--config={text}: {where}: {type(error).__name__}: {_one_line(error)}") from error
  if not isinstance(config, ml_collections.ConfigDict) or not set(config_lib.default()) <= set(config):
    raise UsageError(
      f"--config={text}: get_config has to return a configuration with every section; start from that of a named "
      "configuration or of pix2pix_jax.configs.default, and change its fields."
    )
  return config


def _override(config: "ml_collections.ConfigDict", arguments: list[str]) -> "ml_collections.ConfigDict":
  """Applies `--config.FIELD=VALUE` arguments and locks the configuration.

  The flags are defined in a private FlagValues, so that neither absl's global flags nor sys.argv are involved.

  Raises:
    UsageError: a value of another type, or an argument that is not a flag.
  """
  from absl import flags
  from ml_collections import config_flags

  values = flags.FlagValues()
  command_line = ["pix2pix_jax train", *arguments]
  try:
    holder = config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=command_line)
    unexpected = values(command_line)[1:]
  except flags.IllegalFlagValueError as error:
    wrong = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
    if wrong:
      _refuse(wrong[1], wrong[2])
    raise UsageError(_one_line(error)) from error
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
    raise UsageError(_one_line(error)) from error
  if unexpected:
    raise UsageError(f"Unexpected argument {unexpected[0]!r}; flags are written --workdir=DIR or --config.FIELD=VALUE.")
  return holder.value


def _refuse(name: str, text: str) -> None:
  """Raises the error of `config.check` for a field that was given text of the wrong type."""
  from pix2pix_jax import config as config_lib

  config = config_lib.default()
  section, _, field = name.rpartition(".")
  with config.ignore_type():
    (config[section] if section else config)[field] = text
  config_lib.check(config)


def _one_line(error: Exception) -> str:
  """An exception's message as one line; str() of a KeyError would quote and escape it."""
  return " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())


def _train_help() -> str:
  from pix2pix_jax import config as config_lib  # imports JAX

  lines = []
  for name in config_lib.names():
    documentation = importlib.import_module(f"pix2pix_jax.configs.{name}").__doc__ or ""
    lines.append(f"  {name:<16}{documentation.splitlines()[0] if documentation else ''}")
    if variants := documented_variants(documentation):
      lines.append(f"  {'':<16}variants: {', '.join(variants)}")
  return _TRAIN_HELP.format(configurations="\n".join(lines), config_file="pix2pix_jax/config.py")


def documented_variants(documentation: str) -> list[str]:
  """The variants in a configuration's docstring, one per line below the line that starts with "Variants"."""
  _, _, listed = documentation.partition("\nVariants")
  return re.findall(r"^ {2}(\w+) +\S", listed, re.MULTILINE)
