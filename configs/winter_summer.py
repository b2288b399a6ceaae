"""Webcams: winter → summer (Transient Attributes, Laffont et al. 2014); 200 epochs.

Commands, variants and the expected result are described in pix2pix_jax/configs/winter_summer.py.
Copy this file to make your own experiment.
"""

from pix2pix_jax.configs import winter_summer


def get_config(variant: str = ""):
  config = winter_summer.get_config(variant)
  # Your changes go here, for example: config.train.num_epochs = 50
  return config
