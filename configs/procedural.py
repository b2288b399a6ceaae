"""Built-in façades, small: what `make demo` trains. Nothing to download, minutes on a laptop's CPU.

The full description, with commands and variants, is in pix2pix_jax/configs/procedural.py. Copy this file to make an experiment of your own.
"""

from pix2pix_jax.configs import procedural


def get_config(variant: str = ""):
  config = procedural.get_config(variant)
  # Your changes go here, for example: config.train.num_epochs = 50
  return config
