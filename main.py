"""Trains pix2pix: python main.py --config=configs/facades.py --workdir=runs/facades [--config.FIELD=VALUE ...]"""

from pix2pix_jax import cli, errors, launch


def main() -> None:
  launch.keep_memory()  # before anything imports JAX
  cli.train()


if __name__ == "__main__":
  errors.run_command(main)
