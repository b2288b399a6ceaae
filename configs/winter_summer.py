"""Winter → summer, webcams (Transient Attributes, Laffont et al. 2014; 568 pairs of 70 cameras, split by camera; 200 epochs).

The full description, with commands and variants, is in pix2pix_jax/configs/winter_summer.py. Copy this file to make an experiment of your own.
"""

from pix2pix_jax.configs import winter_summer


def get_config(variant: str = ""):
  config = winter_summer.get_config(variant)
  # Your changes go here, for example: config.train.num_epochs = 50
  return config
