"""Trains this package and the PyTorch program from the same weights on the same batches, and compares their outputs.

  python benchmarks/parity.py --source_dir=facades --num_steps=1000

Both programs begin with PyTorch's initial weights and see the batches of torch_peer.py in its order, without dropout,
whose masks cannot be equal. Every line has the root mean square difference, on [-1, 1], between the two generators'
outputs for one batch of validation images, and beside it that of PyTorch's from a third run: the same in PyTorch with
initial weights that differ by one rounding. Training is chaotic, so any two runs part sooner or later. A difference
beyond rounding in what the programs compute would show in the first steps, or as a first column far above the second.

At the end both evaluate PyTorch's last weights on the validation split, each with its own reading of the files.
"""

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from torch import nn
import torch_peer

from pix2pix_jax import config as config_lib
from pix2pix_jax.configs import facades
from pix2pix_jax.data import pipeline, prepare
from pix2pix_jax.errors import run_command
from pix2pix_jax.run import evaluation
from pix2pix_jax.run.experiment import Experiment

REPORTED = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
METRICS = ("l1", "psnr", "ssim")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--source_dir", type=Path, required=True, help="folder of façades: train/N.jpg, val/N.jpg")
  parser.add_argument("--crop_size", type=int, default=128, help="height and width (default: 128)")
  parser.add_argument("--base_features", type=int, default=32, help="width of the networks (default: 32)")
  parser.add_argument("--num_steps", type=int, default=500, help="steps of batch size 1 (default: 500)")
  parser.add_argument("--seed", type=int, default=0, help="seed of PyTorch's weights and batches (default: 0)")
  options = parser.parse_args()

  load_size = round(options.crop_size * 286 / 256)
  config = facades.get_config()
  config.data.update(source_dir=str(options.source_dir), load_size=load_size, crop_size=options.crop_size)
  config.model.update(base_features=options.base_features, dropout_blocks=())
  config.train.update(batch_size=1, num_steps=options.num_steps, num_epochs=0)
  source = prepare.prepare(config.data, config.model)
  experiment = Experiment(config_lib.resolve(config, source.spec), source.spec)
  split = pipeline.load_split(source, "val", config_lib.eval_resize(config.data), cache_gib=config.data.cache_gib)

  peer, twin = (make_peer(options) for _ in range(2))
  nudge(twin)
  state = experiment.init()
  state = state.replace(
    generator=state.generator.replace(**generator_variables(peer.generator)),
    discriminator=state.discriminator.replace(**discriminator_variables(peer.discriminator)),
  )
  inputs, targets = torch_peer.read_pairs(options.source_dir / "train", load_size)
  shown, answers = torch_peer.read_pairs(options.source_dir / "val", options.crop_size)
  rng, step = np.random.default_rng(options.seed), 0
  print("| steps | here − PyTorch | PyTorch − PyTorch, one rounding apart |\n|---|---|---|")
  while step < options.num_steps:
    for x, y in torch_peer.jittered_batches(inputs, targets, options.crop_size, 1, rng):
      state, _ = experiment.train_step(state, {"input": on_networks_scale(x), "target": on_networks_scale(y)})
      for model in (peer, twin):
        model.train_step(torch_peer.to_tensor(x), torch_peer.to_tensor(y))
      step += 1
      if step in REPORTED or step == options.num_steps:
        here, there, beside = translate(experiment, state, shown[:4]), *(outputs(m, shown[:4]) for m in (peer, twin))
        print(f"| {step} | {rms(here - there):.2g} | {rms(there - beside):.2g} |", flush=True)
      if step == options.num_steps:
        break

  theirs, _ = torch_peer.evaluate(peer.generator, shown, answers)
  variables = state.variables | {"generator": generator_variables(peer.generator)}
  ours = evaluation.evaluate_split(experiment, variables, split).means
  print("\n| evaluation of PyTorch's last weights | L1 | PSNR | SSIM |\n|---|---|---|---|")
  for name, means in (("here", ours), ("PyTorch", theirs)):
    print(f"| {name} | " + " | ".join(f"{means[metric]:.5f}" for metric in METRICS) + " |")


def make_peer(options: argparse.Namespace) -> torch_peer.Pix2Pix:
  torch.manual_seed(options.seed)
  model = torch_peer.Pix2Pix(options.crop_size, options.base_features)
  for module in model.generator.modules():
    if isinstance(module, nn.Dropout):
      module.p = 0.0
  return model


def nudge(model: torch_peer.Pix2Pix) -> None:
  """Moves every weight to the next float32."""
  with torch.no_grad():
    for network in (model.generator, model.discriminator):
      for parameter in network.parameters():
        parameter.copy_(torch.nextafter(parameter, torch.full_like(parameter, torch.inf)))


def generator_variables(network: nn.Module) -> dict[str, dict]:
  """`params` and `batch_stats` of this package for a `torch_peer.UNet`."""
  found: dict[str, dict] = {"params": {}, "batch_stats": {}}
  for side, blocks in (("down", network.encoder), ("up", network.decoder)):
    for i, block in enumerate(blocks):
      add(found, f"{side}_{i}", block, ("conv", "norm"))
  add({"params": found["params"], "batch_stats": {}}, "", network.last, ("output", ""))
  return found


def discriminator_variables(network: nn.Module) -> dict[str, dict]:
  found: dict[str, dict] = {"params": {}, "batch_stats": {}}
  norms, convs = ([m for m in network if isinstance(m, kind)] for kind in (nn.BatchNorm2d, nn.Conv2d))
  for i, conv in enumerate(convs):
    add(found, "", [conv, *norms[i - 1 : i]] if 0 < i < len(convs) - 1 else [conv], (f"conv_{i}", f"norm_{i}"))
  return found


def add(found: dict[str, dict], place: str, block: nn.Module | list, names: tuple[str, str]) -> None:
  """Adds the convolution and the norm of a block under their names, at a place in both collections."""
  params = found["params"].setdefault(place, {}) if place else found["params"]
  for module in block:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
      axes = (2, 3, 0, 1) if isinstance(module, nn.ConvTranspose2d) else (2, 3, 1, 0)
      params[names[0]] = {"kernel": array(module.weight).transpose(axes).copy()}
      if module.bias is not None:
        params[names[0]]["bias"] = array(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
      params[names[1]] = {"scale": array(module.weight), "bias": array(module.bias)}
      stats = found["batch_stats"].setdefault(place, {}) if place else found["batch_stats"]
      stats[names[1]] = {"mean": array(module.running_mean), "var": array(module.running_var)}


def array(tensor: torch.Tensor) -> np.ndarray:
  return tensor.detach().numpy().copy()


def on_networks_scale(images: np.ndarray) -> np.ndarray:
  return images.astype(np.float32) / 127.5 - 1


def translate(experiment: Experiment, state, images: np.ndarray) -> np.ndarray:
  network = experiment.networks["generator"]
  return np.asarray(
    network.apply(state.generator.variables, on_networks_scale(images), dropout=False, norm_stats="image")
  )


def outputs(model: torch_peer.Pix2Pix, images: np.ndarray) -> np.ndarray:
  """The same of PyTorch, each image with its own statistics; NHWC."""
  network = copy.deepcopy(model.generator)  # whose running statistics stay as they are
  with torch.no_grad():
    rows = [network(torch_peer.to_tensor(images[i : i + 1])) for i in range(len(images))]
  return torch.cat(rows).permute(0, 2, 3, 1).numpy()


def rms(difference: np.ndarray) -> float:
  return float(np.sqrt(np.square(difference, dtype=np.float64).mean()))


if __name__ == "__main__":
  run_command(main)
