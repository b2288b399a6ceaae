"""Façades: architectural label maps → photographs (Isola et al. 2017, section 6.2); 200 epochs.

Commands, variants and the expected result are described in pix2pix_jax/configs/facades.py.
Copy this file to make your own experiment.
"""

from pix2pix_jax.configs import facades


def get_config(variant: str = ""):
  config = facades.get_config(variant)
  # Your changes go here, for example: config.train.num_epochs = 50
  return config
