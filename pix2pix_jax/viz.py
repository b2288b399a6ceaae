"""Pictures for people: sample grids and curves. Nothing here is measured."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN = 4
SMALLEST = 128  # pixels; smaller pictures are enlarged by a whole factor to be seen at all


def to_uint8(picture: np.ndarray) -> np.ndarray:
  """[-1, 1] (H, W, C) → uint8 (H, W, 3) for display: RGB as it is, one channel as grey, of others the first."""
  picture = np.asarray(picture, np.float32)
  if picture.shape[-1] != 3:
    picture = np.repeat(picture[..., :1], 3, axis=-1)
  return np.round(np.clip((picture + 1) * 127.5, 0, 255)).astype(np.uint8)


def grid(columns: dict[str, Sequence[np.ndarray]]) -> np.ndarray:
  """A table of pictures, uint8 (H, W, 3): one column a name, one row a sample, the names above.

  Args:
    columns: name → uint8 (h, w, 3) pictures, all of one size.
  """
  height, width = next(iter(columns.values()))[0].shape[:2]
  factor = max(1, -(-SMALLEST // min(height, width)))
  height, width = height * factor, width * factor
  rows = len(next(iter(columns.values())))
  header = 20
  sheet = Image.new("RGB", (len(columns) * (width + MARGIN) + MARGIN, rows * (height + MARGIN) + MARGIN + header), "white")
  draw = ImageDraw.Draw(sheet)
  font = ImageFont.load_default(14)
  for column, (name, pictures) in enumerate(columns.items()):
    left = MARGIN + column * (width + MARGIN)
    draw.text((left + width / 2, MARGIN), name, fill="black", font=font, anchor="ma")
    for row, picture in enumerate(pictures):
      tile = Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST)
      sheet.paste(tile, (left, header + MARGIN + row * (height + MARGIN)))
  return np.asarray(sheet)


def save_png(path: Path, picture: np.ndarray) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_suffix(".part")
  Image.fromarray(picture).save(part, format="png")
  part.replace(path)


CURVES = {  # title: the scalars in it
    "generator loss": ("generator_loss",),
    "discriminator loss": ("discriminator_loss",),
    "L1 on [0, 1]": ("l1",),
    "GAN loss of the generator": ("gan_loss",),
    "discriminator accuracy, real and fake": ("discriminator_accuracy_real", "discriminator_accuracy_fake"),
    "SSIM": ("ssim",),
}


def curves(rows: list[dict[str, float]], path: Path) -> None:
  """Draws training (line) and validation (dots) curves of a history into a PNG."""
  import matplotlib  # pylint: disable=g-import-not-at-top  (slow to import, used once)
  matplotlib.use("agg")
  from matplotlib import pyplot  # pylint: disable=g-import-not-at-top

  figure, axes = pyplot.subplots(2, 3, figsize=(13, 6.5), layout="constrained")
  for axis, (title, names) in zip(axes.flat, CURVES.items()):
    for color, name in enumerate(names):
      for split, style in (("train", ".-"), ("val", "o--")):
        points = [(row["step"], row[f"{split}/{name}"]) for row in rows if f"{split}/{name}" in row]
        if points:
          label = split if len(names) == 1 else f"{split}, {name.rsplit('_', 1)[1]}"
          # Two scalars share hues by split; the second is lighter.
          axis.plot(*zip(*points), style, label=label, markersize=4 if split == "val" else 2, linewidth=1.3,
                    color={"train": "tab:blue", "val": "tab:orange"}[split], alpha=1 - 0.55 * color)
    axis.set_title(title)
    axis.set_xlabel("step")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    if axis.has_data():
      axis.legend()
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=100)
  pyplot.close(figure)
