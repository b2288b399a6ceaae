"""The benchmarks' PyTorch peer: it is the published model, its two updates do not interfere, and from equal weights and
batches this package trains the same networks.
"""

import importlib.util
from pathlib import Path
import sys

import numpy as np
from PIL import Image
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


def test_from_equal_weights_both_programs_train_alike(peer, monkeypatch, tmp_path, capsys):
  """The first steps differ by no more than those of two runs of PyTorch that start one rounding apart."""
  monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
  monkeypatch.setitem(sys.modules, "torch_peer", peer)
  rng = np.random.default_rng(0)
  for split in ("train", "val"):
    (tmp_path / split).mkdir()
    for i in range(3):
      coarse = Image.fromarray(rng.integers(0, 256, (8, 16, 3), dtype=np.uint8))
      coarse.resize((72, 36)).save(tmp_path / split / f"{i}.jpg")
  call = [f"--source_dir={tmp_path}", "--crop_size=32", "--base_features=4", "--num_steps=5"]
  monkeypatch.setattr(sys, "argv", ["parity.py", *call])
  importlib.import_module("parity").main()
  rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line[2:3].strip()]
  steps = {int(cells[0]): [float(cell) for cell in cells[1:]] for cells in rows if cells[0].isdigit()}
  assert list(steps) == [1, 2, 5] and all(here < 3 * beside + 1e-6 for here, beside in steps.values())
  assert steps[1][0] < 1e-4
  ours, theirs = ([float(cell) for cell in cells[1:]] for cells in rows[-2:])
  np.testing.assert_allclose(ours, theirs, rtol=1e-2)
