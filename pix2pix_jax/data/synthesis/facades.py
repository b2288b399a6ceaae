"""Procedural building fronts: a label map and a photograph drawn from it.

A building is a list of rectangles in unit coordinates, each of one of the twelve classes of the
CMP façade database. The label map paints them flat; the photograph paints the same rectangles
with materials on a canvas that also holds a height map (how far each point stands out of the
wall), from which *all* shading follows: cast shadows, bevels and ambient occlusion under one sun
that never moves, upper left. So position, class and shading can be read off the label map.

What cannot be read off it so directly is kept small, or is announced by other labels:

* material: few storeys lean to brick, many to sandstone, and the ornament settles it. Sandstone
  has pillars (and alone has deco); plaster has shutters, a tiled attic or bands between its
  upper storeys; brick has none of these. Slate instead of tiles covers the attics of sandstone;
* wall tone: inside its material's warm range it follows the number of bays, plus a jitter;
* trim, frames, doors, shutters and awnings are fixed per material;
* left to chance: time of day (one number, the colour of sun and sky), clouds, the height of the
  neighbours, stains, how each window mirrors the sky, noise.

Class names are CMP's own: a *molding* is the band between storeys or under the roof, a *cornice*
the raised panel above a window.
"""

import numpy as np
from PIL import Image

LABEL_COLORS: dict[str, tuple[int, int, int]] = {  # modes over the archive's JPEGs, give or take one; ids 1..12
    "background": (0, 0, 222), "facade": (0, 48, 255), "window": (0, 128, 255), "door": (0, 207, 255),
    "cornice": (32, 255, 223), "sill": (112, 255, 143), "balcony": (192, 255, 63), "blind": (255, 239, 0),
    "deco": (255, 159, 0), "molding": (255, 80, 0), "pillar": (255, 0, 0), "shop": (175, 0, 0),
}  # fmt: skip


def draw(seed: int, index: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
  """Draws façade `index` of the stream `seed` at `size` = (height, width).

  Returns {"input", "target"}: uint8 (H, W, 3) in [0, 255], the label map in LABEL_COLORS
  and the photograph. The layout depends on (seed, index) only, never on the size.
  """
  rng = np.random.default_rng([seed, index])
  style, parts = _layout(rng)
  return {"input": _labels(parts, size), "target": _photo(rng, style, parts, size)}


def _layout(rng) -> tuple[dict, list]:
  """Returns the building's style and its parts [(class, (x0, y0, x1, y1), variant)] in the
  order in which they are painted; coordinates in [0, 1], y down."""
  n = int(rng.integers(2, 8))  # storeys
  p_brick, p_stone = 0.6 - 0.1 * (n - 2), 0.05 + 0.1 * (n - 2)
  material = str(rng.choice(["brick", "plaster", "stone"], p=[p_brick, 1 - p_brick - p_stone, p_stone]))
  brick, plaster, stone = (material == m for m in ("brick", "plaster", "stone"))
  # Plaster always shows shutters, an attic or bands (a front of two storeys has no room for
  # bands), or the label map would not tell it from brick.
  attic = not brick and (rng.random() < (0.65 if plaster else 0.45) or (plaster and n == 2))
  ground, sky = 0.93, rng.uniform(0.05, 0.11)
  h = min(0.29, (ground - sky) / (n + 0.35 + 0.8 * attic))  # an upper storey; the lowest is 1.25 h
  bays = int(rng.integers(max(2, np.ceil(0.62 / (1.35 * h))), min(8, int(0.92 / (0.72 * h))) + 1))
  width = min(max(bays * h * rng.uniform(0.8, 1.3), 0.68), 0.92)
  x0 = 0.5 - width / 2 + rng.uniform(-0.3, 0.3) * (0.96 - width)
  x1, cw = x0 + width, width / bays
  lines = [ground] + [ground - h * (k + 1.25) for k in range(n)]  # floor lines, from the street up
  top = lines[-1] - 0.05 * h
  style = dict(material=material, bays=bays, h=h, x0=x0, x1=x1, ground=ground, roof=top, line1=lines[1])
  parts = []

  def add(cls, a, b, c, d, variant=""):
    parts.append((cls, (float(a), float(b), float(c), float(d)), variant))

  add("facade", x0, top, x1, ground, "wall")
  centres = [x0 + cw * (k + 0.5) for k in range(bays)]

  if attic:
    style["roof"] = y = top - 0.75 * h
    for c in (centres[0], centres[-1]):
      add("facade", c + 0.1 * cw, y - 0.2 * h, c + 0.3 * cw, y, "chimney")
    add("facade", x0 + 0.01, y, x1 - 0.01, top, "tiles")
    for c in centres[bays // 2 % 2 :: 2] if bays > 3 else centres:
      add("cornice", c - 0.27 * cw, y + 0.1 * h, c + 0.27 * cw, y + 0.24 * h, "pediment")
      add("window", c - 0.18 * cw, y + 0.24 * h, c + 0.18 * cw, y + 0.64 * h, "dormer")

  # What holds for the whole building, then storey by storey, then the street.
  shutters = plaster and rng.random() < 0.6
  hoods = stone or (plaster and not shutters) or (brick and rng.random() < 0.5)
  rollers = not shutters and rng.random() < 0.4
  garlands = stone and rng.random() < 0.6  # carved panels above the top row
  ww, wh = cw * rng.uniform(0.4, 0.44 if shutters else 0.52), h * rng.uniform(0.5, 0.58)
  bands = stone or (plaster and (not shutters or rng.random() < 0.5))
  noble = int(rng.integers(1, n))  # the storey with the balconies
  balcony = str(rng.choice(["none", "middle", "alternate", "long"], p=[0.3, 0.25, 0.3, 0.15]))
  if stone:
    pw, every = min(0.16 * cw, 0.03), 1 if bays <= 5 and rng.random() < 0.5 else 2
    for k in sorted({*range(0, bays + 1, every), bays}):
      x = min(max(x0 + k * cw - pw / 2, x0), x1 - pw)
      add("pillar", x, lines[-1], x + pw, lines[1])

  for s in range(1, n):
    bottom = lines[s]
    b = bottom - 0.2 * h  # of the windows
    t = b - wh
    if s > 1 and bands:
      add("molding", x0, bottom - 0.05 * h, x1, bottom + 0.05 * h)
    for k, c in enumerate(centres):
      le, ri = c - ww / 2, c + ww / 2
      chosen = {"none": False, "middle": abs(k - (bays - 1) / 2) < 1, "long": True,
                      "alternate": k % 2 == bays // 2 % 2}[balcony]  # fmt: skip
      opens = chosen and (s == noble or (balcony == "alternate" and (s - noble) % 2 == 0))
      if garlands and s == n - 1:
        add("deco", le, t - 0.16 * h, ri, t - 0.03 * h, "garland")
      elif hoods:
        variant = "lintel" if brick else "pediment" if stone and s == noble else "hood"
        add("cornice", le - 0.2 * ww, t - 0.13 * h, ri + 0.2 * ww, t - 0.02 * h, variant)
      add("window", le, t, ri, bottom - 0.05 * h if opens else b)
      if shutters:
        add("blind", le - 0.46 * ww, t, le - 0.02 * ww, b, "shutter")
        add("blind", ri + 0.02 * ww, t, ri + 0.46 * ww, b, "shutter")
      elif rollers and rng.random() < 0.45:
        add("blind", le, t, ri, t + wh * rng.choice([0.35, 0.6]), "roller")
      if not opens:
        add("sill", le - 0.14 * ww, b, ri + 0.14 * ww, b + 0.075 * h)
      elif balcony != "long":
        add("balcony", c - 0.86 * ww, bottom - 0.34 * h, c + 0.86 * ww, bottom + 0.02 * h)
    if balcony == "long" and s == noble:
      add("balcony", centres[0] - 0.7 * ww, bottom - 0.34 * h, centres[-1] + 0.7 * ww, bottom + 0.02 * h)
  add("molding", x0 - 0.012, lines[-1] - 0.06 * h, x1 + 0.012, lines[-1] + 0.12 * h, "roof")
  if not brick or rng.random() < 0.5:
    add("molding", x0, lines[1] - 0.04 * h, x1, lines[1] + 0.08 * h)

  gate = bays // 2 if rng.random() < 0.6 else int(rng.choice([0, bays - 1]))
  trade = rng.random() < 0.55
  k, t = 0, lines[1] + 0.24 * h
  while k < bays:
    c, span = centres[k], 1
    if k == gate:
      dw = min(0.6 * cw, 0.55 * h)
      if stone:
        add("deco", c - 0.36 * dw, t - 0.12 * h, c + 0.36 * dw, t + 0.06 * h)
      add("door", c - dw / 2, t + 0.08 * h, c + dw / 2, ground)
    elif trade:
      span = 2 if k + 1 < bays and k + 1 != gate and cw < 0.16 else 1
      add("shop", c - 0.42 * cw, t - 0.06 * h, centres[k + span - 1] + 0.42 * cw, ground - 0.02 * h)
    else:
      add("window", c - 0.52 * ww, t + 0.1 * h, c + 0.52 * ww, ground - 0.32 * h)
      add("sill", c - 0.66 * ww, ground - 0.32 * h, c + 0.66 * ww, ground - 0.24 * h)
    k += span
  return style, parts


def _pixels(box, shape) -> tuple[slice, slice]:
  """Rows and columns of a box in unit coordinates on a canvas (h, w), never fewer than one."""
  (h, w), (x0, y0, x1, y1) = shape, box
  r, c = min(max(int(y0 * h + 0.5), 0), h - 1), min(max(int(x0 * w + 0.5), 0), w - 1)
  return slice(r, min(h, max(r + 1, int(y1 * h + 0.5)))), slice(c, min(w, max(c + 1, int(x1 * w + 0.5))))


def _labels(parts, size) -> np.ndarray:
  """uint8 (H, W, 3) label map; every pixel is exactly one of LABEL_COLORS."""
  out = np.full((*size, 3), LABEL_COLORS["background"], np.uint8)
  for cls, box, _ in parts:
    out[_pixels(box, size)] = LABEL_COLORS[cls]
  return out


def _hex(code) -> np.ndarray:
  return np.array([*bytes.fromhex(code)], np.float32)[:, None, None] / 255


def _mix(a, b, t):
  return a + (b - a) * np.float32(t)


def _ramp(n) -> np.ndarray:
  return (np.arange(n, dtype=np.float32) + np.float32(0.5)) / np.float32(n)


# Wall (the two ends of its range), trim, window frames, doors, accent of shutters and awnings.
MATERIALS = {
  "brick": "8f4a38 b36e52 e0d4bd f0ede3 294a40 265c47",
  "plaster": "f2cf87 e6a680 f5ebd6 f2f0e6 734529 406b5e",
  "stone": "e0c79a cdb592 ebd9b8 61503f 573321 8c2b26",
}
_y, _x = np.mgrid[-1:1:48j, -1:1:48j].astype(np.float32)
_r = np.hypot(_x, _y)
_petals = (_r < 0.55 + 0.3 * np.cos(8 * np.arctan2(_y, _x))) & (_r > 0.22)
ROSETTE = (_petals | (_r < 0.14) | (np.maximum(abs(_x), abs(_y)) > 0.9)).astype(np.float32)  # carved panel
PEDIMENT = (abs(_x) < 0.56 + 0.44 * _y).astype(np.float32)


class _Canvas:
  """Colour (3, h, w) in [0, 1] and height (h, w), in picture heights out of the wall plane.

  Parts are painted in coordinates (u0, v0, u1, v1) relative to the current `box`, and in
  heights relative to `unit`, the depth at which windows sit behind the wall.
  """

  def __init__(self, h: int, w: int, unit: float):
    self.shape, self.unit, self.box = (h, w), unit, (0.0, 0.0, 1.0, 1.0)
    self.rgb, self.z = np.empty((3, h, w), np.float32), np.zeros((h, w), np.float32)
    self.stamps = {}

  def at(self, u0=0.0, v0=0.0, u1=1.0, v1=1.0):
    x0, y0, x1, y1 = self.box
    w, h = x1 - x0, y1 - y0
    return _pixels((x0 + u0 * w, y0 + v0 * h, x0 + u1 * w, y0 + v1 * h), self.shape)

  def fill(self, where, colour=None, z=None, below=None):
    """One colour (3, 1, 1), or one that fades to `below` at the bottom; None leaves as is."""
    r, c = self.at(*where)
    if below is not None:
      colour = colour + (below - colour) * _ramp(r.stop - r.start)[:, None]
    if colour is not None:
      self.rgb[:, r, c] = colour
    if z is not None:
      self.z[r, c] = z * self.unit

  def relief(self, tile, z, depth):
    """Models the box by a pattern (m, n) in [0, 1] stretched over it: z .. z + depth."""
    r, c = self.at()
    i, j = ((_ramp(s.stop - s.start) * k).astype(int) for s, k in zip((r, c), tile.shape, strict=True))
    self.z[r, c] = (z + depth * tile[i[:, None], j]) * self.unit

  def bars(self, where, pitch, share, colour=None, z=None, across=False):
    """A comb of upright bars, or `across` level ones; pitch in picture heights or widths."""
    u0, v0, u1, v1 = where
    size = (v1 - v0) * (self.box[3] - self.box[1]) if across else (u1 - u0) * (self.box[2] - self.box[0])
    n = max(1, round(size / pitch))
    step = (v1 - v0 if across else u1 - u0) / n
    for k in range(n):
      a = (k + 0.5 - share / 2) * step
      b = a + share * step
      self.fill((u0, v0 + a, u1, v0 + b) if across else (u0 + a, v0, u0 + b, v1), colour, z)

  def glass(self, where, s, rng, leaves, frame, z):
    """Panes: dark, clearing downwards where the street's sky is mirrored; curtains inside."""
    r, c = self.at(*where)
    gain = int(rng.integers(3))
    key = (r.stop - r.start, c.stop - c.start, leaves, gain)
    if key not in self.stamps:  # equal windows are painted once and copied
      u0, v0, u1, v1 = where
      w, h = (u1 - u0) * (self.box[2] - self.box[0]), (v1 - v0) * (self.box[3] - self.box[1])
      t = max(0.006, 0.09 * w / leaves)  # width of the frame, as seen
      du, dv = t / w * (u1 - u0), t / h * (v1 - v0) * 0.8
      inner, light = (u0 + du, v0 + dv, u1 - du, v1 - dv), np.float32(0.87 + 0.13 * gain)
      self.fill(where, frame, z)
      self.fill(inner, _hex("1f2936") * light, z - 0.3, _hex("6b8094") * light)
      if leaves == 2:
        for a, b in ((inner[0], inner[0] + 1.7 * du), (inner[2] - 1.7 * du, inner[2])):
          self.fill((a, inner[1], b, inner[3]), _hex("99968f"), None, _hex("7a7a7a"))
        m = v0 + 0.33 * (v1 - v0)
        self.fill((u0, m - dv / 2, u1, m + dv / 2), frame, z)
      for k in range(1, leaves):
        m = u0 + (u1 - u0) * k / leaves
        self.fill((m - du / 2, v0, m + du / 2, v1), frame, z)
      self.stamps[key] = self.rgb[:, r, c].copy(), self.z[r, c].copy()
    self.rgb[:, r, c], self.z[r, c] = self.stamps[key]


def _noise(rng, cells, shape, smooth=Image.Resampling.BICUBIC) -> np.ndarray:
  """Smooth noise (h, w) of about unit deviation, drawn on a grid that ignores the size."""
  return np.asarray(Image.fromarray(rng.standard_normal(cells, dtype=np.float32)).resize(shape[::-1], smooth))


def _wall(c, s, rng):
  """Brick, or blocks of stone, or plaster that is scored into blocks on the ground floor."""
  r, q = c.at()
  shape, kind = (r.stop - r.start, q.stop - q.start), s["material"]
  course, length, spread = (0.0125, 0.031, 0.11) if kind == "brick" else (0.029, 0.075, 0.045)
  rows, cols = np.arange(r.start, r.stop) / c.shape[0], np.arange(q.start, q.stop) / c.shape[1]
  tones = rng.uniform(-spread, spread, (int(1 / course) + 1, int(1 / length) + 2)).astype(np.float32)
  light, joint = np.empty(shape, np.float32), np.empty(shape, bool)
  course_of = (rows / course).astype(int)
  for odd in (0, 1):  # running bond: every other course is shifted by half a block
    u, mine = cols / length + 0.5 * odd, course_of % 2 == odd
    light[mine] = tones[:, u.astype(int)][course_of[mine]]
    joint[mine] = u % 1 < 0.0035 / length
  joint |= (rows / course % 1 < 0.0035 / course)[:, None]
  if kind == "plaster":
    above = rows < s["line1"]
    light[above], joint[above] = 0, False
  stains = 0.03 * _noise(rng, (12, 12), (64, 64)) + 0.02 * rng.standard_normal((1, 64), dtype=np.float32)
  light += np.asarray(Image.fromarray(stains).resize(shape[::-1], Image.Resampling.BICUBIC))
  light += 1 + 0.02 * _noise(rng, (128, 128), shape, Image.Resampling.BILINEAR)
  if kind != "brick":
    c.z[r, q][joint] = -0.003
  mortar = _mix(s["wall"], s["trim"], 0.45) if kind == "brick" else 0.9 * s["wall"]
  for band, wall, between in zip(c.rgb[:, r, q], s["wall"].ravel(), mortar.ravel(), strict=True):
    np.multiply(light, wall, out=band)
    band[joint] = between
  c.fill((0, 1 - 0.1 * s["h"] / (c.box[3] - c.box[1]), 1, 1), s["trim"] * 0.72, 0.25)  # plinth


def _paint(c, cls, variant, s, rng):
  """Paints one part of class `cls` into the canvas's current box. Heights: 0 is the wall."""
  x0, y0, x1, y1 = c.box
  w, h = x1 - x0, y1 - y0
  trim, accent, door, whole = s["trim"], s["accent"], s["door"], (0, 0, 1, 1)
  if variant == "wall":
    _wall(c, s, rng)
  elif variant == "tiles":
    hue = _hex("a8543b" if s["material"] == "plaster" else "5c6673")
    c.fill(whole, hue * 0.92, -0.8, hue * 1.06)
    c.bars(whole, 0.014, 0.3, hue * 0.86, -1.1, across=True)
    c.fill((0, 0, 1, 0.08), hue * 0.78, 0)
  elif variant == "chimney":
    c.fill(whole, _hex("945c47"), 0)
    c.fill((-0.1, 0, 1.1, 0.3), trim * 0.9, 0.3)
  elif cls == "window":
    if s["material"] != "brick" or variant == "dormer":
      c.fill((-0.1, -0.1 * w / h, 1.1, 1 + 0.05 * w / h), trim, 0.25)
    c.glass(whole, s, rng, 2, s["frame"], -1)
  elif variant == "roller":
    c.fill(whole, _hex("d6ccb2"), -0.7)
    c.bars(whole, 0.011, 0.35, _hex("b2a891"), -0.85, across=True)
  elif variant == "shutter":
    c.fill(whole, accent, 0.5)
    c.bars((0.16, 0.16 * w / h, 0.84, 1 - 0.16 * w / h), 0.009, 0.45, accent * 0.72, 0.2, across=True)
  elif cls == "door":
    c.fill((-0.12, -0.12 * w / h, 1.12, 1), trim, 0.4)
    c.fill(whole, door, -1.6)
    c.glass((0, 0, 1, 0.22), s, rng, 3, door * 0.9, -1.6)
    for u in (0.08, 0.54):  # two leaves of two panels
      for v in (0.32, 0.67):
        c.fill((u, v, u + 0.38, v + 0.26), door * 1.25, -2.1, door * 1.05)
    c.fill((0.48, 0.28, 0.52, 1), door * 0.45)
    c.fill((-0.06, 1 - 0.012 / h, 1.06, 1), trim * 0.85, 0.8)  # step
  elif variant == "pediment":
    c.fill(whole, _mix(s["wall"], trim, 0.6))
    c.relief(PEDIMENT, 0.2, 0.9)
    c.fill((0, 0.72, 1, 1), trim, 1.4)
  elif cls == "cornice":  # a lintel with its keystone, or a hood
    c.fill(whole, trim, 0.4)
    c.fill(*((0.43, 0, 0.57, 1), trim * 1.05, 0.8) if variant == "lintel" else ((0, 0, 1, 0.4), trim, 1.5))
  elif cls == "sill":
    c.fill(whole, trim, 1.2, trim * 0.9)
  elif cls == "balcony":  # balusters of stone, or railings of iron with flowers
    stone = s["material"] == "stone"
    bar = trim * 0.97 if stone else _hex("1f2124")
    c.bars((0, 0, 1, 0.8), 0.016 if stone else 0.0125, 0.55 if stone else 0.36, bar, 2.2)
    for u0, v0, u1, v1 in ((0, 0, 1, 0.14), (0, 0, 0.012 / w, 0.8), (1 - 0.012 / w, 0, 1, 0.8)):
      c.fill((u0, v0, u1, v1), bar, 2.4)
    if not stone:
      c.fill((0.06, 0.04, 0.94, 0.26), _hex("4d7a38"), 2.8)
      c.bars((0.06, 0.0, 0.94, 0.14), 0.02, 0.5, _hex("cf3d3d"), 3.1)
    c.fill((0, 0.8, 1, 1), trim, 2.5, trim * 0.8)
  elif cls == "deco":
    c.fill(whole, trim * 0.98)
    c.relief(np.tile(ROSETTE, (1, max(1, round(w / h)) if variant == "garland" else 1)), 0.1, 0.9)
  elif cls == "molding":
    z = 2.0 if variant == "roof" else 0.9
    for v0, v1, f in ((0, 0.42, 1.0), (0.42, 0.6, 0.7), (0.6, 1, 0.4)):  # overhang, step, frieze
      c.fill((0, v0, 1, v1), trim * (0.92 + 0.08 * f), f * z)
    if variant == "roof":
      c.bars((0, 0.45, 1, 0.72), 0.024, 0.5, trim, 1.7)  # dentils
  elif cls == "pillar":  # a round shaft with cap and base
    r, q = c.at()
    u = 2 * _ramp(q.stop - q.start) - 1
    c.rgb[:, r, q] = trim * (0.86 + 0.14 * np.cos(1.5 * (u + 0.35)))
    c.z[r, q] = c.unit * (0.3 + 0.5 * np.sqrt(1 - 0.9 * u * u))
    for v0, v1 in ((0, 0.035 / h), (1 - 0.03 / h, 1)):
      c.fill((-0.15, v0, 1.15, v1), trim, 1)
  elif cls == "shop":
    c.fill(whole, accent * 0.62, 0.3)
    c.fill((0, 0, 1, 0.13), accent * 0.8, 0.9)  # signboard
    e = 0.008 / w
    c.glass((e, 0.3, 1 - e, 0.86), s, rng, max(1, round(w / 0.1)) * 2 - 1, accent * 0.55, -1)
    c.fill((2 * e, 0.62, 1 - 2 * e, 0.84), _hex("a38257"), None, _hex("6b4f36"))  # display
    c.bars((2 * e, 0.69, 1 - 2 * e, 0.84), 0.022, 0.5, _hex("5c3d33"))
    c.fill((-e / 2, 0.13, 1 + e / 2, 0.4), _hex("ebe3d1"), 2.4, _hex("d1c9b8"))  # awning
    c.bars((-e / 2, 0.13, 1 + e / 2, 0.4), 0.026, 0.5, accent * 1.15)


def _surroundings(c, s, rng) -> np.ndarray:
  """Paints sky, neighbours and street behind the building; returns the sky's mask (h, w)."""
  tops = s["roof"] + rng.uniform(0.2, 0.3, 2) * (s["ground"] - s["roof"])
  r, _ = c.at(0, 0, 1, float(max(tops)))
  y = np.arange(r.stop, dtype=np.float32)[:, None] / c.shape[0]
  warm = s["warm"]
  high = _mix(_hex("5c94d9"), _hex("809ed6"), warm)
  low = _mix(_hex("d1e6f2"), _hex("ffe3c2"), warm)
  puffs = sum(a * _noise(rng, cells, (64, 64)) for a, cells in ((0.3, (5, 4)), (0.15, (12, 9)), (0.08, (30, 22))))
  clouds = np.asarray(Image.fromarray(puffs).resize(c.shape[::-1], Image.Resampling.BICUBIC))
  sky = _mix(high, low, 1) + (high - low) * np.clip(1 - 1.6 * y, 0, 1)
  c.rgb[:, r] = sky + (_mix(_hex("f7faff"), _hex("fff0e0"), warm) - sky) * np.clip(clouds[r] + 0.1, 0, 0.7)
  mask = np.ones(c.shape, bool)
  for a, b, top in ((0.0, s["x0"], tops[0]), (s["x1"], 1.0, tops[1])):
    top = float(top)
    c.fill((a, top, b, 1), _hex("b8a896"), -3, _hex("9e9185"))
    c.fill((a, top, b, top + 0.02), _hex("998778"), -2)
    for v in np.arange(top + 0.07, s["ground"] - 0.08, 0.12):
      c.bars((a, float(v), b, float(v) + 0.06), 0.06, 0.45, _hex("5c636b"), -3.6)
    mask[c.at(a, top, b, 1)] = False
  g = s["ground"]
  # Pavement, kerb, road.
  for v0, v1, tone in ((g, g + 0.028, "a39e9a"), (g + 0.028, g + 0.036, "807c79"), (g + 0.036, 1, "5e5c5a")):
    c.fill((0, v0, 1, v1), _hex(tone), 0)
  c.bars((0, g, 1, g + 0.028), 0.07, 0.04, _hex("857d75"))
  mask[c.at(0, g, 1, 1)] = False
  return mask


def _shade(z, warm) -> np.ndarray:
  """Light (3, h, w) that falls on the height map z under a sun at the upper left."""
  h, w = z.shape
  # A point lies in shadow if, k rows up and 0.6 k columns left of it, something stands more
  # than k rows higher. Each round doubles the k that are covered.
  top, step = z.copy(), 1
  while step < 0.05 * h:
    dx = max(1, round(0.6 * step * w / h))
    top[step:, dx:] = np.maximum(top[step:, dx:], top[:-step, :-dx] - np.float32(step / h))
    step *= 2
  sun = np.clip(1 - 220 * (top - z), 0, 1)
  # Bevels: edges that face the sun are bright. A fixed distance keeps all sizes alike.
  d = max(1, round(h / 256))
  bevel = np.clip(22 * (z[d:, d:] - z[:-d, :-d]), -0.22, 0.22)
  # Ambient occlusion: points below the mean height of their surroundings see less sky.
  around = Image.fromarray(z).reduce(max(1, h // 42)).resize((w, h), Image.Resampling.BILINEAR)
  ambient = np.clip(1 - 16 * (np.asarray(around) - z), 0.6, 1.05)
  sun[d:, d:] += bevel
  ambient[d:, d:] += 0.4 * bevel
  direct = _mix(_hex("8f877a"), _hex("a8855c"), warm)
  diffuse = _mix(_hex("737d8f"), _hex("6b738c"), warm)
  return direct * sun + diffuse * ambient


def _photo(rng, style, parts, size) -> np.ndarray:
  """uint8 (H, W, 3): the parts with their materials, lit, drawn large and averaged down."""
  height, width = size
  k = int(np.clip(np.ceil(256 / max(size)), 2, 4))
  wall, wall1, trim, frame, door, accent = map(_hex, MATERIALS[style["material"]].split())
  tone = np.clip((style["bays"] - 2) / 6 + rng.uniform(-0.25, 0.25), 0, 1)
  wall = _mix(wall, wall1, tone) * np.float32(rng.uniform(0.96, 1.04))
  s = dict(style, wall=wall, trim=trim, frame=frame, door=door, accent=accent, warm=rng.random())
  c = _Canvas(k * height, k * width, unit=min(max(0.085 * s["h"], 0.009), 0.016))
  sky = _surroundings(c, s, rng)
  for cls, box, variant in parts:
    c.box = box
    _paint(c, cls, variant, s, rng)
    if cls == "facade" or variant == "roof":
      sky[c.at()] = False
  light = _shade(c.z, s["warm"])
  light[:, sky] = 1
  c.rgb *= light
  out = sum(c.rgb[:, i::k] for i in range(k))
  out = sum(out[:, :, j::k] for j in range(k)) * np.float32(1 / k**2)
  y, x = (_ramp(n) - np.float32(0.5) for n in size)
  out *= 1.02 - 0.22 * (y[:, None] ** 2 + x**2)  # vignette
  grain = rng.standard_normal((64, 64), dtype=np.float32)
  out += 0.009 * np.tile(grain, (-(-height // 64), -(-width // 64)))[:height, :width]
  return (np.clip(out, 0, 1).transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8)
