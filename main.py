"""Trains pix2pix: python main.py --config=configs/facades.py --workdir=runs/facades [--config.FIELD=VALUE ...]"""

from pix2pix_jax import cli, errors, launch

if __name__ == "__main__":
  launch.keep_memory()  # before anything imports JAX
  errors.run_command(cli.train)
