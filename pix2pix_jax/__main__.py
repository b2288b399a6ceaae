"""`python -m pix2pix_jax`: the same as the command `pix2pix_jax`."""

from pix2pix_jax import cli

if __name__ == "__main__":
  cli.main()
