"""The benchmarks' PyTorch peer: it is the published model, and its two updates do not interfere."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch, which only the benchmarks' peer needs, is not installed")


@pytest.fixture(scope="module")
def peer():
  spec = importlib.util.spec_from_file_location(
    "torch_peer", Path(__file__).parents[1] / "benchmarks" / "torch_peer.py"
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  threads = torch.get_num_threads()
  torch.set_num_threads(1)  # OpenMP threads that spin while they wait are slow next to parallel tests
  yield module
  torch.set_num_threads(threads)


def batch():
  images = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
  return images[0], images[1]


def flat(module):
  return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_published_parameter_counts(peer):
  with torch.device("meta"):
    generator, discriminator = peer.UNet(3, 3, 64, 8), peer.PatchGAN(6, 64)
    logits = discriminator(torch.zeros(1, 6, 256, 256))
  assert peer.num_parameters(generator) == 54_413_955
  assert peer.num_parameters(discriminator) == 2_768_705
  assert logits.shape == (1, 1, 30, 30)


def test_generator_step_leaves_discriminator_alone(peer):
  torch.manual_seed(0)
  model = peer.Pix2Pix(32, base_features=4)
  inputs, targets = batch()
  fakes = model.generator(inputs)
  model.discriminator_step(inputs, targets, fakes)
  weights, generator_weights = flat(model.discriminator), flat(model.generator)
  gradients = [parameter.grad.clone() for parameter in model.discriminator.parameters()]
  model.generator_step(inputs, targets, fakes)
  assert torch.equal(flat(model.discriminator), weights)
  assert all(torch.equal(p.grad, g) for p, g in zip(model.discriminator.parameters(), gradients, strict=True))
  assert not torch.equal(flat(model.generator), generator_weights)


def test_l1_weight_reaches_the_generator_only(peer):
  models = []
  for l1_weight in (0, 100):
    torch.manual_seed(0)
    models.append(peer.Pix2Pix(32, base_features=4, l1_weight=l1_weight))
    models[-1].train_step(*batch())
  assert torch.equal(flat(models[0].discriminator), flat(models[1].discriminator))
  assert not torch.equal(flat(models[0].generator), flat(models[1].generator))


def test_jitter_cuts_input_and_target_alike(peer):
  images = np.random.default_rng(0).integers(0, 256, (4, 9, 9, 3), dtype=np.uint8)
  inputs, targets = next(peer.jittered_batches(images, 255 - images, 8, 4, np.random.default_rng(1)))
  assert inputs.shape == (4, 8, 8, 3)
  np.testing.assert_array_equal(inputs, 255 - targets)
