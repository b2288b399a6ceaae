"""The default configuration: the paper's model and recipe. pix2pix_jax/config.py explains every field."""

import ml_collections

from pix2pix_jax import config as config_lib


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  return config_lib.apply_variants(config_lib.default(), variant)
