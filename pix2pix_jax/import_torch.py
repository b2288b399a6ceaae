"""Makes a workdir from weights that pytorch-CycleGAN-and-pix2pix trained.

    python -m pix2pix_jax.import_torch --generator=latest_net_G.pth [--discriminator=latest_net_D.pth] --workdir=DIR

Reads the generators `unet_256` and `unet_128` and the discriminators `basic`, `n_layers` (1 to 5) and `pixel`. What the
files hold is found from their keys and shapes. translate, evaluate, export and a further training take the workdir; the
optimizers start anew, and so does the discriminator if there is no file of one. Needs PyTorch: pip install pix2pix_jax[torch].

The U-Net there concatenates a skip before what comes up from below, here it is the other way round: the input channels of
the up convolutions swap their halves. Its batch-1 test with batch norm in training mode is `norm_stats="image"` here,
`--eval` there is `norm_stats="running"` with `dropout=False`.
"""

import argparse
from collections.abc import Iterable, Mapping
import dataclasses
from pathlib import Path
import re
import types
from typing import Any

from absl import logging
from flax import traverse_util
import jax
import numpy as np

from pix2pix_jax.configs import folder
from pix2pix_jax.errors import UsageError, run_command
from pix2pix_jax.model import networks as models
from pix2pix_jax.model import state as train_state
from pix2pix_jax.model.networks import PATCH_DEPTH
from pix2pix_jax.run import checkpoint

StateDict = Mapping[str, np.ndarray]

STEP = 1  # of the checkpoint: a training that finds it goes on from there, where 0 would be a fresh start


@dataclasses.dataclass(frozen=True)
class Network:
  """A converted network: what it is, as fields of `config.model`, and its weights."""

  fields: dict[str, Any]
  params: dict[str, Any]
  batch_stats: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Layer:
  """A convolution and the norm after it, in the file and here."""

  key: str
  path: tuple[str, ...]
  channels: tuple[int, int]  # in, out
  size: int = 4
  transpose: bool = False
  skip: int = 0  # so many input channels are a skip: the first in the file, the last here
  bias: bool | None = None  # None: with instance norm only
  norm: str = ""  # the key of the norm, if there is one

  @property
  def shape(self) -> tuple[int, ...]:
    """Of PyTorch's kernel: (out, in, h, w), but (in, out, h, w) if transposed."""
    return (*(self.channels if self.transpose else self.channels[::-1]), self.size, self.size)

  @property
  def norm_path(self) -> tuple[str, ...]:
    return (*self.path[:-1], self.path[-1].replace("conv", "norm"))


def convert_generator(state_dict: StateDict) -> Network:
  """A U-Net's weights. Dropout leaves no trace in them: `dropout_blocks` is what a U-Net of that size has there."""
  weights = _without_prefix(state_dict)
  first, last = (weights.get(f"model.model.{i}.weight", np.empty(0)) for i in (0, 3))
  levels = 2 + max((key.count(".3.model") for key in weights), default=0)
  if first.ndim != 4 or last.ndim != 4 or levels < 5:
    raise UsageError(
      "This generator is not unet_256 or unet_128 of pytorch-CycleGAN-and-pix2pix; is it a resnet, or the "
      f"discriminator? Its keys are {few(weights)}."
    )
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
  norm, params, batch_stats = _convert(weights, layers, f"a U-Net of {levels} levels and {features} features")
  fields = {
    "base_features": features,
    "levels": levels,
    "norm": norm,
    "dropout_blocks": tuple(range(1, levels - 4)),
    "input_channels": inputs,
    "output_channels": outputs,
  }
  return Network(fields, params, batch_stats)


def convert_discriminator(state_dict: StateDict) -> Network:
  """A discriminator's weights; its `input_channels` are all that it sees, the candidate or input and candidate."""
  weights = _without_prefix(state_dict)
  name = "net" if any(key.startswith("net.") for key in weights) else "model"
  first = weights.get(f"{name}.0.weight", np.empty(0))
  if first.ndim != 4:
    raise UsageError(
      "This discriminator is not basic, n_layers or pixel of pytorch-CycleGAN-and-pix2pix. "
      f"Its keys are {few(weights)}."
    )
  features, inputs = first.shape[:2]
  depths = {depth: patch for patch, depth in PATCH_DEPTH.items()}
  inner = (
    1 if name == "net" else (max(int(key.split(".")[1]) for key in weights if re.match(r"model\.\d", key)) - 2) // 3
  )
  if inner not in depths:
    raise UsageError(
      f"This discriminator is n_layers with n={inner}; PatchGANs here have {', '.join(map(str, depths))}. "
      "Import the generator alone: a new discriminator is then made."
    )
  patch, size = (1, 1) if name == "net" else (depths[inner], 4)
  widths = [features * min(2**i, 8) for i in range(inner + 1)]
  layers = [_Layer(f"{name}.0", ("conv_0",), (inputs, features), size, bias=True)]
  for i in range(1, inner + 1):
    layers.append(
      _Layer(f"{name}.{3 * i - 1}", (f"conv_{i}",), (widths[i - 1], widths[i]), size, norm=f"{name}.{3 * i}")
    )
  bias = None if patch == 1 else True  # pixel has none in its last convolution with batch norm
  layers.append(_Layer(f"{name}.{3 * inner + 2}", (f"conv_{inner + 1}",), (widths[-1], 1), size, bias=bias))
  norm, params, batch_stats = _convert(weights, layers, f"a {patch}×{patch} PatchGAN of {features} features")
  params[f"conv_{inner + 1}"].setdefault("bias", np.zeros(1, np.float32))
  return Network(
    {"patch": patch, "base_features": features, "norm": norm, "input_channels": inputs}, params, batch_stats
  )


def _without_prefix(state_dict: StateDict) -> StateDict:
  """Without the `module.` that DataParallel puts before every key."""
  return {key.removeprefix("module."): array for key, array in state_dict.items()}


def _convert(weights: StateDict, layers: list[_Layer], description: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
  """(kind of norm, params, batch_stats), once every key and shape is known to be right."""
  normed = [layer for layer in layers if layer.norm]
  if any(f"{layer.norm}.weight" in weights for layer in normed):  # only batch norm has weights
    norm = "batch"
  else:  # only beside instance norm have convolutions a bias
    norm = "instance" if any(f"{layer.key}.bias" in weights for layer in normed) else "none"
  params, batch_stats, places, ignored = {}, {}, {}, set()
  for layer in layers:
    places[f"{layer.key}.weight"] = params, (*layer.path, "kernel"), layer.shape
    if layer.bias or layer.bias is None and norm == "instance":
      places[f"{layer.key}.bias"] = params, (*layer.path, "bias"), layer.channels[1:]
    if layer.norm and norm == "batch":
      for key, tree, name in (
        ("weight", params, "scale"),
        ("bias", params, "bias"),
        ("running_mean", batch_stats, "mean"),
        ("running_var", batch_stats, "var"),
      ):
        places[f"{layer.norm}.{key}"] = tree, (*layer.norm_path, name), layer.channels[1:]
    if layer.norm and norm != "none":  # PyTorch before 0.4 kept statistics of instance norm, which it never used
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
    listed = "; ".join(f"{what}: {few(keys)}" for what, keys in problems.items() if keys)
    raise UsageError(f"The file looks like {description} with {norm} norm, but not all of its keys fit. {listed}.")
  for key, (tree, path, _) in places.items():
    tree[path] = np.array(weights[key], np.float32)
  for layer in layers:
    kernel = params[*layer.path, "kernel"].transpose((2, 3, 0, 1) if layer.transpose else (2, 3, 1, 0))
    params[*layer.path, "kernel"] = np.concatenate([kernel[:, :, layer.skip :], kernel[:, :, : layer.skip]], axis=2)
  return norm, traverse_util.unflatten_dict(params), traverse_util.unflatten_dict(batch_stats)


def few(keys: Iterable[str]) -> str:
  """The first three of some keys, and how many more there are."""
  keys = sorted(keys)
  return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def read_state_dict(
  path: Path, expected: str = "a *_net_G.pth or *_net_D.pth of pytorch-CycleGAN-and-pix2pix"
) -> dict[str, np.ndarray]:
  """A `.pth` file of tensors, of which `expected` says what it should be; nothing in it is executed."""
  try:
    import torch  # pylint: disable=g-import-not-at-top  (optional)
  except ImportError as error:
    raise UsageError(
      "Reading .pth files needs PyTorch, which is not installed: pip install pix2pix_jax[torch]."
    ) from error
  try:
    return {
      key: tensor.float().numpy() for key, tensor in torch.load(path, map_location="cpu", weights_only=True).items()
    }
  except Exception as error:  # what a damaged file raises depends on where the damage is
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    raise UsageError(
      f"{path} cannot be read as a state dict ({reason}). Give {expected}; this one may be damaged or half downloaded."
    ) from error


def import_networks(
  workdir: Path, generator: StateDict, discriminator: StateDict | None = None, *, dropout: bool = True
) -> str:
  """Writes config.json and a checkpoint; returns what was recognised and how to go on. `dropout`: as in its training."""
  from pix2pix_jax import train  # pylint: disable=g-import-not-at-top  (imports TensorFlow: slow)

  if any((workdir / "checkpoints").glob("*")):
    raise UsageError(f"{workdir} has checkpoints already. Give --workdir a new folder.")
  networks = {"generator": convert_generator(generator)}
  fields = networks["generator"].fields | ({} if dropout else {"dropout_blocks": ()})
  if discriminator is not None:
    networks["discriminator"] = convert_discriminator(discriminator)
    fields |= _discriminator_fields(fields, networks["discriminator"].fields)

  config = folder.get_config()
  config.data.update(crop_size=2 ** fields["levels"], load_size=round(2 ** fields["levels"] * 286 / 256))
  config.model.update(fields)
  source = types.SimpleNamespace(
    counts={"train": config.train.batch_size},
    kinds={
      "input": (np.dtype(np.uint8), fields["input_channels"]),
      "target": (np.dtype(np.uint8), fields["output_channels"]),
    },
  )
  config = train.resolve(config, source)
  state = jax.jit(lambda: train_state.initial(config, *models.make_networks(config.model)))()
  imported = {
    name: getattr(state, name).replace(params=network.params, batch_stats=network.batch_stats)
    for name, network in networks.items()
  }
  checkpoint.save_config(workdir, config)
  checkpointer = checkpoint.Checkpointer(workdir)
  checkpointer.save(STEP, state.replace(step=np.int32(STEP), **imported))
  checkpointer.close()
  return _describe(workdir, config, discriminator is not None)


def _discriminator_fields(generator: dict[str, Any], discriminator: dict[str, Any]) -> dict[str, Any]:
  """What a discriminator adds to the model of its generator, if the two fit."""
  inputs, outputs, seen = generator["input_channels"], generator["output_channels"], discriminator["input_channels"]
  if seen not in (outputs, inputs + outputs):
    raise UsageError(
      f"The discriminator sees {seen} channels; beside a generator from {inputs} to {outputs} it should see "
      f"{inputs + outputs}, or {outputs} if it is not conditional. Are both files of one training?"
    )
  if discriminator["norm"] != generator["norm"]:
    raise UsageError(
      f"The generator has {generator['norm']} norm, the discriminator {discriminator['norm']}, but here model.norm is for "
      "both. Import the generator alone: a new discriminator is then made."
    )
  features = discriminator["base_features"]
  return {
    "patch": discriminator["patch"],
    "conditional": seen != outputs,
    "discriminator_features": 0 if features == generator["base_features"] else features,
  }


def _describe(workdir: Path, config, has_discriminator: bool) -> str:
  model, default = config.model, folder.get_config()
  given = [
    (section, name)
    for section in ("data", "model")
    for name in config[section]
    if config[section][name] != default[section][name] and not name.endswith(("_channels", "_dtype"))
  ]
  flags = "".join(f' --config.{section}.{name}="{config[section][name]}"' for section, name in given)
  return "\n".join(
    [
      f"Generator: U-Net of {model.levels} levels, {model.base_features} features, {model.norm} norm, {model.input_channels} → "
      f"{model.output_channels} channels; dropout in the up blocks {model.dropout_blocks or 'none'}, which no file says.",
      f"Discriminator: {model.patch}×{model.patch} PatchGAN, {'' if model.conditional else 'not '}conditional, "
      f"{'from its file' if has_discriminator else 'freshly initialised, as no file was given'}. Fresh optimizers.",
      f"{workdir} holds config.json and the checkpoint of step {STEP}. To train it further on your pairs:",
      f"  python main.py --config=configs/folder.py --workdir={workdir} --config.data.source_dir=DIR{flags}",
    ]
  )


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(prog="python -m pix2pix_jax.import_torch", description=__doc__.split("\n")[0])
  parser.add_argument("--generator", type=Path, required=True, help="*_net_G.pth of unet_256 or unet_128")
  parser.add_argument(
    "--discriminator", type=Path, help="*_net_D.pth of basic, n_layers or pixel (default: a new discriminator)"
  )
  parser.add_argument("--workdir", type=Path, required=True, help="a new folder")
  parser.add_argument("--no_dropout", action="store_true", help="the generator was trained so; its file does not say")
  options = parser.parse_args(argv)
  logging.set_verbosity(logging.ERROR)
  discriminator = None if options.discriminator is None else read_state_dict(options.discriminator)
  print(
    import_networks(options.workdir, read_state_dict(options.generator), discriminator, dropout=not options.no_dropout)
  )


if __name__ == "__main__":
  run_command(main)
