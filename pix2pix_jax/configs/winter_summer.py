"""Winter → summer, webcams (Transient Attributes, Laffont et al. 2014; 568 pairs of 70 cameras, split by camera; 200 epochs).

    python main.py --config=configs/winter_summer.py --workdir=runs/winter_summer --config.data.source_dir=DIR

DIR holds annotations/ and imageAlignedLD/: get annotations.tar.gz and imageAlignedLD.tar.gz from http://transattr.cs.brown.edu
and unpack both there. `--config.data.attribute_threshold` and the attributes' names decide what winter and summer are.

Variants (`--config=configs/winter_summer.py:NAME`, several joined by commas):
  report      the student report's architecture and settings: wide decoder, PatchGAN 70, unhalved discriminator loss.
  procedural  the same experiment on built-in scenes; no download.
"""

from pix2pix_jax import config as config_lib


def get_config(variant: str = ""):
  config = config_lib.default()
  config.data.name = "winter_summer"
  config.data.load_size = 286
  config.data.crop_size = 256
  config.train.batch_size = 10
  config.train.num_epochs = 200
  return config_lib.apply_variants(
    config,
    variant,
    report=config_lib.report_architecture(patch=70),
    procedural=config_lib.procedural_data("winter_summer"),
  )
