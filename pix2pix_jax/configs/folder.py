"""Your own pairs, from a folder (200 epochs).

    python main.py --config=configs/folder.py --workdir=runs/mine --config.data.source_dir=DIR

DIR holds either train/, val/ and test/ of pictures side by side (input left, target right; the other way round with
`--config.data.side_by_side=target_input`), or inputs in A/ and targets in B/ under the same names (A/train, B/train and so on).
Without split folders a random tenth is for validation. Files are png, jpg, tiff or npy, of 8 or 16 bits and 1 to 4 channels;
floating-point numbers are metres of depth, for which set `--config.data.depth_range="(0.0, 10.0)"`.

Variants (`--config=configs/folder.py:NAME`):
  report      the student report's architecture and settings: wide decoder, PatchGAN 70, unhalved discriminator loss.
"""

from pix2pix_jax import config as config_lib


def get_config(variant: str = ""):
  config = config_lib.default()
  config.data.name = "folder"
  config.train.batch_size = 10
  config.train.num_epochs = 200
  return config_lib.apply_variants(config, variant, report=config_lib.report_architecture(patch=70))
