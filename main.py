"""Trains pix2pix: python main.py --config=configs/facades.py --workdir=runs/facades [--config.field=value …]"""

import sys

if __name__ == "__main__":
  from pix2pix_jax import launch

  launch.keep_memory()

from absl import app, flags
import jax
from ml_collections import config_flags

from pix2pix_jax.errors import UsageError, run_command

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A file of configs/, with :variant if it has one.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder for checkpoints, samples and logs; a training found there goes on."
)
_DISTRIBUTED = flags.DEFINE_bool(
  "distributed", False, "Whether this is one process of many hosts (jax.distributed finds the others)."
)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  if _DISTRIBUTED.value:
    jax.distributed.initialize()
  run_command(train)


def train():
  from pix2pix_jax.train import train_and_evaluate  # imports TensorFlow, which takes seconds: flags are checked first

  train_and_evaluate(_CONFIG.value, _WORKDIR.value)


def parse_flags(argv):
  """Parses the flags; a wrong one is one paragraph without a traceback, with the nearest field's name where it has one."""
  try:
    rest = flags.FLAGS(argv)
    _CONFIG.value.lock()  # an unreadable config file shows here
    return rest
  except (flags.Error, AttributeError, KeyError, ValueError, OSError) as error:
    while isinstance(error.__cause__ or error.__context__, UsageError):
      error = error.__cause__ or error.__context__
    print("error:", " ".join(str(error.args[0] if isinstance(error, KeyError) else error).split()), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
  flags.mark_flags_as_required(["config", "workdir"])
  app.run(main, flags_parser=parse_flags)
