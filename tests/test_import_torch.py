"""Weights of pytorch-CycleGAN-and-pix2pix give the same pictures here, and a workdir that goes on training."""

import sys

import jax
import numpy as np
import pytest

from pix2pix_jax import Translator, UsageError, checkpoint, import_torch, models, train_state
from pix2pix_jax.configs import folder
from pix2pix_jax.data import pipeline

try:
  import torch
except ImportError:
  torch = None
needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed; the golden values stand in for it")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
  """OpenMP threads that wait for each other are slow beside parallel tests."""
  if torch:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
  yield
  if torch:
    torch.set_num_threads(threads)


# --- The published networks, with the keys of their state dicts ------------------------------------------------------------


def torch_norm(kind, channels):
  return torch.nn.InstanceNorm2d(channels) if kind == "instance" else torch.nn.BatchNorm2d(channels)


def torch_unet(levels, features, inputs=3, outputs=3, norm="batch"):
  """Blocks nested from the outside in; a block concatenates its input before its output."""
  nn = torch.nn

  class Block(nn.Module):

    def __init__(self, level):
      super().__init__()
      outer, inner = (features * min(2**i, 8) for i in (level - 1, level)) if level else (outputs, features)
      innermost = level == levels - 1
      bias = norm == "instance"
      down = nn.Conv2d(outer if level else inputs, inner, 4, 2, 1, bias=bias)
      up = nn.ConvTranspose2d(inner if innermost else 2 * inner, outer, 4, 2, 1, bias=bias or level == 0)
      within = [] if innermost else [Block(level + 1)]
      if level == 0:
        layers = [down, *within, nn.ReLU(), up, nn.Tanh()]
      else:
        downs = [nn.LeakyReLU(0.2), down] + ([] if innermost else [torch_norm(norm, inner)])
        layers = [*downs, *within, nn.ReLU(), up, torch_norm(norm, outer)]
      self.model, self.outermost = nn.Sequential(*layers), level == 0

    def forward(self, x):
      return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)

  return torch.nn.ModuleDict({"model": Block(0)})


def torch_discriminator(kind, features, inputs=6, norm="batch"):
  """`kind` is "pixel" or the number of layers."""
  nn, bias = torch.nn, norm == "instance"
  if kind == "pixel":
    return nn.ModuleDict({"net": nn.Sequential(
        nn.Conv2d(inputs, features, 1), nn.LeakyReLU(0.2), nn.Conv2d(features, 2 * features, 1, bias=bias), torch_norm(norm, 2 * features),
        nn.LeakyReLU(0.2), nn.Conv2d(2 * features, 1, 1, bias=bias))})
  layers, width = [nn.Conv2d(inputs, features, 4, 2, 1), nn.LeakyReLU(0.2)], features
  for i in range(1, kind + 1):
    wider = features * min(2**i, 8)
    layers += [nn.Conv2d(width, wider, 4, 2 if i < kind else 1, 1, bias=bias), torch_norm(norm, wider), nn.LeakyReLU(0.2)]
    width = wider
  return nn.ModuleDict({"model": nn.Sequential(*layers, nn.Conv2d(width, 1, 4, 1, 1))})


def randomised(module, seed=0):
  """Weights that keep the signal's size through all layers, so that each of them shows in the output."""
  generator = torch.Generator().manual_seed(seed)
  for name, value in module.state_dict().items():
    if value.ndim == 4:
      taps = value[0].numel() if value.shape[2] == 1 else value.shape[1] * 4
      value.normal_(0, min(taps, 200) ** -0.5, generator=generator)
    elif name.endswith(("running_var", "weight")):
      value.uniform_(0.5, 1.5, generator=generator)
    elif value.ndim:
      value.normal_(0, 0.3, generator=generator)
  return module


def arrays(module):
  return {key: value.numpy().copy() for key, value in module.state_dict().items()}


def forward(module, *pictures):
  """(N, H, W, C) through the module, one picture at a time, as the published test does."""
  x = torch.from_numpy(np.concatenate(pictures, -1).transpose(0, 3, 1, 2).copy())
  with torch.no_grad():
    y = torch.cat([next(iter(module.values()))(row[None]) for row in x])
  return y.numpy().transpose(0, 2, 3, 1)


def networks(fields):
  config = folder.get_config()
  config.model.update({name: value for name, value in fields.items() if name in config.model})
  return models.make_networks(config.model)


def translate(network, x, norm_stats):
  generator, _ = networks(network.fields)
  return jax.jit(lambda v, x: generator.apply(v, x, dropout=False, norm_stats=norm_stats))(variables(network), x)


def variables(network):
  return {"params": network.params, "batch_stats": network.batch_stats}


def pictures(size, channels, count=1, seed=0):
  return np.random.default_rng(seed).uniform(-1, 1, (count, size, size, channels)).astype(np.float32)


# --- Parity ----------------------------------------------------------------------------------------------------------------


@needs_torch
@pytest.mark.parametrize("levels, norm, inputs, outputs", [(8, "batch", 3, 3), (8, "instance", 1, 3), (7, "batch", 3, 1), (7, "instance", 3, 3)])
def test_unets_give_pytorchs_pixels(levels, norm, inputs, outputs):
  module = randomised(torch_unet(levels, 4, inputs, outputs, norm))
  network = import_torch.convert_generator(arrays(module))
  assert network.fields == {"base_features": 4, "levels": levels, "norm": norm, "input_channels": inputs, "output_channels": outputs,
                            "dropout_blocks": (1, 2, 3) if levels == 8 else (1, 2)}
  x = pictures(2**levels, inputs)
  eval_mode = forward(module.eval(), x)
  assert eval_mode.std() > 0.1
  np.testing.assert_allclose(translate(network, x, "running"), eval_mode, atol=1e-4, rtol=0)
  if norm == "batch":
    train_mode = forward(module.train(), x)
    assert np.abs(train_mode - eval_mode).max() > 0.1
    np.testing.assert_allclose(translate(network, x, "image"), train_mode, atol=1e-4, rtol=0)


@needs_torch
@pytest.mark.parametrize("kind, patch", [("pixel", 1), (1, 16), (3, 70), (5, 286)])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_discriminators_give_pytorchs_logits(kind, patch, norm):
  module = randomised(torch_discriminator(kind, 8, 4, norm))
  network = import_torch.convert_discriminator(arrays(module))
  assert network.fields == {"patch": patch, "base_features": 8, "norm": norm, "input_channels": 4}
  x, y = pictures(128, 3), pictures(128, 1, seed=1)
  _, discriminator = networks(network.fields)
  for mode, norm_stats in ((module.eval, "running"), (module.train, "image")):
    logits = jax.jit(lambda v, x, y, n=norm_stats: discriminator.apply(v, x, y, norm_stats=n))(variables(network), x, y)
    mode()
    np.testing.assert_allclose(logits, forward(module, x, y), atol=1e-4, rtol=0)


# --- Without PyTorch -------------------------------------------------------------------------------------------------------


def wavy(shape, seed):
  """Numbers in [-1, 1] that need no random generator."""
  return np.sin(0.7 * np.arange(np.prod(shape)) * (1 + 0.1 * seed) + seed).reshape(shape).astype(np.float32)


def wavy_state_dict(shapes):
  state = {}
  for seed, (key, shape) in enumerate(sorted(shapes.items())):
    value = wavy(shape, seed)
    state[key] = 1 + 0.4 * value if key.endswith("running_var") or (len(shape) == 1 and key.endswith("weight")) else 0.4 * value
  return state


def small_unet_shapes(norm="batch"):
  """Of five levels and two features, one channel to two."""
  shapes, block = {"model.model.0.weight": (2, 1, 4, 4), "model.model.3.weight": (4, 2, 4, 4), "model.model.3.bias": (2,)}, "model.model.1.model"
  for level, (outer, inner) in enumerate([(2, 4), (4, 8), (8, 16), (16, 16)], 1):
    convs = [(1, (inner, outer, 4, 4)), (3, (inner, outer, 4, 4)) if level == 4 else (5, (2 * inner, outer, 4, 4))]
    norms = [(4, outer)] if level == 4 else [(2, inner), (6, outer)]
    shapes |= {f"{block}.{i}.weight": shape for i, shape in convs}
    if norm == "batch":
      shapes |= {f"{block}.{i}.{name}": (width,) for i, width in norms for name in ("weight", "bias", "running_mean", "running_var")}
    else:
      shapes |= {f"{block}.{convs[0][0]}.bias": (inner,), f"{block}.{convs[1][0]}.bias": (outer,)}
    block += ".3.model"
  return shapes if norm == "batch" else shapes | {"model.model.0.bias": (2,)}


SMALL_DISCRIMINATOR = {
    "model.0.weight": (2, 3, 4, 4), "model.0.bias": (2,), "model.2.weight": (4, 2, 4, 4), "model.5.weight": (1, 4, 4, 4), "model.5.bias": (1,),
    **{f"model.3.{name}": (4,) for name in ("weight", "bias", "running_mean", "running_var")}}

# Rows 3, 17, 30 and columns 5, 16, 31 of the first channel, from PyTorch 2.13 on CPU: torch_unet(5, 2, 1, 2, norm) and
# torch_discriminator(1, 2, 3) with the wavy state dicts, in eval mode, on wavy((1, 32, 32, 1), 1) and, for the candidate,
# wavy((1, 32, 32, 2), 2). `test_golden_values_are_pytorchs` makes them again.
GOLDEN = {
    "batch": None,
    "instance": None,
    "discriminator": None,
}
PROBE = np.ix_([0], [3, 17, 30], [5, 16, 31], [0])


def golden_inputs():
  return wavy((1, 32, 32, 1), 1), wavy((1, 32, 32, 2), 2)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_golden_pixels(norm):
  network = import_torch.convert_generator(wavy_state_dict(small_unet_shapes(norm)))
  output = np.asarray(translate(network, golden_inputs()[0], "running"))
  np.testing.assert_allclose(output[PROBE].reshape(-1), GOLDEN[norm], atol=1e-4, rtol=0)


def test_golden_logits():
  network = import_torch.convert_discriminator(wavy_state_dict(SMALL_DISCRIMINATOR))
  _, discriminator = networks(network.fields)
  logits = np.asarray(discriminator.apply(variables(network), *golden_inputs(), norm_stats="running"))
  np.testing.assert_allclose(logits[0, [2, 7, 13], [3, 11, 0], 0], GOLDEN["discriminator"], atol=1e-4, rtol=0)


@needs_torch
def test_golden_values_are_pytorchs():
  x, y = golden_inputs()
  for norm in ("batch", "instance"):
    module = torch_unet(5, 2, 1, 2, norm).eval()
    load(module, wavy_state_dict(small_unet_shapes(norm)))
    np.testing.assert_allclose(forward(module, x)[PROBE].reshape(-1), GOLDEN[norm], atol=1e-5)
  module = torch_discriminator(1, 2, 3).eval()
  load(module, wavy_state_dict(SMALL_DISCRIMINATOR))
  np.testing.assert_allclose(forward(module, x, y)[0, [2, 7, 13], [3, 11, 0], 0], GOLDEN["discriminator"], atol=1e-5)


def load(module, state):
  missing, unexpected = module.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()}, strict=False)
  assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)
