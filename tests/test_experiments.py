"""The experiments end to end through main.py, tiny, on their built-in data; and how holes in depth are filled."""

import json
from pathlib import Path
import sys

import forked
import jax
import numpy as np
from PIL import Image
import pytest

from pix2pix_jax import config as config_lib
from pix2pix_jax import depth
from pix2pix_jax.configs import facades, folder, kitti, nyu, winter_summer
from pix2pix_jax.model import networks as models

ROOT = Path(__file__).parent.parent
TINY = [
  "--config.data.load_size=18",
  "--config.data.load_width=36",
  "--config.data.crop_size=16",
  "--config.data.crop_width=16",
  "--config.data.eval_size=16",
  "--config.data.eval_width=32",
  "--config.data.num_train=6",
  "--config.data.num_val=3",
  "--config.data.num_test=2",
  "--config.model.base_features=2",
  "--config.model.levels=3",
  "--config.model.patch=16",
  "--config.train.batch_size=2",
  "--config.train.num_steps=2",
  "--config.train.tensorboard=False",
]


@pytest.mark.parametrize(
  "config, metric, baselines",
  [
    ("facades.py:procedural", "ssim", {"mean_target"}),
    ("winter_summer.py:procedural", "ssim", {"mean_target"}),
    ("kitti.py:procedural", "rmse", {"mean_target"}),
    ("nyu.py:procedural", "rmse", {"mean_target", "nearest_valid", "interpolated"}),
    ("ct.py", "mae", {"mean_target"}),
  ],
)
def test_experiment_on_built_in_data(tmp_path, config, metric, baselines):
  extra = ["--config.data.validity_channel=True"] if "kitti" in config else []
  program = [sys.executable, str(ROOT / "main.py"), f"--config={ROOT}/configs/{config}"]
  done = forked.run([*program, f"--workdir={tmp_path / 'run'}", *TINY, *extra])
  assert done.returncode == 0, done.stderr
  summary = json.loads((tmp_path / "run/eval/val/metrics.json").read_text())
  assert summary["count"] == 3 and summary["baselines"].keys() == baselines
  assert np.isfinite(summary["metrics"][metric]) and all(
    np.isfinite(row[metric]) for row in summary["baselines"].values()
  )
  if metric == "rmse":
    assert {"mae", "abs_rel", "delta1", "delta2", "delta3", "silog"} <= summary["metrics"].keys()
    assert "ssim" not in summary["metrics"]
  assert Image.open(tmp_path / "run/eval/val/grid.png").width > 3 * 128


def test_report_variants_are_the_reports():
  for module, patch, epochs in [(facades, 286, 200), (winter_summer, 70, 200), (kitti, 70, 100), (nyu, 70, 90)]:
    config = module.get_config("report")
    assert (config.model.decoder_widths, config.model.patch, config.loss.halve_discriminator) == (
      "report",
      patch,
      False,
    )
    assert (config.train.batch_size, config.train.num_epochs) == (10, epochs)
    assert not config.model.residual
  assert nyu.get_config().model.residual and nyu.get_config("procedural").model.residual
  assert folder.get_config().data.name == "folder"


def test_holes_take_their_nearest_neighbour():
  metres = np.zeros((5, 5, 1), np.float32)
  metres[0, 0], metres[4, 4] = 2, 7
  filled = depth.fill_with_nearest(metres)
  assert (filled[1, 1], filled[3, 3], filled[0, 0]) == (2, 7, 2)
  assert (filled > 0).all()
  np.testing.assert_array_equal(depth.fill_with_nearest(np.zeros((3, 3, 1))), 0)


def pull_push(values, valid):
  """Holes of one image (H, W) filled by pull-push, pixel by pixel in float64."""
  height, width = values.shape
  if height == width == 1:
    return np.where(valid, values, 0.0)
  rows, columns = -(-height // 2), -(-width // 2)
  coarse, known = np.zeros((rows, columns)), np.zeros((rows, columns), bool)
  for y in range(rows):
    for x in range(columns):
      block = np.s_[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
      known[y, x] = valid[block].any()
      coarse[y, x] = values[block][valid[block]].mean() if known[y, x] else 0
  coarse = pull_push(coarse, known)
  filled = np.array(values, np.float64)
  for y, x in zip(*np.nonzero(~valid)):  # bilinear: a fine pixel's centre lies a quarter pixel from the coarse one's
    weights_y = {y // 2: 0.75, min(max(y // 2 + (1 if y % 2 else -1), 0), rows - 1): 0.25}
    weights_x = {x // 2: 0.75, min(max(x // 2 + (1 if x % 2 else -1), 0), columns - 1): 0.25}
    total = sum(a * b for a in weights_y.values() for b in weights_x.values())
    filled[y, x] = sum(a * b * coarse[i, j] for i, a in weights_y.items() for j, b in weights_x.items()) / total
  return filled


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (8, 8), (13, 21)])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.7, 1.0])
def test_interpolation_against_float64(size, share):
  generator = np.random.default_rng(0)
  values, valid = generator.uniform(-1, 1, (2, *size, 1)).astype(np.float32), generator.random((2, *size, 1)) < share
  filled = depth.interpolate(values, valid)
  for n in range(2):
    np.testing.assert_allclose(filled[n, ..., 0], pull_push(values[n, ..., 0], valid[n, ..., 0]), atol=1e-6)
  np.testing.assert_array_equal(np.asarray(filled)[valid], values[valid])


@pytest.mark.parametrize("generator", ["unet", "resnet_6blocks"])
@pytest.mark.parametrize("channels, channel", [(1, 0), (4, 3), (3, 1)])
def test_a_residual_generator_starts_from_its_interpolated_input(generator, channels, channel):
  config = config_lib.default()
  model = {"output_channels": 2, "base_features": 2, "levels": 3, "generator": generator, "dropout_blocks": ()}
  config.model.update(model | {"residual": True, "residual_channel": channel})
  generator, _ = models.make_networks(config.model)
  x = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 16, 24, channels)).astype(np.float32)
  x[:, 4:9, 3:12] = -1
  x[:, :3, :3, :channel] = -1  # a number like any other in the other channels
  variables = generator.init(jax.random.key(0), x, dropout=False, norm_stats="image")
  variables["params"]["output"] = jax.tree.map(np.zeros_like, variables["params"]["output"])
  output = generator.apply(variables, x, dropout=False, norm_stats="image")
  base = depth.interpolate(x[..., [channel]], x[..., [channel]] > -1)
  np.testing.assert_array_equal(output[..., :1], base)
  np.testing.assert_array_equal(output[..., 1:], 0)  # the validity channel is no depth
  variables["params"]["output"]["bias"] = np.float32([0.1, 0.1])
  np.testing.assert_allclose(
    generator.apply(variables, x, dropout=False, norm_stats="image")[..., :1] - output[..., :1], np.tanh(0.1), atol=1e-6
  )
  variables["params"]["output"]["bias"] = np.float32([3, 0])
  assert generator.apply(variables, x, dropout=False, norm_stats="image").max() == 1
