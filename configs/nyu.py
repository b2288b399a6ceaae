"""NYU Depth v2: Kinect depth with holes → dense depth in metres (Silberman et al. 2012); 90 epochs.

Commands, variants and the expected result are described in pix2pix_jax/configs/nyu.py.
Copy this file to make your own experiment.
"""

from pix2pix_jax.configs import nyu


def get_config(variant: str = ""):
  config = nyu.get_config(variant)
  # Your changes go here, for example: config.train.num_epochs = 50
  return config
