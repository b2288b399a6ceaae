"""Turns PyTorch weights of pytorch-CycleGAN-and-pix2pix into a workdir.

    python -m pix2pix_jax.import_torch --generator=latest_net_G.pth [--discriminator=latest_net_D.pth] --workdir=DIR

Reads the generators `unet_128`, `unet_256`, `resnet_6blocks` and `resnet_9blocks` and the discriminators `basic`,
`n_layers` (1 to 5) and `pixel`, from .pth or .safetensors files, without PyTorch. Architecture, norm and channels are
inferred from the keys and shapes. The workdir can be used to translate, evaluate, export and train further. Optimizers
start fresh, and so does the discriminator if its file is not given.

The original U-Net concatenates a skip before the features from below, the one here after them, so the two halves of an
up convolution's input channels are swapped. The original's test mode (batch size 1, batch norm in training mode) is
`norm_stats="image"` here; its `--eval` is `norm_stats="running"` with `dropout=False`.
"""

from collections.abc import Mapping
import dataclasses
from pathlib import Path
import re
from typing import Any

from flax import traverse_util
import ml_collections
import numpy as np

from pix2pix_jax import config as config_lib
from pix2pix_jax.configs import folder
from pix2pix_jax.errors import CommandParser, UsageError, few, run_command, user_path
from pix2pix_jax.model.networks import PATCH_DEPTH
from pix2pix_jax.model.resnet import NUM_BLOCKS
from pix2pix_jax.signals import DataSpec, Image
from pix2pix_jax.torch_weights import read_state_dict

StateDict = Mapping[str, np.ndarray]
Tree = dict[tuple[str, ...], np.ndarray]

STEP = 0  # of the checkpoint, as in a fresh state: no step has been trained here


@dataclasses.dataclass(frozen=True)
class Network:
  """A converted network: its architecture, as fields of `config.model`, and its weights."""

  fields: dict[str, Any]
  params: dict[str, Any]
  batch_stats: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Layer:
  """A convolution and its norm: their keys in the file and their place here."""

  key: str
  path: tuple[str, ...]
  channels: tuple[int, int]  # in, out
  size: int = 4
  transpose: bool = False
  skip: int = 0  # this many input channels are a skip: the first ones in the file, the last ones here
  bias: bool | None = None  # None: only with instance norm
  norm: str = ""  # the key of the norm; empty: none

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape of PyTorch's kernel: (out, in, h, w), or (in, out, h, w) if transposed."""
    return (*(self.channels if self.transpose else self.channels[::-1]), self.size, self.size)

  @property
  def norm_path(self) -> tuple[str, ...]:
    return (*self.path[:-1], self.path[-1].replace("conv", "norm"))


def convert_generator(state_dict: StateDict) -> Network:
  """Converts a U-Net or a ResNet.

  A U-Net's weights do not show whether it has dropout, so `dropout_blocks` is set to the original's default for its
  size. The keys of a ResNet do show it.

  Raises:
    UsageError: the weights belong to another network.
  """
  weights = _without_prefix(state_dict)
  if any(key.startswith("model.model.") for key in weights):
    return _convert_unet(weights)
  if any(re.match(r"model\.\d+\.conv_block\.", key) for key in weights):
    return _convert_resnet(weights)
  raise _unknown_generator(weights)


def _unknown_generator(weights: StateDict) -> UsageError:
  return UsageError(
    "This generator is not unet_128, unet_256, resnet_6blocks or resnet_9blocks of pytorch-CycleGAN-and-pix2pix. Is it "
    f"the discriminator? Its keys are {few(sorted(weights))}."
  )


def _convert_unet(weights: StateDict) -> Network:
  first, last = (weights.get(f"model.model.{i}.weight", np.empty(0)) for i in (0, 3))
  levels = 2 + max(key.count(".3.model") for key in weights)
  if first.ndim != 4 or last.ndim != 4 or levels < 5:
    raise _unknown_generator(weights)
  features, inputs = first.shape[:2]
  outputs = last.shape[1]
  widths = [features * min(2**level, 8) for level in range(levels)]
  layers = [
    _Layer("model.model.0", ("down_0", "conv"), (inputs, features)),
    _Layer("model.model.3", ("output",), (2 * features, outputs), transpose=True, skip=features, bias=True),
  ]
  block = "model.model.1.model"
  for level in range(1, levels):
    outer, inner, innermost = widths[level - 1], widths[level], level == levels - 1
    down, up, skip = (f"down_{level}", "conv"), (f"up_{levels - 1 - level}", "conv"), 0 if innermost else inner
    layers.append(_Layer(f"{block}.1", down, (outer, inner), norm="" if innermost else f"{block}.2"))
    conv, norm = (3, 4) if innermost else (5, 6)
    layers.append(
      _Layer(f"{block}.{conv}", up, (inner + skip, outer), transpose=True, skip=skip, norm=f"{block}.{norm}")
    )
    block += ".3.model"
  kind, params, batch_stats = _convert(weights, layers, f"a U-Net with {levels} levels and {features} features")
  fields = {
    "generator": "unet",
    "base_features": features,
    "levels": levels,
    "norm": kind,
    "dropout_blocks": tuple(range(1, levels - 4)),
    "input_channels": inputs,
    "output_channels": outputs,
  }
  return Network(fields, params, batch_stats)


def _convert_resnet(weights: StateDict) -> Network:
  blocks = len({key.split(".")[1] for key in weights if re.match(r"model\.\d+\.conv_block\.", key)})
  names = {number: name for name, number in NUM_BLOCKS.items()}
  end = 10 + blocks  # the index after the residual blocks
  first, last = (weights.get(f"model.{i}.weight", np.empty(0)) for i in (1, end + 7))
  if first.ndim != 4 or last.ndim != 4 or blocks not in names:
    raise UsageError(
      f"This generator looks like a ResNet with {blocks} residual blocks; only {' and '.join(NUM_BLOCKS)} can be "
      f"imported. Its keys are {few(sorted(weights))}."
    )
  features, inputs = first.shape[:2]
  outputs, inner = last.shape[0], 4 * features
  # Dropout shifts all later indices by one, so that number 6 is the second convolution.
  dropout = weights.get("model.10.conv_block.6.weight", np.empty(0)).ndim == 4
  layers = [
    _Layer("model.1", ("input_conv",), (inputs, features), 7, norm="model.2"),
    _Layer("model.4", ("down_0_conv",), (features, 2 * features), 3, norm="model.5"),
    _Layer("model.7", ("down_1_conv",), (2 * features, inner), 3, norm="model.8"),
    _Layer(f"model.{end}", ("up_0_conv",), (inner, 2 * features), 3, transpose=True, norm=f"model.{end + 1}"),
    _Layer(f"model.{end + 3}", ("up_1_conv",), (2 * features, features), 3, transpose=True, norm=f"model.{end + 4}"),
    _Layer(f"model.{end + 7}", ("output",), (features, outputs), 7, bias=True),
  ]
  for i in range(blocks):
    block = f"model.{10 + i}.conv_block"
    for j, number in enumerate((1, 5 + dropout)):
      layers.append(
        _Layer(f"{block}.{number}", (f"block_{i}", f"conv_{j}"), (inner, inner), 3, norm=f"{block}.{number + 1}")
      )
  kind, params, batch_stats = _convert(weights, layers, f"a ResNet with {blocks} blocks and {features} features")
  fields = {
    "generator": names[blocks],
    "base_features": features,
    "levels": 2,
    "norm": kind,
    "dropout_blocks": tuple(range(blocks)) if dropout else (),
    "input_channels": inputs,
    "output_channels": outputs,
  }
  return Network(fields, params, batch_stats)


def convert_discriminator(state_dict: StateDict) -> Network:
  """Converts a discriminator. Its `input_channels` count the candidate's, and the input's too if it is conditional.

  Raises:
    UsageError: the weights belong to another network.
  """
  weights = _without_prefix(state_dict)
  name = "net" if any(key.startswith("net.") for key in weights) else "model"
  first = weights.get(f"{name}.0.weight", np.empty(0))
  if first.ndim != 4:
    raise UsageError(
      "This discriminator is not basic, n_layers or pixel of pytorch-CycleGAN-and-pix2pix. "
      f"Its keys are {few(sorted(weights))}."
    )
  features, inputs = first.shape[:2]
  depths = {depth: patch for patch, depth in PATCH_DEPTH.items()}
  inner = (
    1 if name == "net" else (max(int(key.split(".")[1]) for key in weights if re.match(r"model\.\d", key)) - 2) // 3
  )
  if inner not in depths:
    raise UsageError(
      f"This discriminator is n_layers with n={inner}; only n = {', '.join(map(str, depths))} can be imported. "
      "Import the generator alone, which creates a new discriminator."
    )
  patch, size = (1, 1) if name == "net" else (depths[inner], 4)
  widths = [features * min(2**i, 8) for i in range(inner + 1)]
  layers = [_Layer(f"{name}.0", ("conv_0",), (inputs, features), size, bias=True)]
  for i in range(1, inner + 1):
    layers.append(
      _Layer(f"{name}.{3 * i - 1}", (f"conv_{i}",), (widths[i - 1], widths[i]), size, norm=f"{name}.{3 * i}")
    )
  bias = None if patch == 1 else True  # the last convolution of pixel has no bias with batch norm
  layers.append(_Layer(f"{name}.{3 * inner + 2}", (f"conv_{inner + 1}",), (widths[-1], 1), size, bias=bias))
  kind, params, batch_stats = _convert(weights, layers, f"a {patch}×{patch} PatchGAN with {features} features")
  params[f"conv_{inner + 1}"].setdefault("bias", np.zeros(1, np.float32))
  fields = {"patch": patch, "base_features": features, "norm": kind, "input_channels": inputs}
  return Network(fields, params, batch_stats)


def _without_prefix(state_dict: StateDict) -> StateDict:
  """Removes the `module.` that DataParallel puts before every key."""
  return {key.removeprefix("module."): array for key, array in state_dict.items()}


def _convert(weights: StateDict, layers: list[_Layer], description: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
  """Checks every key and shape, then returns (kind of norm, params, batch_stats)."""
  normed = [layer for layer in layers if layer.norm]
  if any(f"{layer.norm}.weight" in weights for layer in normed):  # only batch norm has weights
    norm = "batch"
  else:  # convolutions before a norm have a bias only if it is instance norm
    norm = "instance" if any(f"{layer.key}.bias" in weights for layer in normed) else "none"
  params: Tree = {}
  batch_stats: Tree = {}
  places: dict[str, tuple[Tree, tuple[str, ...], tuple[int, ...]]] = {}  # key → tree, path and shape
  ignored: set[str] = set()
  for layer in layers:
    places[f"{layer.key}.weight"] = params, (*layer.path, "kernel"), layer.shape
    if layer.bias or (layer.bias is None and norm == "instance"):
      places[f"{layer.key}.bias"] = params, (*layer.path, "bias"), layer.channels[1:]
    if layer.norm and norm == "batch":
      for key, tree, name in (
        ("weight", params, "scale"),
        ("bias", params, "bias"),
        ("running_mean", batch_stats, "mean"),
        ("running_var", batch_stats, "var"),
      ):
        places[f"{layer.norm}.{key}"] = tree, (*layer.norm_path, name), layer.channels[1:]
    if layer.norm and norm != "none":  # before 0.4, PyTorch kept statistics of instance norm without using them
      ignored |= {f"{layer.norm}.{name}" for name in ("num_batches_tracked", "running_mean", "running_var")}
  problems = {
    "missing": places.keys() - weights.keys(),
    "unexpected": weights.keys() - places.keys() - ignored,
    "misshaped": [
      f"{key} {weights[key].shape} (not {shape})"
      for key, (_, _, shape) in places.items()
      if key in weights and weights[key].shape != shape
    ],
  }
  if any(problems.values()):
    listed = "; ".join(f"{problem}: {few(sorted(keys))}" for problem, keys in problems.items() if keys)
    raise UsageError(f"The file looks like {description} and {norm} norm, but some of its keys do not match. {listed}.")
  for key, (tree, path, _) in places.items():
    tree[path] = np.array(weights[key], np.float32)
  for layer in layers:
    kernel = params[*layer.path, "kernel"].transpose((2, 3, 0, 1) if layer.transpose else (2, 3, 1, 0))
    params[*layer.path, "kernel"] = np.concatenate([kernel[:, :, layer.skip :], kernel[:, :, : layer.skip]], axis=2)
  return norm, traverse_util.unflatten_dict(params), traverse_util.unflatten_dict(batch_stats)


def import_networks(
  workdir: Path, generator: StateDict, discriminator: StateDict | None = None, *, dropout: bool = True
) -> str:
  """Writes a workdir with config.json and a checkpoint.

  Args:
    workdir: a folder without checkpoints; created if needed.
    generator, discriminator: state dicts, as `read_state_dict` returns them. Without a discriminator, a new one is
      initialised.
    dropout: whether the generator was trained with dropout, which a U-Net's weights do not show.

  Returns:
    A description of the networks, with the command that trains them further.

  Raises:
    UsageError: unknown networks, networks that do not fit together, or a workdir that has checkpoints.
  """
  workdir = Path(workdir)
  if any((workdir / "checkpoints").glob("*")):
    raise UsageError(f"{workdir} already has checkpoints. Choose a new folder for --workdir.")
  networks = {"generator": convert_generator(generator)}
  fields = networks["generator"].fields | ({} if dropout else {"dropout_blocks": ()})
  if discriminator is not None:
    networks["discriminator"] = convert_discriminator(discriminator)
    fields |= _discriminator_fields(fields, networks["discriminator"].fields)
  config = _write(workdir, fields, networks)
  return _describe(workdir, config, discriminator is not None)


def _write(workdir: Path, fields: dict[str, Any], networks: dict[str, Network]) -> ml_collections.ConfigDict:
  """Writes the workdir of a model with these fields and networks; returns its resolved config."""
  from pix2pix_jax.run import checkpoint, experiment, storage  # imports Orbax, which is slow

  config = folder.get_config()
  if fields["generator"] == "unet":
    side = 2 ** fields["levels"]  # the smallest size that this U-Net accepts
    config.data.update(crop_size=side, load_size=round(side * 286 / 256))
  config.model.update(fields)
  config.evaluation.norm_stats = "image"  # as when PyTorch's program tests without --eval, whatever its batch size was
  spec = DataSpec(
    Image(fields["input_channels"]), Image(fields["output_channels"]), counts={"train": config.train.batch_size}
  )
  config = config_lib.resolve(config, spec)
  state = experiment.Experiment(config, spec).init()
  imported = {
    name: dataclasses.replace(getattr(state, name), params=network.params, batch_stats=network.batch_stats)
    for name, network in networks.items()
  }
  config_lib.make_workdir(workdir)
  with storage.explained(workdir), checkpoint.Checkpointer(workdir) as checkpointer:
    checkpointer.save(STEP, dataclasses.replace(state, **imported))
  config_lib.write(workdir, config)
  return config


def _discriminator_fields(generator: dict[str, Any], discriminator: dict[str, Any]) -> dict[str, Any]:
  """The fields of `config.model` that a discriminator adds to those of its generator, if the two fit together."""
  inputs, outputs, seen = generator["input_channels"], generator["output_channels"], discriminator["input_channels"]
  if seen not in (outputs, inputs + outputs):
    raise UsageError(
      f"The discriminator sees {seen} channels. With a generator from {inputs} to {outputs} channels it should see "
      f"{inputs + outputs}, or {outputs} if it is not conditional. Are both files from the same run?"
    )
  if discriminator["norm"] != generator["norm"]:
    raise UsageError(
      f"The generator has {generator['norm']} norm and the discriminator {discriminator['norm']} norm, but model.norm "
      "applies to both. Import the generator alone, which creates a new discriminator."
    )
  features = discriminator["base_features"]
  return {
    "patch": discriminator["patch"],
    "conditional": seen != outputs,
    "discriminator_features": 0 if features == generator["base_features"] else features,
  }


def _describe(workdir: Path, config: ml_collections.ConfigDict, has_discriminator: bool) -> str:
  model, default = config.model, folder.get_config()
  changed = [
    (section, name)
    for section in ("data", "model")
    for name in config[section]
    if config[section][name] != default[section][name]
    and default[section][name] != "auto"
    and not name.endswith(("_channels", "_dtype"))
  ]
  flags = "".join(f' --config.{section}.{name}="{config[section][name]}"' for section, name in changed)
  if model.generator == "unet":
    architecture = f"U-Net with {model.levels} levels"
    dropout = f"up blocks {model.dropout_blocks}" if model.dropout_blocks else "no block"
    dropout += " (assumed: a U-Net's file does not show it)"
  else:
    architecture = f"ResNet with {config_lib.num_blocks(model)} residual blocks"
    dropout = "every residual block" if model.dropout_blocks else "no block"
  origin = "newly initialised, because no file was given"
  if has_discriminator:
    origin = "from its file, which does not show its loss: if that was least squares, add --config.loss.gan=lsgan below"
  return "\n".join(
    [
      f"Generator: {architecture}, {model.base_features} features, {model.norm} norm, {model.input_channels} → "
      f"{model.output_channels} channels; dropout in {dropout}.",
      f"Discriminator: {model.patch}×{model.patch} PatchGAN, {'' if model.conditional else 'not '}conditional, "
      f"{origin}.",
      f"{workdir} holds config.json and a checkpoint of step {STEP} with new optimizers. To train on your own pairs:",
      f"  pix2pix_jax train --config=folder --workdir={workdir} --config.data.source_dir=DIR{flags}",
    ]
  )


def main(argv: list[str] | None = None) -> None:
  parser = CommandParser(prog="pix2pix_jax import-torch", description=__doc__.split("\n")[0])
  parser.add_argument(
    "--generator",
    type=Path,
    required=True,
    help="*_net_G.pth of unet_128, unet_256, resnet_6blocks or resnet_9blocks; .safetensors files are accepted too",
  )
  parser.add_argument(
    "--discriminator", type=Path, help="*_net_D.pth of basic, n_layers or pixel (default: a new discriminator)"
  )
  parser.add_argument("--workdir", type=Path, required=True, help="a new folder")
  parser.add_argument(
    "--no_dropout", action="store_true", help="the U-Net was trained without dropout; its file does not show it"
  )
  options = parser.parse_args(argv)
  discriminator = None if options.discriminator is None else read_state_dict(options.discriminator)
  print(
    import_networks(
      user_path("--workdir", options.workdir),
      read_state_dict(options.generator),
      discriminator,
      dropout=not options.no_dropout,
    )
  )


if __name__ == "__main__":
  run_command(main)
