"""`python -m pix2pix_jax`, and the command `pix2pix_jax`."""

import sys


def main() -> None:
  """Runs the command line. Ctrl-C is one line even while the first modules are imported."""
  try:
    from pix2pix_jax import cli
  except KeyboardInterrupt:
    sys.exit(_interrupted())
  cli.main()


def _interrupted() -> int:
  print("interrupted", file=sys.stderr)
  return 130


if __name__ == "__main__":
  main()
