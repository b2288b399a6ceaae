"""Villages: one view in two seasons."""

import numpy as np

from pix2pix_jax.data.synthesis import village
from pix2pix_jax.data.synthesis.raytrace import trace


def edges(image):
  grey = image.astype(float).mean(-1)
  return np.hypot(np.diff(grey, axis=0)[:, :-1], np.diff(grey, axis=1)[:-1])


def test_seasons_share_all_solids_but_not_their_paint():
  for index in range(5):
    summer, winter = (village.scene(np.random.default_rng([2, index]), season) for season in (False, True))
    assert summer[1] == winter[1] and summer[2] == winter[2] and len(summer[0]) == len(winter[0]) > 15
    for a, b in zip(summer[0], winter[0]):
      for part in ("centre", "half", "rotation", "normals", "offsets"):
        np.testing.assert_array_equal(getattr(a, part), getattr(b, part))
    same_paint = [a for a, b in zip(summer[0], winter[0]) if a.paint is b.paint]
    assert [s.paint for s in same_paint] == [village._meadow]  # which reads the season from its details
    assert all("crown" in s.details for s in summer[0][summer[1] :])


def test_winter_and_summer_show_the_same_village():
  size, same, other = (96, 96), [], []
  pairs = [village.draw(5, index, size) for index in range(8)]
  for k, pair in enumerate(pairs):
    winter, summer = edges(pair["input"])[30:], edges(pair["target"])[30:]
    stranger = edges(pairs[k - 1]["target"])[30:]
    same.append(np.corrcoef(winter.ravel(), summer.ravel())[0, 1])
    other.append(np.corrcoef(winter.ravel(), stranger.ravel())[0, 1])
  assert np.mean(same) > np.mean(other) + 0.2


def test_winter_is_white_and_summer_green():
  for index in range(8):
    pair = village.draw(5, index, (64, 64))
    winter, summer = (pair[k][34:].reshape(-1, 3).astype(float) for k in ("input", "target"))
    green = (summer[:, 1] > summer[:, 0] + 8) & (summer[:, 1] > summer[:, 2] + 25)
    assert green.mean() > 0.25
    assert winter[green].mean() > summer[green].mean() + 40
    sky = pair["target"][:6].reshape(-1, 3).astype(float).mean(0)
    assert sky[2] > sky[0] + 15  # blue in summer, grey in winter
    assert abs(np.ptp(pair["input"][:6].reshape(-1, 3).astype(float).mean(0))) < 20


def test_crowns_are_green_in_summer_only():
  size = (64, 64)
  summer: list[np.ndarray] = []
  winter: list[np.ndarray] = []
  for index in range(6):
    solids, first_crown, camera = village.scene(np.random.default_rng([5, index]), False)
    crown = trace(solids, camera, size).solid >= first_crown
    for key, out in (("target", summer), ("input", winter)):
      rgb = village.draw(5, index, size)[key][crown].astype(float)
      out.append(rgb[:, 1] - rgb[:, [0, 2]].mean(1))
  assert np.concatenate(summer).mean() > 15 and abs(np.concatenate(winter).mean()) < 5
