"""Shows the data of a run without training.

    python -m pix2pix_jax.inspect --config=NAME[:VARIANT] [--config.FIELD=VALUE ...] [--output=DIR]

prints the summary of the data and the warnings that training prints at its start, looks for near-copies, shifted,
mirrored or swapped sides and wrong partners (at most 500 pairs of each split), and writes the first two training
batches, cropped and mirrored as in training, and the first validation batch to DIR as train_1.png, train_2.png and
val.png. Data that is not prepared yet is prepared first.
"""

from collections.abc import Iterable, Mapping, Sequence
import itertools
from pathlib import Path
import re
import sys

import ml_collections
import numpy as np

from pix2pix_jax import cli, output
from pix2pix_jax.errors import CommandParser, UsageError, run_command, user_path
from pix2pix_jax.signals import DataSpec

MIN_ROWS, MAX_ROWS = 4, 16  # of a sheet


def inspect(config: ml_collections.ConfigDict, folder: str | Path) -> list[Path]:
  """Prints the summary of the data of a configuration and writes sheets of examples.

  Args:
    config: as `config.load` returns it.
    folder: folder for the sheets; created if needed.

  Returns:
    The files that were written.

  Raises:
    UsageError: data or settings that training would refuse, or a folder that cannot be created.
  """
  from pix2pix_jax import config as config_lib  # these import JAX and TensorFlow, which takes seconds
  from pix2pix_jax.data import doctor, pipeline, prepare, summary

  folder = user_path("--output", folder)
  if config.train.init_from:
    from pix2pix_jax.run import fine_tuning

    config = fine_tuning.adopt(config)
  source = prepare.prepare(config.data, config.model)
  config = config_lib.resolve(config, source.spec)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UsageError(f"--output={folder} cannot be created as a folder: {error.strerror}.") from error
  output.say(summary.describe(source, config))
  for line in doctor.examine(source, source.spec):
    output.say(f"Warning: {line}")

  data, written = config.data, []
  spec = summary.for_display(summary.read(source) or summary.make(source), source.spec)
  train = pipeline.load_split(source, "train", config_lib.load_shape(data), cache_gib=data.cache_gib)
  rows = min(max(config.train.batch_size, MIN_ROWS), MAX_ROWS)
  batches = pipeline.train_batches(train, data, batch_size=rows, seed=config.seed)
  for number, batch in enumerate(itertools.islice(batches, 2), 1):
    rows_of = {name: list(array) for name, array in batch.items()}
    ids = pipeline.train_ids(train, data, batch_size=rows, seed=config.seed, step=number - 1)
    written.append(_write_sheet(folder / f"train_{number}.png", rows_of, ids, spec))
  if "val" in source.spec.counts:
    shape = config_lib.eval_resize(data)
    val = pipeline.load_split(source, "val", shape, cache_gib=data.cache_gib, limit=rows)
    examples = [val.read_encoded(index) for index in range(len(val))]
    columns = {name: [example[name] for example in examples] for name in val.names}
    written.append(_write_sheet(folder / "val.png", columns, val.ids, spec))
  output.say(f"Wrote {', '.join(map(str, written))}: pairs as the networks see them.")
  return written


def _write_sheet(path: Path, batch: Mapping[str, Iterable[np.ndarray]], ids: Sequence[str], spec: DataSpec) -> Path:
  """Writes the inputs and targets of a batch, one pair per row with its id below."""
  from pix2pix_jax.run import viz

  masks = batch.get("mask", itertools.repeat(None))
  inputs = [viz.input_columns(spec.input, image) for image in batch["input"]]
  columns = {name: [row[name] for row in inputs] for name in inputs[0]}
  columns["target"] = [spec.target.display(image, mask) for image, mask in zip(batch["target"], masks)]
  viz.save_png(path, viz.grid(columns, spec=spec, captions=ids))
  return path


def main(argv: list[str] | None = None) -> None:
  parser = CommandParser(
    prog="pix2pix_jax inspect",
    description=__doc__.split("\n")[0],
    epilog="--config.FIELD=VALUE overrides a field, as in training.",
    allow_abbrev=False,
  )
  parser.add_argument("--config", help="name or path of a configuration, as in training")
  parser.add_argument(
    "--output", type=Path, default=Path("inspect"), metavar="DIR", help="folder for the sheets (default: inspect)"
  )
  arguments, overrides = _separate(sys.argv[1:] if argv is None else argv)
  options = parser.parse_args(arguments)
  if not options.config:
    raise UsageError(
      "--config is missing. For your own folder of pairs: pix2pix_jax inspect --config=folder "
      '--config.data.source_dir=DIR. "pix2pix_jax train --help" lists the other configurations.'
    )
  config = cli.load_config(options.config, overrides)
  cli.check_before_imports(config)
  output.say("Loading JAX …")
  inspect(config, options.output)


def _separate(arguments: list[str]) -> tuple[list[str], list[str]]:
  """Separates overrides (`--config.FIELD=VALUE`, or `--config.FIELD VALUE`) from the rest: (rest, overrides)."""
  others: list[str] = []
  overrides: list[str] = []
  takes_value = False
  for argument in arguments:
    is_field = bool(re.match(r"--?(no)?config\.", argument))
    (overrides if is_field or (takes_value and not argument.startswith("--")) else others).append(argument)
    takes_value = is_field and "=" not in argument
  return others, overrides


if __name__ == "__main__":
  run_command(main)
