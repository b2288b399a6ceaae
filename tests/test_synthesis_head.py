"""Heads as MR and CT: one anatomy on both sides, Hounsfield units as in textbooks, and an MR that is ambiguous."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from pix2pix_jax.configs import ct
from pix2pix_jax.data import prepare
from pix2pix_jax.data.synthesis import head
from pix2pix_jax.signals import Quantity

SEED, SIZE = 7, (96, 96)


def anatomy(index, size=SIZE, k=1, seed=SEED):
  """Names of the tissue at each point of a grid k times as fine as the image; `draw` uses 3 at SIZE."""
  scene = head.scene(np.random.default_rng([seed, index]))
  return np.array(head.NAMES)[head.tissues(scene, *head.pixel_centres((k * size[0], k * size[1])))]


def pure_pixels(count):
  """The MR over the scanner's gain, and the CT, of the pixels that lie within one tissue, by its name."""
  found = {name: ([], []) for name in head.NAMES}
  for index in range(count):
    pair, fine = head.draw(SEED, index, SIZE), anatomy(index, k=3)
    blocks = fine.reshape(SIZE[0], 3, SIZE[1], 3)
    inside = blocks[:, 1, :, 1]
    pure = (blocks == inside[:, None, :, None]).all((1, 3))
    gain = np.median(pair["input"][..., 0][inside == "white"])
    for name, (mr, hounsfield) in found.items():
      mr.append(pair["input"][..., 0][pure & (inside == name)] / gain)
      hounsfield.append(pair["target"][..., 0][pure & (inside == name)])
  return {name: (np.concatenate(mr), np.concatenate(hounsfield)) for name, (mr, hounsfield) in found.items()}


@pytest.fixture(scope="module", name="pixels")
def pixels_fixture():
  return pure_pixels(40)


def test_a_new_process_draws_the_same_bytes():
  calls = [(0, 0, (64, 64)), (7, 3, (64, 64)), (1, 2, (96, 40))]
  digest = hashlib.sha256(b"".join(head.draw(*c)[k].tobytes() for c in calls for k in ("input", "target"))).hexdigest()
  code = (
    "import hashlib; from pix2pix_jax.data.synthesis.head import draw\n"
    "draw(5, 5, (32, 32))\n"  # earlier draws must not matter
    f"d = b''.join(draw(*c)[k].tobytes() for c in {calls!r} for k in ('input', 'target'))\n"
    "print(hashlib.sha256(d).hexdigest())"
  )
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
  assert out.stdout.strip() == digest


def test_seeds_and_indices_differ():
  pairs = [head.draw(seed, index, (32, 48)) for seed in (0, 1) for index in range(8)]
  for key in ("input", "target"):
    assert len({pair[key].tobytes() for pair in pairs}) == len(pairs)


@pytest.mark.parametrize("size", [(64, 64), (128, 64), (37, 51), (288, 256)])
def test_shapes_types_and_values(size):
  for index in range(4):
    pair = head.draw(2, index, size)
    assert set(pair) == {"input", "target"}
    mr, hounsfield = pair["input"], pair["target"]
    assert mr.shape == hounsfield.shape == (*size, 1)
    assert mr.dtype == np.float32 and mr.min() >= 0 and np.isfinite(mr).all()
    assert hounsfield.dtype == np.int16 and hounsfield.min() == -1000 and 1000 < hounsfield.max() < 2000
    for corner in (hounsfield[:3, :3], hounsfield[-3:, -3:]):
      assert corner.max() < -950  # the head does not fill the image


def test_every_tissue_has_its_hounsfield_units(pixels):
  """Bounds from radiology: water 0, fluid up to 15, fat -120 to -60, compact bone above 1000."""
  bounds = {
    "air": (-1000, -960),
    "fat": (-130, -50),
    "muscle": (20, 90),
    "fluid": (-30, 45),
    "white": (-10, 70),
    "grey": (0, 75),
    "blood": (35, 105),
    "oedema": (-15, 55),
    "compact_bone": (1000, 2000),
    "spongy_bone": (300, 1000),
    "calcification": (150, 650),
  }
  for name, (low, high) in bounds.items():
    values = pixels[name][1]
    assert values.size >= 8, name
    assert low <= np.quantile(values, 0.01) and np.quantile(values, 0.99) <= high, name
  mean = {name: float(np.mean(values)) for name, (_, values) in pixels.items() if values.size}
  assert abs(mean["white"] - 28) < 2 and abs(mean["grey"] - 37) < 2 and abs(mean["fat"] + 90) < 4
  assert mean["fat"] < 0 < mean["fluid"] < mean["oedema"] < mean["white"] < mean["grey"] < mean["blood"]


def test_the_mr_is_t1_weighted(pixels):
  mean = {name: float(np.mean(mr)) for name, (mr, _) in pixels.items() if mr.size}
  assert mean["fat"] > mean["white"] > mean["grey"] > mean["fluid"] > mean["compact_bone"]


def test_air_and_bone_are_both_dark_in_the_mr_and_far_apart_in_the_ct(pixels):
  (air, air_hounsfield), (bone, bone_hounsfield) = pixels["air"], pixels["compact_bone"]
  assert np.quantile(air, 0.99) < 0.15 and np.quantile(bone, 0.99) < 0.15  # 1 is white matter
  cut = (np.median(air) + np.median(bone)) / 2
  assert 0.05 < (air > cut).mean() and 0.05 < (bone < cut).mean()  # no threshold separates them
  assert bone_hounsfield.min() - air_hounsfield.max() > 1500


def test_the_background_of_the_mr_has_a_rayleigh_distribution(pixels):
  """The magnitude of complex normal noise has a mean of sqrt(pi / 2) and a deviation of sqrt(2 - pi / 2)."""
  ratios = []
  for index in range(20):
    corner = head.draw(SEED, index, (256, 256))["input"][:24, :24]
    ratios.append(corner.mean() / corner.std())
  np.testing.assert_allclose(np.mean(ratios), np.sqrt(np.pi / (4 - np.pi)), rtol=0.02)


def overlap(a, b):
  """Dice coefficient."""
  return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_both_sides_show_the_same_anatomy():
  """Air and bone by the CT are the dark pixels of the same head's MR, and not of another one's."""
  pairs = [head.draw(SEED, index, (128, 128)) for index in range(12)]
  dark, extreme = [], []
  for pair in pairs:
    mr, hounsfield = pair["input"][..., 0], pair["target"][..., 0]
    dark.append(mr < 0.35 * np.median(mr[hounsfield > -200]))
    extreme.append((hounsfield < -500) | (hounsfield > 300))
  same = [overlap(~a, ~b) for a, b in zip(dark, extreme, strict=True)]
  other = [overlap(~a, ~b) for a, b in zip(dark, extreme[1:] + extreme[:1], strict=True)]
  assert min(same) > 0.93 and np.mean(same) > np.mean(other) + 0.08


def test_all_sizes_show_the_same_head():
  """At three times the size, every pixel centre of the small image is also a pixel centre of the large one."""
  for index in range(6):
    assert (anatomy(index, (40, 56)) == anatomy(index, (120, 168))[1::3, 1::3]).mean() > 0.995
    small, large = (head.draw(SEED, index, size)["target"][..., 0].astype(float) for size in ((72, 72), (216, 216)))
    other = head.draw(SEED, index + 1, (72, 72))["target"][..., 0]
    coarse = large.reshape(72, 3, 72, 3).mean((1, 3))
    assert np.abs(coarse - small).mean() < 20 < 80 < np.abs(coarse - other).mean()


def test_every_structure_occurs():
  """The skull encloses the brain in every head; sinuses, calcifications and lesions are in some."""
  count = 120
  seen = dict.fromkeys(head.NAMES, 0)
  hollow = 0
  for index in range(count):
    tissue = anatomy(index)
    for name in np.unique(tissue):
      seen[name] += 1
    row = tissue[: SIZE[0] // 2, SIZE[1] // 2 - 8 : SIZE[1] // 2 + 8]
    hollow += any((np.diff((column == "air").astype(int)) == 1).any() for column in row.T)  # air below other tissue
  for name in ("air", "skin", "fat", "compact_bone", "spongy_bone", "fluid", "grey", "white"):
    assert seen[name] >= count - 3, name
  for name in ("muscle", "calcification", "oedema", "tumour", "blood"):
    assert 0.05 * count < seen[name] < 0.9 * count, name
  assert 0.15 * count < hollow < 0.6 * count  # frontal sinuses


def test_prepared_heads_are_quantities_whose_target_is_int16(tmp_path):
  data = ct.get_config().data
  data.num_train, data.num_val, data.num_test = 3, 1, 1
  data.load_size, data.prepared_dir = 24, str(tmp_path)
  source = prepare.prepare(data)
  assert source.spec.target == Quantity(1, "int16", ((-1000.0, 1800.0),), "HU")
  assert (source.spec.input.kind, source.spec.input.dtype, source.spec.input.unit) == ("quantity", "float32", "")
  ((low, high),) = source.spec.input.range
  assert 0 <= low < 30 and 400 < high < 1200
  for index, (_, mr, hounsfield) in enumerate(source.pairs("train")):
    drawn = head.draw(0, index, (24, 24))
    np.testing.assert_array_equal(mr, drawn["input"])
    np.testing.assert_array_equal(hounsfield, drawn["target"])
    encoded = source.spec.target.encode(hounsfield)
    np.testing.assert_array_equal(source.spec.target.decode(encoded), np.minimum(drawn["target"], 1800))
