"""All ray-cast scenes: reproducible, the same at every size, with the documented shapes, types and ranges."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from pix2pix_jax.data.synthesis import room, street, village

DRAWS = {"street": street.draw, "room": room.draw, "village": village.draw}


def digest(pair):
  return hashlib.sha256(b"".join(pair[k].tobytes() for k in sorted(pair))).hexdigest()


def test_a_new_process_draws_the_same_bytes():
  here = [digest(draw(3, 1, (40, 56))) for draw in DRAWS.values()]
  code = (
    "import hashlib; from pix2pix_jax.data.synthesis import room, street, village\n"
    "for f in (street.draw, room.draw, village.draw):\n"
    "  f(5, 5, (16, 16))\n"  # earlier draws must not matter
    "  p = f(3, 1, (40, 56)); print(hashlib.sha256(b''.join(p[k].tobytes() for k in sorted(p))).hexdigest())"
  )
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
  assert out.stdout.split() == here


@pytest.mark.parametrize("name", DRAWS)
def test_all_arrays_differ_between_indices_and_seeds(name):
  pairs = [DRAWS[name](seed, index, (32, 48)) for seed in (0, 1) for index in range(5)]
  for key in ("input", "target"):
    assert len({p[key].tobytes() for p in pairs}) == len(pairs)


@pytest.mark.parametrize("size", [(64, 64), (64, 208), (37, 51)])
def test_shapes_types_and_ranges(size):
  for index in range(3):
    streets, rooms, villages = (draw(4, index, size) for draw in DRAWS.values())
    assert set(rooms) == {"input", "target", "mask"} and set(villages) == {"input", "target"}
    assert set(streets) == {"input", "target", "mask", "scan"}
    for image in (streets["input"], villages["input"], villages["target"]):
      assert image.shape == (*size, 3) and image.dtype == np.uint8 and image.std() > 20
    for depth in (streets["target"], streets["scan"], rooms["input"], rooms["target"]):
      assert depth.shape == (*size, 1) and depth.dtype == np.float32 and np.isfinite(depth).all()
    for pair in (streets, rooms):
      assert pair["mask"].shape == (*size, 1) and pair["mask"].dtype == bool
      np.testing.assert_array_equal(pair["mask"], pair["target"] > 0)
    measured = streets["scan"] > 0  # by a single scan, a part of what all scans measure
    np.testing.assert_array_equal(streets["scan"][measured], streets["target"][measured])
    assert 0 < measured.sum() < 0.7 * streets["mask"].sum()
    assert streets["target"].max() <= 80 and streets["target"][streets["mask"]].min() > 1
    assert 0.7 <= rooms["target"].min() and rooms["target"].max() <= 10 and rooms["mask"].all()


def test_pixel_centres_have_the_same_depth_at_two_sizes():
  """At three times the size, every pixel centre of the small image is also a pixel centre of the large one."""
  for index in range(4):
    small, large = room.draw(2, index, (40, 56)), room.draw(2, index, (120, 168))
    depth, again = small["target"], large["target"][1::3, 1::3]
    assert (abs(again / depth - 1) < 1e-4).mean() > 0.995  # the others are rays that pass an edge on its other side
    holes, same = small["input"] == 0, large["input"][1::3, 1::3] == 0
    assert (holes & same).sum() > 0.5 * (holes | same).sum()
    small, large = street.draw(2, index, (48, 160)), street.draw(2, index, (144, 480))
    both = small["mask"] & large["mask"][1::3, 1::3]
    assert both.sum() > 200
    assert (abs(large["target"][1::3, 1::3][both] / small["target"][both] - 1) < 1e-4).mean() > 0.99
    coarse = large["input"].reshape(48, 3, 160, 3, 3).mean((1, 3))
    other = street.draw(2, index + 1, (48, 160))["input"]
    assert abs(coarse - small["input"]).mean() < 6 < 15 < abs(coarse - other).mean()
