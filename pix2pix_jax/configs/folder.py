"""Your own pairs, read from a folder; 200 epochs.

    python main.py --config=configs/folder.py --workdir=runs/mine --config.data.source_dir=DIR

With the installed package: pix2pix_jax train --config=folder --workdir=runs/mine --config.data.source_dir=DIR

DIR has one of two layouts. Either train/, val/ and test/ hold side-by-side images, input left and target right
(`--config.data.side_by_side=target_input` for the other order). Or A/ holds the inputs and B/ the targets under the
same names, with or without split folders (A/train, train/A or trainA). Without split folders, a random tenth of the
pairs is used for validation. Files are PNG, JPEG, TIFF, .npy and others.

`data.input_kind` and `data.target_kind` declare what the numbers mean:
  image  intensities: 8- or 16-bit integers, or floats in [0, 1].
  depth  metres, with 0, NaN or infinity where nothing was measured. Set `--config.data.depth_range="(0, 10)"` to the
         nearest and farthest metres, and for integer files the divisor that converts them to metres, for example
         `--config.data.target_scale=1000` for millimetres or 256 for KITTI's PNGs.
  auto   (the default) unsigned integers are images; floating-point files need one of the kinds above.

Expected result: depends on your data. Compare the metrics in WORKDIR/eval/val/metrics.json with the baselines there.

Variants (`--config=configs/folder.py:VARIANT`):
  report      the student report's architecture: wide decoder, PatchGAN 70, discriminator loss not halved.
"""

import ml_collections

from pix2pix_jax import config as config_lib


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  config = config_lib.default()
  config.data.name = "folder"
  config.train.batch_size = 10
  config.train.num_epochs = 200
  return config_lib.apply_variants(config, variant, report=config_lib.report_architecture(patch=70))
