r"""NYU Depth v2: Kinect depth with holes → dense depth in metres (Silberman et al. 2012); 90 epochs.

    python main.py --config=configs/nyu.py --workdir=runs/nyu --config.data.source_dir=DIR

With the installed package: pix2pix_jax train --config=nyu --workdir=runs/nyu --config.data.source_dir=DIR

DIR holds nyu_depth_v2_labeled.mat (2.8 GB) and, for the official split, splits.mat. Both are linked from
https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html

Images are 480×640 (height × width), as in the file. Training uses random 448×608 crops, validation whole images. All
sizes are multiples of 32, so the generator has five levels. Its output is added to the input, whose holes are
interpolated first (model.residual), so that it only has to learn the correction.

Expected result: the full 90 epochs have not been run. 4000 steps with 32 features on the built-in rooms (448×576, 30
validation pairs) reached RMSE 0.188 m, MAE 0.049 m and δ₁ 0.984; interpolation alone has 0.191 m, 0.049 m and 0.984:

    python main.py --config=configs/nyu.py:procedural --workdir=runs/rooms --config.model.base_features=32 \
      --config.train.batch_size=1 --config.train.eval_every_steps=1000 --config.train.num_steps=4000 \
      --config.data.num_train=300 --config.data.num_val=30 --config.data.num_test=30 --config.data.load_size=448 \
      --config.data.load_width=576 --config.data.crop_size=192 --config.data.crop_width=192 \
      --config.data.eval_size=448 --config.data.eval_width=576 --config.model.levels=6 \
      --config.model.dropout_blocks='()' --config.optimizer.decay_fraction=0.5

Variants (`--config=configs/nyu.py:VARIANT`, several joined by commas):
  rgb         photograph → depth, from a DIR of one HDF5 file for each frame (train/SCENE/00001.h5, val/SCENE/00045.h5;
              rgb and depth in each); no residual.
  best        no adversarial loss and no norm, with which the network beats interpolation and the nearest measured
              pixel in RMSE and MAE on the built-in rooms (docs/results.md).
  report      the student report's architecture: wide decoder, PatchGAN 70, discriminator loss not halved, no residual.
  procedural  the same experiment on built-in rooms; no download.
"""

import ml_collections

from pix2pix_jax import config as config_lib


def _from_photographs(config: ml_collections.ConfigDict) -> None:
  config.model.residual = False


def _best(config: ml_collections.ConfigDict) -> None:
  config.loss.gan = "none"
  config.model.norm = "none"


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  config = config_lib.default()
  config.data.name = "nyu_depth"
  config.data.load_size, config.data.load_width = 480, 640
  config.data.crop_size, config.data.crop_width = 448, 608
  config.data.eval_size, config.data.eval_width = 480, 640
  config.data.depth_range = (0.0, 10.0)
  config.model.residual = True  # measured pixels need little correction
  config.train.batch_size = 10
  config.train.num_epochs = 90
  return config_lib.apply_variants(
    config,
    variant,
    rgb=_from_photographs,
    best=_best,
    report=config_lib.report_architecture(patch=70),
    procedural=config_lib.procedural_data("nyu_depth"),
  )
