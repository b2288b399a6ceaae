r"""Façades: architectural label maps → photographs (Isola et al. 2017, section 6.2); 200 epochs.

    python main.py --config=configs/facades.py --workdir=runs/facades

With the installed package: pix2pix_jax train --config=facades --workdir=runs/facades

Downloads the pix2pix archive (400 training, 100 validation and 106 test pairs). With `--config.data.source_dir=DIR`,
a folder that you already have is read instead, in the layout of the archive or of CMP's base set. The batch size of 10
is the student report's; the paper uses 1 (`--config.train.batch_size=1`).

Expected result: the full size has not been trained to the end. A small model (128×128, 32 features, batch size 1)
reached L1 0.174 (lower is better), PSNR 13.0 and SSIM 0.28 on the 100 validation pairs after 200 epochs, and 0.175,
13.1 and 0.25 after ten; the baseline of the mean training photograph has L1 0.171, PSNR 13.7 and SSIM 0.19:

    python main.py --config=configs/facades.py --workdir=runs/facades128 --config.data.load_size=143 \
      --config.data.crop_size=128 --config.model.base_features=32 --config.train.batch_size=1

Variants (`--config=configs/facades.py:VARIANT`, several joined by commas):
  report      the student report's architecture: wide decoder, PatchGAN 286, discriminator loss not halved.
  classes     labels as twelve one-hot channels instead of RGB colours.
  best        classes, batch size 1, and a moving average of the generator's weights: higher SSIM, PSNR and recognizer
              score and lower L1 than the paper's recipe in docs/results.md, with softer textures.
  labels      the other direction: photograph → twelve classes, with cross-entropy as the pixel loss (Isola et al. 2017
              do this with Cityscapes).
  procedural  the same experiment on built-in façades; no download.
"""

import ml_collections

from pix2pix_jax import config as config_lib


def _best(config: ml_collections.ConfigDict) -> None:
  config_lib.label_map("input", "cmp")(config)
  config.train.ema_decay = 0.999
  config.train.batch_size = 1


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  config = config_lib.default()
  config.data.name = "facades"
  config.train.batch_size = 10
  config.train.num_epochs = 200
  return config_lib.apply_variants(
    config,
    variant,
    report=config_lib.report_architecture(patch=286),
    classes=config_lib.label_map("input", "cmp"),
    best=_best,
    labels=config_lib.label_map("target", "cmp"),
    procedural=config_lib.procedural_data("facades"),
  )
