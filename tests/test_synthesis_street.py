"""Streets: exact depth of the road, and a LiDAR scan with the density and gaps of KITTI's."""

import numpy as np
import pytest

from pix2pix_jax.data.synthesis import street


def test_road_depth_is_camera_height_times_focal_length_over_rows_below_the_horizon():
  size, checked = (96, 320), 0
  f = 721.5 * (96 * 320 / (352 * 1216)) ** 0.5  # KITTI's camera, scaled to the same image area
  v, u = np.mgrid[: size[0], : size[1]] + 0.5
  with np.errstate(divide="ignore"):
    flat = np.where(v > 0.43 * size[0], 1.65 * f / (v - 0.43 * size[0]), np.inf)
  lane = (flat < 11) & (abs((u - size[1] / 2) * flat / f) < 1.2)
  for index in range(6):
    pair = street.draw(1, index, size)
    depth, mask = pair["target"][..., 0], pair["mask"][..., 0]
    np.testing.assert_allclose(depth[mask & lane], flat[mask & lane], rtol=1e-5)
    checked += (mask & lane).sum()
    assert (depth[mask] < flat[mask] * (1 + 1e-5)).all()  # nothing lies below the road
    assert (depth[mask] < 0.9 * flat[mask]).mean() > 0.05  # and something stands on it
  assert checked > 1000


@pytest.mark.parametrize("size", [(64, 192), (96, 320), (176, 608), (64, 64)])
def test_about_a_fifth_of_the_pixels_is_measured(size):
  shares = []
  for index in range(4 if size[0] < 100 else 2):
    mask = street.draw(6, index, size)["mask"][..., 0]
    shares.append(mask.mean())
    assert not mask[: int(0.3 * size[0])].any()  # above the highest beam
  assert 0.15 < np.mean(shares) < 0.25 and 0.1 < min(shares) and max(shares) < 0.28


def test_scans_consist_of_rings_and_miss_far_dark_surfaces_and_the_sky():
  camera, size = street.CAMERA, (352, 1216)

  def mask(depth, brightness):
    return street.scan(np.random.default_rng(0), camera, size, np.full(size, depth), np.full(size, brightness))[0]

  bright = mask(10.0, 0.8)
  v, u = np.nonzero(bright)
  x, y = (u + 0.5 - 608) / 721.5, (0.43 * 352 - v - 0.5) / 721.5
  elevation = np.degrees(np.arctan2(y, np.hypot(x, 1)))
  assert elevation.max() < 2.05 and elevation.max() > 1.9
  middle = bright[:, 600:616].mean(1)
  assert (middle > 0.6).sum() > 50 and (middle == 0).sum() > 170  # rings, and empty rows between them
  assert (mask(70.0, 0.8).sum() / bright.sum()) < 0.85
  assert (mask(10.0, 0.08).sum() / bright.sum()) < 0.6
  assert mask(81.0, 0.8).sum() == 0 and mask(np.inf, 0.8).sum() == 0
  plane = np.full((256, 256), 5.0)
  square, single = street.scan(np.random.default_rng(0), camera, (256, 256), plane, np.full((256, 256), 0.8))
  assert not (single & ~square).any() and 0.25 < single.sum() / square.sum() < 0.42  # one ring of three
  v, u = np.nonzero(square)
  x, y = (u + 0.5 - 128) / camera.focal((256, 256)), (0.43 * 256 - v - 0.5) / camera.focal((256, 256))
  lowest = np.degrees(np.arctan2(y, np.hypot(x, 1))).min()
  assert -25.2 < lowest < -24
