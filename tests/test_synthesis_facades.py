"""Procedural façades: reproducible, labelled in twelve colours, and predictable from their labels."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from pix2pix_jax.data.synthesis import facades
from pix2pix_jax.data.synthesis.facades import LABEL_COLORS, draw

PALETTE = np.array(list(LABEL_COLORS.values()))


def ids(label):
  """Class index (H, W) of each pixel of a label map; fails on colours that belong to no class."""
  match = (label[:, :, None].astype(int) == PALETTE).all(-1)
  assert match.any(-1).all(), "a colour outside the palette"
  return match.argmax(-1)


def is_class(label, name):
  return (label == LABEL_COLORS[name]).all(-1)


def test_a_new_process_draws_the_same_bytes():
  calls = [(0, 0, (64, 64)), (7, 3, (64, 64)), (1, 2, (96, 40))]
  digest = hashlib.sha256(b"".join(draw(*c)[k].tobytes() for c in calls for k in ("input", "target"))).hexdigest()
  code = (
    "import hashlib; from pix2pix_jax.data.synthesis.facades import draw\n"
    "draw(5, 5, (32, 32))\n"  # earlier draws must not matter
    f"d = b''.join(draw(*c)[k].tobytes() for c in {calls!r} for k in ('input', 'target'))\n"
    "print(hashlib.sha256(d).hexdigest())"
  )
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
  assert out.stdout.strip() == digest


@pytest.mark.parametrize("size", [(64, 64), (128, 64), (48, 160), (37, 51), (256, 256)])
def test_shapes_types_and_palette(size):
  for index in range(6):
    pair = draw(2, index, size)
    assert set(pair) == {"input", "target"}
    for image in pair.values():
      assert image.shape == (*size, 3) and image.dtype == np.uint8
    assert len(np.unique(ids(pair["input"]))) >= 5
    assert pair["target"].std() > 20  # a photograph, not one flat colour


def test_label_colours_are_those_of_the_archive():
  assert len(LABEL_COLORS) == 12 and len(set(LABEL_COLORS.values())) == 12
  assert LABEL_COLORS["background"] == (0, 0, 222)
  assert LABEL_COLORS["facade"] == (0, 48, 255)
  assert LABEL_COLORS["window"] == (0, 128, 255)


def test_every_class_occurs_in_at_least_an_eighth_of_64_fronts():
  seen = np.zeros(12, int)
  for index in range(64):
    seen[np.unique(ids(draw(0, index, (64, 64))["input"]))] += 1
  assert (seen >= 8).all(), dict(zip(LABEL_COLORS, seen.tolist(), strict=True))


def test_seeds_and_indices_differ():
  pairs = [draw(seed, index, (64, 64)) for seed in (0, 1) for index in range(16)]
  for key in ("input", "target"):
    assert len({p[key].tobytes() for p in pairs}) == len(pairs)


@pytest.mark.parametrize("large", [192, 256])
def test_all_sizes_show_the_same_facade(large):
  k = large // 64
  same, other, same_photo, other_photo = [], [], [], []
  for index in range(12):
    big, small, stranger = draw(3, index, (large, large)), draw(3, index, (64, 64)), draw(3, index + 1, (64, 64))
    label = ids(big["input"][k // 2 :: k, k // 2 :: k])
    photo = big["target"].reshape(64, k, 64, k, 3).mean((1, 3))
    same.append((label == ids(small["input"])).mean())
    other.append((label == ids(stranger["input"])).mean())
    same_photo.append(np.abs(photo - small["target"]).mean())
    other_photo.append(np.abs(photo - stranger["target"]).mean())
  assert np.mean(same) > 0.9 and min(same) > 0.8
  assert np.mean(other) < 0.7  # otherwise the agreement would prove nothing
  assert max(same_photo) < 14 < min(other_photo)


def test_photo_follows_the_labels():
  """Glass is darker than the wall, the sky is bluish and the wall has a warm colour."""
  gaps = []
  for index in range(16):
    pair = draw(4, index, (128, 128))
    label, photo = pair["input"], pair["target"].astype(float)
    light = photo.mean(-1)
    wall, window = is_class(label, "facade"), is_class(label, "window")
    # Windows consist of dark glass and pale frames; a low quantile selects the glass.
    gaps.append(np.quantile(light[wall], 0.3) - np.quantile(light[window], 0.3))
    sky = is_class(label, "background")
    sky[20:] = False
    assert photo[sky][:, 2].mean() > photo[sky][:, 0].mean() + 10
    assert photo[wall][:, 0].mean() > photo[wall][:, 2].mean() + 10
  assert min(gaps) > 0 and np.mean(gaps) > 20


def test_moldings_and_sills_cast_shadows():
  """The wall directly below moldings and sills is darker than elsewhere."""
  below, rest = [], []
  for index in range(16):
    pair = draw(6, index, (128, 128))
    label, light = pair["input"], pair["target"].mean(-1)
    out = is_class(label, "molding") | is_class(label, "sill")
    wall = is_class(label, "facade")
    near = np.zeros_like(wall)
    near[1:] = wall[1:] & out[:-1]
    far = wall.copy()
    far[: np.flatnonzero(is_class(label, "molding").any(1))[0]] = False  # leaves out dark attics
    for d in range(1, 8):
      far[d:] &= ~out[:-d]
    below.append(light[near].mean())
    rest.append(light[far].mean())
  assert np.mean(below) < np.mean(rest) - 25
  assert np.mean(np.array(below) < np.array(rest)) > 0.85


def test_ornament_determines_the_material():
  """As the module's docstring says: no two materials have the same combination of ornaments in the label map."""
  seen = set()
  for index in range(800):
    front = facades._plan(np.random.default_rng([8, index]))
    classes = [part.cls for part in front.parts]
    tiles = classes.count("facade") > 1
    shutters = any(part.variant == "shutter" for part in front.parts)
    if "pillar" in classes:
      guess = "stone"
    else:
      guess = "plaster" if tiles or shutters or classes.count("molding") > 2 else "brick"
    assert front.material == guess
    assert guess == "stone" or "deco" not in classes
    seen.add(guess)
  assert seen == {"brick", "plaster", "stone"}
