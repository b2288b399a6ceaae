"""Sample sheets and curves: nothing is cut off, and a user's own plots are left alone."""

import subprocess
import sys

import numpy as np
from PIL import Image, ImageDraw
import pytest

from pix2pix_jax.run import viz

WHITE = (255, 255, 255)


def sheet(columns, height=128, width=128, depth_range=(0.0, 80.0)):
  return viz.grid({name: [np.full((height, width, 3), 200, np.uint8)] for name in columns}, depth_range)


@pytest.mark.parametrize(
  "columns, width",
  [
    (("target",), 128),
    (("output", "target"), 128),
    (("input", "output", "target"), 128),
    (("input", "output", "target"), 384),
  ],
)
def test_the_scale_and_its_legend_are_whole_on_any_sheet(columns, width, monkeypatch):
  boxes = []
  text = ImageDraw.ImageDraw.text

  def record(draw, xy, string, *, font, anchor="la", **options):
    boxes.append((string, draw.textbbox(xy, string, font=font, anchor=anchor)))
    return text(draw, xy, string, font=font, anchor=anchor, **options)

  monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
  picture = sheet(columns, width=width, depth_range=(0.0, 655.35))
  assert {"no measurement", "0 m", "655.35 m"} <= {string for string, _ in boxes}
  for string, (left, top, right, bottom) in boxes:
    assert 0 <= left and 0 <= top and right <= picture.shape[1] and bottom <= picture.shape[0], f"{string} is cut off"
  for i, (one, (left, top, right, bottom)) in enumerate(boxes):
    for other, (left2, top2, right2, bottom2) in boxes[:i]:
      assert right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top, f"{one} lies over {other}"
  assert (picture[-1] == WHITE).all() and (picture[:, -1] == WHITE).all()


def test_pictures_and_names_stand_where_they_belong():
  picture = sheet(("a", "b"), depth_range=None)
  assert picture.shape == (156, 268, 3)
  for left in (4, 136):
    assert (picture[24:152, left : left + 128] == 200).all()
    assert (picture[4:20, left : left + 128] < 100).any()


def test_names_may_have_signs_and_accents():
  def name(text):
    return sheet([text], depth_range=None)[:20].tobytes()

  missing = name("\uffff")
  assert len({missing, *map(name, "×·→äé²σδ")}) == 9


def test_small_pictures_are_enlarged_by_a_whole_factor():
  picture = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
  shown = viz.grid({"x": [picture]})
  np.testing.assert_array_equal(shown[24:174, 4:184], picture.repeat(3, 0).repeat(3, 1))


def test_curves_leave_pyplot_and_its_backend_alone(tmp_path):
  code = (
    "import sys, matplotlib; matplotlib.use('svg'); from pix2pix_jax.run import viz; from pathlib import Path;"
    "viz.curves([{'step': n, 'train/generator_loss': n, 'val/generator_loss': n} for n in (1, 2)], Path(sys.argv[1]));"
    "print(matplotlib.get_backend(), 'matplotlib.pyplot' in sys.modules)"
  )
  done = subprocess.run(
    [sys.executable, "-c", code, str(tmp_path / "curves.png")], capture_output=True, text=True, check=False
  )
  assert done.stdout.split() == ["svg", "False"], done.stdout + done.stderr
  assert Image.open(tmp_path / "curves.png").size == (1300, 650)
