"""Image grids and curves for people to look at. Nothing here is measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pix2pix_jax import depth
from pix2pix_jax.signals import DataSpec, Depth, Signal

MARGIN = 4
SMALLEST = 128  # pixels; smaller images are upscaled by an integer factor for visibility


def show(signal: Signal, raw: np.ndarray) -> np.ndarray:
  """An image as a file or a Translator returns it, (H, W, C), as uint8 (H, W, 3)."""
  return signal.display(signal.encode(raw), signal.valid(raw))


def example_grid(examples: Sequence[dict[str, np.ndarray]], spec: DataSpec) -> np.ndarray:
  """`input`, `output` and `target` of examples, each (H, W, C) in [-1, 1], as a grid with one row per example.

  Holes of the target come from its `mask`, holes of the output from its validity channel if it has one.
  """
  columns: dict[str, list[np.ndarray]] = {"input": [], "output": [], "target": []}
  channels = spec.target.channels
  for example in examples:
    output, validity = example["output"][..., :channels], example["output"][..., channels:]
    columns["input"].append(spec.input.display(example["input"], spec.input.measured(example["input"])))
    columns["output"].append(spec.target.display(output, validity > 0 if validity.shape[-1] else None))
    columns["target"].append(spec.target.display(example["target"], example.get("mask")))
  ranges = [signal.range for signal in (spec.input, spec.target) if isinstance(signal, Depth)]
  return grid(columns, ranges[-1] if ranges else None)


def grid(columns: Mapping[str, Sequence[np.ndarray]], depth_range: tuple[float, float] | None = None) -> np.ndarray:
  """A table of images, uint8 (H, W, 3): one column a name, one row a sample, the names above.

  Args:
    columns: name → uint8 (h, w, 3) images, all of one size.
    depth_range: in metres; adds a scale of the depth colours below.
  """
  height, width = next(iter(columns.values()))[0].shape[:2]
  factor = max(1, -(-SMALLEST // min(height, width)))
  height, width = height * factor, width * factor
  rows = len(next(iter(columns.values())))
  font = _font()
  sheet_width = len(columns) * (width + MARGIN) + MARGIN
  header, footer = 20, _scale_height(sheet_width, font) if depth_range else 0
  sheet = Image.new("RGB", (sheet_width, rows * (height + MARGIN) + MARGIN + header + footer), "white")
  draw = ImageDraw.Draw(sheet)
  for column, (name, images) in enumerate(columns.items()):
    left = MARGIN + column * (width + MARGIN)
    draw.text((left + width / 2, MARGIN), name, fill="black", font=font, anchor="ma")
    for row, image in enumerate(images):
      tile = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
      sheet.paste(tile, (left, header + MARGIN + row * (height + MARGIN)))
  if depth_range:
    _draw_scale(sheet, draw, font, depth_range, top=sheet.height - footer)
  return np.asarray(sheet)


def _font() -> ImageFont.FreeTypeFont:
  """DejaVu Sans, which has ×, · and accents; Pillow's own font lacks them."""
  import matplotlib  # slow to import; brings the font along

  return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), 13)


LEGEND = "no measurement"


def _fits_beside(width: int, font: ImageFont.FreeTypeFont) -> bool:
  """Whether the legend of holes has room beside a bar of half the sheet; else it stands below."""
  return width // 2 + font.getlength(LEGEND) + 70 <= width


def _scale_height(width: int, font: ImageFont.FreeTypeFont) -> int:
  return 40 if _fits_beside(width, font) else 60


def _draw_scale(
  sheet: Image.Image, draw: ImageDraw.ImageDraw, font, depth_range: tuple[float, float], top: int
) -> None:
  """A bar of the depth colours with metres below it, and the colour of holes."""
  beside = _fits_beside(sheet.width, font)
  length = sheet.width // 2 if beside else sheet.width - 2 * MARGIN
  bar = depth.colors(np.tile(np.linspace(-1, 1, length, dtype=np.float32), (12, 1)))
  sheet.paste(Image.fromarray(bar), (MARGIN, top + 4))
  metres = {share: depth_range[0] + share * (depth_range[1] - depth_range[0]) for share in (0, 0.25, 0.5, 0.75, 1)}
  labels = {share: f"{value:g} m" if share in (0, 1) else f"{value:g}" for share, value in metres.items()}
  crowded = 6 * max(map(font.getlength, labels.values())) > length
  for share in (0, 1) if crowded else labels:
    draw.text(
      (MARGIN + share * length, top + 18),
      labels[share],
      fill="black",
      font=font,
      anchor={0.0: "la", 1.0: "ra"}.get(share, "ma"),
    )
  x, y = (MARGIN + length + 40, top + 4) if beside else (MARGIN, top + 42)
  draw.rectangle((x, y, x + 12, y + 12), fill=depth.HOLE_COLOR)
  draw.text((x + 18, y - 2), LEGEND, fill="black", font=font)


def save_png(path: Path, image: np.ndarray) -> None:
  """Writes uint8 (H, W, 3) atomically, creating the folder if needed."""
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_suffix(".part")
  Image.fromarray(image).save(part, format="png")
  part.replace(path)


CURVES = {  # title: the scalars in it
  "generator loss": ("generator_loss",),
  "discriminator loss": ("discriminator_loss",),
  "L1 on [0, 1]": ("l1",),
  "GAN loss of the generator": ("gan_loss",),
  "discriminator accuracy, real and fake": ("discriminator_accuracy_real", "discriminator_accuracy_fake"),
  "SSIM": ("ssim",),
  "RMSE in metres": ("rmse",),  # of depth, in the place of SSIM
}


def curves(rows: list[dict[str, float]], path: Path, *, changes: Sequence[dict[str, Any]] = ()) -> None:
  """Draws training (line) and validation (dots) curves of a history into a PNG.

  Args:
    rows: as `history.read` returns them.
    path: of the PNG.
    changes: resumes that changed the configuration, with their `step`; each is marked by a vertical line.
  """
  # A figure of its own: pyplot would keep it, and its backend is the user's to choose.
  from matplotlib.figure import Figure  # slow to import, used once

  present = {name.split("/")[1] for row in rows for name in row if "/" in name}
  shown = [(title, names) for title, names in CURVES.items() if present.intersection(names)]
  figure = Figure(figsize=(13, 6.5), layout="constrained")
  axes = figure.subplots(2, 3)
  for axis in axes.flat[len(shown) :]:
    axis.set_visible(False)
  for axis, (title, names) in zip(axes.flat, shown):
    for color, name in enumerate(names):
      for split, style in (("train", ".-"), ("val", "o--")):
        points = [(row["step"], row[f"{split}/{name}"]) for row in rows if f"{split}/{name}" in row]
        if points:
          label = split if len(names) == 1 else f"{split}, {name.rsplit('_', 1)[1]}"
          # Two scalars share hues by split; the second is lighter.
          axis.plot(
            *zip(*points),
            style,
            label=label,
            markersize=4 if split == "val" else 2,
            linewidth=1.3,
            color={"train": "tab:blue", "val": "tab:orange"}[split],
            alpha=1 - 0.55 * color,
          )
    for change in changes:
      axis.axvline(change["step"], color="0.5", linestyle=":", linewidth=1)
    axis.set_title(title)
    axis.set_xlabel("step")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend()
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=100)
