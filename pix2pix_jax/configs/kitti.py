r"""KITTI: street photographs (and LiDAR) → depth in metres (Uhrig et al. 2017); 100 epochs.

    python main.py --config=configs/kitti.py --workdir=runs/kitti --config.data.source_dir=DIR

With the installed package: pix2pix_jax train --config=kitti --workdir=runs/kitti --config.data.source_dir=DIR

DIR holds either val_selection_cropped/ (1000 pairs, from data_depth_selection.zip, 2 GB), or data_depth_annotated/
(from data_depth_annotated.zip, 14 GB) and raw/ with the photographs of KITTI's raw data (fetched with its download
script, 175 GB). Both are on https://www.cvlibs.net/datasets/kitti/eval_depth.php?benchmark=depth_prediction
(registration required; non-commercial use).

Images are 352×1216 (height × width) and are not resized. Training uses random 352×352 crops, validation whole images.
352 can be halved five times, so the generator has five levels.

Expected result: the full 100 epochs have not been run. 2000 steps with 32 features on the built-in scenes (128×384,
30 validation pairs) reached RMSE 3.84 m, MAE 1.65 m and δ₁ 0.895; the baseline of the mean training depth has 5.87 m,
2.80 m and 0.772:

    python main.py --config=configs/kitti.py:procedural --workdir=runs/street --config.model.base_features=32 \
      --config.train.batch_size=1 --config.train.eval_every_steps=1000 --config.train.num_steps=2000 \
      --config.data.num_train=300 --config.data.num_val=30 --config.data.num_test=30 --config.data.load_size=128 \
      --config.data.load_width=416 --config.data.crop_size=128 --config.data.crop_width=128 \
      --config.data.eval_size=128 --config.data.eval_width=384

Variants (`--config=configs/kitti.py:VARIANT`, several joined by commas):
  completion  depth completion: the photograph and the depth of a single LiDAR scan → the denser depth of 11 scans. DIR
              also holds velodyne_raw (from data_depth_velodyne.zip, 5 GB, or in data_depth_selection.zip). The output
              is added to the interpolated scan (model.residual), without adversarial loss and norm, which beats
              interpolation in RMSE and MAE on frames of a real drive (docs/results.md).
  best        evaluates a moving average of the generator's weights, which has a lower RMSE and MAE on built-in streets
              with every seed (docs/results.md).
  report      the student report's architecture: wide decoder, PatchGAN 70, discriminator loss not halved, no residual.
  procedural  the same experiment on built-in street scenes; no download.
"""

import ml_collections

from pix2pix_jax import config as config_lib


def get_config(variant: str = "") -> ml_collections.ConfigDict:
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
    completion=_completion,
    best=_best,
    report=config_lib.report_architecture(patch=70),
    procedural=config_lib.procedural_data("kitti_depth"),
  )


def _completion(config: ml_collections.ConfigDict) -> None:
  config.data.inputs = ("image", "velodyne_raw:depth,scale=256")
  config.model.residual = config.model.decoder_widths == "paper"  # from the interpolated scan; the report has none
  config.loss.gan = "none"
  config.model.norm = "none"  # which suits corrections; from photographs alone, nothing is learnt without it


def _best(config: ml_collections.ConfigDict) -> None:
  config.train.ema_decay = 0.999
