"""Configurations: fields with their meanings and limits, variants, image shapes, and config.json.

`FIELDS` is the single source of the defaults, of the meanings that `pix2pix_jax fields` and the report print, and of
the checks that run before anything is built. The files in configs/ set only the fields that differ. This module does
not import TensorFlow.
"""

from collections.abc import Callable, Iterator
import dataclasses
import datetime
import difflib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from pix2pix_jax import inputs, palettes, signals
from pix2pix_jax.errors import URL, UsageError, nearest, nearest_path, reason, user_path
from pix2pix_jax.output import counted
from pix2pix_jax.signals import DataSpec, Signal

MAX_LEVELS = 8
CHECKPOINT_STEPS = (
  100  # between checkpoints at least, if their interval is left open: saving may take as long as a step
)


@dataclasses.dataclass(frozen=True)
class Limit:
  """A condition on a field's value, and the text that follows "it has to be" in error messages."""

  holds: Callable[[Any], bool]
  text: str
  choices: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True)
class Field:
  """A configuration field: its default (which also determines its type), its meaning, and an optional limit."""

  default: Any
  meaning: str
  limit: Limit | None = None


def _between(low: float, high: float) -> Limit:
  return Limit(lambda value: low <= value <= high, f"between {low:,} and {high:,}")


def _at_least(low: float) -> Limit:
  return Limit(lambda value: value >= low, f"at least {low}")


def _one_of(*choices: Any) -> Limit:
  return Limit(lambda value: value in choices, f"one of {', '.join(map(repr, choices))}", choices)


LARGEST_SEED = 2**31 - 1
_SEED = _between(0, LARGEST_SEED)
_SIZE = _between(1, 65_536)
_SIZE_OR_ZERO = _between(0, 65_536)
_COUNT = _between(0, 10**9)
_POSITIVE = Limit(lambda value: 0 < value < np.inf, "above 0")
_NOT_NEGATIVE = Limit(lambda value: 0 <= value < np.inf, "at least 0")
_DECAY_RATE = Limit(lambda value: 0 <= value < 1, "at least 0 and below 1")
_SHARE = _between(0, 1)
_RANGE = Limit(
  lambda value: len(value) == 2 and 0 <= value[0] < value[1] < np.inf, "two numbers, 0 ≤ nearest < farthest"
)
_ZOOM = Limit(
  lambda value: len(value) == 2 and 0.1 <= value[0] <= value[1] <= 10, "two numbers, 0.1 ≤ lowest ≤ highest ≤ 10"
)
_KIND = _one_of("auto", *signals.KINDS, *signals.ALIASES)
_INPUT_KIND = _one_of("auto", *signals.KINDS, *signals.ALIASES, signals.Stack.kind)  # the last with data.inputs alone
_RESAMPLING = _one_of("auto", "bicubic", "area", "nearest")
_DTYPE = _one_of("", "uint8", "uint16", "int8", "int16", "int32", "int64", "uint32", "uint64", "float32")
_CLASSES = _between(0, 256)
_IGNORE = _between(-1, 255)
_SHOWN = Limit(
  lambda value: len(value) in (0, 1, 3) and all(channel >= 0 for channel in value), "one or three channels, from 0"
)


def _is_value_range(value: Any) -> bool:
  pairs = list(zip(value[::2], value[1::2]))
  ordered = all(np.isfinite(pair).all() and pair[0] < pair[1] for pair in pairs)
  return len(value) % 2 == 0 and (ordered or tuple(value) == (0, 0))


def _is_accepted_by(parse: Callable[[str], Any]) -> Callable[[str], bool]:
  def holds(value: str) -> bool:
    try:
      parse(value)
    except (UsageError, ValueError):
      return False
    return True

  return holds


def _numbers(text: str) -> tuple[float, ...]:
  return tuple(float(part) for part in text.split(",") if part.strip())


_VALUE_RANGE = Limit(_is_value_range, "pairs of numbers, each lowest < highest")
_NUMBERS = Limit(_is_accepted_by(_numbers), "numbers joined by commas")
_PALETTE = Limit(_is_accepted_by(palettes.parse), f"{', '.join(palettes.NAMED)}, or colours such as #0000aa,#ff5500")
_COLORS = Limit(
  _is_accepted_by(lambda text: palettes.parse(text, shown_only=True)),
  f"{', '.join(palettes.NAMED)}, or colours such as #0000aa,#ff5500",
)

FIELDS: dict[str, dict[str, Field]] = {
  "": {
    "seed": Field(
      0,
      "Seed of the initial weights, data order, crops, mirroring and dropout noise. On one machine, runs with equal "
      "seeds are bit-identical.",
      _SEED,
    ),
  },
  "data": {
    "name": Field(
      "procedural",
      "Reader of the raw files: facades, winter_summer, kitti_depth, nyu_depth, folder (your own pairs: images, depth "
      "maps, label maps, arrays and volumes) or procedural (drawn by code). fit sets it to arrays.",
      _one_of("facades", "winter_summer", "kitti_depth", "nyu_depth", "folder", "procedural", "arrays"),
    ),
    "source_dir": Field(
      "",
      "Folder with the raw files, or its URL, such as gs://bucket/raw, which is copied to the user's cache directory. "
      "Empty: download the files, if the reader can. The procedural reader needs no files.",
    ),
    "prepared_dir": Field(
      "",
      "Folder for prepared data, or a URL through which several computers share it. Empty: $TFDS_DATA_DIR, or the "
      "user's cache directory.",
    ),
    "beam": Field(
      "",
      "Prepare the data with Apache Beam, using these pipeline options, such as '--runner=DirectRunner "
      "--direct_running_mode=multi_processing --direct_num_workers=0' (0: one process per core). Empty: in this "
      "process alone. The result is the same.",
    ),
    "inputs": Field(
      ("A",),
      "folder: name of the folder of inputs; or several inputs on one grid, which the network sees together, each as "
      "FOLDER[:KIND][,FIELD=VALUE …]: ('rgb', 'lidar:depth,scale=256'). The fields are scale, range, unit, nodata, "
      "classes, palette, colors, ignore, resampling and display. kitti_depth: the same for ('image', 'velodyne_raw').",
    ),
    "target_folder": Field("B", "folder: name of the folder of targets."),
    "input_kind": Field(
      "auto",
      "Meaning of the input's numbers: image, depth (metres, 0 where nothing was measured), quantity (any real numbers "
      "with a unit), classes (a label map) or auto. With auto, unsigned integers are images; any other number type "
      "needs an explicit kind. picture is an older word for image.",
      _INPUT_KIND,
    ),
    "target_kind": Field("auto", "Meaning of the target's numbers, with the same choices.", _KIND),
    "input_scale": Field(
      0.0,
      "Divisor that converts integer input depth to metres: 256 for KITTI, 1000 for millimetres. 0: depth is float "
      "metres.",
      _NOT_NEGATIVE,
    ),
    "target_scale": Field(0.0, "Divisor that converts integer target depth to metres; see input_scale.", _NOT_NEGATIVE),
    "input_range": Field(
      (0.0, 0.0),
      "Lowest and highest value of an input quantity, encoded as -1 and 1; values beyond it are clipped. One pair for "
      "all channels, or one for each. (0, 0): the 0.1 and 99.9 percentiles of each channel of the training split.",
      _VALUE_RANGE,
    ),
    "target_range": Field((0.0, 0.0), "The same for a target quantity.", _VALUE_RANGE),
    "input_unit": Field("", "Unit of an input quantity, for display, such as HU or dB."),
    "target_unit": Field("", "Unit of a target quantity."),
    "input_nodata": Field(
      "", "Numbers that mark pixels of an input quantity without a value, joined by commas; NaN always does.", _NUMBERS
    ),
    "target_nodata": Field("", "The same for a target quantity.", _NUMBERS),
    "input_classes": Field(
      0, "Number of classes of an input label map. 0: that of its palette, or the largest index plus one.", _CLASSES
    ),
    "target_classes": Field(0, "The same for a target label map.", _CLASSES),
    "input_palette": Field(
      "",
      "Colours of the classes of an input label map, in order: cmp, cityscapes, or a list such as #0000aa,#ff5500. "
      "Needed if the files hold colours; files of class indices may leave it empty. #000000,#ffffff reads grey masks "
      "of 0 and 255.",
      _PALETTE,
    ),
    "target_palette": Field("", "The same for a target label map.", _PALETTE),
    "input_colors": Field(
      "",
      "Colours in which the classes of an input label map are shown and written, as for input_palette, but they may "
      "repeat. Empty: those of input_palette, else of the palette in the first file, else distinct colours.",
      _COLORS,
    ),
    "target_colors": Field("", "The same for a target label map.", _COLORS),
    "input_ignore": Field(
      -1, "Class index that marks pixels of an input label map without a label, such as 255. -1: none.", _IGNORE
    ),
    "target_ignore": Field(-1, "The same for a target label map; such pixels do not count.", _IGNORE),
    "input_resampling": Field(
      "auto",
      "How input images are resized: bicubic (anti-aliased), nearest for label maps, whose colours must not mix, or "
      "auto: nearest if the files have palettes, like most label maps, else bicubic. Quantities: area (the mean of the "
      "valid pixels, also chosen by auto) or nearest. Depth and classes always use nearest.",
      _RESAMPLING,
    ),
    "target_resampling": Field("auto", "How target images are resized, with the same choices.", _RESAMPLING),
    "input_display": Field(
      (),
      "Channels of an input image or quantity that are shown, counted from 0: three as red, green and blue, (3, 2, 1), "
      "or one, (4,). (): those of an RGB image, else the first.",
      _SHOWN,
    ),
    "target_display": Field((), "The same for the target and the output.", _SHOWN),
    "depth_range": Field(
      (0.0, 80.0),
      "Nearest and farthest depth in metres, encoded as -1 and 1. Target pixels outside this range count as not "
      "measured; input pixels are clipped to it.",
      _RANGE,
    ),
    "input_dtype": Field("", "Number type of the input's raw values. Empty: taken from the data.", _DTYPE),
    "target_dtype": Field("", "Number type of the target's raw values. Empty: taken from the data.", _DTYPE),
    "load_size": Field(
      286,
      "Height in pixels to which images are resized before the random crop; at least crop_size. 0: images keep their "
      "own sizes, and are evaluated whole unless eval_size is set.",
      _SIZE_OR_ZERO,
    ),
    "load_width": Field(0, "Width in pixels for the same resize. 0: equal to load_size.", _SIZE_OR_ZERO),
    "crop_size": Field(256, "Height in pixels of the random crop; a multiple of 2**levels.", _SIZE),
    "crop_width": Field(0, "Width in pixels of the random crop. 0: equal to crop_size.", _SIZE_OR_ZERO),
    "eval_size": Field(
      0,
      "Height in pixels to which whole images are resized for validation and test; a multiple of 2**levels. 0: equal "
      "to crop_size.",
      _SIZE_OR_ZERO,
    ),
    "eval_width": Field(
      0, "Width in pixels for the same resize. 0: equal to eval_size if that is set, else to the crop.", _SIZE_OR_ZERO
    ),
    "mirror": Field(True, "Mirror training pairs left to right at random, half of them on average."),
    "mirror_vertical": Field(
      False,
      "Mirror them top to bottom as well, for images with no natural up and down, such as satellite images.",
    ),
    "rotate_right_angles": Field(False, "Rotate training pairs by 0, 90, 180 or 270 degrees at random."),
    "rotate_degrees": Field(
      0.0,
      "Rotate training pairs by up to this angle in both directions. Areas outside the image become holes in depth, "
      "quantities and classes with an ignored index, and reflections otherwise.",
      _between(0, 180),
    ),
    "scale": Field(
      (1.0, 1.0),
      "Lowest and highest factor of a random zoom of training pairs before the crop, such as (0.8, 1.2).",
      _ZOOM,
    ),
    "brightness": Field(
      0.0, "Change the brightness of input images by up to this share of their full range; targets keep theirs.", _SHARE
    ),
    "contrast": Field(
      0.0, "Change the contrast of input images by a factor of up to 1 ± this; targets keep theirs.", _SHARE
    ),
    "shuffle": Field(True, "Visit the training pairs in a new order every epoch."),
    "fingerprint": Field(
      "",
      "Number of pairs and a checksum of their content. Training fills it in to detect changed data; leave it empty.",
    ),
    "validity_channel": Field(
      False, "Add an output channel that predicts where the target has measurements; only for targets with holes."
    ),
    "cache_gib": Field(
      4.0,
      "Splits that take up to this many GiB when decoded are kept in memory; larger ones are decoded as they are read.",
      _NOT_NEGATIVE,
    ),
    "layout": Field(
      "auto",
      "kitti_depth: annotated (the depth set with KITTI's raw data), selection (val_selection_cropped) or auto "
      "(whichever exists).",
      _one_of("auto", "annotated", "selection"),
    ),
    "pair_seed": Field(
      0,
      "winter_summer: seed for pairing the photographs and assigning cameras to splits. folder: seed for choosing the "
      "validation pairs if there are no split folders.",
      _SEED,
    ),
    "attribute_threshold": Field(
      0.8, "winter_summer: a photograph has an attribute if its score is above this.", _SHARE
    ),
    "winter_attributes": Field(
      ("winter", "cold", "ice"), "winter_summer: a photograph with any of these attributes is a winter photograph."
    ),
    "summer_attributes": Field(
      ("summer", "warm", "spring"), "winter_summer: the same for summer. Photographs that are both are skipped."
    ),
    "side_by_side": Field(
      "input_target",
      "folder: order of the two images in a side-by-side file, left first.",
      _one_of("input_target", "target_input"),
    ),
    "slice_axis": Field(
      -1,
      "folder: axis along which the slices of volumes lie, as their library numbers axes: (i, j, k) of NIfTI, "
      "(z, y, x) of MetaImage, NRRD and DICOM. -1: axial slices in the usual order of storage.",
      _between(-1, 2),
    ),
    "input_key": Field(
      "", "folder: name of the array that holds the input in .npz and HDF5 files. Empty: their only array."
    ),
    "target_key": Field("", "folder: the same for the target. With both, one file holds a pair."),
    "task": Field(
      "facades",
      "procedural: the scenes to draw.",
      _one_of("facades", "winter_summer", "kitti_depth", "nyu_depth", "mr_ct"),
    ),
    "num_train": Field(400, "procedural: number of training pairs.", _between(1, 10**9)),
    "num_val": Field(100, "procedural: number of validation pairs. 0: no validation split.", _COUNT),
    "num_test": Field(100, "procedural: number of test pairs. 0: no test split.", _COUNT),
    "procedural_seed": Field(0, "procedural: seed of the drawings, independent of the run's seed.", _SEED),
  },
  "model": {
    "generator": Field(
      "unet",
      "unet or encoder_decoder (a U-Net without skip connections), both of Isola et al. 2017, arXiv 1611.07004; "
      "resnet_6blocks or resnet_9blocks (Johnson et al. 2016, arXiv 1603.08155, as in Zhu et al. 2017, arXiv "
      "1703.10593).",
      _one_of("unet", "encoder_decoder", "resnet_6blocks", "resnet_9blocks"),
    ),
    "decoder_widths": Field(
      "paper",
      "Decoder of a U-Net: paper, or report (up to twice as wide, ending in a 3×3 convolution).",
      _one_of("paper", "report"),
    ),
    "base_features": Field(
      64,
      "Features of the first convolution of both networks; all other widths are multiples of this.",
      _between(1, 4096),
    ),
    "discriminator_features": Field(
      0, "Features of the discriminator's first convolution. 0: equal to base_features.", _between(0, 4096)
    ),
    "levels": Field(
      0,
      "Number of stride-2 convolutions in the generator. 0: as many as the crop size allows, at most 8.",
      _between(0, 12),
    ),
    "dropout_blocks": Field(
      (0, 1, 2),
      "Blocks with 50 % dropout, the model's only noise: the up blocks of a U-Net, counted from the bottleneck, or the "
      "residual blocks of a ResNet. (): none.",
    ),
    "upsample": Field(
      "transpose",
      "How the decoder doubles the resolution: transpose (transposed convolutions, as in the paper) or resize (nearest "
      "neighbour, then a 3×3 convolution), which avoids checkerboards (Odena et al. 2016, doi "
      "10.23915/distill.00003).",
      _one_of("transpose", "resize"),
    ),
    "norm": Field("batch", "Normalisation: batch, instance or none.", _one_of("batch", "instance", "none")),
    "residual": Field(
      False,
      "For depth → depth, alone or among several inputs: interpolate the holes of the input's depth, then learn a "
      "correction that is added to it.",
    ),
    "residual_channel": Field(
      0,
      "The channel of the input, counted from 0, with the depth that model.residual corrects. 0: the first that holds "
      "depth.",
      _between(0, 4095),
    ),
    "patch": Field(
      70, "Receptive field of the discriminator in pixels: 1, 16, 34, 70, 142 or 286.", _one_of(1, 16, 34, 70, 142, 286)
    ),
    "discriminators": Field(
      1,
      "Number of discriminators, which see the images at full, half and quarter size (pix2pixHD, Wang et al. 2018, "
      "arXiv 1711.11585, where it is 3). Their losses are averaged.",
      _between(1, 3),
    ),
    "spectral_norm": Field(
      False,
      "Divide every kernel of the discriminator by its largest singular value (Miyato et al. 2018, arXiv 1802.05957), "
      "in addition to norm.",
    ),
    "conditional": Field(True, "Show the discriminator the input beside the real or generated image."),
    "input_channels": Field(
      0,
      "Channels of the input; the folder reader converts images to this number. 0: taken from the data.",
      _between(0, 4096),
    ),
    "output_channels": Field(
      0,
      "Channels of the output, plus one for a validity channel; images are converted as for the input. 0: taken from "
      "the data.",
      _between(0, 4096),
    ),
  },
  "loss": {
    "gan": Field(
      "vanilla",
      "vanilla (cross-entropy), lsgan (least squares, Mao et al. 2017, arXiv 1611.04076), hinge (Lim and Ye 2017, "
      "arXiv 1705.02894) or none (L1 alone).",
      _one_of("vanilla", "lsgan", "hinge", "none"),
    ),
    "pixel": Field(
      "auto",
      "Loss of each pixel: l1 (absolute difference on [-1, 1]), cross_entropy for classes, or auto, which chooses "
      "between the two.",
      _one_of("auto", "l1", "cross_entropy"),
    ),
    "l1_weight": Field(
      -1.0,
      "Weight of the pixel loss. Negative: 300 / target channels, which is the paper's 100 for RGB; 100 for "
      "cross-entropy.",
      Limit(np.isfinite, "finite"),
    ),
    "validity_weight": Field(
      10.0, "Weight of the mean absolute difference of the validity channel on [-1, 1].", _NOT_NEGATIVE
    ),
    "feature_matching": Field(
      0.0,
      "Weight of the difference between the discriminator's features of targets and of outputs, in all its layers but "
      "the last (pix2pixHD, Wang et al. 2018, arXiv 1711.11585, where it is 10). 0: none.",
      _NOT_NEGATIVE,
    ),
    "r1_weight": Field(
      0.0,
      "Weight γ of the R1 penalty γ/2 · |gradient|² on the discriminator's gradient at the targets (Mescheder et al. "
      "2018, arXiv 1801.04406, where it is 10), divided by the number of patches. Beside a halved loss it counts twice "
      "as much. discriminator_loss does not contain it. 0: none.",
      _NOT_NEGATIVE,
    ),
    "halve_discriminator": Field(True, "Divide the discriminator's loss by two, as in the paper."),
  },
  "optimizer": {
    "learning_rate": Field(2e-4, "Step size of Adam, for both networks.", _POSITIVE),
    "beta1": Field(0.5, "Adam's decay rate for the running mean of the gradients.", _DECAY_RATE),
    "beta2": Field(0.999, "Adam's decay rate for the running mean of the squared gradients.", _DECAY_RATE),
    "decay_fraction": Field(
      0.0, "Final share of the run, over which the learning rate falls linearly to zero.", _SHARE
    ),
    "clip_norm": Field(
      0.0, "Largest norm of a network's gradient; larger gradients are scaled down to it. 0: no limit.", _NOT_NEGATIVE
    ),
  },
  "train": {
    "batch_size": Field(
      1, "Images per step, over all devices and processes; a multiple of the number of devices.", _between(1, 10**6)
    ),
    "num_epochs": Field(200, "Length of the run in passes through the data.", _between(0, 10**9)),
    "num_steps": Field(0, "Length of the run in steps. 0: derived from num_epochs.", _between(0, 2**31 - 1)),
    "log_every_steps": Field(
      100, "Steps between log lines. The train/ scalars logged are means over those steps.", _between(1, 10**9)
    ),
    "eval_every_steps": Field(
      0,
      "Steps between validations; each covers the whole val split and draws a sample grid. 0: once per epoch. The last "
      "step is always validated.",
      _COUNT,
    ),
    "checkpoint_every_steps": Field(
      0,
      "Steps between checkpoints. 0: once per epoch, or every few epochs if one is shorter than 100 steps. The last "
      "step and the best validation are always saved.",
      _COUNT,
    ),
    "keep_every_steps": Field(
      0, "Save a permanent checkpoint at every multiple of this step. 0: keep only the two newest and the best.", _COUNT
    ),
    "best_metric": Field(
      "auto",
      "Validation metric that chooses the best checkpoint: l1, psnr or ssim; for depth l1, psnr, rmse, mae, abs_rel, "
      "delta1, delta2, delta3, silog, irmse or imae; for a quantity mae, rmse, l1, psnr or ssim; for classes mean_iou, "
      "pixel_accuracy or class_accuracy. auto: ssim for images, mean_iou for classes, else l1.",
      _one_of("auto", *sorted({metric for kind in signals.TYPES.values() for metric in kind.metrics})),
    ),
    "tensorboard": Field(
      True,
      "Write TensorBoard's event files, for which TensorFlow is loaded; history.jsonl holds the same scalars. False "
      "saves seconds and memory in short runs.",
    ),
    "logger": Field(
      "",
      "Logger that receives scalars and sample grids besides TensorBoard: wandb, MODULE:FUNCTION, or an entry point "
      "(pix2pix_jax/run/loggers.py). Empty: none.",
    ),
    "data_on_device": Field(
      "auto",
      "Keep the decoded training split on the devices, which then crop, mirror and encode the batches, with the same "
      "bits: yes, no or auto (on a GPU or TPU, if it fits). Not for splits beyond cache_gib, images of several sizes, "
      "further augmentation, or several processes.",
      _one_of("auto", "yes", "no"),
    ),
    "steps_per_dispatch": Field(
      0,
      "Steps that run in one dispatch, without returning to the host, if the split is kept on the devices; 1 with "
      "callbacks. 0: 10 on a GPU or TPU, 1 on a CPU. A signal stops the run at most three times as many steps later.",
      _between(0, 10_000),
    ),
    "num_replicas": Field(
      1,
      "Number of seeds that one program trains side by side: seed, seed + 1, …, each as in a run of its own, with its "
      "own initial weights, data order and noise. Metrics are means over them, with their standard deviation. Needs a "
      "single device. pix2pix_jax extract makes a workdir of one of them.",
      _between(1, 1000),
    ),
    "init_from": Field(
      "",
      "Workdir of a trained model (append @STEP to choose a checkpoint; default: the best) from whose networks a new "
      "run starts, except for arrays of other shapes. Empty: random weights.",
    ),
    "init_networks": Field(
      ("generator", "discriminator"),
      "Networks taken from init_from: generator, discriminator or both.",
      Limit(lambda value: value and set(value) <= {"generator", "discriminator"}, "generator, discriminator or both"),
    ),
    "dtype": Field(
      "float32",
      "Precision of the networks' arithmetic: float32 or bfloat16. Weights, norm statistics, losses and images stay "
      "float32.",
      _one_of("float32", "bfloat16"),
    ),
    "ema_decay": Field(
      0.0,
      "Decay of an exponential moving average of the generator's weights, such as 0.999 (Yazıcı et al. 2019, arXiv "
      "1806.04498); after n steps at most (1 + n) / (10 + n). Validation, translate and export use the average. 0: the "
      "weights themselves.",
      _DECAY_RATE,
    ),
    "remat": Field(False, "Recompute the generator's activations in the backward pass: less memory, more time."),
    "compilation_cache": Field(
      "", "Folder in which compiled programs are cached. Empty: the user's cache directory; none: no cache."
    ),
  },
  "evaluation": {
    "dropout": Field(
      True, "Keep dropout, the model's only noise, on for validation, samples and evaluation, as in the paper."
    ),
    "norm_stats": Field(
      "auto",
      "Statistics of batch norm: image (each image's own, as in the paper's test), batch (those of the batch), running "
      "(averages from training) or auto: image if train.batch_size is 1, else running. With larger batches, the "
      "generator was never trained on an image's own statistics.",
      _one_of("auto", "image", "batch", "running"),
    ),
    "batch_size": Field(
      8,
      "Images per evaluation batch. More fit on several devices, unless norm_stats is batch, the only statistics with "
      "which this number affects results.",
      _between(1, 10**6),
    ),
    "num_samples": Field(
      4,
      "Rows of a sample grid (input, output, target), and of best.png and worst.png (there at most 8).",
      _between(1, 1000),
    ),
  },
}


def each_field() -> Iterator[tuple[str, Field]]:
  """(dotted name, field) of every field in order."""
  for section, fields in FIELDS.items():
    for name, field in fields.items():
      yield (f"{section}.{name}" if section else name), field


def default() -> ml_collections.ConfigDict:
  """The paper's model and recipe (Isola et al. 2017, arXiv 1611.07004) with every field at its default."""
  config = ml_collections.ConfigDict()
  for section, fields in FIELDS.items():
    place = config if not section else ml_collections.ConfigDict()
    for name, field in fields.items():
      place[name] = field.default
    if section:
      config[section] = place
  return config


def get(config: ml_collections.ConfigDict, name: str) -> Any:
  """The value of a dotted field name."""
  section, _, field = name.rpartition(".")
  return config[section][field] if section else config[field]


def update(config: ml_collections.ConfigDict, changes: dict[str, Any]) -> None:
  """Sets fields by their dotted names.

  Raises:
    UsageError: an unknown field, or a value of another type.
  """
  known = {name for name, _ in each_field()}
  for name, value in changes.items():
    if name not in known:
      raise UsageError(f"There is no field {name}{nearest(name, known)}")
    section, _, field = name.rpartition(".")
    _set(config[section] if section else config, name, field, value)


def check(config: ml_collections.ConfigDict) -> None:
  """Checks the type and limit of every field and rejects unknown fields.

  Raises:
    UsageError: the first invalid field; the message says what is accepted.
  """
  known = {name for name, _ in each_field()}
  for section, value in config.items():
    names = [f"{section}.{name}" for name in value] if isinstance(value, ml_collections.ConfigDict) else [section]
    for name in names:
      if name not in known:
        raise UsageError(f"There is no field {name}{nearest(name, known)}")
  for name, field in each_field():
    value = get(config, name)
    if not _same_type(value, field.default):
      example = f", such as {field.default!r}" if field.default else ""
      raise UsageError(f"{name} is {value!r}; it has to be {_type_name(field.default)}{example}.")
    if field.limit and not field.limit.holds(value):
      it = nearest(str(value), map(str, field.limit.choices), "; it")
      raise UsageError(f"{name} is {value!r}{it} has to be {field.limit.text}.")
  inputs.parse(tuple(config.data.inputs))


def _same_type(value: Any, default: Any) -> bool:
  if isinstance(default, bool) or isinstance(value, bool):
    return isinstance(default, bool) and isinstance(value, bool)
  if isinstance(default, float):
    return isinstance(value, int | float)
  if isinstance(default, tuple):
    return isinstance(value, tuple | list) and all(_same_type(item, _item(default)) for item in value)
  return isinstance(value, type(default))


def _item(default: tuple[Any, ...]) -> Any:
  """An example of the items of a tuple; those of an empty one are integers."""
  return default[0] if default else 0


def _type_name(default: Any) -> str:
  names = {bool: "True or False", int: "an integer", float: "a number", str: "a string"}
  if isinstance(default, tuple):
    return "a tuple of " + {int: "integers", float: "numbers", str: "strings"}[type(_item(default))]
  return names[type(default)]


# --- Variants and named configurations


def apply_variants(
  config: ml_collections.ConfigDict, variant: str, **variants: Callable[[ml_collections.ConfigDict], None]
) -> ml_collections.ConfigDict:
  """Applies comma-separated variants, each a function that changes the config in place."""
  for name in filter(None, variant.split(",")):
    if name not in variants:
      raise UsageError(f"This config has no variant {name!r}; it has {', '.join(variants) or 'none'}.")
    variants[name](config)
  return config


def report_architecture(patch: int) -> Callable[[ml_collections.ConfigDict], None]:
  """A variant with the student report's architecture and loss, but not its inert norms, dense head or clipped depth."""

  def apply(config: ml_collections.ConfigDict) -> None:
    config.model.decoder_widths = "report"
    config.model.patch = patch
    config.model.residual = False
    config.loss.halve_discriminator = False

  return apply


def procedural_data(task: str) -> Callable[[ml_collections.ConfigDict], None]:
  """A variant that runs the same experiment on built-in data."""

  def apply(config: ml_collections.ConfigDict) -> None:
    config.data.name = "procedural"
    config.data.task = task
    config.data.source_dir = ""

  return apply


def label_map(side: str, palette: str) -> Callable[[ml_collections.ConfigDict], None]:
  """A variant in which a side, `input` or `target`, is a label map in the colours of a palette."""

  def apply(config: ml_collections.ConfigDict) -> None:
    config.data[f"{side}_kind"] = "classes"
    config.data[f"{side}_palette"] = palette

  return apply


def names() -> list[str]:
  """The named configurations, which are the files of pix2pix_jax/configs."""
  folder = Path(__file__).parent / "configs"
  return sorted(path.stem for path in folder.glob("*.py") if path.stem not in ("__init__", "default"))


def locate(text: str) -> tuple[Path, str]:
  """The file and the variant of `NAME`, `NAME:variant`, `path/to/file.py` or `path/to/file.py:variant`.

  Raises:
    UsageError: neither a named configuration nor a file.
  """
  place, _, variant = text.rpartition(":") if ":" in text[2:] else (text, "", "")  # text[2:] skips a drive letter
  if place in names():
    return Path(__file__).parent / "configs" / f"{place}.py", variant
  path = Path(place).expanduser()
  if path.is_file():
    return path, variant
  near = difflib.get_close_matches(path.stem, names(), n=1)
  raise UsageError(
    f"--config={text}: there is no file {place!r} and no configuration of that "
    f"name{f' (did you mean {near[0]}?)' if near else ''}. "
    f"The names are {', '.join(names())}; append :VARIANT to choose a variant."
  )


def load(text: str) -> ml_collections.ConfigDict:
  """The configuration of a name or path, as `locate` accepts it.

  Raises:
    UsageError: no such configuration or variant, or a file without `get_config`.
  """
  path, variant = locate(text)
  module_spec = importlib.util.spec_from_file_location(f"pix2pix_jax_config_{path.stem}", path)
  if module_spec is None or module_spec.loader is None:
    raise UsageError(f"--config={text}: {path} is not a Python file.")
  module = importlib.util.module_from_spec(module_spec)
  module_spec.loader.exec_module(module)
  if not hasattr(module, "get_config"):
    raise UsageError(f"--config={text}: {path} defines no get_config(variant).")
  return module.get_config(variant) if variant else module.get_config()


# --- Shapes


def load_shape(data: ml_collections.ConfigDict) -> tuple[int, int] | None:
  """(height, width) to which every image is resized before the crop; None: each keeps its own size."""
  return (data.load_size, data.load_width or data.load_size) if data.load_size else None


def crop_shape(data: ml_collections.ConfigDict) -> tuple[int, int]:
  """(height, width) of the training crops."""
  return data.crop_size, data.crop_width or data.crop_size


def eval_shape(data: ml_collections.ConfigDict) -> tuple[int, int]:
  """(height, width) of validation and test images; of the crops, if each image keeps its own size."""
  if not data.eval_size:
    return crop_shape(data)
  return data.eval_size, data.eval_width or data.eval_size


def eval_resize(data: ml_collections.ConfigDict) -> tuple[int, int] | None:
  """`eval_shape`, or None if validation and test images keep their own sizes."""
  return eval_shape(data) if data.load_size or data.eval_size else None


def levels_for(height: int, width: int) -> int:
  """The number of stride-2 levels for an image size: how often both sides can be halved, at most 8 (256×256 → 8)."""
  levels = 0
  while levels < MAX_LEVELS and height % 2 ** (levels + 1) == 0 and width % 2 ** (levels + 1) == 0:
    levels += 1
  if levels < 2:
    raise UsageError(
      f"Images of {width}×{height} (width × height) cannot be halved twice; use sizes that are multiples of 4, "
      "preferably of 64, 128 or 256: each further factor of two adds a level to the network."
    )
  return levels


def check_shapes(config: ml_collections.ConfigDict) -> None:
  """Checks that the sizes suit each other and the generator, which needs no data.

  Raises:
    UsageError: a crop larger than the loaded image, or a size that the generator cannot halve often enough.
  """
  crop, load = crop_shape(config.data), load_shape(config.data)
  if not load and config.data.load_width:
    raise UsageError(
      f"data.load_width is {config.data.load_width}, but data.load_size is 0, with which images keep their own sizes; "
      "set both or neither."
    )
  if load and (crop[0] > load[0] or crop[1] > load[1]):
    raise UsageError(
      f"Crops of {crop[1]}×{crop[0]} (width × height) do not fit into images of {load[1]}×{load[0]}. Raise "
      "data.load_size (and data.load_width), or lower data.crop_size (and data.crop_width)."
    )
  config = config.copy_and_resolve_references()
  with config.unlocked():
    _resolve_levels(config.data, config.model)


def multiple(model: ml_collections.ConfigDict) -> int:
  """The generator accepts heights and widths that are multiples of this. `model.levels` must be resolved."""
  return 2**model.levels


# --- From the data


def resolve(config: ml_collections.ConfigDict, spec: DataSpec) -> ml_collections.ConfigDict:
  """A checked copy with all data-dependent fields filled in: kinds, channels, levels, L1 weight, steps.

  Raises:
    UsageError: a field outside its limits, or one that contradicts the data or another field.
  """
  config = config.copy_and_resolve_references()
  check(config)
  data, model, loss, train = config.data, config.model, config.loss, config.train
  data.fingerprint = spec.fingerprint
  if train.best_metric == "auto":
    train.best_metric = spec.target.main_metric
  if train.best_metric not in spec.target.metrics:
    raise UsageError(
      f"train.best_metric is {train.best_metric!r}, but the metrics of this target ({spec.target.describe()}) are "
      f"{', '.join(spec.target.metrics)}."
    )
  if "train" not in spec.counts:
    where = f"data.source_dir {data.source_dir!r}" if data.source_dir else f"The data set {data.name}"
    raise UsageError(f"{where} has no train split, only {', '.join(spec.counts)}.")
  count = spec.counts["train"]
  for side, signal in (("input", spec.input), ("target", spec.target)):
    _agree(
      data,
      f"data.{side}_kind",
      f"{side}_kind",
      signal.kind,
      ("auto", *[a for a, k in signals.ALIASES.items() if k == signal.kind]),
    )
    _agree(data, f"data.{side}_dtype", f"{side}_dtype", signal.dtype, ("",))
    _record(data, side, signal)
  if data.validity_channel and not spec.target.has_holes:
    raise UsageError(
      f"data.validity_channel is for targets with holes (depth), but the target is: {spec.target.describe()}."
    )
  if data.validity_channel and spec.target.missing is None:
    raise UsageError(
      f"data.validity_channel needs a number of {spec.target.dtype} that marks pixels without a value. Set "
      "data.target_nodata."
    )
  parts = spec.input.parts if isinstance(spec.input, signals.Stack) else (spec.input,)
  if (data.brightness or data.contrast) and all(part.kind != "image" for part in parts):
    raise UsageError(
      f"data.brightness and data.contrast are for input images, but the input is: {spec.input.describe()}. Leave "
      "them 0."
    )
  _agree(model, "model.input_channels", "input_channels", spec.input.channels, (0,))
  _agree(model, "model.output_channels", "output_channels", spec.target.channels + data.validity_channel, (0,))
  if model.residual_channel and not model.residual:
    raise UsageError(f"model.residual_channel is {model.residual_channel}, but model.residual is off. Set one of them.")
  if model.residual:
    model.residual_channel = _residual_channel(model.residual_channel, spec)
  _resolve_levels(data, model)
  loss.pixel = loss.pixel.replace("auto", "cross_entropy" if spec.target.kind == "classes" else "l1")
  if loss.pixel == "cross_entropy" and spec.target.kind != "classes":
    raise UsageError(f"loss.pixel=cross_entropy is for classes, but the target is: {spec.target.describe()}.")
  for field in ("feature_matching", "r1_weight"):
    if loss[field] and loss.gan == "none":
      raise UsageError(
        f"loss.{field} is {loss[field]:g}, but loss.gan is 'none': there is no discriminator. Set one of them."
      )
  if loss.l1_weight < 0:
    loss.l1_weight = 100.0 if loss.pixel == "cross_entropy" else 300.0 / spec.target.channels
  train.num_steps = train.num_steps or train.num_epochs * count // train.batch_size
  if train.num_steps < 1:
    raise UsageError(
      f"train.num_epochs={train.num_epochs} with {counted(count, 'training pair')} cannot fill one batch of "
      f"train.batch_size={train.batch_size}. Train for more epochs, or with smaller batches."
    )
  if config.evaluation.norm_stats in ("batch", "running"):
    require_batch_norm(config, f"evaluation.norm_stats={config.evaluation.norm_stats}")
  if config.evaluation.norm_stats == "auto":
    config.evaluation.norm_stats = "running" if train.batch_size > 1 and model.norm == "batch" else "image"
  epoch = max(1, count // train.batch_size)
  train.eval_every_steps = train.eval_every_steps or epoch
  train.checkpoint_every_steps = train.checkpoint_every_steps or epoch * -(-CHECKPOINT_STEPS // epoch)
  return config


def _record(data: ml_collections.ConfigDict, side: str, signal: Signal) -> None:
  """Fills in what the data determined, so that a workdir describes its signals completely."""
  if data[f"{side}_resampling"] == "auto" and signal.kind != signals.Stack.kind:
    data[f"{side}_resampling"] = signal.resampling
  if isinstance(signal, signals.Stack):
    data.inputs = inputs.write(signal)
  if isinstance(signal, signals.Quantity):
    data[f"{side}_range"] = tuple(value for pair in signal.range for value in pair)
  if isinstance(signal, signals.Classes):
    data[f"{side}_classes"] = signal.count
    data[f"{side}_colors"] = data[f"{side}_colors"] or palettes.write(signal.shown)


def _agree(
  section: ml_collections.ConfigDict, field: str, name: str, actual: Any, open_values: tuple[Any, ...]
) -> None:
  """Fills in a field that is left to the data; a field that is set must agree with the data."""
  if section[name] not in (actual, *open_values):
    raise UsageError(
      f"{field} is {section[name]!r}, but the data has {actual!r}; set it to {open_values[0]!r} to use the data's."
    )
  section[name] = actual


def _residual_channel(chosen: int, spec: DataSpec) -> int:
  """The input channel with the depth that a residual generator corrects; 0 chooses the first."""
  parts = spec.input.parts if isinstance(spec.input, signals.Stack) else (spec.input,)
  starts = [sum(part.channels for part in parts[:i]) for i in range(len(parts))]
  places = {start: part for start, part in zip(starts, parts) if isinstance(part, signals.Depth) and part.channels == 1}
  if not places or not isinstance(spec.target, signals.Depth) or spec.target.channels != 1:
    raise UsageError(
      "model.residual needs depth of one channel as the target and among the inputs, but the input is: "
      f"{spec.input.describe()}, and the target: {spec.target.describe()}. Set it to False (--config=nyu:rgb does)."
    )
  channel = chosen or min(places)
  if channel not in places:
    raise UsageError(
      f"model.residual_channel is {chosen}, but depth is in channel {' or '.join(map(str, places))} of the input. Set "
      "it to 0 to use the first."
    )
  if places[channel].range != spec.target.range:
    raise UsageError(
      f"model.residual adds its output to the input's depth, so both need one range, but that depth is: "
      f"{places[channel].describe()}, and the target: {spec.target.describe()}. Leave range out of data.inputs to use "
      "data.depth_range for both."
    )
  return channel


def _resolve_levels(data: ml_collections.ConfigDict, model: ml_collections.ConfigDict) -> None:
  if model.generator.startswith("resnet"):
    if model.levels not in (0, 2):
      raise UsageError(f"model.levels is {model.levels}, but a {model.generator} always has 2; leave it 0.")
    if model.decoder_widths != "paper":
      raise UsageError(
        f"model.decoder_widths is {model.decoder_widths!r}, which describes the decoder of a U-Net; a "
        f"{model.generator} has none. Leave it 'paper'."
      )
    model.levels = 2
  model.levels = model.levels or levels_for(*crop_shape(data))
  if model.levels < 2:
    raise UsageError(f"model.levels is {model.levels}; it has to be 0 or at least 2.")
  for field, (height, width) in (("crop", crop_shape(data)), ("eval", eval_shape(data))):
    if height % multiple(model) or width % multiple(model):
      raise UsageError(
        f"data.{field}_size makes images {width}×{height} (width × height), but a generator with {model.levels} levels "
        f"needs multiples of {multiple(model)}. Change data.{field}_size (and data.{field}_width), or model.levels."
      )
  blocks = num_blocks(model)
  if wrong := [block for block in model.dropout_blocks if not 0 <= block < blocks]:
    # The default (0, 1, 2) stays valid for small networks, which have fewer up blocks.
    if tuple(model.dropout_blocks) != FIELDS["model"]["dropout_blocks"].default:
      raise UsageError(f"model.dropout_blocks names block {wrong[0]}; this generator has blocks 0 to {blocks - 1}.")


def num_blocks(model: ml_collections.ConfigDict) -> int:
  """The number of blocks that `model.dropout_blocks` can refer to."""
  if model.generator.startswith("resnet"):
    return int(model.generator.removeprefix("resnet_").removesuffix("blocks"))
  return model.levels if model.decoder_widths == "report" else model.levels - 1


def signals_of(config: ml_collections.ConfigDict) -> tuple[Signal, Signal]:
  """The input and target signals of a resolved config."""
  data, model = config.data, config.model
  channels = {"input": model.input_channels, "target": model.output_channels - data.validity_channel}
  made = [settings_of(data, side).make(channels[side], data[f"{side}_dtype"] or "uint8") for side in channels]
  return made[0], made[1]


def settings_of(data: ml_collections.ConfigDict, side: str) -> signals.Settings:
  """What the `data` section declares about a side, `input` or `target`.

  Raises:
    UsageError: an unknown kind.
  """
  kind, values = data[f"{side}_kind"], tuple(data[f"{side}_range"])
  depth_range = (float(data.depth_range[0]), float(data.depth_range[1]))
  if side == "input" and len(data.inputs) > 1:
    if kind not in ("auto", signals.Stack.kind):
      raise UsageError(
        f"data.input_kind is {kind!r}, but data.inputs declares the kind of each input; set it to 'auto'."
      )
    if data.input_display:
      raise UsageError(
        f"data.input_display is {data.input_display}, but there are several inputs, each with its own; set it in "
        "data.inputs, as in 'bands:quantity,display=3/2/1'."
      )
    return signals.Settings(signals.Stack.kind, depth_range, parts=inputs.parse(tuple(data.inputs), depth_range))
  return signals.Settings(
    kind=kind if kind == "auto" else signals.check_kind(kind, f"data.{side}_kind"),
    depth_range=depth_range,
    scale=float(data[f"{side}_scale"]),
    range=() if values == (0, 0) else tuple(zip(map(float, values[::2]), map(float, values[1::2]))),
    unit=data[f"{side}_unit"],
    nodata=_numbers(data[f"{side}_nodata"]),
    count=data[f"{side}_classes"],
    palette=palettes.parse(data[f"{side}_palette"], f"data.{side}_palette"),
    ignore=data[f"{side}_ignore"],
    shown=palettes.parse(data[f"{side}_colors"], f"data.{side}_colors", shown_only=True),
    resampling=data[f"{side}_resampling"],
    display=tuple(data[f"{side}_display"]),
  )


def require_batch_norm(config: ml_collections.ConfigDict, setting: str) -> None:
  """Refuses a setting of batch norm's statistics for a model without batch norm.

  Raises:
    UsageError: the message starts with `setting`.
  """
  if config.model.norm != "batch":
    raise UsageError(
      f"{setting} chooses statistics of batch norm, but this model has none (model.norm is {config.model.norm!r}). "
      "Leave it out."
    )


def keep_recorded(
  config: ml_collections.ConfigDict, workdir: Path
) -> tuple[ml_collections.ConfigDict, ml_collections.ConfigDict | None]:
  """The configuration of a start, and of the workdir's previous start if something was trained there.

  Ranges, numbers of classes, colours and resampling that are left to the data keep their earlier values: other data
  must not change the meaning of the networks' numbers. So do the metric that chooses the best checkpoint and the
  statistics of batch norm: a run's validations must stay comparable. The networks' origin (`train.init_from`) stays
  recorded. Paths become absolute, for later commands elsewhere.
  """
  config, old = config.copy_and_resolve_references(), previous(workdir)
  config.data.source_dir = absolute_source(config.data.source_dir)
  if config.train.init_from:
    config.train.init_from = os.path.abspath(user_path("train.init_from", config.train.init_from))
  if old is None:
    return config, None
  for side in ("input", "target"):
    open_values = {"range": (0, 0), "classes": 0, "colors": "", "resampling": "auto"}
    for name, is_open in open_values.items():
      if config.data[f"{side}_{name}"] == is_open:
        config.data[f"{side}_{name}"] = old.data[f"{side}_{name}"]
  kept = [("train", "best_metric")]  # "auto" differs between versions
  kept += [("evaluation", "norm_stats")] if old.model.norm == "batch" else []
  for section, name in kept:
    if config[section][name] == "auto":
      config[section][name] = old[section][name]
  config.train.init_from, config.train.init_networks = old.train.init_from, old.train.init_networks
  if len(config.data.inputs) == len(old.data.inputs) > 1:
    config.data.inputs = inputs.keep(tuple(config.data.inputs), tuple(old.data.inputs))
  return config, old


# --- Workdirs

_WORKDIR = "Give the workdir of a trained model, where training writes config.json."


def read(workdir: Path) -> ml_collections.ConfigDict:
  """The resolved configuration of a workdir, locked.

  Raises:
    UsageError: no config.json, or one that is damaged or does not hold a configuration of this package.
  """
  path = Path(workdir) / "config.json"
  if not path.parent.is_dir():
    raise UsageError(f"The workdir {workdir} does not exist{nearest_path(path.parent) or '.'} {_WORKDIR}")
  if not path.exists():
    raise UsageError(f"{workdir} holds no run: it has no config.json. {_WORKDIR}")
  try:
    fields = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError) as error:
    raise UsageError(f"{path} cannot be read ({reason(error)}). {_WORKDIR}") from error
  config = default()
  try:
    _update(config, _migrate(fields))
    check(config)
  except UsageError as error:
    raise UsageError(f"{path} is not a configuration of this version: {error}") from error
  model = config.model
  if not (model.levels and model.input_channels and model.output_channels) or config.evaluation.norm_stats == "auto":
    raise UsageError(
      f"{path} was never resolved: it lacks the channels, levels and norm statistics that training fills in."
    )
  try:
    signals_of(config)
  except UsageError as error:
    raise UsageError(f"{path}: {error}") from error
  return config.lock()


def _update(config: ml_collections.ConfigDict, fields: Any) -> None:
  """Sets fields read from JSON, which has lists where configurations have tuples."""
  if not isinstance(fields, dict):
    raise UsageError(f"it holds {type(fields).__name__} where a section of fields should be.")
  known = {name for name, _ in each_field()}
  for name, value in fields.items():
    if isinstance(config.get(name), ml_collections.ConfigDict):
      if not isinstance(value, dict):
        raise UsageError(f"{name} is {value!r}; it has to be a section of fields.")
      for field, inner in value.items():
        if f"{name}.{field}" not in known:
          raise UsageError(f"There is no field {name}.{field}{nearest(f'{name}.{field}', known)}")
        _set(config[name], f"{name}.{field}", field, inner)
    elif name in known:
      _set(config, name, name, value)
    else:
      raise UsageError(f"There is no field {name}{nearest(name, known)}")


def _set(section: ml_collections.ConfigDict, name: str, field: str, value: Any) -> None:
  value = value.item() if isinstance(value, np.generic) else value
  value = tuple(value) if isinstance(value, list) else value
  if not _same_type(value, section[field]):
    raise UsageError(f"{name} is {value!r}; it has to be {_type_name(section[field])}.")
  section[field] = float(value) if isinstance(section[field], float) else value


def _migrate(fields: Any) -> Any:
  """Adds what older versions did not record: the kinds (in 0.1, exactly the float32 data was depth), and the only
  choices that there were.
  """
  if not isinstance(fields, dict) or not all(isinstance(fields.get(name), dict) for name in ("data", "loss", "train")):
    return fields
  data = fields["data"]
  for side in ("input", "target"):
    is_depth = data.get(f"{side}_dtype") == signals.Depth.dtype
    data.setdefault(f"{side}_kind", "depth" if is_depth else "image")
    data.setdefault(f"{side}_resampling", "bicubic")
  model = fields.get("model")
  if isinstance(model, dict) and str(model.get("generator")).startswith("resnet"):
    model["decoder_widths"] = "paper"  # "report" had no effect
  fields["loss"].setdefault("pixel", "l1")
  fields["train"].setdefault("best_metric", "l1")
  return fields


def absolute_source(place: str) -> str:
  """`data.source_dir` as an absolute path; URLs and the empty one stay."""
  return place if not place or URL.match(place) else os.path.abspath(user_path("data.source_dir", place))


def same_source(one: str, other: str) -> bool:
  """Whether two values of `data.source_dir` are the same place."""
  places = [absolute_source(place) for place in (one, other)]
  return places[0] == places[1] or (all(map(os.path.isabs, places)) and len(set(map(os.path.realpath, places))) == 1)


Changes = dict[str, tuple[Any, Any]]  # dotted name → (old, new)


def differences(old: ml_collections.ConfigDict, new: ml_collections.ConfigDict) -> Changes:
  """Every field that differs."""
  pairs = {name: (get(old, name), get(new, name)) for name, _ in each_field()}
  if signals.same_data(*pairs["data.fingerprint"]):
    del pairs["data.fingerprint"]
  if same_source(*pairs["data.source_dir"]):
    del pairs["data.source_dir"]
  return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


_LOCAL = (  # may differ between hosts
  *("data.source_dir", "data.prepared_dir", "data.beam", "train.compilation_cache", "train.init_from"),
)


def shared_fields(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The fields by name that all processes of a run have to agree on."""
  return {name: get(config, name) for name, _ in each_field() if name not in _LOCAL}


def shared(changes: Changes) -> Changes:
  """The changes that are the same for all processes of a run."""
  return {name: pair for name, pair in changes.items() if name not in _LOCAL}


def previous(workdir: Path) -> ml_collections.ConfigDict | None:
  """The configuration that a workdir was trained with, or None if nothing was trained there."""
  workdir = Path(workdir)
  trained = (workdir / "config.json").exists() and any((workdir / "checkpoints").glob("*"))
  return read(workdir) if trained else None


def require_same_model(workdir: Path, old: ml_collections.ConfigDict, new: ml_collections.ConfigDict) -> None:
  """Refuses to continue a workdir with another architecture or other signals.

  Other fields may change between runs: a longer run, another learning rate, another location of the data.

  Raises:
    UsageError: the fields that differ.
  """
  changes = differences(old, new)
  if count := changes.get("train.num_replicas"):
    raise UsageError(
      f"{workdir} holds {counted(count[0], 'network')} of each kind, but train.num_replicas is {count[1]}. Use a new "
      f"--workdir, or --config.train.num_replicas={count[0]}."
    )
  if changed := model_differences(changes, old, new):
    raise UsageError(
      f"{workdir} holds a model of another architecture ({describe_changes(changed)}). "
      "Use a new --workdir, or the configuration that this one was started with."
    )


def model_differences(changes: Changes, old: ml_collections.ConfigDict, new: ml_collections.ConfigDict) -> Changes:
  """Those of the `differences` of two configurations that change the networks or the meaning of their numbers."""
  fixed = {
    *("data.inputs", "data.input_kind", "data.target_kind", "data.input_range", "data.target_range"),
    *("data.input_classes", "data.target_classes", "data.validity_channel"),
  }
  for side, pair in zip(("input", "target"), zip(signals_of(old), signals_of(new))):
    for field, kind, attribute in (("depth_range", "depth", "range"), (f"{side}_palette", "classes", "palette")):
      parts = (signal.parts if isinstance(signal, signals.Stack) else (signal,) for signal in pair)
      one, other = ([getattr(part, attribute) for part in each if part.kind == kind] for each in parts)
      if one and other and one != other:
        fixed.add(f"data.{field}")
  return {name: pair for name, pair in changes.items() if name.startswith("model.") or name in fixed}


def describe_changes(changes: Changes) -> str:
  """For example "optimizer.learning_rate 0.0002 → 0.0001; train.num_epochs 100 → 200"."""
  return "; ".join(f"{name} {old!r} → {new!r}" for name, (old, new) in changes.items())


def record_changes(workdir: Path, step: int, changes: Changes) -> None:
  """Appends the changes made at a resume to config_history.jsonl, if there are any."""
  if not changes:
    return
  row = {"step": step, "time": f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z}", "changes": changes}
  with (Path(workdir) / "config_history.jsonl").open("a", encoding="utf-8") as file:
    file.write(json.dumps(row) + "\n")


def read_changes(workdir: Path) -> list[dict[str, Any]]:
  """The rows of config_history.jsonl: `step`, `time`, and `changes` as name → [old, new]."""
  path = Path(workdir) / "config_history.jsonl"
  rows = []
  for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
    try:
      row = json.loads(line)
    except ValueError:
      continue
    if isinstance(row, dict) and isinstance(row.get("step"), int) and isinstance(row.get("changes"), dict):
      rows.append(row)
  return rows


def write(workdir: Path, config: ml_collections.ConfigDict) -> None:
  """Writes config.json atomically."""
  path = Path(workdir) / "config.json"
  part = path.with_suffix(".part")
  part.write_text(config.to_json_best_effort(indent=2) + "\n", encoding="utf-8")
  part.replace(path)


def make_workdir(workdir: Path) -> None:
  """Creates the folder of a run.

  Raises:
    UsageError: the path cannot be a folder.
  """
  try:
    str(workdir).encode()
  except UnicodeEncodeError as error:
    raise UsageError(f"--workdir {ascii(str(workdir))} is not valid UTF-8; choose another name.") from error
  try:
    Path(workdir).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UsageError(f"--workdir {workdir} cannot be created as a folder: {error.strerror}.") from error
