"""Image grids and curves to look at. No metric is computed from them."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from pix2pix_jax import depth
from pix2pix_jax.signals import Classes, DataSpec, Depth, Quantity, Signal, Stack

MARGIN = 4
SMALLEST = 128  # pixels; smaller images are upscaled by an integer factor for visibility
WIDEST = 2400  # pixels; the images of a wider sheet are downscaled
TALLEST = 1200  # pixels; a taller image is downscaled
FONT_SIZE = 13  # pixels; larger on wide sheets, which are usually viewed at a reduced size
LEGEND = "no value"
NO_LABEL = "no label"
MAX_ENTRIES = 40  # of a legend of classes, or of a confusion matrix
LAYOUT_KEY = "pix2pix_jax_sheet"  # of the PNG text chunk that describes a labelled sheet


def show(signal: Signal, raw: np.ndarray) -> np.ndarray:
  """Converts raw values (H, W, C), as in a file or from a `Translator`, to uint8 (H, W, 3) for display."""
  return signal.display(signal.encode(raw), signal.valid(raw))


# --- Examples: input, output, target and error


@dataclasses.dataclass(frozen=True)
class Row:
  """An example ready to be drawn, small enough for a sheet of four columns.

  Attributes:
    images: `input` (or each of several inputs by its name), `output` and `target`, each uint8 (h, w, 3).
    error: |output − target|, float32 (h, w), as `Signal.error` returns it; NaN where the target has no value.
  """

  images: dict[str, np.ndarray]
  error: np.ndarray


def draw_row(example: Mapping[str, np.ndarray], spec: DataSpec) -> Row:
  """Draws `input`, `output` and `target`, each (H, W, C) in [-1, 1].

  The holes of the target come from `mask` and those of the output from its validity channel, where there is one.
  """
  channels = spec.target.channels
  output, validity = example["output"][..., :channels], example["output"][..., channels:]
  target, mask = example["target"], example.get("mask")
  error = spec.target.error(output, target)
  images = {
    **input_columns(spec.input, example["input"]),
    "output": spec.target.display(output, validity > 0 if validity.shape[-1] else None),
    "target": spec.target.display(target, mask),
  }
  size = _bounded(*error.shape, columns=len(images) + 1)
  return Row(
    {name: _shrink(image, size, signal_of(name, spec)) for name, image in images.items()},
    _shrink(error if mask is None else np.where(mask[..., 0] > 0, error, np.nan), size, spec.target),
  )


def input_columns(signal: Signal, encoded: np.ndarray) -> dict[str, np.ndarray]:
  """The images of an encoded input (H, W, C): `input`, or each of several inputs by its name; uint8 (H, W, 3)."""
  if isinstance(signal, Stack):
    return dict(signal.columns(encoded))
  return {"input": signal.display(encoded, signal.measured(encoded))}


def signal_of(column: str, spec: DataSpec) -> Signal:
  """The signal that a column shows."""
  if isinstance(spec.input, Stack) and column in spec.input.names:
    return spec.input.parts[spec.input.names.index(column)]
  return spec.input if column == "input" else spec.target


def example_grid(rows: Sequence[Row], spec: DataSpec) -> np.ndarray:
  """Input, output and target of examples as a grid with one row per example, uint8 (H, W, 3)."""
  return _example_sheet(rows, spec).draw()


def describe_example_grid(rows: Sequence[Row], spec: DataSpec) -> dict[str, Any]:
  """The layout of `example_grid`, for the report.

  Returns:
    `columns`: their titles; `body`: (left, top, right, bottom) of the images, without labels; `scales`: as
    `Scale.describe` returns them.
  """
  sheet = _example_sheet(rows, spec)
  boxes = sheet.boxes()
  return {
    "columns": list(sheet.columns),
    "body": (*boxes[0][0][:2], *boxes[-1][-1][2:]),
    "scales": [scale.describe() for scale in sheet.scales],
  }


def _example_sheet(rows: Sequence[Row], spec: DataSpec) -> "_Sheet":
  columns = {name: [row.images[name] for row in rows] for name in rows[0].images}
  return _Sheet(_titled(columns, spec), _value_scales(columns, spec))


def _titled(columns: Mapping[str, Sequence[np.ndarray]], spec: DataSpec) -> dict[str, Sequence[np.ndarray]]:
  """Columns under names that say which channel they show, where that is one of several, and which part of a range."""
  return {
    ", ".join(filter(None, [name, *_what_is_shown(signal_of(name, spec))])): images for name, images in columns.items()
  }


def _what_is_shown(signal: Signal) -> tuple[str, str]:
  shown = getattr(signal, "shown_range", ())
  return _shown_channels(signal), " to ".join(f"{value:g}" for value in shown)


def _shown_channels(signal: Signal) -> str:
  """For example "channel 1 of 4" or "channels 4, 3, 2 of 7", counted from 1; empty if `Signal.display` shows an image
  or quantity as a whole.
  """
  count = signal.raw_channels
  shown = [channel + 1 for channel in getattr(signal, "shown_channels", ())]
  if not shown and (count == 1 or (signal.kind == "image" and count == 3)):
    return ""
  return f"channel{'s' * (len(shown) > 1)} {', '.join(map(str, shown or [1]))} of {count}"


def save_sheet(
  path: Path, rows: Sequence[Row], captions: Sequence[tuple[str, str]], spec: DataSpec, error_scale: "Scale"
) -> None:
  """Writes examples as a PNG with a fourth column of errors and a caption below each row.

  A text chunk describes the layout, so that the report can cut out the images without their labels.

  Args:
    path: path of the PNG.
    rows: the examples; images smaller than others keep their proportions.
    captions: (id, metric) of each row. A long id is shortened in the middle.
    spec: signals of the data.
    error_scale: colour scale of the errors (`scale_errors`).
  """
  images = {name: [row.images[name] for row in rows] for name in rows[0].images}
  columns = {**_titled(images, spec), "error": [error_scale.paint(row.error) for row in rows]}
  error_scale = dataclasses.replace(error_scale, holes=any(np.isnan(row.error).any() for row in rows))
  scales = [*_value_scales(images, spec), error_scale]
  sheet = _Sheet(columns, scales, captions)
  about = {
    "columns": list(columns),
    "captions": [list(caption) for caption in captions],
    "boxes": sheet.boxes(),
    "scales": [scale.describe() for scale in scales],
  }
  save_png(path, sheet.draw(), {LAYOUT_KEY: json.dumps(about)})


def _value_scales(columns: Mapping[str, Sequence[np.ndarray]], spec: DataSpec) -> list["Scale"]:
  """The scales and legends of the colours that stand for numbers or classes; one if both sides share it."""
  scales: dict[tuple[Any, ...], Scale] = {}
  for side, signal in ((name, signal_of(name, spec)) for name in columns if name != "output"):
    holes = any(_shows_holes(images, signal) for name, images in columns.items() if signal_of(name, spec) is signal)
    key: tuple[Any, ...]
    if isinstance(signal, Depth):
      key, scale = ("depth", *signal.range), _depth_scale(signal.range, holes=holes)
    elif isinstance(signal, Quantity):
      key, scale = (side,), _quantity_scale(side, signal, holes=holes)
    elif isinstance(signal, Classes):
      key, colors = (side,), signal.color_table
      entries = tuple((str(index), colors[index]) for index in range(signal.count) if index != signal.ignore)
      scale = Scale(
        f"{side}: classes", 0, signal.count - 1, "", colors, holes=holes, entries=entries, hole_text=NO_LABEL
      )
    else:
      continue
    scales[key] = dataclasses.replace(scale, holes=scale.holes or (key in scales and scales[key].holes))
  return list(scales.values())


def _shows_holes(images: Sequence[np.ndarray], signal: Signal) -> bool:
  """Whether images drawn by a signal have pixels in the colour of holes."""
  return signal.has_holes and any((image == depth.HOLE_COLOR).all(-1).any() for image in images)


def _bounded(height: int, width: int, *, columns: int) -> tuple[int, int]:
  """(height, width) of an image in a sheet that must not exceed WIDEST."""
  widest = (WIDEST - MARGIN) // columns - MARGIN
  shrink = min(1.0, widest / width, TALLEST / height)
  return max(1, int(height * shrink)), max(1, int(width * shrink))


def _shrink(array: np.ndarray, size: tuple[int, int], signal: Signal) -> np.ndarray:
  """uint8 (H, W, 3) or float32 (H, W) at a smaller size; labels and values near holes are not averaged."""
  if array.shape[:2] == size:
    return array
  is_exact = signal.has_holes or signal.resampling == "nearest"
  method = Image.Resampling.NEAREST if is_exact else Image.Resampling.HAMMING
  return np.asarray(Image.fromarray(array).resize(size[::-1], method))


# --- Colour scales


@dataclasses.dataclass(frozen=True)
class Scale:
  """A colour scale, drawn as a bar, or a legend of classes.

  Attributes:
    title: the quantity that the colours show.
    low: value of the first colour.
    high: value of the last colour.
    unit: of the values, such as `"m"`; empty if there is none.
    colors: uint8 (256, 3) from `low` to `high`.
    holes: whether the images have pixels without a value, which are black.
    is_exceeded: whether some values lie above `high` and share its colour.
    entries: name and colour of each class or of each of three channels; they are drawn instead of the bar.
    hole_text: name of the colour of pixels without a value.
  """

  title: str
  low: float
  high: float
  unit: str
  colors: np.ndarray
  holes: bool
  is_exceeded: bool = False
  entries: tuple[tuple[str, np.ndarray], ...] = ()
  hole_text: str = LEGEND

  def legend(self) -> list[tuple[str, tuple[int, int, int]]]:
    """(text, colour) of the swatches beside or instead of the bar."""
    shown: list[tuple[str, tuple[int, int, int]]] = [
      (text, (int(red), int(green), int(blue))) for text, (red, green, blue) in self.entries[:MAX_ENTRIES]
    ]
    if len(self.entries) > MAX_ENTRIES:
      shown.append((f"and {len(self.entries) - MAX_ENTRIES} more", (255, 255, 255)))
    return [*shown, *([(self.hole_text, depth.HOLE_COLOR)] if self.holes else [])]

  def paint(self, values: np.ndarray) -> np.ndarray:
    """float (H, W) → uint8 (H, W, 3), NaN in black."""
    share = (np.nan_to_num(values, nan=self.low) - self.low) / (self.high - self.low)
    painted = self.colors[np.round(255 * np.clip(share, 0, 1)).astype(np.uint8)]
    return np.where(np.isnan(values)[..., None], np.array(depth.HOLE_COLOR, np.uint8), painted)

  def labels(self) -> list[str]:
    """The values at 0, ¼, ½, ¾ and 1 of the bar; the first and the last exact and with the unit, the others rounded to
    a hundredth of the bar or less.
    """
    span = self.high - self.low
    decimals = -math.floor(math.log10(span / 100))
    inner = [round(self.low + share * span, decimals) + 0.0 for share in (0.25, 0.5, 0.75)]  # + 0.0: no "-0"
    texts = [f"{value:g}" for value in (self.low, *inner, self.high)]
    texts[-1] = f"≥ {texts[-1]}" if self.is_exceeded else texts[-1]
    return [f"{texts[0]} {self.unit}".strip(), *texts[1:-1], f"{texts[-1]} {self.unit}".strip()]

  def describe(self) -> dict[str, Any]:
    """Title, labels, nine colours as #rrggbb, and the text and colour of each swatch, for the report."""
    colors = [] if self.entries else ["#" + bytes(self.colors[round(255 * share / 8)]).hex() for share in range(9)]
    legend = [[text, f"#{bytes(color).hex()}"] for text, color in self.legend()]
    return {
      "title": self.title,
      "labels": [] if self.entries else self.labels(),
      "colors": colors,
      "legend": legend,
    }


def _quantity_scale(title: str, signal: Quantity, *, holes: bool) -> Scale:
  """The colours of a single channel, or the ranges that red, green and blue stand for."""
  first, *others = signal.shown_channels or (0,)
  low, high = signal.range_of(first)
  colors = depth.colors(np.linspace(1, -1, 256, dtype=np.float32)[None])[0]
  entries = []
  for channel, color in zip((first, *others), 255 * np.eye(3, dtype=np.uint8)):
    ends = " to ".join(f"{value:g}" for value in signal.range_of(channel))
    entries.append((f"channel {channel + 1}: {ends} {signal.unit}".strip(), color))
  return Scale(
    f"{title}: {_shown_channels(signal) or 'quantity'}",
    *(low, high, signal.unit, colors),
    holes=holes,
    entries=tuple(entries) if others else (),
  )


def _depth_scale(depth_range: tuple[float, float], *, holes: bool) -> Scale:
  colors = depth.colors(np.linspace(-1, 1, 256, dtype=np.float32)[None])[0]
  return Scale("depth", *depth_range, "m", colors, holes=holes)


def scale_errors(rows: Iterable[Row], target: Signal) -> Scale:
  """One scale for the errors of all rows: from 0 to their 99th percentile, rounded up to one digit."""
  import matplotlib  # slow to import

  rows = list(rows)
  errors = np.concatenate([row.error[~np.isnan(row.error)] for row in rows])
  high = _round_up(float(np.percentile(errors, 99))) if errors.size else 1.0
  # Plasma is perceptually uniform, has no black (the colour of holes) and cannot be mistaken for depth's viridis.
  colors = matplotlib.colormaps["plasma"](np.arange(256), bytes=True)[:, :3]
  holes = any(np.isnan(row.error).any() for row in rows)
  if target.kind == "classes":
    entries = (("right class", colors[0]), ("wrong class", colors[-1]))
    return Scale("error", 0.0, 1.0, "", colors, holes=holes, entries=entries, hole_text=NO_LABEL)
  titles = {"image": "|output − target| on [0, 1]", "depth": "|output − target| in metres"}
  quantity = f"|output − target|{f' in {target.unit}' if target.unit else ''}"
  return Scale(
    f"error: {titles.get(target.kind, quantity)}",
    0.0,
    high,
    target.unit,
    colors,
    holes=holes,
    is_exceeded=bool(errors.size and errors.max() > high),
  )


def _round_up(value: float) -> float:
  """Rounds up to one significant digit that is 1 or even, so that the quarters have few digits. At least 0.001."""
  power = 10.0 ** math.floor(math.log10(max(value, 0.001)))
  return next(digit * power for digit in (1, 2, 4, 6, 8, 10) if digit * power >= value * (1 - 1e-9))


# --- Sheets


def grid(
  columns: Mapping[str, Sequence[np.ndarray]],
  depth_range: tuple[float, float] | None = None,
  *,
  spec: DataSpec | None = None,
  captions: Sequence[str] = (),
) -> np.ndarray:
  """A table of images, uint8 (H, W, 3), with one column per name, one row per sample and the names above.

  Small images are enlarged by an integer factor; large ones are reduced so that the sheet stays below 2400 pixels.

  Args:
    columns: name → uint8 (h, w, 3) images; smaller ones keep their proportions.
    depth_range: in metres; adds a scale of the depth colours below the images.
    spec: signals of the images, whose scales are added instead; the columns are `input`, `output` and `target`.
    captions: a text below each row.
  """
  texts = [(caption, "") for caption in captions]
  if spec:
    return _Sheet(_titled(columns, spec), _value_scales(columns, spec), texts).draw()
  if not depth_range:
    return _Sheet(columns, [], texts).draw()
  holes = any(_shows_holes(images, Depth()) for images in columns.values())
  return _Sheet(columns, [_depth_scale(depth_range, holes=holes)], texts).draw()


class _Sheet:
  """The geometry of a table of images, and its drawing.

  From top to bottom: the columns' names, rows of images, each with its caption below, and a block for each scale. Every
  text line is `line` high. A caption has one line, or two if id and metric do not fit side by side.
  """

  def __init__(
    self,
    columns: Mapping[str, Sequence[np.ndarray]],
    scales: Sequence[Scale],
    captions: Sequence[tuple[str, str]] = (),
  ):
    self.columns, self.scales = columns, scales
    heights, widths = zip(*(image.shape[:2] for image in next(iter(columns.values()))))
    self.largest = max(heights), max(widths)
    self.tile = _tile_size(*self.largest, len(columns))
    self.text_size = max(FONT_SIZE, len(columns) * self.tile[1] // 80)
    self.font = _font(self.text_size)
    self.line = round(1.55 * self.text_size)
    self.cell = max(self.tile[1], *(math.ceil(self.font.getlength(name)) for name in columns))
    self.width = len(columns) * (self.cell + MARGIN) + MARGIN
    self.captions = [self._caption_lines(*caption) for caption in captions]
    caption_lines = max(map(len, self.captions), default=0)
    self.captions = [[*lines, *[("", "")] * (caption_lines - len(lines))] for lines in self.captions]
    self.pitch = self.tile[0] + MARGIN + caption_lines * self.line
    self.count = len(next(iter(columns.values())))
    self.footer = self.line + MARGIN + self.count * self.pitch  # top of the scales
    self.height = self.footer + sum(map(self._scale_height, scales))

  def boxes(self) -> list[list[tuple[int, int, int, int]]]:
    """(left, top, right, bottom) of each image: rows of columns."""
    height, width = self.tile
    lefts = [MARGIN + i * (self.cell + MARGIN) + (self.cell - width) // 2 for i in range(len(self.columns))]
    tops = [self.line + MARGIN + i * self.pitch for i in range(self.count)]
    return [[(left, top, left + width, top + height) for left in lefts] for top in tops]

  def draw(self) -> np.ndarray:
    """The sheet, uint8 (H, W, 3)."""
    sheet = Image.new("RGB", (self.width, self.height), "white")
    self._canvas = ImageDraw.Draw(sheet)
    boxes = self.boxes()
    for column, (name, images) in enumerate(self.columns.items()):
      self._text(MARGIN + column * (self.cell + MARGIN) + self.cell / 2, MARGIN, name, "ma")
      for row, image in enumerate(images):
        method = Image.Resampling.NEAREST if image.shape[0] <= self.tile[0] else Image.Resampling.HAMMING
        height, width = self._drawn_size(*image.shape[:2])
        x, y = boxes[row][column][:2]
        corner = x + (self.tile[1] - width) // 2, y + (self.tile[0] - height) // 2
        sheet.paste(Image.fromarray(image).resize((width, height), method), corner)
    for row, lines in enumerate(self.captions):
      top = boxes[row][0][3] + MARGIN // 2
      for i, (left, right) in enumerate(lines):
        self._text(MARGIN, top + i * self.line, left, "la")
        self._text(self.width - MARGIN, top + i * self.line, right, "ra")
    top = self.footer
    for scale in self.scales:
      self._draw_scale(sheet, scale, top)
      top += self._scale_height(scale)
    return np.asarray(sheet)

  def _drawn_size(self, height: int, width: int) -> tuple[int, int]:
    """(height, width) of an image in its tile, which one of another size than the largest does not fill."""
    if (height, width) == self.largest:
      return self.tile
    factor = min(self.tile[0] / height, self.tile[1] / width)
    return max(1, int(height * factor)), max(1, int(width * factor))

  def _text(self, x: float, y: float, text: str, anchor: str) -> None:
    if text:
      self._canvas.text((x, y), text, fill="black", font=self.font, anchor=anchor)

  def _caption_lines(self, name: str, metric: str) -> list[tuple[str, str]]:
    """(left text, right text) of each line."""
    room = self.width - 2 * MARGIN
    name = "".join(letter if letter.isprintable() else "�" for letter in name)
    beside = room - self.font.getlength(f"{metric}   ")
    if beside >= min(self.font.getlength(name), 12 * self.text_size):
      return [(_shorten(name, self.font, beside), metric)]
    return [(_shorten(text, self.font, room), "") for text in (name, metric)]

  def _bar(self, scale: Scale) -> tuple[int, bool]:
    """Length of a scale's bar, and whether the legend of holes has room beside it; otherwise it goes below."""
    half, room = self.width // 2, self.width - 2 * MARGIN
    beside = half + self.font.getlength(LEGEND) + 70 <= self.width
    return (half if beside else room), beside or not scale.holes

  def _scale_height(self, scale: Scale) -> int:
    if scale.entries:
      return (1 + len(self._legend_lines(scale))) * self.line + 2 * MARGIN
    lines = 2 if self._bar(scale)[1] else 3
    return lines * self.line + self.text_size + 2 * MARGIN

  def _legend_lines(self, scale: Scale) -> list[list[tuple[str, tuple[int, int, int]]]]:
    """The swatches of a legend, as many on a line as there is room for."""
    lines: list[list[tuple[str, tuple[int, int, int]]]] = [[]]
    for text, color in scale.legend():
      if lines[-1] and sum(map(self._swatch_width, [*(each for each, _ in lines[-1]), text])) > self.width - MARGIN:
        lines.append([])
      lines[-1].append((text, color))
    return lines

  def _swatch_width(self, text: str) -> int:
    return math.ceil(self.text_size + 5 + self.font.getlength(text) + self.text_size)

  def _swatch(self, x: float, y: float, text: str, color: tuple[int, int, int]) -> None:
    thick = self.text_size
    self._canvas.rectangle((x, y + 1, x + thick - 2, y + thick - 1), fill=color, outline=(128, 128, 128))
    self._text(x + thick + 5, y - 1, text, "la")

  def _draw_scale(self, sheet: Image.Image, scale: Scale, top: int) -> None:
    """A title, the bar, and values below it; the colour of holes beside or below the bar."""
    (length, beside), thick = self._bar(scale), self.text_size
    self._text(MARGIN, top + MARGIN, _shorten(scale.title, self.font, self.width - 2 * MARGIN), "la")
    top += self.line + MARGIN
    if scale.entries:
      for i, line in enumerate(self._legend_lines(scale)):
        x = MARGIN
        for text, color in line:
          self._swatch(x, top + i * self.line, text, color)
          x += self._swatch_width(text)
      return
    bar = scale.colors[np.linspace(0, 255, length).round().astype(int)]
    sheet.paste(Image.fromarray(np.tile(bar, (thick, 1, 1))), (MARGIN, top))
    labels = scale.labels()
    crowded = 6 * max(map(self.font.getlength, labels)) > length
    for i in (0, 4) if crowded else range(5):
      self._text(MARGIN + i * length / 4, top + thick + 2, labels[i], {0: "la", 4: "ra"}.get(i, "ma"))
    if scale.holes:
      x, y = (MARGIN + length + 40, top) if beside else (MARGIN, top + thick + self.line)
      self._swatch(x, y, *scale.legend()[-1])


def _tile_size(height: int, width: int, columns: int) -> tuple[int, int]:
  """(height, width) at which an image is drawn."""
  bounded = _bounded(height, width, columns=columns)
  if bounded != (height, width):
    return bounded
  widest = (WIDEST - MARGIN) // columns - MARGIN
  factor = max(1, min(-(-SMALLEST // min(height, width)), widest // width, TALLEST // height))
  return height * factor, width * factor


def _shorten(text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
  """The text, or as much of both its ends as fits into `room` pixels, with … between them."""
  if font.getlength(text) <= room:
    return text
  kept = next((n for n in range(len(text) - 1, 0, -1) if font.getlength(_ends(text, n)) <= room), 0)
  return _ends(text, kept)


def _ends(text: str, kept: int) -> str:
  return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"


def _font(size: int) -> ImageFont.FreeTypeFont:
  """DejaVu Sans, which has ×, · and accents; Pillow's own font lacks them."""
  package = importlib.util.find_spec("matplotlib")  # brings the font along, and is slow to import
  assert package and package.origin
  return ImageFont.truetype(Path(package.origin).with_name("mpl-data") / "fonts/ttf/DejaVuSans.ttf", size)


def save_png(path: Path, image: np.ndarray, texts: Mapping[str, str] | None = None) -> None:
  """Writes uint8 (H, W, 3) atomically, creating the folder if needed; `texts` become the file's text chunks."""
  path.parent.mkdir(parents=True, exist_ok=True)
  info = PngImagePlugin.PngInfo()
  for name, text in (texts or {}).items():
    info.add_text(name, text, zip=True)
  part = path.with_suffix(".part")
  Image.fromarray(image).save(part, format="png", pnginfo=info)
  part.replace(path)


def save_confusion(path: Path, counts: np.ndarray, target: Signal) -> None:
  """Draws a confusion matrix as a PNG: rows are the targets' classes, columns the predicted ones, each row in shares.

  Classes that do not occur are left out, and so are rare ones if more than MAX_ENTRIES occur.

  Args:
    path: path of the PNG.
    counts: numbers of pixels (target class, predicted class).
    target: the signal, whose colours mark the classes along both sides.
  """
  assert isinstance(target, Classes)
  shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  shown, occurring = _shown_classes(counts)
  counts, shares = counts[np.ix_(shown, shown)], shares[np.ix_(shown, shown)]
  count, cell, strip = len(shown), 40, 14
  font, side = _font(FONT_SIZE), MARGIN * 3 + 2 * 22 + strip
  image = Image.new("RGB", (side + count * cell + MARGIN, side + count * cell + MARGIN), "white")
  canvas = ImageDraw.Draw(image)
  left_out = f"; the {count} most frequent of {occurring}" if count < occurring else ""
  canvas.text((side, MARGIN), f"predicted class, %{left_out}", fill="black", font=font)
  canvas.text((MARGIN, side - strip - 22), "target", fill="black", font=font)
  colors = target.colors(shown.astype(np.uint8)[:, None])
  for i in range(count):
    place, fill = side + i * cell, tuple(int(value) for value in colors[i])
    canvas.rectangle((place, side - strip - 2, place + cell - 2, side - 3), fill=fill)
    canvas.rectangle((side - strip - 2, place, side - 3, place + cell - 2), fill=fill)
    canvas.text((place + cell / 2, side - strip - 4), str(shown[i]), fill="black", font=font, anchor="md")
    canvas.text((side - strip - 6, place + cell / 2), str(shown[i]), fill="black", font=font, anchor="rm")
    for j in range(count):
      share = float(shares[i, j])
      shade = round(255 * (1 - share))
      left = side + j * cell
      canvas.rectangle((left, place, left + cell - 2, place + cell - 2), fill=(shade, shade, 255 - (255 - shade) // 3))
      if counts[i].sum() and share >= 0.005:
        ink = "white" if share > 0.5 else "black"
        canvas.text((left + cell / 2, place + cell / 2), f"{100 * share:.0f}", fill=ink, font=font, anchor="mm")
  save_png(path, np.asarray(image))


def _shown_classes(counts: np.ndarray) -> tuple[np.ndarray, int]:
  """The classes of a confusion matrix to draw, in order, and how many occur."""
  pixels = counts.sum(0) + counts.sum(1)
  frequent = np.argsort(-pixels, kind="stable")[: min(MAX_ENTRIES, int(np.count_nonzero(pixels)))]
  return np.sort(frequent), int(np.count_nonzero(pixels))


# --- Curves

CURVES = {  # title: the scalars in it
  "generator loss": ("generator_loss",),
  "discriminator loss": ("discriminator_loss",),
  "L1 on [0, 1]": ("l1",),
  "GAN loss of the generator": ("gan_loss",),
  "discriminator accuracy, real and fake": ("discriminator_accuracy_real", "discriminator_accuracy_fake"),
  "SSIM": ("ssim",),
  "RMSE": ("rmse",),
  "cross-entropy": ("cross_entropy",),
  "mean IoU": ("mean_iou",),
  "pixel accuracy": ("pixel_accuracy",),
  "feature loss": ("feature_loss",),
  "R1 penalty": ("r1_penalty",),
}
_ABOUT_LIMITS = (
  "Vertical axes cover the values after step 0 (2nd to 98th percentile of 50 or more points), and step 0 and baselines "
  "if near; anything beyond is cut off."
)
ABOUT_BANDS = "Lines are means over the replicas, bands their standard deviation."
_BASELINE_DASHES = ((0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (1, 4)))

Points = list[tuple[float, float]]


def curves(rows: list[dict[str, float]], path: Path, *, changes: Sequence[dict[str, Any]] = (), unit: str = "") -> None:
  """Draws the training (line) and validation (dots) curves of a history as a PNG. Means over replicas have a band.

  Baselines are read from `eval/val/metrics.json` beside the PNG, if it exists. A learning rate that is not constant
  gets its own panel.

  Args:
    rows: as `history.read` returns them.
    path: path of the PNG, in the workdir.
    changes: resumes that changed the configuration, with their `step`; each is marked by a vertical line.
    unit: unit of the target, for the title of the RMSE; empty if it has none.
  """
  # Not pyplot, which would keep the figure, and whose backend is the user's choice.
  from matplotlib.figure import Figure  # slow to import, used once
  from matplotlib.layout_engine import ConstrainedLayoutEngine

  present = {name.split("/")[1] for row in rows for name in row if "/" in name}
  shown = [(title, names) for title, names in CURVES.items() if present.intersection(names)]
  rates = _points(rows, "train/learning_rate")
  rate_panel = len({rate for _, rate in rates}) > 1
  baselines = _read_baselines(path.parent)

  num_columns, num_rows = max(1, min(3, len(shown))), max(1, -(-len(shown) // 3))
  figure = Figure(figsize=(13 / 3 * num_columns, 3.25 * num_rows + 1.5 * rate_panel))
  panels = figure.add_gridspec(num_rows + rate_panel, num_columns, height_ratios=[1] * num_rows + [0.4] * rate_panel)
  for i, (title, names) in enumerate(shown):
    axis = figure.add_subplot(panels[divmod(i, num_columns)])
    _draw_lines(axis, rows, names, {name: means[names[0]] for name, means in baselines.items() if names[0] in means})
    _finish_axis(axis, f"{title} in {unit}" if title == "RMSE" and unit else title, rows, changes)
    axis.legend(fontsize=8)
  if rate_panel:
    axis = figure.add_subplot(panels[num_rows, :])
    # A logged rate is that of the steps since the last log, so a jump is a step and not a ramp.
    axis.plot(*zip(*rates), color="tab:blue", linewidth=1.3, drawstyle="steps-pre")
    axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    axis.set_ylim(0, 1.1 * max(rate for _, rate in rates))
    _finish_axis(axis, "learning rate", rows, changes)
  about = _ABOUT_LIMITS if num_columns > 2 else _ABOUT_LIMITS.replace("; ", ";\n")
  if any(name.endswith("/std") for row in rows for name in row):
    about += f"\n{ABOUT_BANDS}"
  figure.supxlabel(about, fontsize=8, color="0.35")
  path.parent.mkdir(parents=True, exist_ok=True)
  if figure.axes:  # as the figure's own engine, it would make savefig draw everything twice
    ConstrainedLayoutEngine().execute(figure)
  figure.savefig(path, dpi=100)


def _read_baselines(workdir: Path) -> dict[str, dict[str, float]]:
  """The baselines of the validation at the last step; empty until it has been made."""
  try:
    summary = json.loads((workdir / "eval" / "val" / "metrics.json").read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return {}
  return summary.get("baselines", {})


def _points(rows: list[dict[str, float]], scalar: str) -> Points:
  """(step, value) of a scalar, finite values only."""
  return [(row["step"], row[scalar]) for row in rows if scalar in row and math.isfinite(row[scalar])]


def _band(rows: list[dict[str, float]], scalar: str) -> list[tuple[float, float, float]]:
  """(step, lower, upper) of a scalar's mean ± its standard deviation over the replicas; empty if there are none."""
  spreads = dict(_points(rows, f"{scalar}/std"))
  return [(step, x - spreads[step], x + spreads[step]) for step, x in _points(rows, scalar) if step in spreads]


def _draw_lines(
  axis: Any, rows: list[dict[str, float]], names: tuple[str, ...], baselines: Mapping[str, float]
) -> None:
  """Training and validation of each scalar, and the baselines; sets the vertical limits."""
  lines = []
  for shade, name in enumerate(names):
    for split, style, color in (("train", ".-", "tab:blue"), ("val", "o--", "tab:orange")):
      points = _points(rows, f"{split}/{name}")
      if not points:
        continue
      lines.append(points)
      label = split if len(names) == 1 else f"{split}, {name.rsplit('_', 1)[1]}"
      size = 4 if split == "val" else 2
      # Two scalars share hues by split; the second is lighter.
      axis.plot(*zip(*points), style, label=label, markersize=size, linewidth=1.3, color=color, alpha=1 - 0.55 * shade)
      if band := _band(rows, f"{split}/{name}"):
        steps, lower, upper = zip(*band)
        axis.fill_between(steps, lower, upper, color=color, alpha=0.18 - 0.1 * shade, linewidth=0)
        lines += [list(zip(steps, lower)), list(zip(steps, upper))]
  if len(names) > 1:  # accuracies
    axis.set_ylim(-0.03, 1.03)
    return
  low, high = value_limits(lines, baselines.values())
  axis.set_ylim(low, high)
  for (name, value), dashes in zip(baselines.items(), _BASELINE_DASHES):
    beyond = " (above)" if value > high else " (below)" if value < low else ""
    label = f"{name.replace('_', ' ')} {value:.3g}{beyond}"
    axis.axhline(value, label=label, color="tab:green", linestyle=dashes, linewidth=1.3)


def value_limits(lines: Sequence[Points], baselines: Iterable[float] = ()) -> tuple[float, float]:
  """Limits of a vertical axis that show the range of interest.

  These are the values after step 0, without the extreme 2 % at either end of a line of 50 or more points. The untrained
  networks (step 0) and baselines are included only if they at most double the range on their side.

  Args:
    lines: (step, value) points of each line.
    baselines: values of horizontal lines.
  """
  trained = [[value for step, value in points if step > 0] for points in lines]
  untrained = [value for points in lines for step, value in points if step == 0]
  values = [line for line in trained if line] or [untrained or [0.0]]
  low = min(float(np.percentile(line, 2, method="lower")) for line in values)
  high = max(float(np.percentile(line, 98, method="higher")) for line in values)
  span = (high - low) or abs(high) or 1.0
  near = [value for value in (*untrained, *baselines) if low - span <= value <= high + span]
  low, high = min([low, *near]), max([high, *near])
  room = 0.08 * ((high - low) or span)
  return low - room, high + room


def step_ticks(first: float, last: float) -> list[int]:
  """At most seven steps to label from `first` to `last`: multiples of 1, 2 or 5 times a power of ten."""
  wanted = max((last - first) / 6, 1)
  power = 10 ** math.floor(math.log10(wanted))
  distance = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= wanted)
  return list(range(math.ceil(first / distance) * distance, math.floor(last) + 1, distance))


def _finish_axis(axis: Any, title: str, rows: list[dict[str, float]], changes: Sequence[dict[str, Any]]) -> None:
  """Adds the parts that all panels share: title, step labels, and marks where the configuration changed."""
  for i, change in enumerate(changes):
    label = None if i else "configuration changed"
    axis.axvline(change["step"], color="0.4", linestyle=(0, (4, 2)), linewidth=1, label=label)
  first, last = rows[0]["step"], rows[-1]["step"]
  room = 0.02 * ((last - first) or 1)
  axis.set_xlim(first - room, last + room)
  ticks = step_ticks(first, last)
  axis.set_xticks(ticks, [f"{step:,}" for step in ticks])
  axis.set_title(title, fontsize=11)
  axis.set_xlabel("step", fontsize=9)
  axis.tick_params(labelsize=9)
  axis.grid(alpha=0.3)
