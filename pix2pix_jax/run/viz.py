"""Pictures for people: sample grids and curves. Nothing here is measured."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pix2pix_jax.data import images

MARGIN = 4
SMALLEST = 128  # pixels; smaller pictures are enlarged by a whole factor to be seen at all


HOLE = (0, 0, 0)  # no colour of the depth map, whose darkest is a violet


def depth_colors(encoded: np.ndarray) -> np.ndarray:
  """[-1, 1] (H, W) → uint8 (H, W, 3): viridis, perceptually uniform, near yellow to far violet."""
  import matplotlib  # pylint: disable=g-import-not-at-top  (slow to import, needed for depth only)

  return matplotlib.colormaps["viridis_r"]((np.clip(encoded, -1, 1) + 1) / 2, bytes=True)[..., :3]


def display(picture: np.ndarray, dtype: str = "uint8", mask: np.ndarray | None = None) -> np.ndarray:
  """A picture in [-1, 1] (H, W, C) as uint8 (H, W, 3) to look at.

  Args:
    picture: RGB is shown as it is, one channel grey, of other counts the first channel; depth in the colours of `depth_colors`.
    dtype: "float32" for depth, else "uint8" or "uint16".
    mask: (H, W, 1), 0 where a depth is missing, which is painted black.
  """
  picture = np.asarray(picture, np.float32)
  if dtype == "float32":
    colors = depth_colors(picture[..., 0])
    return colors if mask is None else np.where(np.asarray(mask) > 0, colors, np.uint8(HOLE))
  if picture.shape[-1] != 3:
    picture = np.repeat(picture[..., :1], 3, axis=-1)
  return np.round(np.clip((picture + 1) * 127.5, 0, 255)).astype(np.uint8)


def display_raw(picture: np.ndarray, dtype: str, depth_range: tuple[float, float]) -> np.ndarray:
  """A picture as a file or a Translator gives it, (H, W, C), for display; depth in metres with 0 as hole."""
  if dtype == "float32":
    return display(images.normalise(picture, depth_range), dtype, picture > 0)
  if np.issubdtype(picture.dtype, np.floating):
    return display(picture * 2 - 1)
  return display(images.normalise(picture, depth_range))


def display_example(example: dict[str, np.ndarray], data) -> dict[str, np.ndarray]:
  """`input`, `output` and `target` (each [-1, 1], (H, W, C)) of one example for display, and `mask` if it has one.

  Holes are those of the mask for the target, predicted ones for the output if it has a validity channel, and zeros for an input depth.
  """
  channels = example["target"].shape[-1]
  output, validity = example["output"][..., :channels], example["output"][..., channels:]
  return {
    "input": display(
      example["input"], data.input_dtype, example["input"] > -1 if data.input_dtype == "float32" else None
    ),
    "output": display(output, data.target_dtype, validity > 0 if validity.shape[-1] else None),
    "target": display(example["target"], data.target_dtype, example.get("mask")),
  }


def grid(columns: dict[str, Sequence[np.ndarray]], depth_range: tuple[float, float] | None = None) -> np.ndarray:
  """A table of pictures, uint8 (H, W, 3): one column a name, one row a sample, the names above.

  Args:
    columns: name → uint8 (h, w, 3) pictures, all of one size.
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
  for column, (name, pictures) in enumerate(columns.items()):
    left = MARGIN + column * (width + MARGIN)
    draw.text((left + width / 2, MARGIN), name, fill="black", font=font, anchor="ma")
    for row, picture in enumerate(pictures):
      tile = Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST)
      sheet.paste(tile, (left, header + MARGIN + row * (height + MARGIN)))
  if depth_range:
    _draw_scale(sheet, draw, font, depth_range, top=sheet.height - footer)
  return np.asarray(sheet)


def _font() -> ImageFont.FreeTypeFont:
  """DejaVu Sans, which has ×, · and accents; Pillow's own font has not."""
  import matplotlib  # pylint: disable=g-import-not-at-top  (slow to import; brings the font along)

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
  bar = depth_colors(np.tile(np.linspace(-1, 1, length, dtype=np.float32), (12, 1)))
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
      anchor={0: "la", 1: "ra"}.get(share, "ma"),
    )
  x, y = (MARGIN + length + 40, top + 4) if beside else (MARGIN, top + 42)
  draw.rectangle((x, y, x + 12, y + 12), fill=HOLE)
  draw.text((x + 18, y - 2), LEGEND, fill="black", font=font)


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
  "RMSE in metres": ("rmse",),  # of depth, in the place of SSIM
}


def curves(rows: list[dict[str, float]], path: Path) -> None:
  """Draws training (line) and validation (dots) curves of a history into a PNG."""
  # A figure of its own: pyplot would keep it, and its backend is the user's to choose.
  from matplotlib.figure import Figure  # pylint: disable=g-import-not-at-top  (slow to import, used once)

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
    axis.set_title(title)
    axis.set_xlabel("step")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend()
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=100)
