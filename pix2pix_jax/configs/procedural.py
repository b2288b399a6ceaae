"""Small built-in façades, as in `make demo`: nothing to download, minutes on a laptop's CPU; 8 epochs.

    python main.py --config=configs/procedural.py --workdir=runs/demo

With the installed package: pix2pix_jax train --config=procedural --workdir=runs/demo

Expected result: on the 50 validation pairs L1 0.100, PSNR 17.5 and SSIM 0.564 after 3200 steps; the baseline of the
mean training façade has 0.130, 15.5 and 0.135. The run takes about 2.5 minutes on two CPU cores.
"""

import ml_collections

from pix2pix_jax import config as config_lib


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  config = config_lib.default()
  config.data.name = "procedural"
  config.data.task = "facades"
  config.data.load_size = 72
  config.data.crop_size = 64
  config.data.num_train, config.data.num_val, config.data.num_test = 400, 50, 50
  config.model.base_features = 32
  config.model.patch = 16
  config.train.batch_size = 1
  config.train.num_epochs = 8
  return config_lib.apply_variants(config, variant)
