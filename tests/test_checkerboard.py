"""benchmarks/checkerboard.py: energies by hand, and a workdir from end to end."""

import importlib
from pathlib import Path
import sys

import numpy as np
import pytest
from tiny_runs import tiny_config

from pix2pix_jax import config as config_lib
from pix2pix_jax.data import prepare
from pix2pix_jax.errors import UsageError
from pix2pix_jax.run import checkpoint
from pix2pix_jax.run.experiment import Experiment


@pytest.fixture(scope="module")
def checkerboard():
  sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
  yield importlib.import_module("checkerboard")
  sys.path.pop(0)


ROWS, COLUMNS = np.arange(64)[:, None, None], np.arange(96)[None, :, None]


@pytest.mark.parametrize(
  "period, pattern, variance",
  [
    (2, 0.1 * (-1.0) ** (ROWS + COLUMNS), 0.01),
    (4, 0.1 * np.cos(2 * np.pi * ROWS / 4) + 0 * COLUMNS, 0.005),
    (4, 0.1 * np.cos(2 * np.pi * (ROWS / 4 - COLUMNS / 4) + 1), 0.005),
    (8, 0.1 * np.cos(2 * np.pi * COLUMNS / 8 + 0.3) + 0 * ROWS, 0.005),
  ],
)
def test_a_pattern_adds_its_variance_at_its_frequency_alone(checkerboard, period, pattern, variance):
  noise = np.random.default_rng(0).normal(0, 0.02, (2, 64, 96, 3))
  for other, (energy, around) in checkerboard.spectra(0.3 + noise + pattern).items():
    plain, _ = checkerboard.spectra(noise)[other]
    np.testing.assert_allclose(energy - plain, 3 * variance * (other == period), atol=0.1 * 3 * variance)
    assert ((energy / around > 10) == (other == period)).all()
    assert (np.abs(energy / around - 1) < 0.5).all() or other == period


def test_odd_sizes_are_cropped_and_small_ones_refused(checkerboard):
  image = np.random.default_rng(0).normal(size=(1, 71, 80, 1))
  for period, (energy, _) in checkerboard.spectra(image).items():
    np.testing.assert_allclose(energy, checkerboard.spectra(image[:, :64])[period][0])
  with pytest.raises(UsageError, match="at least 64"):
    checkerboard.spectra(image[:, :63])


def test_a_workdir(checkerboard, tmp_path):
  """An untrained decoder of three levels leaves peaks that its targets do not have; resize-convolutions fewer."""
  peaks = {}
  for upsample in ("transpose", "resize"):
    sizes = {"data__crop_size": 64, "data__load_size": 64, "model__upsample": upsample, "model__base_features": 8}
    config = tiny_config(**sizes, data__num_val=2)
    source = prepare.prepare(config.data, config.model)
    run = Experiment(config_lib.resolve(config, source.spec), source.spec)
    config_lib.make_workdir(tmp_path / upsample)
    with checkpoint.Checkpointer(tmp_path / upsample, config=run.config) as checkpointer:
      checkpointer.save(0, run.init())
    config_lib.write(tmp_path / upsample, run.config)
    result = checkerboard.measure(tmp_path / upsample, "val", "latest")
    assert (result["step"], result["images"]) == (0, "2 images of val")
    values = result["1/2"]
    assert values["ratio"] == pytest.approx(values["energy"] / values["target_energy"], rel=1e-3)
    peaks[upsample] = values["peak"]
    target_peak = values["target_peak"]
  assert peaks["transpose"] > 5 * target_peak and peaks["transpose"] > 5 * peaks["resize"], (peaks, target_peak)
