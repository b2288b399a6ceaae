"""KITTI: street photographs (and LiDAR) → depth in metres (Uhrig et al. 2017); 100 epochs.

Commands, variants and the expected result are described in pix2pix_jax/configs/kitti.py.
Copy this file to make your own experiment.
"""

from pix2pix_jax.configs import kitti


def get_config(variant: str = ""):
  config = kitti.get_config(variant)
  # Your changes go here, for example: config.train.num_epochs = 50
  return config
