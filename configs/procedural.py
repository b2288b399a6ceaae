"""Small built-in façades, as in `make demo`: nothing to download, minutes on a laptop's CPU; 8 epochs.

Commands, variants and the expected result are described in pix2pix_jax/configs/procedural.py.
Copy this file to make your own experiment.
"""

from pix2pix_jax.configs import procedural


def get_config(variant: str = ""):
  config = procedural.get_config(variant)
  # Your changes go here, for example: config.train.num_epochs = 50
  return config
