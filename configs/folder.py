"""Your own pairs, read from a folder; 200 epochs.

Commands, variants and the expected result are described in pix2pix_jax/configs/folder.py.
Copy this file to make your own experiment.
"""

from pix2pix_jax.configs import folder


def get_config(variant: str = ""):
  config = folder.get_config(variant)
  # Your changes go here, for example: config.train.num_epochs = 50
  return config
