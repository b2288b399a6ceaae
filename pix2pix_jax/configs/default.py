"""Every field of a configuration, with its unit and range. The other files here hold differences only.

Any field can be overridden on the command line: `--config.train.num_epochs=10`.
"""

import ml_collections

from pix2pix_jax.errors import UsageError


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """The paper's model and recipe (Isola et al. 2017, arXiv 1611.07004). `variant` is for the configs made from this one."""
  if variant:
    raise UsageError(f"configs/default.py has no variant {variant!r}.")
  config = ml_collections.ConfigDict()
  # Decides initial weights, data order, jitter and dropout noise: the same seed gives the same bits. Integer ≥ 0.
  config.seed = 0

  data = config.data = ml_collections.ConfigDict()
  # Reader: facades, winter_summer, kitti_depth, nyu_depth, folder or procedural.
  data.name = "procedural"
  # Folder of the raw files; empty: download where the reader can. Not used by procedural.
  data.source_dir = ""
  # Folder of the prepared shards; empty: $TFDS_DATA_DIR, else the user's cache directory.
  data.prepared_dir = ""
  # Height in pixels to which pictures are resized before the random crop; ≥ crop_size.
  data.load_size = 286
  # Width in pixels of the same; 0: as load_size.
  data.load_width = 0
  # Height in pixels of the random crop. A multiple of 2**levels.
  data.crop_size = 256
  # Width in pixels of the same; 0: as crop_size.
  data.crop_width = 0
  # Height in pixels of validation and test pictures, which are resized to it whole; 0: as crop_size. A multiple of 2**levels.
  data.eval_size = 0
  # Width in pixels of the same; 0: as eval_size if that is set, else as the crop.
  data.eval_width = 0
  # Whether training pairs are mirrored left-right, every second on average.
  data.mirror = True
  # Whether training goes through the pairs in a new order every epoch.
  data.shuffle = True
  # Metres (nearest, farthest) that depth maps to -1 and 1; targets beyond count as not measured, inputs are clipped. 0 ≤ nearest < farthest.
  data.depth_range = (0.0, 80.0)
  # Whether the generator has one more output channel that predicts where the target has measurements; for targets with holes.
  data.validity_channel = False
  # What the input is: uint8 or uint16 picture, float32 depth in metres; empty: as the data has.
  data.input_dtype = ""
  # What the target is; empty: as the data has.
  data.target_dtype = ""
  # Decoded pictures are kept in memory up to this many GiB, beyond it in a memory-mapped file beside the shards. ≥ 0.
  data.cache_gib = 4.0
  # kitti_depth: annotated (KITTI's depth set and raw data), selection (val_selection_cropped) or auto (whichever is there).
  data.layout = "auto"
  # winter_summer: decides which photographs pair up and where each camera goes. folder: the split, if it has none. Integer ≥ 0.
  data.pair_seed = 0
  # winter_summer: a photograph has an attribute where its score is above this, in [0, 1].
  data.attribute_threshold = 0.8
  # winter_summer: a photograph is winter where it has any of these of the set's 40 attributes.
  data.winter_attributes = ("winter", "cold", "ice")
  # winter_summer: and summer where it has any of these; one that is both is neither.
  data.summer_attributes = ("summer", "warm", "spring")
  # folder: what is left and right in a file that holds a pair side by side: input_target or target_input.
  data.side_by_side = "input_target"
  # The rest is read by procedural only. What is drawn: facades.
  data.task = "facades"
  # Number of drawn training pairs, ≥ 1.
  data.num_train = 400
  # Number of drawn validation pairs, ≥ 0; a split of 0 is absent.
  data.num_val = 100
  # Number of drawn test pairs, ≥ 0.
  data.num_test = 100
  # Seed of the drawings (not of the training). Integer ≥ 0.
  data.procedural_seed = 0

  model = config.model = ml_collections.ConfigDict()
  # unet, or encoder_decoder (the same without skip connections).
  model.generator = "unet"
  # paper, or report (up to twice as wide, ends in a 3×3 convolution).
  model.decoder_widths = "paper"
  # Features of the first convolution of both networks; scales every width. ≥ 1; 64 in the paper.
  model.base_features = 64
  # Features of the discriminator's first convolution, where they differ; 0: as base_features.
  model.discriminator_features = 0
  # Number of stride-2 convolutions of the generator; 0: as often as the crop halves evenly, at most 8.
  model.levels = 0
  # Up blocks, counted from the bottleneck, with 50 % dropout, the model's noise. () for none.
  model.dropout_blocks = (0, 1, 2)
  # batch, instance or none.
  model.norm = "batch"
  # Depth with holes → depth only: the generator's output is added to the input, whose holes are interpolated.
  model.residual = False
  # Receptive field of the discriminator in pixels: 1, 16, 34, 70, 142 or 286.
  model.patch = 70
  # Whether the discriminator sees the input beside the candidate.
  model.conditional = True
  # Channels of the input, ≥ 1; 0: as the data has.
  model.input_channels = 0
  # Channels of the target and of the output, ≥ 1; 0: as the data has.
  model.output_channels = 0

  loss = config.loss = ml_collections.ConfigDict()
  # vanilla (cross-entropy), lsgan (least squares) or none (L1 alone).
  loss.gan = "vanilla"
  # Weight of the mean absolute difference on [-1, 1]; negative: 300 / output channels (100 for RGB, as in the paper).
  loss.l1_weight = -1.0
  # Weight of the mean absolute difference of the validity channel on [-1, 1], if there is one; ≥ 0.
  loss.validity_weight = 10.0
  # Whether the discriminator's loss is divided by two.
  loss.halve_discriminator = True

  # Adam, one state for each network.
  optimizer = config.optimizer = ml_collections.ConfigDict()
  # Step size, > 0.
  optimizer.learning_rate = 2e-4
  # Decay rate of the mean of gradients, in [0, 1).
  optimizer.beta1 = 0.5
  # Decay rate of the mean of squared gradients, in [0, 1).
  optimizer.beta2 = 0.999
  # Share of the training, at its end, over which the learning rate falls linearly to zero, in [0, 1].
  optimizer.decay_fraction = 0.0

  train = config.train = ml_collections.ConfigDict()
  # Images a step, over all devices and processes; a multiple of the number of devices. ≥ 1.
  train.batch_size = 1
  # Length of the training in passes through the data, ≥ 0.
  train.num_epochs = 200
  # Length in steps; wins over num_epochs if > 0.
  train.num_steps = 0
  # Steps between log lines and train/ scalars (means over the steps since the last). ≥ 1.
  train.log_every_steps = 100
  # Steps between validations, each over the whole val split, with a sample grid; 0: once an epoch. The last step is always validated.
  train.eval_every_steps = 0
  # Steps between checkpoints; 0: once an epoch. The last step and the best validation are always saved.
  train.checkpoint_every_steps = 0
  # Precision of the networks' arithmetic: float32 or bfloat16. Weights, norm statistics, losses and pictures stay float32.
  train.dtype = "float32"
  # Whether the generator recomputes its activations in the backward pass: less memory, more time.
  train.remat = False
  # Folder of compiled programs, so that the next start is fast; empty: the user's cache directory; "none": no cache.
  train.compilation_cache = ""

  # How pictures are made for validation, samples and `evaluate`.
  evaluation = config.evaluation = ml_collections.ConfigDict()
  # Whether dropout stays on, as in the paper: it is the model's noise.
  evaluation.dropout = True
  # Statistics of batch norm: image (each image its own: the paper's batch-1 test), batch or running.
  evaluation.norm_stats = "image"
  # Images a batch; no figure depends on it, except with norm_stats=batch. ≥ 1.
  evaluation.batch_size = 8
  # Rows of a sample grid (input | output | target), ≥ 1.
  evaluation.num_samples = 4
  return config


def apply_variants(config: ml_collections.ConfigDict, variant: str, **variants) -> ml_collections.ConfigDict:
  """Applies comma-separated variants, each a function that changes the config in place."""
  for name in filter(None, variant.split(",")):
    if name not in variants:
      raise UsageError(f"There is no variant {name!r} of this config; it has {', '.join(variants)}.")
    variants[name](config)
  return config


def report_architecture(patch: int):
  """The student report's architecture and loss; its inert norms, dense head and clipped depth are not reproduced."""

  def apply(config):
    config.model.decoder_widths = "report"
    config.model.patch = patch
    config.model.residual = False
    config.loss.halve_discriminator = False

  return apply


def procedural_data(task: str):
  """The same experiment on built-in data."""

  def apply(config):
    config.data.name = "procedural"
    config.data.task = task
    config.data.source_dir = ""

  return apply
