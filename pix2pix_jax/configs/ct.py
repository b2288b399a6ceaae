r"""Small built-in heads: MR → CT in Hounsfield units, a quantity with negative values; 8 epochs.

    python main.py --config=configs/ct.py --workdir=runs/ct

With the installed package: pix2pix_jax train --config=ct --workdir=runs/ct

The slices are drawn by code (pix2pix_jax/data/synthesis/head.py), so there is nothing to download.

Expected result: on the 50 validation pairs MAE 52.5 HU, RMSE 145 HU and SSIM 0.920 after 3200 steps; the baseline of
the mean training slice has 141.7 HU, 294 HU and 0.609. The run takes about 3 minutes on two CPU cores.

For your own scans, use the folder reader: A/ holds the MR slices and B/ the CT slices, on the same pixel grid and under
the same names, for example as .npy or TIFF files of int16 or float32. If the CT is padded with a number below air,
declare that number as data.target_nodata:

    python main.py --config=configs/folder.py --workdir=runs/mr_ct --config.data.source_dir=DIR \
      --config.data.input_kind=quantity --config.data.target_kind=quantity --config.data.target_unit=HU \
      --config.data.target_range="(-1000, 3000)" --config.data.target_nodata=-2000

The range of the MR is left open here, so it is found from the training slices. Values beyond a range are clipped; their
share is printed at the start.
"""

import ml_collections

from pix2pix_jax import config as config_lib


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  config = config_lib.default()
  config.data.name = "procedural"
  config.data.task = "mr_ct"
  config.data.target_unit = "HU"
  config.data.target_range = (-1000.0, 1800.0)  # air to the densest bone
  config.data.load_size = 72
  config.data.crop_size = 64
  config.data.num_train, config.data.num_val, config.data.num_test = 400, 50, 50
  config.model.base_features = 32
  config.model.patch = 16
  config.train.batch_size = 1
  config.train.num_epochs = 8
  return config_lib.apply_variants(config, variant)
