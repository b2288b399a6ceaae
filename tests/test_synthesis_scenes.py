"""Ray-cast scenes: reproducible, geometrically exact, and measured as a laser scanner and a Kinect would."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from pix2pix_jax.data.synthesis import scenes
from pix2pix_jax.data.synthesis.scenes import Camera, Solid, draw_room, draw_seasons, draw_street

DRAWS = {"street": draw_street, "room": draw_room, "seasons": draw_seasons}


def digest(pair):
  return hashlib.sha256(b"".join(pair[k].tobytes() for k in sorted(pair))).hexdigest()


def test_a_fresh_process_draws_the_same_bytes():
  here = [digest(draw(3, 1, (40, 56))) for draw in DRAWS.values()]
  code = (
    "import hashlib; from pix2pix_jax.data.synthesis import scenes as s\n"
    "for f in (s.draw_street, s.draw_room, s.draw_seasons):\n"
    "  f(5, 5, (16, 16))\n"  # what was drawn before must not matter
    "  p = f(3, 1, (40, 56)); print(hashlib.sha256(b''.join(p[k].tobytes() for k in sorted(p))).hexdigest())"
  )
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
  assert out.stdout.split() == here


@pytest.mark.parametrize("name", DRAWS)
def test_every_key_differs_between_indices_and_seeds(name):
  pairs = [DRAWS[name](seed, index, (32, 48)) for seed in (0, 1) for index in range(5)]
  for key in ("input", "target"):
    assert len({p[key].tobytes() for p in pairs}) == len(pairs)


@pytest.mark.parametrize("size", [(64, 64), (64, 208), (37, 51)])
def test_shapes_types_and_ranges(size):
  for index in range(3):
    street, room, seasons = (draw(4, index, size) for draw in DRAWS.values())
    assert set(street) == set(room) == {"input", "target", "mask"} and set(seasons) == {"input", "target"}
    for image in (street["input"], seasons["input"], seasons["target"]):
      assert image.shape == (*size, 3) and image.dtype == np.uint8 and image.std() > 20
    for depth in (street["target"], room["input"], room["target"]):
      assert depth.shape == (*size, 1) and depth.dtype == np.float32 and np.isfinite(depth).all()
    for pair in (street, room):
      assert pair["mask"].shape == (*size, 1) and pair["mask"].dtype == bool
      np.testing.assert_array_equal(pair["mask"], pair["target"] > 0)
    assert street["target"].max() <= 80 and street["target"][street["mask"]].min() > 1
    assert 0.7 <= room["target"].min() and room["target"].max() <= 10 and room["mask"].all()


def test_rooms_lie_within_a_kinects_range():
  near, far = zip(*((d.min(), d.max()) for d in (draw_room(1, index, (24, 36))["target"] for index in range(60))))
  assert 0.7 <= min(near) < 1 and 6 < max(far) <= 10


# --- Geometry


def test_road_depth_is_camera_height_times_focal_length_over_rows_below_the_horizon():
  size, checked = (96, 320), 0
  f = 721.5 * (96 * 320 / (352 * 1216)) ** 0.5  # KITTI's lens, as wide by area
  v, u = np.mgrid[: size[0], : size[1]] + 0.5
  with np.errstate(divide="ignore"):
    flat = np.where(v > 0.43 * size[0], 1.65 * f / (v - 0.43 * size[0]), np.inf)
  lane = (flat < 11) & (abs((u - size[1] / 2) * flat / f) < 1.2)
  for index in range(6):
    pair = draw_street(1, index, size)
    depth, mask = pair["target"][..., 0], pair["mask"][..., 0]
    np.testing.assert_allclose(depth[mask & lane], flat[mask & lane], rtol=1e-5)
    checked += (mask & lane).sum()
    assert (depth[mask] < flat[mask] * (1 + 1e-5)).all()  # nothing lies below the road
    assert (depth[mask] < 0.9 * flat[mask]).mean() > 0.05  # and something stands on it
  assert checked > 1000


def test_pixel_centres_of_two_sizes_see_the_same_depth():
  """At three times the size, every centre of the small picture is a centre of the large one, too."""
  for index in range(4):
    small, large = draw_room(2, index, (40, 56)), draw_room(2, index, (120, 168))
    depth, again = small["target"], large["target"][1::3, 1::3]
    assert (abs(again / depth - 1) < 1e-4).mean() > 0.995  # else a ray along an edge fell on its other side
    holes, same = small["input"] == 0, large["input"][1::3, 1::3] == 0
    assert (holes & same).sum() > 0.5 * (holes | same).sum()
    small, large = draw_street(2, index, (48, 160)), draw_street(2, index, (144, 480))
    both = small["mask"] & large["mask"][1::3, 1::3]
    assert both.sum() > 200
    assert (abs(large["target"][1::3, 1::3][both] / small["target"][both] - 1) < 1e-4).mean() > 0.99
    coarse = large["input"].reshape(48, 3, 160, 3, 3).mean((1, 3))
    other = draw_street(2, index + 1, (48, 160))["input"]
    assert abs(coarse - small["input"]).mean() < 6 < 15 < abs(coarse - other).mean()


def test_what_is_hit_lies_on_its_solid():
  rng = np.random.default_rng(7)
  for solids, camera in ((scenes.street_scene(rng)[0], scenes.STREET), scenes.room_scene(rng)):
    hits, checked = scenes.trace(solids, camera, (60, 90)), 0
    for k, s in enumerate(solids):
      at = hits.who == k
      if not at.any() or s.half[0] == 300:  # the ground has no sides
        continue
      q = (s.turn.T @ (hits.o[:, None] + hits.d[:, at] * hits.t[at] - s.centre[:, None])) / s.half[:, None]
      assert (abs(q) < 1 + 2e-3).all()
      if s.paint is scenes._leaves and not len(s.normals):  # a crown, round
        np.testing.assert_allclose((q * q).sum(0), 1, atol=2e-3)
      elif s.inside or s.paint is scenes._slabs or "cabin" not in s.how and s.paint is scenes._car:  # boxes
        np.testing.assert_allclose(abs(q).max(0), 1, atol=2e-3)
      else:
        continue
      checked += at.sum()
    assert checked > 300


def test_windows_leave_out_nothing(monkeypatch):
  rng = np.random.default_rng(3)
  scenes_, size = [(*scenes.room_scene(rng),), (scenes.street_scene(rng)[0], scenes.STREET)], (45, 70)
  for solids, camera in scenes_:
    for step in (1.0, 0.5):
      quick = scenes.trace(solids, camera, size, step)
      with monkeypatch.context() as m:
        m.setattr(scenes, "windows", lambda s, *_: np.tile([0, 10**6, 0, 10**6], (len(s), 1)))
        slow = scenes.trace(solids, camera, size, step)
      np.testing.assert_array_equal(quick.who, slow.who)
      np.testing.assert_array_equal(quick.t, slow.t)


def test_shadow_of_a_box_is_as_long_as_the_sun_says():
  box, sun = Solid("box", (0, 1, 0), (0.5, 1, 0.5)), np.array([-0.6, 0.6, 0.2])
  x = np.linspace(-4, 4, 801, dtype=np.float32)
  dark = scenes.in_shadow([box], np.stack([x, 0 * x, 0 * x]), sun)
  # A ray from x on the ground meets the side x = 0.5 at a height of x - 0.5 and z = (x - 0.5) / 3, which is beyond
  # the box from x = 2 on.
  np.testing.assert_array_equal(dark[abs(x) > 0.55], ((x > 0.5) & (x < 2.0))[abs(x) > 0.55])
  far = scenes.in_shadow([box], np.stack([x, 0 * x + 2.5, 0 * x]), sun)
  assert not far.any()


def test_shadows_and_their_shortcut_agree():
  solids = [s for s in scenes.street_scene(np.random.default_rng(11))[0] if not s.how.get("flat")]
  rng, sun = np.random.default_rng(0), np.array([0.5, 0.7, -0.51])
  p = (rng.random((3, 3000)) * [[16], [4], [60]] - [[8], [0], [0]]).astype(np.float32)
  every = np.zeros(p.shape[1], bool)
  for s in solids:
    enter, leave, _ = s.span(p, sun.astype(np.float32)[:, None])
    every |= (leave > 0.03) & (leave > enter)
  dark = scenes.in_shadow(solids, p, sun)
  np.testing.assert_array_equal(dark, every)
  assert 0.1 < dark.mean() < 0.9


# --- Sensors


@pytest.mark.parametrize("size", [(64, 192), (96, 320), (176, 608), (64, 64)])
def test_share_of_measured_pixels(size):
  shares = []
  for index in range(4 if size[0] < 100 else 2):
    mask = draw_street(6, index, size)["mask"][..., 0]
    shares.append(mask.mean())
    assert not mask[: int(0.3 * size[0])].any()  # above the highest beam
  assert 0.15 < np.mean(shares) < 0.25 and 0.1 < min(shares) and max(shares) < 0.28


def test_scan_is_made_of_rings_between_the_beams_and_misses_far_dark_and_sky():
  camera, size = scenes.STREET, (352, 1216)

  def mask(depth, paint):
    return scenes.scan(np.random.default_rng(0), camera, size, np.full(size, depth), np.full(size, paint))

  bright = mask(10.0, 0.8)
  v, u = np.nonzero(bright)
  x, y = (u + 0.5 - 608) / 721.5, (0.43 * 352 - v - 0.5) / 721.5
  elevation = np.degrees(np.arctan2(y, np.hypot(x, 1)))
  assert elevation.max() < 2.05 and elevation.max() > 1.9
  middle = bright[:, 600:616].mean(1)
  assert (middle > 0.6).sum() > 50 and (middle == 0).sum() > 170  # rings, and rows between them
  assert (mask(70.0, 0.8).sum() / bright.sum()) < 0.85
  assert (mask(10.0, 0.08).sum() / bright.sum()) < 0.6
  assert mask(81.0, 0.8).sum() == 0 and mask(np.inf, 0.8).sum() == 0
  square = scenes.scan(np.random.default_rng(0), camera, (256, 256), np.full((256, 256), 5.0), np.full((256, 256), 0.8))
  v, u = np.nonzero(square)
  x, y = (u + 0.5 - 128) / camera.focal((256, 256)), (0.43 * 256 - v - 0.5) / camera.focal((256, 256))
  lowest = np.degrees(np.arctan2(y, np.hypot(x, 1))).min()
  assert -25.2 < lowest < -24


def test_raw_depth_has_holes_and_otherwise_steps_of_disparity():
  shares, errors = [], []
  for index in range(12):
    pair = draw_room(8, index, (96, 128))
    raw, depth = pair["input"], pair["target"]
    seen = raw > 0
    shares.append(1 - seen.mean())
    steps = 1 / (scenes.STEP * raw[seen].astype(float))
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
    off = abs(steps - 1 / (scenes.STEP * depth[seen].astype(float)))
    assert off.max() < 0.76 and off.mean() > 0.15
    errors.append(abs(raw - depth)[seen].mean())
  assert 0.08 < min(shares) and max(shares) < 0.3 and 0.12 < np.mean(shares) < 0.22
  assert 0.003 < np.mean(errors) < 0.015  # metres; 0.008 in NYU's first pictures


def test_noise_grows_with_the_square_of_the_distance():
  near, far = [], []
  for index in range(10):
    pair = draw_room(9, index, (64, 80))
    error, seen, depth = abs(pair["input"] - pair["target"]), pair["input"] > 0, pair["target"]
    near.append(error[seen & (depth < 2.2)])
    far.append(error[seen & (depth > 4.4)])
  assert np.concatenate(far).mean() > 3.5 * np.concatenate(near).mean()


def test_projector_leaves_a_band_left_of_what_stands_out():
  """A board at 2 m before a wall at 4 m: the band is f b (1/2 - 1/4) wide."""
  camera, size = Camera(1.0, 0.5, 1.0), (240, 320)
  solids = [Solid("box", (0, 1, 4.5), (9, 9, 0.5)), Solid("box", (0, 1, 2.005), (0.4, 9, 0.005))]
  hits = scenes.trace(solids, camera, size)
  left, right = np.flatnonzero(hits.who[120] == 1)[[0, -1]]
  width = camera.focal(size) * 0.075 * (1 / 2 - 1 / 4)
  shares = []
  for seed in range(8):
    raw = scenes.kinect(np.random.default_rng(seed), solids, camera, hits, size)
    hole = (raw == 0)[10:-10]
    assert hole[:, left - int(width) : left].all()
    beyond = left - int(width) - 3
    shares.append((hole[:, beyond - 5 : beyond].mean(), hole[:, right + 4 : right + 12].mean()))
  assert np.mean(shares) < 0.4  # beyond the band, and on the other side, holes are a matter of chance


# --- Seasons


def edges(image):
  grey = image.astype(float).mean(-1)
  return np.hypot(np.diff(grey, axis=0)[:, :-1], np.diff(grey, axis=1)[:-1])


def test_seasons_share_all_solids_but_not_their_paint():
  for index in range(5):
    one, other = (scenes.village_scene(np.random.default_rng([2, index]), w) for w in (False, True))
    assert one[1] == other[1] and one[2] == other[2] and len(one[0]) == len(other[0]) > 15
    for a, b in zip(one[0], other[0]):
      for part in ("centre", "half", "turn", "normals", "offsets"):
        np.testing.assert_array_equal(getattr(a, part), getattr(b, part))
    assert sum(a.paint is b.paint for a, b in zip(one[0], other[0])) == 1  # the meadow, which is told the season
    assert all("crown" in s.how for s in one[0][one[1] :])


def test_winter_and_summer_show_one_village():
  size, same, other = (96, 96), [], []
  pairs = [draw_seasons(5, index, size) for index in range(8)]
  for k, pair in enumerate(pairs):
    winter, summer = edges(pair["input"])[30:], edges(pair["target"])[30:]
    stranger = edges(pairs[k - 1]["target"])[30:]
    same.append(np.corrcoef(winter.ravel(), summer.ravel())[0, 1])
    other.append(np.corrcoef(winter.ravel(), stranger.ravel())[0, 1])
  assert np.mean(same) > np.mean(other) + 0.2


def test_winter_is_white_and_summer_green():
  for index in range(8):
    pair = draw_seasons(5, index, (64, 64))
    winter, summer = (pair[k][34:].reshape(-1, 3).astype(float) for k in ("input", "target"))
    green = (summer[:, 1] > summer[:, 0] + 8) & (summer[:, 1] > summer[:, 2] + 25)
    assert green.mean() > 0.25
    assert winter[green].mean() > summer[green].mean() + 40
    sky = pair["target"][:6].reshape(-1, 3).astype(float).mean(0)
    assert sky[2] > sky[0] + 15  # blue, and in winter grey
    assert abs(np.ptp(pair["input"][:6].reshape(-1, 3).astype(float).mean(0))) < 20


def test_crowns_are_green_in_summer_only():
  size, summer, winter = (64, 64), [], []
  for index in range(6):
    solids, first, camera = scenes.village_scene(np.random.default_rng([5, index]), False)
    crown = scenes.trace(solids, camera, size).who >= first
    for key, out in (("target", summer), ("input", winter)):
      rgb = draw_seasons(5, index, size)[key][crown].astype(float)
      out.append(rgb[:, 1] - rgb[:, [0, 2]].mean(1))
  assert np.concatenate(summer).mean() > 15 and abs(np.concatenate(winter).mean()) < 5
