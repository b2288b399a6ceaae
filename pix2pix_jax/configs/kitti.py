"""KITTI: photograph → sparse LiDAR depth in metres (Uhrig et al. 2017; 100 epochs).

    python main.py --config=configs/kitti.py --workdir=runs/kitti --config.data.source_dir=DIR

DIR holds either val_selection_cropped/ (1000 pairs, of data_depth_selection.zip, 2 GB), or data_depth_annotated/ (of
data_depth_annotated.zip, 14 GB) and raw/ with the photographs of KITTI's raw data (raw data download script, 175 GB). All from
https://www.cvlibs.net/datasets/kitti/eval_depth.php?benchmark=depth_prediction (registration; for non-commercial use).

Pictures are 352×1216 (height × width) and are not resized; training takes random crops of full height, 352×352, validation whole
pictures. 352 halves five times, so that the generator has five levels.

Variants (`--config=configs/kitti.py:NAME`, several joined by commas):
  report      the student report's architecture and settings: wide decoder, PatchGAN 70, unhalved discriminator loss.
  procedural  the same experiment on built-in scenes; no download.
"""

from pix2pix_jax import config as config_lib


def get_config(variant: str = ""):
  config = config_lib.default()
  config.data.name = "kitti_depth"
  config.data.load_size, config.data.load_width = 352, 1216
  config.data.crop_size, config.data.crop_width = 352, 352
  config.data.eval_size, config.data.eval_width = 352, 1216
  config.data.depth_range = (0.0, 80.0)
  config.data.mirror = True
  config.train.batch_size = 10
  config.train.num_epochs = 100
  return config_lib.apply_variants(
    config,
    variant,
    report=config_lib.report_architecture(patch=70),
    procedural=config_lib.procedural_data("kitti_depth"),
  )
