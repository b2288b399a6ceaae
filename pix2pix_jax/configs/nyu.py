"""NYU Depth v2: a Kinect's depth with holes → dense depth in metres (Silberman et al. 2012; 90 epochs).

    python main.py --config=configs/nyu.py --workdir=runs/nyu --config.data.source_dir=DIR

DIR holds nyu_depth_v2_labeled.mat (2.8 GB) and, for the official split, splits.mat, both linked from
https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html

Pictures are 480×640 (height × width), as they are in the file; training takes random crops of 448×608, validation
whole pictures. All are multiples of 32, so that the generator has five levels. Its output is added to the input, whose
holes are interpolated (model.residual).

Variants (`--config=configs/nyu.py:NAME`, several joined by commas):
  report      the student report's architecture and settings: wide decoder, PatchGAN 70, unhalved discriminator loss, no residual.
  procedural  the same experiment on built-in rooms; no download.
"""

from pix2pix_jax import config as config_lib


def get_config(variant: str = ""):
  config = config_lib.default()
  config.data.name = "nyu_depth"
  config.data.load_size, config.data.load_width = 480, 640
  config.data.crop_size, config.data.crop_width = 448, 608
  config.data.eval_size, config.data.eval_width = 480, 640
  config.data.depth_range = (0.0, 10.0)
  config.model.residual = True  # of metres that were measured only little is to be changed
  config.train.batch_size = 10
  config.train.num_epochs = 90
  return config_lib.apply_variants(
    config, variant, report=config_lib.report_architecture(patch=70), procedural=config_lib.procedural_data("nyu_depth")
  )
