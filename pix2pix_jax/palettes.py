"""Palettes: the colours in which label maps are stored and shown, and the way from colours back to class indices."""

from collections.abc import Sequence
import colorsys
import re

import numpy as np

from pix2pix_jax.errors import UsageError

Color = tuple[int, int, int]

# The twelve classes of the CMP façade database in its own order (`NAMES`), in the colours of the pix2pix archive.
CMP = (
  *((0, 0, 222), (0, 48, 255), (0, 128, 255), (0, 207, 255), (32, 255, 223), (112, 255, 143)),
  *((192, 255, 63), (255, 239, 0), (255, 159, 0), (255, 80, 0), (255, 0, 0), (175, 0, 0)),
)
# The 19 classes on which Cityscapes is evaluated (Cordts et al. 2016, cityscapesScripts, labels.py).
CITYSCAPES = (
  *((128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30)),
  *((220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142)),
  *((0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32)),
)
NAMED: dict[str, tuple[Color, ...]] = {"cmp": CMP, "cityscapes": CITYSCAPES}
NAMES: dict[str, tuple[str, ...]] = {  # of their classes
  "cmp": (
    *("background", "façade", "window", "door", "cornice", "sill", "balcony", "blind", "decoration", "molding"),
    *("pillar", "shop"),
  ),
  "cityscapes": (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
  ),
}

TOLERANCE = 40.0  # distance in RGB within which a flat colour counts as a palette's; JPEG moves flat colours by less
MAX_UNKNOWN = 0.05  # share of the flat pixels that may be farther away; 1.3 % at most in 200 of the JPEG façades
FLAT = 16  # grey levels between neighbours; JPEG blends colours along borders, where no colour is a palette's


def parse(text: str, field: str = "palette", *, shown_only: bool = False) -> tuple[Color, ...]:
  """The colours of a palette's name (`cmp`, `cityscapes`) or of a list such as "#0000aa,#ff5500".

  Args:
    text: the name or list; empty: no colours.
    field: start of the error message.
    shown_only: whether colours may repeat, because no file is read by them.

  Raises:
    UsageError: neither a name nor a list.
  """
  if not text:
    return ()
  if text in NAMED:
    return NAMED[text]
  colors = [color.strip() for color in text.split(",")]
  repeats = len(set(colors)) < max(2, len(colors)) and not shown_only
  if not all(re.fullmatch(r"#[0-9a-fA-F]{6}", color) for color in colors) or repeats:
    raise UsageError(
      f"{field} is {text!r}; it has to be {', '.join(NAMED)}, or {'' if shown_only else 'different '}colours such as "
      "'#0000aa,#ff5500', one for each class in order."
    )
  return tuple((int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)) for color in colors)


def write(colors: tuple[Color, ...]) -> str:
  """The list that `parse` reads, such as "#0000aa,#ff5500"."""
  return ",".join(f"#{bytes(color).hex()}" for color in colors)


def names_of(colors: Sequence[Color]) -> tuple[str, ...]:
  """The names of the classes of a named palette, if these are its colours; else their numbers."""
  for name, palette in NAMED.items():
    if tuple(colors) == palette:
      return NAMES[name]
  return tuple(map(str, range(len(colors))))


def distinct(count: int) -> tuple[Color, ...]:
  """`count` colours for classes without a palette: hues at golden angles, in alternating brightness."""
  colors = []
  for i in range(count):
    red, green, blue = colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.55 + 0.3 * (i % 2), 0.95 - 0.25 * (i // 2 % 2))
    colors.append((round(255 * red), round(255 * green), round(255 * blue)))
  return tuple(colors)


def nearest(colors: np.ndarray, palette: tuple[Color, ...]) -> tuple[np.ndarray, np.ndarray]:
  """The index of the nearest palette colour, uint8 (..., 1), and the distance to it in RGB, float32 (...).

  Args:
    colors: uint8 (..., 3).
    palette: at most 256 colours.
  """
  codes = colors.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)  # sorts faster than three columns
  codes, inverse = np.unique(codes, return_inverse=True)
  different = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1)
  distances = np.linalg.norm(different[:, None].astype(np.float32) - np.asarray(palette, np.float32), axis=-1)
  index = distances.argmin(-1)
  shape = colors.shape[:-1]
  inverse = inverse.reshape(-1)
  return index.astype(np.uint8)[inverse].reshape(*shape, 1), distances.min(-1)[inverse].reshape(shape)


def is_flat(colors: np.ndarray) -> np.ndarray:
  """bool (..., H, W): pixels of uint8 (..., H, W, 3) that resemble their four neighbours."""
  flat = np.ones(colors.shape[:-1], bool)
  for axis in (-3, -2):
    alike = (np.abs(np.diff(colors.astype(np.int16), axis=axis)) <= FLAT).all(-1)
    rows, columns = [(slice(1, None), slice(None)), (slice(None), slice(1, None))][axis + 3]
    flat[..., rows, columns] &= alike
    rows, columns = [(slice(-1), slice(None)), (slice(None), slice(-1))][axis + 3]
    flat[..., rows, columns] &= alike
  return flat


def match(colors: np.ndarray, palette: tuple[Color, ...], name: str) -> tuple[np.ndarray, float]:
  """Class indices, uint8 (..., H, W, 1), of the nearest palette colours, and the mean distance of flat pixels to them.

  Args:
    colors: uint8 (..., H, W, 3).
    palette: the colours of the classes.
    name: start of the error message, such as the file's path.

  Raises:
    UsageError: no palette, or more than 5 % of the flat pixels lie farther than 40 from every palette colour.
  """
  if not palette:
    raise UsageError(
      f"{name} holds colours. To read them as classes, declare the palette (data.input_palette or data.target_palette: "
      f"{', '.join(NAMED)}, or a list such as '#0000aa,#ff5500')."
    )
  index, distance = nearest(colors, palette)
  flat = is_flat(colors)
  flat = flat if flat.any() else np.ones_like(flat)
  unknown = flat & (distance > TOLERANCE)
  share = unknown.sum() / flat.sum()
  if share > MAX_UNKNOWN:
    found, counts = np.unique(colors[unknown], axis=0, return_counts=True)
    color = tuple(int(value) for value in found[counts.argmax()])
    raise UsageError(
      f"{name}: {share:.0%} of the pixels have colours that are not in the palette, most often #{bytes(color).hex()} "
      f"{color}. Add that colour to the palette, or choose the palette that these labels use."
    )
  return index, float(distance[flat].mean())
