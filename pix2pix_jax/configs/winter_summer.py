r"""Webcams: winter → summer (Transient Attributes, Laffont et al. 2014); 200 epochs.

    python main.py --config=configs/winter_summer.py --workdir=runs/winter_summer --config.data.source_dir=DIR

With the installed package: pix2pix_jax train --config=winter_summer --workdir=runs/winter_summer
--config.data.source_dir=DIR

DIR holds annotations/ and imageAlignedLD/: download annotations.tar.gz and imageAlignedLD.tar.gz from
http://transattr.cs.brown.edu and unpack both there. They make 568 pairs from 70 cameras; each camera belongs to only
one split. `data.attribute_threshold`, `data.winter_attributes` and `data.summer_attributes` define winter and summer.

Expected result: the full 200 epochs have not been run. 3000 steps with 32 features on the built-in scenes (128×128, 30
validation pairs) reached L1 0.050, PSNR 22.3 and SSIM 0.648; the baseline of the mean training image has 0.088, 18.4
and 0.515:

    python main.py --config=configs/winter_summer.py:procedural --workdir=runs/seasons \
      --config.model.base_features=32 --config.train.batch_size=1 --config.train.eval_every_steps=1000 \
      --config.train.num_steps=3000 --config.data.num_train=300 --config.data.num_val=30 --config.data.num_test=30 \
      --config.data.load_size=143 --config.data.crop_size=128

Variants (`--config=configs/winter_summer.py:VARIANT`, several joined by commas):
  report      the student report's architecture: wide decoder, PatchGAN 70, discriminator loss not halved.
  procedural  the same experiment on built-in village scenes; no download.
"""

import ml_collections

from pix2pix_jax import config as config_lib


def get_config(variant: str = "") -> ml_collections.ConfigDict:
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
