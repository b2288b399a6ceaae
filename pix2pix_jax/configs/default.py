"""The default configuration: the paper's model and recipe. `pix2pix_jax/config.py` lists every field with its meaning and limits."""

from pix2pix_jax import config as config_lib


def get_config(variant: str = ""):
  return config_lib.apply_variants(config_lib.default(), variant)
