"""Built-in stand-in for the CMP façade database: building fronts as label maps, and photographs drawn from them.

A front is a list of rectangles in unit coordinates, each of one of CMP's twelve classes. The label map fills them with
flat colours. The photograph paints the same rectangles with materials on a canvas that also holds a height map: how far
each point stands out of the wall. All shading follows from the height map, with cast shadows, bevels and ambient
occlusion under one fixed sun at the upper left. Position, class and shading can therefore be inferred from the labels.

Few other things cannot be inferred directly, and most of those are correlated with the labels:

* Material: fronts with few storeys tend to be brick, those with many sandstone, and the ornament settles it. Sandstone
  has pillars (and only sandstone has deco); plaster has shutters, a tiled attic or bands between its upper storeys;
  brick has none of these. Attics are covered with slate on sandstone, with tiles on plaster.
* Wall tone: follows the number of bays within the material's range, plus a random offset.
* Trim, frames, doors, shutters and awnings have one colour per material.
* Random: time of day (one number that sets the colours of sun and sky), clouds, the height of the neighbouring houses,
  stains, reflections in the windows, noise.

Class names are CMP's: a *molding* is the band between storeys or under the roof, a *cornice* the raised panel above a
window.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import NamedTuple

import numpy as np
from numpy import float32
from PIL import Image

from pix2pix_jax import palettes
from pix2pix_jax.data.synthesis.paint import mix, resize, rgb

# In the order of CMP's indices 1..12. The archive stores labels as JPEG: these are the most frequent colours, ±1.
LABELS = (
  *("background", "facade", "window", "door", "cornice", "sill"),
  *("balcony", "blind", "deco", "molding", "pillar", "shop"),
)
LABEL_COLORS: dict[str, tuple[int, int, int]] = dict(zip(LABELS, palettes.CMP, strict=True))

Box = tuple[float, float, float, float]  # (x0, y0, x1, y1), y down


def draw(seed: int, index: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
  """Draws façade `index` of the sequence `seed` at `size` = (height, width).

  The layout depends on (seed, index) only, never on the size.

  Returns:
    input: uint8 (H, W, 3), the label map in LABEL_COLORS.
    target: uint8 (H, W, 3), the photograph.
  """
  rng = np.random.default_rng([seed, index])
  front = _plan(rng)
  return {"input": _labels(front.parts, size), "target": _photo(rng, front, size)}


# --- Layout -----------------------------------------------------------------------------------------------------------


class _Part(NamedTuple):
  """One rectangle: its class, its box in unit coordinates, and a variant where a class has several forms."""

  cls: str
  box: Box
  variant: str


@dataclasses.dataclass
class _Front:
  """A building. Lengths are in unit coordinates: [0, 1] from left to right and from top to bottom.

  Attributes:
    material: "brick", "plaster" or "stone".
    bays: number of window columns.
    bay: width of one column.
    h: height of an upper storey; the lowest is 1.25 h high.
    left, right: x of the edges of the wall.
    top, ground: y of the edges of the wall; `ground` is the pavement.
    roof: y of the top of the building: that of the attic, or `top` without one.
    lines: y of the floors, from the street up; the last is the ceiling of the highest storey.
    parts: in painting order.
  """

  material: str
  bays: int
  bay: float
  h: float
  left: float
  right: float
  top: float
  ground: float
  roof: float
  lines: list[float]
  parts: list[_Part] = dataclasses.field(default_factory=list)

  @property
  def centres(self) -> list[float]:
    """x of the middle of each bay."""
    return [self.left + self.bay * (k + 0.5) for k in range(self.bays)]

  def add(self, cls: str, x0: float, y0: float, x1: float, y1: float, variant: str = "") -> None:
    """Adds a rectangle on top of those before it."""
    self.parts.append(_Part(cls, (float(x0), float(y0), float(x1), float(y1)), variant))


def _plan(rng: np.random.Generator) -> _Front:
  """Designs a building."""
  n = int(rng.integers(2, 8))  # storeys
  p_brick, p_stone = 0.6 - 0.1 * (n - 2), 0.05 + 0.1 * (n - 2)
  material = str(rng.choice(["brick", "plaster", "stone"], p=[p_brick, 1 - p_brick - p_stone, p_stone]))
  # Plaster always has shutters, an attic or bands; otherwise the label map would not distinguish it from brick. A
  # front of two storeys has no room for bands.
  plaster = material == "plaster"
  attic = material != "brick" and (rng.random() < (0.65 if plaster else 0.45) or (plaster and n == 2))
  ground, sky = 0.93, rng.uniform(0.05, 0.11)
  h = min(0.29, (ground - sky) / (n + 0.35 + 0.8 * attic))
  bays = int(rng.integers(max(2, np.ceil(0.62 / (1.35 * h))), min(8, int(0.92 / (0.72 * h))) + 1))
  width = min(max(bays * h * rng.uniform(0.8, 1.3), 0.68), 0.92)
  left = 0.5 - width / 2 + rng.uniform(-0.3, 0.3) * (0.96 - width)
  lines = [ground] + [ground - h * (k + 1.25) for k in range(n)]
  top = lines[-1] - 0.05 * h
  roof = top - 0.75 * h if attic else top
  front = _Front(material, bays, width / bays, h, left, left + width, top, ground, roof, lines)
  front.add("facade", left, top, front.right, ground, "wall")
  if attic:
    _add_attic(front)
  _add_building(front, rng)
  return front


def _add_attic(front: _Front) -> None:
  """A tiled roof with chimneys and dormers."""
  y, h, bay, centres = front.roof, front.h, front.bay, front.centres
  for c in (centres[0], centres[-1]):
    front.add("facade", c + 0.1 * bay, y - 0.2 * h, c + 0.3 * bay, y, "chimney")
  front.add("facade", front.left + 0.01, y, front.right - 0.01, front.top, "tiles")
  for c in centres[front.bays // 2 % 2 :: 2] if front.bays > 3 else centres:
    front.add("cornice", c - 0.27 * bay, y + 0.1 * h, c + 0.27 * bay, y + 0.24 * h, "pediment")
    front.add("window", c - 0.18 * bay, y + 0.24 * h, c + 0.18 * bay, y + 0.64 * h, "dormer")


@dataclasses.dataclass
class _Ornament:
  """What all upper storeys have in common.

  Attributes:
    shutters: whether there are shutters beside the windows.
    hoods: whether there are cornices above the windows.
    rollers: whether some windows have roller blinds.
    garlands: whether there are carved panels above the highest windows.
    window: (width, height) of a window.
    bands: whether there are moldings between the storeys.
    noble: index of the storey with the balconies.
    balconies: "none", "middle" (of the front), "alternate" (every other window) or "long" (one for the whole storey).
  """

  shutters: bool
  hoods: bool
  rollers: bool
  garlands: bool
  window: tuple[float, float]
  bands: bool
  noble: int
  balconies: str


def _add_building(front: _Front, rng: np.random.Generator) -> None:
  """Adds everything below the roof."""
  brick, plaster, stone = (front.material == name for name in ("brick", "plaster", "stone"))
  h, bay, lines = front.h, front.bay, front.lines
  shutters = plaster and rng.random() < 0.6
  ornament = _Ornament(
    shutters=shutters,
    hoods=stone or (plaster and not shutters) or (brick and rng.random() < 0.5),
    rollers=not shutters and rng.random() < 0.4,
    garlands=stone and rng.random() < 0.6,
    window=(bay * rng.uniform(0.4, 0.44 if shutters else 0.52), h * rng.uniform(0.5, 0.58)),
    bands=stone or (plaster and (not shutters or rng.random() < 0.5)),
    noble=int(rng.integers(1, len(lines) - 1)),
    balconies=str(rng.choice(["none", "middle", "alternate", "long"], p=[0.3, 0.25, 0.3, 0.15])),
  )
  if stone:
    width, every = min(0.16 * bay, 0.03), 1 if front.bays <= 5 and rng.random() < 0.5 else 2
    for k in sorted({*range(0, front.bays + 1, every), front.bays}):
      x = min(max(front.left + k * bay - width / 2, front.left), front.right - width)
      front.add("pillar", x, lines[-1], x + width, lines[1])
  for storey in range(1, len(lines) - 1):
    _add_storey(front, ornament, storey, rng)
  front.add("molding", front.left - 0.012, lines[-1] - 0.06 * h, front.right + 0.012, lines[-1] + 0.12 * h, "roof")
  if not brick or rng.random() < 0.5:
    front.add("molding", front.left, lines[1] - 0.04 * h, front.right, lines[1] + 0.08 * h)
  _add_ground_floor(front, ornament, rng)


def _add_storey(front: _Front, ornament: _Ornament, storey: int, rng: np.random.Generator) -> None:
  """Adds the windows of one upper storey and everything around them."""
  h, floor, centres, (w, high) = front.h, front.lines[storey], front.centres, ornament.window
  bottom = floor - 0.2 * h  # of the windows
  top = bottom - high
  noble, balconies = storey == ornament.noble, ornament.balconies
  has_balcony = noble or (balconies == "alternate" and (storey - ornament.noble) % 2 == 0)
  if storey > 1 and ornament.bands:
    front.add("molding", front.left, floor - 0.05 * h, front.right, floor + 0.05 * h)
  for k, c in enumerate(centres):
    left, right = c - w / 2, c + w / 2
    chosen = {
      "none": False,
      "middle": abs(k - (front.bays - 1) / 2) < 1,
      "alternate": k % 2 == front.bays // 2 % 2,
      "long": True,
    }
    opens = has_balcony and chosen[balconies]  # a door to the balcony rather than a window
    if ornament.garlands and storey == len(front.lines) - 2:
      front.add("deco", left, top - 0.16 * h, right, top - 0.03 * h, "garland")
    elif ornament.hoods:
      variant = "lintel" if front.material == "brick" else "pediment" if front.material == "stone" and noble else "hood"
      front.add("cornice", left - 0.2 * w, top - 0.13 * h, right + 0.2 * w, top - 0.02 * h, variant)
    front.add("window", left, top, right, floor - 0.05 * h if opens else bottom)
    if ornament.shutters:
      front.add("blind", left - 0.46 * w, top, left - 0.02 * w, bottom, "shutter")
      front.add("blind", right + 0.02 * w, top, right + 0.46 * w, bottom, "shutter")
    elif ornament.rollers and rng.random() < 0.45:
      front.add("blind", left, top, right, top + high * rng.choice([0.35, 0.6]), "roller")
    if not opens:
      front.add("sill", left - 0.14 * w, bottom, right + 0.14 * w, bottom + 0.075 * h)
    elif balconies != "long":
      front.add("balcony", c - 0.86 * w, floor - 0.34 * h, c + 0.86 * w, floor + 0.02 * h)
  if balconies == "long" and noble:
    front.add("balcony", centres[0] - 0.7 * w, floor - 0.34 * h, centres[-1] + 0.7 * w, floor + 0.02 * h)


def _add_ground_floor(front: _Front, ornament: _Ornament, rng: np.random.Generator) -> None:
  """Adds the door, and shops or windows beside it."""
  h, bay, bays, ground, centres, w = front.h, front.bay, front.bays, front.ground, front.centres, ornament.window[0]
  gate = bays // 2 if rng.random() < 0.6 else int(rng.choice([0, bays - 1]))
  shops = rng.random() < 0.55
  k, top = 0, front.lines[1] + 0.24 * h
  while k < bays:
    c, span = centres[k], 1
    if k == gate:
      door = min(0.6 * bay, 0.55 * h)
      if front.material == "stone":
        front.add("deco", c - 0.36 * door, top - 0.12 * h, c + 0.36 * door, top + 0.06 * h)
      front.add("door", c - door / 2, top + 0.08 * h, c + door / 2, ground)
    elif shops:
      span = 2 if k + 1 < bays and k + 1 != gate and bay < 0.16 else 1
      front.add("shop", c - 0.42 * bay, top - 0.06 * h, centres[k + span - 1] + 0.42 * bay, ground - 0.02 * h)
    else:
      front.add("window", c - 0.52 * w, top + 0.1 * h, c + 0.52 * w, ground - 0.32 * h)
      front.add("sill", c - 0.66 * w, ground - 0.32 * h, c + 0.66 * w, ground - 0.24 * h)
    k += span


# --- Label map --------------------------------------------------------------------------------------------------------


def _pixels(box: Box, shape: tuple[int, int]) -> tuple[slice, slice]:
  """Rows and columns of a box in unit coordinates on a canvas (h, w), at least one of each."""
  (h, w), (x0, y0, x1, y1) = shape, box
  r, c = min(max(int(y0 * h + 0.5), 0), h - 1), min(max(int(x0 * w + 0.5), 0), w - 1)
  return slice(r, min(h, max(r + 1, int(y1 * h + 0.5)))), slice(c, min(w, max(c + 1, int(x1 * w + 0.5))))


def _labels(parts: list[_Part], size: tuple[int, int]) -> np.ndarray:
  """uint8 (H, W, 3) label map; every pixel is exactly one of LABEL_COLORS."""
  out = np.full((*size, 3), LABEL_COLORS["background"], np.uint8)
  for part in parts:
    out[_pixels(part.box, size)] = LABEL_COLORS[part.cls]
  return out


# --- Canvas -----------------------------------------------------------------------------------------------------------

_colour = functools.partial(rgb, ndim=3)  # float32 (3, 1, 1)

# Wall (both ends of its range), trim, window frames, doors, accent (shutters and awnings).
MATERIALS = {
  "brick": "8f4a38 b36e52 e0d4bd f0ede3 294a40 265c47",
  "plaster": "f2cf87 e6a680 f5ebd6 f2f0e6 734529 406b5e",
  "stone": "e0c79a cdb592 ebd9b8 61503f 573321 8c2b26",
}
_y, _x = np.mgrid[-1:1:48j, -1:1:48j].astype(float32)
_r = np.hypot(_x, _y)
_petals = (_r < 0.55 + 0.3 * np.cos(8 * np.arctan2(_y, _x))) & (_r > 0.22)
ROSETTE = (_petals | (_r < 0.14) | (np.maximum(abs(_x), abs(_y)) > 0.9)).astype(float32)  # a carved panel
PEDIMENT = (abs(_x) < 0.56 + 0.44 * _y).astype(float32)
WHOLE: Box = (0, 0, 1, 1)


def _ramp(n: int) -> np.ndarray:
  """The centres of n equal cells of [0, 1]."""
  return (np.arange(n, dtype=float32) + float32(0.5)) / float32(n)


class _Canvas:
  """Colour, float32 (3, h, w) in [0, 1], and height out of the wall, float32 (h, w) in image heights.

  Parts are painted in coordinates (u0, v0, u1, v1) relative to the current `box`, with heights in units of `unit`, the
  depth by which windows are set back.
  """

  def __init__(self, h: int, w: int, unit: float):
    self.shape, self.unit = (h, w), unit
    self.box: Box = WHOLE
    self.rgb, self.z = np.empty((3, h, w), float32), np.zeros((h, w), float32)
    self.stamps: dict[tuple[int, int, int, int], tuple[np.ndarray, np.ndarray]] = {}

  @property
  def box_size(self) -> tuple[float, float]:
    """Width and height of the current box in unit coordinates."""
    return self.box[2] - self.box[0], self.box[3] - self.box[1]

  def at(self, u0: float = 0.0, v0: float = 0.0, u1: float = 1.0, v1: float = 1.0) -> tuple[slice, slice]:
    """Rows and columns of a part of the current box."""
    (x0, y0, _, _), (w, h) = self.box, self.box_size
    return _pixels((x0 + u0 * w, y0 + v0 * h, x0 + u1 * w, y0 + v1 * h), self.shape)

  def fill(
    self, where: Box, colour: np.ndarray | None = None, z: float | None = None, below: np.ndarray | None = None
  ) -> None:
    """Fills with one colour (3, 1, 1) or a gradient to `below` at the bottom; None leaves colour or height as is."""
    r, c = self.at(*where)
    if colour is not None and below is not None:
      colour = colour + (below - colour) * _ramp(r.stop - r.start)[:, None]
    if colour is not None:
      self.rgb[:, r, c] = colour
    if z is not None:
      self.z[r, c] = z * self.unit

  def relief(self, tile: np.ndarray, z: float, depth: float) -> None:
    """Stretches a pattern (m, n) in [0, 1] over the box as heights from z to z + depth."""
    r, c = self.at()
    i, j = ((_ramp(s.stop - s.start) * k).astype(int) for s, k in zip((r, c), tile.shape, strict=True))
    self.z[r, c] = (z + depth * tile[i[:, None], j]) * self.unit

  def bars(
    self,
    where: Box,
    pitch: float,
    share: float,
    colour: np.ndarray | None = None,
    z: float | None = None,
    across: bool = False,
  ) -> None:
    """Fills evenly spaced bars, upright or, with `across`, horizontal.

    `pitch` is their approximate distance in image widths (heights with `across`), of which a bar fills `share`.
    """
    u0, v0, u1, v1 = where
    w, h = self.box_size
    n = max(1, round(((v1 - v0) * h if across else (u1 - u0) * w) / pitch))
    step = (v1 - v0 if across else u1 - u0) / n
    for k in range(n):
      a = (k + 0.5 - share / 2) * step
      b = a + share * step
      self.fill((u0, v0 + a, u1, v0 + b) if across else (u0 + a, v0, u0 + b, v1), colour, z)

  def glass(self, where: Box, rng: np.random.Generator, leaves: int, frame: np.ndarray, z: float) -> None:
    """A framed window of `leaves` panes, dark at the top; lower down it reflects the sky. Two panes have curtains."""
    r, c = self.at(*where)
    gain = int(rng.integers(3))
    key = (r.stop - r.start, c.stop - c.start, leaves, gain)
    if key not in self.stamps:  # equal windows are painted once and copied
      self._paint_glass(where, leaves, frame, z, float32(0.87 + 0.13 * gain))
      self.stamps[key] = self.rgb[:, r, c].copy(), self.z[r, c].copy()
    self.rgb[:, r, c], self.z[r, c] = self.stamps[key]

  def _paint_glass(self, where: Box, leaves: int, frame: np.ndarray, z: float, light: float32) -> None:
    """`glass` without copying; `light` scales the brightness of the panes."""
    u0, v0, u1, v1 = where
    w, h = (u1 - u0) * self.box_size[0], (v1 - v0) * self.box_size[1]
    t = max(0.006, 0.09 * w / leaves)  # width of the frame
    du, dv = t / w * (u1 - u0), t / h * (v1 - v0) * 0.8
    left, top, right, bottom = u0 + du, v0 + dv, u1 - du, v1 - dv
    self.fill(where, frame, z)
    self.fill((left, top, right, bottom), _colour("1f2936") * light, z - 0.3, _colour("6b8094") * light)
    if leaves == 2:
      for a, b in ((left, left + 1.7 * du), (right - 1.7 * du, right)):  # curtains
        self.fill((a, top, b, bottom), _colour("99968f"), None, _colour("7a7a7a"))
      m = v0 + 0.33 * (v1 - v0)
      self.fill((u0, m - dv / 2, u1, m + dv / 2), frame, z)
    for k in range(1, leaves):
      m = u0 + (u1 - u0) * k / leaves
      self.fill((m - du / 2, v0, m + du / 2, v1), frame, z)


# --- Materials --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Style:
  """What the painters of all parts share: the building, its colours (3, 1, 1), the time of day and the noise source.

  `warm` is 0 at noon and 1 in the evening.
  """

  front: _Front
  wall: np.ndarray
  trim: np.ndarray
  frame: np.ndarray
  door: np.ndarray
  accent: np.ndarray
  warm: float
  rng: np.random.Generator


def _paint_wall(c: _Canvas, style: _Style, variant: str) -> None:
  """Brick, blocks of stone, or plaster, which is scored into blocks on the ground floor."""
  r, q = c.at()
  shape, material, rng = (r.stop - r.start, q.stop - q.start), style.front.material, style.rng
  course, length, spread = (0.0125, 0.031, 0.11) if material == "brick" else (0.029, 0.075, 0.045)
  rows, cols = np.arange(r.start, r.stop) / c.shape[0], np.arange(q.start, q.stop) / c.shape[1]
  tones = rng.uniform(-spread, spread, (int(1 / course) + 1, int(1 / length) + 2)).astype(float32)
  light, joint = np.empty(shape, float32), np.empty(shape, bool)
  course_of = (rows / course).astype(int)
  for odd in (0, 1):  # running bond: every other course is shifted by half a block
    u, mine = cols / length + 0.5 * odd, course_of % 2 == odd
    light[mine] = tones[:, u.astype(int)][course_of[mine]]
    joint[mine] = u % 1 < 0.0035 / length
  joint |= (rows / course % 1 < 0.0035 / course)[:, None]
  if material == "plaster":
    above = rows < style.front.lines[1]
    light[above], joint[above] = 0, False
  stains = 0.03 * resize(rng.standard_normal((12, 12), float32), (64, 64))
  light += resize(stains + 0.02 * rng.standard_normal((1, 64), float32), shape)
  light += 1 + 0.02 * resize(rng.standard_normal((128, 128), float32), shape, Image.Resampling.BILINEAR)
  if material != "brick":
    c.z[r, q][joint] = -0.003
  mortar = mix(style.wall, style.trim, 0.45) if material == "brick" else 0.9 * style.wall
  for band, wall, between in zip(c.rgb[:, r, q], style.wall.ravel(), mortar.ravel(), strict=True):
    np.multiply(light, wall, out=band)
    band[joint] = between
  c.fill((0, 1 - 0.1 * style.front.h / c.box_size[1], 1, 1), style.trim * 0.72, 0.25)  # plinth


def _paint_tiles(c: _Canvas, style: _Style, variant: str) -> None:
  hue = _colour("a8543b" if style.front.material == "plaster" else "5c6673")
  c.fill(WHOLE, hue * 0.92, -0.8, hue * 1.06)
  c.bars(WHOLE, 0.014, 0.3, hue * 0.86, -1.1, across=True)
  c.fill((0, 0, 1, 0.08), hue * 0.78, 0)


def _paint_chimney(c: _Canvas, style: _Style, variant: str) -> None:
  c.fill(WHOLE, _colour("945c47"), 0)
  c.fill((-0.1, 0, 1.1, 0.3), style.trim * 0.9, 0.3)


def _paint_window(c: _Canvas, style: _Style, variant: str) -> None:
  w, h = c.box_size
  if style.front.material != "brick" or variant == "dormer":
    c.fill((-0.1, -0.1 * w / h, 1.1, 1 + 0.05 * w / h), style.trim, 0.25)
  c.glass(WHOLE, style.rng, 2, style.frame, -1)


def _paint_blind(c: _Canvas, style: _Style, variant: str) -> None:
  if variant == "roller":
    c.fill(WHOLE, _colour("d6ccb2"), -0.7)
    c.bars(WHOLE, 0.011, 0.35, _colour("b2a891"), -0.85, across=True)
  else:  # a shutter
    w, h = c.box_size
    c.fill(WHOLE, style.accent, 0.5)
    c.bars((0.16, 0.16 * w / h, 0.84, 1 - 0.16 * w / h), 0.009, 0.45, style.accent * 0.72, 0.2, across=True)


def _paint_door(c: _Canvas, style: _Style, variant: str) -> None:
  (w, h), trim, door = c.box_size, style.trim, style.door
  c.fill((-0.12, -0.12 * w / h, 1.12, 1), trim, 0.4)
  c.fill(WHOLE, door, -1.6)
  c.glass((0, 0, 1, 0.22), style.rng, 3, door * 0.9, -1.6)
  for u in (0.08, 0.54):  # two leaves with two panels each
    for v in (0.32, 0.67):
      c.fill((u, v, u + 0.38, v + 0.26), door * 1.25, -2.1, door * 1.05)
  c.fill((0.48, 0.28, 0.52, 1), door * 0.45)
  c.fill((-0.06, 1 - 0.012 / h, 1.06, 1), trim * 0.85, 0.8)  # step


def _paint_cornice(c: _Canvas, style: _Style, variant: str) -> None:
  if variant == "pediment":
    c.fill(WHOLE, mix(style.wall, style.trim, 0.6))
    c.relief(PEDIMENT, 0.2, 0.9)
    c.fill((0, 0.72, 1, 1), style.trim, 1.4)
    return
  c.fill(WHOLE, style.trim, 0.4)
  if variant == "lintel":
    c.fill((0.43, 0, 0.57, 1), style.trim * 1.05, 0.8)  # keystone
  else:
    c.fill((0, 0, 1, 0.4), style.trim, 1.5)


def _paint_sill(c: _Canvas, style: _Style, variant: str) -> None:
  c.fill(WHOLE, style.trim, 1.2, style.trim * 0.9)


def _paint_balcony(c: _Canvas, style: _Style, variant: str) -> None:
  """Balusters of stone, or iron railings with flowers."""
  w, stone = c.box_size[0], style.front.material == "stone"
  bar = style.trim * 0.97 if stone else _colour("1f2124")
  c.bars((0, 0, 1, 0.8), 0.016 if stone else 0.0125, 0.55 if stone else 0.36, bar, 2.2)
  for rail in ((0, 0, 1, 0.14), (0, 0, 0.012 / w, 0.8), (1 - 0.012 / w, 0, 1, 0.8)):
    c.fill(rail, bar, 2.4)
  if not stone:
    c.fill((0.06, 0.04, 0.94, 0.26), _colour("4d7a38"), 2.8)
    c.bars((0.06, 0.0, 0.94, 0.14), 0.02, 0.5, _colour("cf3d3d"), 3.1)
  c.fill((0, 0.8, 1, 1), style.trim, 2.5, style.trim * 0.8)


def _paint_deco(c: _Canvas, style: _Style, variant: str) -> None:
  w, h = c.box_size
  c.fill(WHOLE, style.trim * 0.98)
  c.relief(np.tile(ROSETTE, (1, max(1, round(w / h)) if variant == "garland" else 1)), 0.1, 0.9)


def _paint_molding(c: _Canvas, style: _Style, variant: str) -> None:
  z = 2.0 if variant == "roof" else 0.9
  for v0, v1, f in ((0, 0.42, 1.0), (0.42, 0.6, 0.7), (0.6, 1, 0.4)):  # overhang, step, frieze
    c.fill((0, v0, 1, v1), style.trim * (0.92 + 0.08 * f), f * z)
  if variant == "roof":
    c.bars((0, 0.45, 1, 0.72), 0.024, 0.5, style.trim, 1.7)  # dentils


def _paint_pillar(c: _Canvas, style: _Style, variant: str) -> None:
  """A round shaft with capital and base."""
  (r, q), h = c.at(), c.box_size[1]
  u = 2 * _ramp(q.stop - q.start) - 1
  c.rgb[:, r, q] = style.trim * (0.86 + 0.14 * np.cos(1.5 * (u + 0.35)))
  c.z[r, q] = c.unit * (0.3 + 0.5 * np.sqrt(1 - 0.9 * u * u))
  for v0, v1 in ((0, 0.035 / h), (1 - 0.03 / h, 1)):
    c.fill((-0.15, v0, 1.15, v1), style.trim, 1)


def _paint_shop(c: _Canvas, style: _Style, variant: str) -> None:
  w, accent = c.box_size[0], style.accent
  e = 0.008 / w
  c.fill(WHOLE, accent * 0.62, 0.3)
  c.fill((0, 0, 1, 0.13), accent * 0.8, 0.9)  # signboard
  c.glass((e, 0.3, 1 - e, 0.86), style.rng, max(1, round(w / 0.1)) * 2 - 1, accent * 0.55, -1)
  c.fill((2 * e, 0.62, 1 - 2 * e, 0.84), _colour("a38257"), None, _colour("6b4f36"))  # display
  c.bars((2 * e, 0.69, 1 - 2 * e, 0.84), 0.022, 0.5, _colour("5c3d33"))
  c.fill((-e / 2, 0.13, 1 + e / 2, 0.4), _colour("ebe3d1"), 2.4, _colour("d1c9b8"))  # awning
  c.bars((-e / 2, 0.13, 1 + e / 2, 0.4), 0.026, 0.5, accent * 1.15)


_PAINTERS: dict[str, Callable[[_Canvas, _Style, str], None]] = {
  "wall": _paint_wall,
  "tiles": _paint_tiles,
  "chimney": _paint_chimney,
  "window": _paint_window,
  "door": _paint_door,
  "cornice": _paint_cornice,
  "sill": _paint_sill,
  "balcony": _paint_balcony,
  "blind": _paint_blind,
  "deco": _paint_deco,
  "molding": _paint_molding,
  "pillar": _paint_pillar,
  "shop": _paint_shop,
}


def _paint_surroundings(c: _Canvas, style: _Style) -> np.ndarray:
  """Paints sky, neighbouring houses and street; returns where the sky is, bool (h, w)."""
  front, warm, rng = style.front, style.warm, style.rng
  tops = front.roof + rng.uniform(0.2, 0.3, 2) * (front.ground - front.roof)
  r, _ = c.at(0, 0, 1, float(max(tops)))
  y = np.arange(r.stop, dtype=float32)[:, None] / c.shape[0]
  high = mix(_colour("5c94d9"), _colour("809ed6"), warm)
  low = mix(_colour("d1e6f2"), _colour("ffe3c2"), warm)
  octaves = ((0.3, (5, 4)), (0.15, (12, 9)), (0.08, (30, 22)))
  puffs = np.sum([a * resize(rng.standard_normal(cells, float32), (64, 64)) for a, cells in octaves], axis=0)
  clouds = resize(puffs, c.shape)
  sky = mix(high, low, 1) + (high - low) * np.clip(1 - 1.6 * y, 0, 1)
  white = mix(_colour("f7faff"), _colour("fff0e0"), warm)
  c.rgb[:, r] = sky + (white - sky) * np.clip(clouds[r] + 0.1, 0, 0.7)
  is_sky = np.ones(c.shape, bool)
  for a, b, top in ((0.0, front.left, float(tops[0])), (front.right, 1.0, float(tops[1]))):
    c.fill((a, top, b, 1), _colour("b8a896"), -3, _colour("9e9185"))
    c.fill((a, top, b, top + 0.02), _colour("998778"), -2)
    for v in np.arange(top + 0.07, front.ground - 0.08, 0.12):
      c.bars((a, float(v), b, float(v) + 0.06), 0.06, 0.45, _colour("5c636b"), -3.6)
    is_sky[c.at(a, top, b, 1)] = False
  g = front.ground
  pavement, kerb, road = (g, g + 0.028, "a39e9a"), (g + 0.028, g + 0.036, "807c79"), (g + 0.036, 1, "5e5c5a")
  for v0, v1, tone in (pavement, kerb, road):
    c.fill((0, v0, 1, v1), _colour(tone), 0)
  c.bars((0, g, 1, g + 0.028), 0.07, 0.04, _colour("857d75"))
  is_sky[c.at(0, g, 1, 1)] = False
  return is_sky


# --- Light ------------------------------------------------------------------------------------------------------------


def _light(z: np.ndarray, warm: float) -> np.ndarray:
  """Light (3, h, w) on the height map z (h, w) under a sun at the upper left."""
  h, w = z.shape
  # A point lies in shadow if, k rows up and 0.6 k columns left of it, something stands out more than k rows further.
  # Each round doubles the range of k that is covered.
  top, step = z.copy(), 1
  while step < 0.05 * h:
    dx = max(1, round(0.6 * step * w / h))
    top[step:, dx:] = np.maximum(top[step:, dx:], top[:-step, :-dx] - float32(step / h))
    step *= 2
  sun = np.clip(1 - 220 * (top - z), 0, 1)
  # Bevels: edges that face the sun are bright. The distance is a fixed share of the height, so all sizes look alike.
  d = max(1, round(h / 256))
  bevel = np.clip(22 * (z[d:, d:] - z[:-d, :-d]), -0.22, 0.22)
  # Ambient occlusion: points below the mean height of their surroundings receive less light from the sky.
  around = Image.fromarray(z).reduce(max(1, h // 42)).resize((w, h), Image.Resampling.BILINEAR)
  ambient = np.clip(1 - 16 * (np.asarray(around) - z), 0.6, 1.05)
  sun[d:, d:] += bevel
  ambient[d:, d:] += 0.4 * bevel
  direct = mix(_colour("8f877a"), _colour("a8855c"), warm)
  diffuse = mix(_colour("737d8f"), _colour("6b738c"), warm)
  return direct * sun + diffuse * ambient


def _photo(rng: np.random.Generator, front: _Front, size: tuple[int, int]) -> np.ndarray:
  """uint8 (H, W, 3): the parts in their materials, lit, drawn at 2 to 4 times the size and averaged down."""
  height, width = size
  k = int(np.clip(np.ceil(256 / max(size)), 2, 4))
  wall, wall1, trim, frame, door, accent = map(_colour, MATERIALS[front.material].split())
  tone = np.clip((front.bays - 2) / 6 + rng.uniform(-0.25, 0.25), 0, 1)
  wall = mix(wall, wall1, tone) * float32(rng.uniform(0.96, 1.04))
  style = _Style(front, wall, trim, frame, door, accent, rng.random(), rng)
  c = _Canvas(k * height, k * width, unit=min(max(0.085 * front.h, 0.009), 0.016))
  sky = _paint_surroundings(c, style)
  for cls, box, variant in front.parts:
    c.box = box
    _PAINTERS[variant if cls == "facade" else cls](c, style, variant)
    if cls == "facade" or variant == "roof":
      sky[c.at()] = False
  light = _light(c.z, style.warm)
  light[:, sky] = 1
  c.rgb *= light
  out = functools.reduce(np.add, (c.rgb[:, i::k] for i in range(k)))
  out = functools.reduce(np.add, (out[:, :, j::k] for j in range(k))) * float32(1 / k**2)
  y, x = (_ramp(n) - float32(0.5) for n in size)
  out *= 1.02 - 0.22 * (y[:, None] ** 2 + x**2)  # vignette
  grain = rng.standard_normal((64, 64), float32)
  out += 0.009 * np.tile(grain, (-(-height // 64), -(-width // 64)))[:height, :width]
  return (np.clip(out, 0, 1).transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8)
