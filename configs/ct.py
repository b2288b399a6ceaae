"""Small built-in heads: MR → CT in Hounsfield units, a quantity with negative values; 8 epochs.

Commands, variants and the expected result are described in pix2pix_jax/configs/ct.py.
Copy this file to make your own experiment.
"""

from pix2pix_jax.configs import ct


def get_config(variant: str = ""):
  config = ct.get_config(variant)
  # Your changes go here, for example: config.train.num_epochs = 50
  return config
