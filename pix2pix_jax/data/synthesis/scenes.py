"""Ray-cast scenes: a street seen from a car, a furnished room, and a village in winter and in summer.

A scene is a list of convex solids (half-spaces cut with, for round ones, an ellipsoid or a cylinder)
on the ground y = 0; x points right, y up, z forward, all in metres. Rays leave the camera with a unit
step along the optical axis, so the ray parameter *is* the z-depth. Samples lie half a pixel apart: the
odd ones are the pixel centres and give the depth, a 3x3 tent over all of them gives the colour, hence
both come from the same intersections and depth is never averaged across an edge.

Layouts are drawn before anything that depends on the size, so a scene is the same at every size.
"""

from collections.abc import Callable
import dataclasses

import numpy as np
from PIL import Image

F = np.float32


@dataclasses.dataclass(frozen=True)
class Camera:
  """A pinhole at (0, height, 0) looking along +z, turned down by atan(slope).

  `horizon` is the row of the optical axis in picture heights, `zoom` the focal length over
  sqrt(H W): the same field of view, by area, at every aspect.
  """

  height: float
  horizon: float
  zoom: float
  slope: float = 0.0

  def focal(self, size) -> float:
    """Focal length in pixels at size (H, W)."""
    return self.zoom * float(size[0] * size[1]) ** 0.5

  def axes(self) -> np.ndarray:
    """(3, 3): the camera's right, up and forward in world coordinates."""
    c = 1 / (1 + self.slope**2) ** 0.5
    s = self.slope * c
    return np.array([[1, 0, 0], [0, c, s], [0, -s, c]])

  def rays(self, size, step: float) -> np.ndarray:
    """(3, rows, cols) world directions with unit z in the camera, `step` pixels apart, at the pixel
    centres for step 1 and from edge to edge for step 1/2."""
    f, first = self.focal(size), 0.5 if step == 1 else 0.0
    v, u = (np.arange(first, n + 0.25, step) for n in size)
    right, up, forward = self.axes()
    x, y = (u - size[1] / 2) / f, (self.horizon * size[0] - v) / f
    d = [right[i] * x[None] + up[i] * y[:, None] + forward[i] for i in range(3)]
    return np.stack(d).astype(F)


# What is known of the cameras. KITTI: 1.65 m above the road, level, f = 721.5 px at 352 x 1216.
STREET = Camera(height=1.65, horizon=0.43, zoom=721.5 / (352 * 1216) ** 0.5)
ROOM_ZOOM = 519 / (425 * 560) ** 0.5  # NYU's Kinect: f = 519 px at 425 x 560, the part that is labelled

# Solids in units of their half extents: rows (nx, ny, nz, d) of half-spaces n.p <= d.
_BOX = [(1, 0, 0, 1), (-1, 0, 0, 1), (0, 1, 0, 1), (0, -1, 0, 1), (0, 0, 1, 1), (0, 0, -1, 1)]
_SHAPES = {
  "box": _BOX,
  "gable": [(1, 0.5, 0, 0.5), (-1, 0.5, 0, 0.5), (0, -1, 0, 1), (0, 0, 1, 1), (0, 0, -1, 1)],  # ridge along z
  "cabin": [(1, 0.13, 0, 0.87), (-1, 0.13, 0, 0.87), *_BOX[2:4], (0, 0.26, 1, 0.74), (0, 0.17, -1, 0.83)],
  "spire": [(0, -1, 0, 1), *((np.cos(a), 0.5, np.sin(a), 0.5) for a in np.arange(8) * np.pi / 4)],  # eight slopes
  "ball": [],
  "ground": [(0, 1, 0, 1)],
  "post": _BOX[2:4],  # a cylinder, upright
  "axle": _BOX[:2],  # a cylinder along x
}
SHAPES = {name: np.array(planes, float).reshape(-1, 4) for name, planes in _SHAPES.items()}
_CURVED = {"ball": np.array([1, 1, 1]), "post": np.array([1, 0, 1]), "axle": np.array([0, 1, 1])}
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
_UPRIGHT = np.eye(3)


class Solid:
  """A convex solid: `shape` scaled to the half extents `half`, turned by `yaw` about y, put at `centre`.

  paint(solid, q, normal, px) returns the colours (3, n) in [0, 1] of the points q (3, n), in metres,
  and normals (3, n), both in the solid's own frame; px (n,) is the width in metres of one sample there.
  `leafy`: chords up to about so many metres fray; `inside`: seen from within, as a room is; `how`:
  what else the paint wants to know.
  """

  def __init__(self, shape, centre, half, paint=None, colour="808080", yaw=0.0, leafy=0.0, inside=False, **how):
    self.centre, self.half = np.array(centre, float), np.array(half, float)
    planes, normals = SHAPES[shape], SHAPES[shape][:, :3] / self.half
    self.turn, corners = _UPRIGHT, _CORNERS * self.half
    if yaw:
      c, s = np.cos(yaw), np.sin(yaw)
      self.turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])  # own frame -> world
      normals, corners = normals @ self.turn.T, corners @ self.turn.T
    unit = 1 / np.sqrt((normals * normals).sum(1))
    self.offsets = ((planes[:, 3] + normals @ self.centre) * unit).astype(F)[:, None]
    self.normals = (normals * unit[:, None]).astype(F)
    self.bend = (_CURVED[shape] / self.half).astype(F) if shape in _CURVED else None
    self.corners = self.centre + corners
    self.paint, self.colour = paint, _rgb(colour) if isinstance(colour, str) else colour
    self.yaw, self.leafy, self.inside, self.how = yaw, leafy, inside, how

  def own(self, v, back=False):
    """The vectors v (3, n) turned into the solid's own frame, or back from it."""
    if not self.yaw:
      return v
    c, s = F(self.turn[0, 0]), F(self.turn[2, 0] if back else self.turn[0, 2])
    return np.stack([c * v[0] - s * v[2], v[1], s * v[0] + c * v[2]])

  def span(self, o, d):
    """Where rays o + t d enter and leave: t, t and the face (n,) entered by, -1 if the curved one.

    o and d are (3, n) or (3, 1). A ray misses where leave <= enter.
    """
    enter = leave = face = None
    with np.errstate(all="ignore"):  # rays parallel to a face give +-inf, rays past a ball nan: both are right
      if len(self.normals):
        n = self.normals[:, :, None]
        slope = n[:, 0] * d[0] + n[:, 1] * d[1] + n[:, 2] * d[2]
        t = (self.offsets - (n[:, 0] * o[0] + n[:, 1] * o[1] + n[:, 2] * o[2])) / slope
        if self.inside:
          t[slope < 0] = np.inf
          return t.min(0), np.full(t.shape[1:], F(np.inf)), t.argmin(0)
        into = np.where(slope < 0, t, F(-np.inf))
        face = into.argmax(0)
        enter, leave = into.max(0), np.where(slope < 0, F(np.inf), t).min(0)
      if self.bend is not None:
        bend = self.bend[:, None]
        e, k = self.own(o - self.centre.astype(F)[:, None]) * bend, self.own(d) * bend
        a = k[0] * k[0] + k[1] * k[1] + k[2] * k[2]
        b = (k[0] * e[0] + k[1] * e[1] + k[2] * e[2]) / a
        e = e - k * b  # where the ray is nearest; in float32, b^2 - c would cancel out
        root = np.sqrt((1 - e[0] * e[0] - e[1] * e[1] - e[2] * e[2]) / a)
        near, far = -b - root, root - b
        if face is None:
          enter, leave, face = near, far, np.full(near.shape, -1)
        else:
          face = np.where(near > enter, -1, face)
          enter, leave = np.maximum(enter, near), np.minimum(leave, far)
    if self.leafy:  # leaves fray the outline: where a ray would only graze the crown, it may slip through
      p = o + d * np.where(np.isfinite(enter), enter, 0)
      leave = np.where(leave - enter < self.leafy * (1 + noise(p[0] + p[2], p[1] + 0.5 * p[2], 2.2)), enter, leave)
    return enter, leave, face

  def normal(self, p, face) -> np.ndarray:
    """(3, n) outward unit normals at the points p (3, n) of the given faces (n,)."""
    n = self.normals[face].T if len(self.normals) else np.zeros_like(p)
    if self.bend is not None:
      curved = self.own(p - self.centre.astype(F)[:, None]) * (self.bend * self.bend)[:, None]
      curved /= np.sqrt((curved * curved).sum(0)) + F(1e-9)
      n = np.where(face < 0, self.own(curved, back=True), n)
    return -n if self.inside else n


def _upsampled(rng, cells, size, wrap=False):
  """Smooth noise (H, W) of about unit deviation, drawn on a grid `cells` that ignores the size."""
  grid = rng.standard_normal(cells).astype(F)
  if wrap:
    grid, k = np.pad(grid, 4, mode="wrap"), size[0] // cells[0]
    big = np.asarray(Image.fromarray(grid).resize((size[1] + 8 * k, size[0] + 8 * k), Image.Resampling.BICUBIC))
    return big[4 * k : -4 * k, 4 * k : -4 * k]
  return np.asarray(Image.fromarray(grid).resize(size[::-1], Image.Resampling.BICUBIC))


_rng = np.random.default_rng(0)
_TABLE = sum(a * _upsampled(_rng, (c, c), (512, 512), True) for a, c in ((0.6, 16), (0.5, 32), (0.4, 64), (0.3, 128)))
_TABLE = np.ascontiguousarray(np.clip(_TABLE, -2.5, 2.5), F)


def noise(u, v, per_metre, soft=False) -> np.ndarray:
  """Fixed fractal noise of unit deviation at the points (u, v): features of 1 to 1/8 of 1 / per_metre;
  soft: interpolated, for where these are large on the screen."""
  x, y = u * F(32 * per_metre), v * F(32 * per_metre)
  left, top = np.floor(x), np.floor(y)
  i, j = (top.astype(np.int32) & 511) * 512, left.astype(np.int32) & 511
  if not soft:
    return _TABLE.take(i + j)
  x, y, i1, j1 = x - left, y - top, (i + 512) & (512 * 511), (j + 1) & 511
  above, below = (_mix(_TABLE.take(r + j), _TABLE.take(r + j1), x) for r in (i, i1))
  return _mix(above, below, y)


@dataclasses.dataclass
class Hits:
  """What the rays d (3, rows, cols) from o (3,) hit: z-depth t, +inf for the sky, number of the solid, its face."""

  o: np.ndarray
  d: np.ndarray
  t: np.ndarray
  who: np.ndarray
  face: np.ndarray

  def copy(self):
    return Hits(self.o, self.d, self.t.copy(), self.who.copy(), self.face.copy())


def windows(solids, camera, size, step, pad=0.0) -> np.ndarray:
  """(n, 4) first and last row and column, plus one, of the samples that may see each solid: all of
  them for one that reaches behind the camera, none for one wholly behind it."""
  x, y, z = np.moveaxis(np.stack([s.corners for s in solids]) - [0, camera.height, 0], 2, 0)
  x, y, z = (a[0] * x + a[1] * y + a[2] * z for a in camera.axes())
  f, behind, first = camera.focal(size), z.min(1) < 0.2, 0.5 if step == 1 else 0.0
  w, out = np.maximum(z, 0.2), []
  for m in (camera.horizon * size[0] - f * y / w, size[1] / 2 + f * x / w):
    lo, hi = (m.min(1) - pad - first) / step, (m.max(1) + pad - first) / step + 2
    out += [np.where(behind, 0, lo), np.where(behind, np.where(z.max(1) < 0.2, 0, 1e6), hi)]
  return np.stack(out, 1).clip(0, 1e6).astype(int)


def trace(solids, camera, size, step=1.0, hits=None, first=0, pad=0.0) -> Hits:
  """Casts the rays of all samples at `solids`, numbered from `first`; adds to `hits` if given."""
  if hits is None:
    d = camera.rays(size, step)
    t, who, face = np.full(d.shape[1:], F(np.inf)), np.full(d.shape[1:], -1, np.int16), np.zeros(d.shape[1:], np.int8)
    hits = Hits(np.array([0, camera.height, 0], F), d, t, who, face)
  o = hits.o[:, None]
  for k, (solid, (r0, r1, c0, c1)) in enumerate(zip(solids, windows(solids, camera, size, step, pad)), first):
    d = hits.d[:, r0:r1, c0:c1]
    if not d.size:
      continue
    t = hits.t[r0:r1, c0:c1]
    enter, leave, face = (a.reshape(t.shape) for a in solid.span(o, d.reshape(3, -1)))
    new = (leave > enter) & (enter > 0.05) & (enter < t)
    t[new] = enter[new]
    hits.who[r0:r1, c0:c1][new] = k
    hits.face[r0:r1, c0:c1][new] = face[new]
  return hits


def in_shadow(solids, p, sun) -> np.ndarray:
  """bool (n,): which points p (3, n) the sun, in direction `sun`, does not reach."""
  a = np.array([sun[2], 0, -sun[0]]) / np.hypot(sun[0], sun[2])
  b = np.cross(sun, a)
  pa, pb = (F(e[0]) * p[0] + F(e[1]) * p[1] + F(e[2]) * p[2] for e in (a, b))
  # Seen from the sun, each solid covers a box: only points in it need a ray. Sorted into columns of
  # 0.25 m, the points of a box lie close together.
  column = np.clip(pa * 4 + 16384, 0, 32767).astype(np.int16)
  order = np.argsort(column, kind="stable")
  column, pb, p = column[order], pb[order], p[:, order]
  dark, d = np.zeros(len(pb), bool), np.array(sun, F)[:, None]
  for s in solids:
    ca, cb = s.corners @ a, s.corners @ b
    lo, hi = np.searchsorted(column, np.array([ca.min() * 4 + 16383, ca.max() * 4 + 16386], np.int16))
    i = lo + np.flatnonzero((pb[lo:hi] > F(cb.min())) & (pb[lo:hi] < F(cb.max())) & ~dark[lo:hi])
    if len(i):
      enter, leave, _ = s.span(p[:, i], d)
      dark[i] = (leave > 0.03) & (leave > enter)
  out = np.empty_like(dark)
  out[order] = dark
  return out


# --- Colour -----------------------------------------------------------------------------------------------------------


def _rgb(code) -> np.ndarray:
  return np.array([*bytes.fromhex(code)], F)[:, None] / 255


def _mix(a, b, t):
  return a + (b - a) * t


def _fine(cell, px):
  """In [0, 1]: how much of a pattern `cell` metres wide survives samples `px` metres wide."""
  return np.clip(F(0.5 * cell) / px - F(0.5), 0, 1)


def _plain(s, q, normal, px):
  """Paint, wood, rubber: one colour, a little uneven."""
  return s.colour * (1 + 0.06 * noise(q[0] + q[2], q[1] + q[2], 0.4))


def _leaves(s, q, normal, px):
  """Foliage: clumps and specks, darker below. Two projections hide each other's streaks."""
  clumps = noise(q[0], q[1], 0.5) + noise(q[2], q[1] + 7, 0.5) + noise(q[0], q[2], 0.5)
  specks = noise(q[1], q[0], 1.3) + noise(q[2], q[1], 1.3)
  return s.colour * np.clip(0.85 + 0.2 * normal[1] + 0.13 * clumps + 0.17 * _fine(0.15, px) * specks, 0.25, 1.7)


STOREY = 2.9  # metres


def _wall(s, q, normal, px):
  """A house's walls in blocks, with rows of windows and a door unless `blind`; slopes are tiled."""
  half = np.where(abs(q[2]) >= F(s.half[2] * 0.999), F(s.half[0]), F(s.half[2]))
  u, y = np.where(half == F(s.half[0]), q[0], q[2]), q[1] + F(s.half[1])  # along the wall and above its foot
  course = np.floor(y / 0.22)
  joint = ((y / 0.22 - course) < 0.14) | (((u / 0.5 + 0.5 * (course % 2)) % 1) < 0.06)
  fine = _fine(0.3, px)
  colour = s.colour * ((1 + 0.05 * noise(u, y, 0.12) - s.how["relief"] * joint * fine) * np.clip(0.8 + y / 3, 0.8, 1))
  if not s.how["blind"]:
    cells = np.maximum(1, np.round(half / 1.25))
    k = (u / half + 1) * cells / 2
    cell, storey = np.floor(k), np.floor(y / STOREY)
    x, z = abs(k - cell - 0.5) * 2 * half / cells, abs(y - storey * STOREY - 1.65)  # from the window's middle
    below = storey < int(2 * s.half[1] / STOREY)
    glint = noise(storey + 3 * cell, u * 0.1 + F(s.centre[2]), 0.07)
    glass = _rgb("8fa6b8") * (0.16 + 0.2 * np.clip(glint + 0.3, 0, 1) + 0.12 * z)
    colour = np.where((x < 0.56) & (z < 0.78) & below, _rgb("d8d4ca"), colour)
    colour = np.where((x < 0.47) & (z < 0.69) & (x > 0.04) & below, glass, colour)
    door = (storey == 0) & (cell == np.floor(cells / 3)) & (x < 0.55) & (y < 2.2)
    colour = np.where(door, s.how["door"] * np.where(x < 0.45, F(0.8), F(1.5)), colour)
  slope = np.flatnonzero(normal[1] > 0.3)
  if len(slope) and "tiles" in s.how:
    v, u, fine = q[1, slope] * 1.4, q[2, slope], fine[slope]
    row = np.floor(v / 0.32)
    edge = ((v / 0.32 - row) < 0.25) | (((u / 0.3 + 0.5 * (row % 2)) % 1) < 0.12)
    colour[:, slope] = s.how["tiles"] * (1 - 0.25 * edge * fine + 0.08 * noise(u, v, 0.3))
  return colour


def _car(s, q, normal, px):
  """Bodywork with lamps, plates and doors; the cabin is glazed."""
  x, y, z = q / s.half.astype(F)[:, None]
  colour = s.colour * ((1 + 0.25 * np.clip(normal[1], 0, 1)) * np.where(y < -0.75, F(0.5), F(1)))
  side, end = abs(normal[0]) > 0.5, abs(normal[2]) > 0.5
  if s.how.get("cabin"):
    pane = (abs(y + 0.05) < 0.7) & (abs(normal[1]) < 0.8)
    pane &= np.where(side, (abs(z) < 0.8) & (abs(z - 0.05) > 0.03), abs(x) < 0.85)
    return np.where(pane, _rgb("2a333a") + 0.18 * np.clip(y + 0.3, 0, 1), colour)
  door = side & ((abs(z + 0.38) < 0.012) | (abs(z - 0.1) < 0.012) | (abs(z - 0.55) < 0.012))
  colour = np.where(door, s.colour * F(0.45), colour)
  colour = np.where(end & (z > 0) & (abs(x) < 0.5) & (abs(y - 0.1) < 0.3), _rgb("1c1d1f"), colour)  # grille
  lamp = end & (abs(x) > 0.66) & (abs(y - 0.3) < 0.22)
  colour = np.where(lamp, np.where(z < 0, _rgb("b01818"), _rgb("f0ead0")), colour)
  return np.where(end & (abs(x) < 0.28) & (abs(y + 0.3) < 0.13), _rgb("e8e4d8"), colour)


def _road(s, q, normal, px):
  """Asphalt with lane marks between the kerbs, turf or paving beyond."""
  left, right, lanes, green = s.how["road"]
  x, z = q[0], q[2]
  grain = 0.09 * _fine(0.05, px) * noise(x, z, 3) + 0.03 * noise(x, z * 0.25, 0.3)
  light = 0.405 * (1 + grain - 0.12 * (noise(x * 0.3, z * 0.1, 0.25) > 1.3))
  for k, at in enumerate(lanes):
    mark = abs(x - F(at)) < 0.07
    if 0 < k < len(lanes) - 1:  # dashed between the lanes
      mark &= (z / 9) % 1 < 0.42
    light[mark] = 0.86 + grain[mark]
  colour = light * np.array([[1], [1], [1.02]], F)
  off = np.flatnonzero((x < F(left)) | (x > F(right)))
  x, z = x[off], z[off]
  rough = 1 + 0.12 * noise(x, z, 0.3) + 0.2 * _fine(0.1, px[off]) * noise(z, x, 1.5)
  colour[:, off] = _rgb("5f7a35" if green else "89847a") * rough
  return colour


def _slabs(s, q, normal, px):
  """A pavement of slabs with its kerb."""
  joint = ((q[0] / 0.6) % 1 < 0.06) | ((q[2] / 0.6) % 1 < 0.06)
  colour = _rgb("9b968d") * (1 - 0.2 * joint * _fine(0.4, px) + 0.06 * noise(q[0], q[2], 0.5))
  return np.where(abs(q[0]) > F(s.half[0] - 0.15), _rgb("b9b5ab"), colour)


@dataclasses.dataclass
class Light:
  """Where the sun is (unit vector), colours of sun, sky light and haze, the haze's range in metres,
  and whether there are shadows: not under an overcast sky."""

  sun: np.ndarray
  direct: np.ndarray
  ambient: np.ndarray
  haze: np.ndarray
  reach: float
  shadows: bool = True


def shade(solids, hits, light, sky, px) -> tuple[np.ndarray, np.ndarray]:
  """Colours (3, rows, cols) in [0, 1] of what was hit, and the brightness (rows, cols) of its paint.

  sky(d) gives the colours (3, n) of rays that hit nothing; px is the width of a sample at 1 m.
  """
  who, shape = hits.who.ravel(), hits.who.shape
  order = np.argsort(who, kind="stable")
  ends = np.searchsorted(who[order], np.arange(len(solids) + 1))
  out, paint = np.empty((3, who.size), F), np.zeros(who.size, F)
  d = hits.d.reshape(3, -1)
  empty, order = order[: ends[0]], order[ends[0] :]
  out[:, empty] = sky(d[:, empty])
  t, face = hits.t.ravel()[order], hits.face.ravel()[order]
  p = d[:, order] * t
  p += hits.o[:, None]
  colour, normal = np.empty_like(p), np.empty_like(p)
  for k in np.flatnonzero(np.diff(ends)):
    s, i = solids[k], slice(ends[k] - ends[0], ends[k + 1] - ends[0])
    normal[:, i] = n = s.normal(p[:, i], face[i])
    q, n = s.own(p[:, i] - s.centre.astype(F)[:, None]), s.own(n)
    colour[:, i] = s.paint(s, q, n, F(px) * t[i])
  paint[order] = colour[1]
  beam = F(light.sun[0]) * normal[0] + F(light.sun[1]) * normal[1] + F(light.sun[2]) * normal[2]
  np.maximum(beam, 0, out=beam)
  if light.shadows:
    facing = np.flatnonzero(beam)
    beam[facing[in_shadow([s for s in solids if not s.how.get("flat")], p[:, facing], light.sun)]] = 0
  sees = 0.78 + 0.22 * normal[1]  # of the sky; walls see less of it near the ground
  wall = np.flatnonzero((abs(normal[1]) < 0.5) & (p[1] < 1.5))
  sees[wall] *= 1 - 0.35 * np.exp(-np.maximum(p[1, wall], 0) / F(0.4))
  clear = np.exp(t * F(-1 / light.reach))
  for c in range(3):
    band = colour[c] * (light.ambient[c] * sees + light.direct[c] * beam)
    out[c, order] = light.haze[c] + (band - light.haze[c]) * clear
  return out.reshape(3, *shape), paint.reshape(shape)


def tent(rgb) -> np.ndarray:
  """(3, 2H+1, 2W+1) samples half a pixel apart, in [0, 1] -> uint8 (H, W, 3)."""
  rows = rgb[:, :-1:2] + 2 * rgb[:, 1::2] + rgb[:, 2::2]
  out = (rows[:, :, :-1:2] + 2 * rows[:, :, 1::2] + rows[:, :, 2::2]) * F(255 / 16) + F(0.5)
  return np.ascontiguousarray(np.clip(out, 0, 255).astype(np.uint8).transpose(1, 2, 0))


# --- Street -----------------------------------------------------------------------------------------------------------


def _pick(rng, options):
  """One of the options, or of the words of a string."""
  options = options.split() if isinstance(options, str) else options
  return options[int(rng.integers(len(options)))]


def _house(rng, x, z, half, storeys, yaw=0.0):
  """Walls and a gable roof; `half` = (x, z) half extents in metres, the ridge along z."""
  height, rise = STOREY * storeys + rng.uniform(0.2, 0.7), rng.uniform(0.35, 0.55) * half[0]
  how = dict(
      relief=_pick(rng, [0.04, 0.22]), door=_rgb(_pick(rng, "5a3a26 2f4a3c 38495e")),
      tiles=_rgb(_pick(rng, "8a4632 6f3a2e 4a4d52 7a5a48")))  # fmt: skip
  colour = _rgb(_pick(rng, "b9835f c9a878 d8c6a0 a5543f 8f5a45 cfc8ba b8b09c 7f8fa0 c7905a"))
  colour, how["blind"] = colour * F(rng.uniform(0.8, 1.05)), False
  walls = Solid("box", (x, height / 2, z), (half[0], height / 2, half[1]), _wall, colour, yaw, **how)
  how["blind"], eaves = True, (half[0] + 0.4, rise, half[1] + 0.3)
  return [walls, Solid("gable", (x, height + rise, z), eaves, _wall, colour, yaw, **how)]


def _tree(rng, x, z, height, balls=4):
  """A trunk and a crown of frayed balls, each of which knows where the crown is rooted."""
  green = _rgb(_pick(rng, "4c6a2c 5d7a33 3c5a2a 6d7c34")) * F(rng.uniform(0.75, 1.05))
  width, first = 0.02 * height + 0.05, rng.uniform(0, 6)
  solids = [Solid("post", (x, height * 0.25, z), (width, height * 0.25, width), _plain, "4d4036")]
  for k in range(balls):
    r, a = height * (0.25 if k == 0 else rng.uniform(0.14, 0.2)), first + 2.1 * k
    off, up = (0, 0.65) if k == 0 else (0.17 * height, rng.uniform(0.52, 0.76))
    at, crown = (x + off * np.cos(a), height * up, z + off * np.sin(a)), (x, height * 0.3, z, height * 0.6)
    solids.append(Solid("ball", at, (r, r * 0.95, r), _leaves, green, leafy=0.7 * r, crown=crown))
  return solids


def _vehicle(rng, x, z, away):
  """A car or van, seen from behind if it drives `away`."""
  colour, yaw = _rgb(_pick(rng, "1c1d20 2b3a52 8c8f93 d5d6d4 7b1f1f 3d4a3c b9bcc0 15181c")), 0.0 if away else np.pi
  van, ahead = rng.random() < 0.2, 1 if away else -1
  w, belt, long = (0.95, 1.1, 2.4) if van else (0.88, rng.uniform(0.86, 0.95), rng.uniform(1.85, 2.2))
  top, shift, share = (0.5, 0.12, 0.85) if van else (0.29, 0.12 * long, 0.62)
  glazed = (x, belt + top, z - shift * ahead), (w * 0.95, top, long * share)
  solids = [Solid("box", (x, belt / 2 + 0.13, z), (w, belt / 2 - 0.13, long), _car, colour, yaw),
            Solid("cabin", *glazed, _car, colour, yaw, cabin=True)]  # fmt: skip
  wheels = (-0.62 * long, 0.62 * long) if z < 40 else ()
  return solids + [Solid("axle", (x, 0.32, z + at), (w * 1.01, 0.32, 0.32), _plain, "17171a") for at in wheels]


def street_scene(rng) -> tuple[list[Solid], Light, Callable]:
  """A street along z. The lane ahead, |x| < 1.3, is free for the first 12 m."""
  lane, oncoming = rng.uniform(3.2, 3.8), int(rng.integers(1, 3))
  bays = rng.uniform(1.9, 2.2, 2) * (rng.random(2) < 0.7)  # for parking
  lanes = [lane * (k - oncoming - 0.5) for k in range(oncoming + 2)]
  left, right = lanes[0] - 0.3 - bays[0], lanes[-1] + 0.3 + bays[1]
  road = (left, right, lanes, rng.random() < 0.6)
  solids = [Solid("ground", (0, -1, 0), (300, 1, 300), _road, flat=True, road=road)]
  for side, kerb, bay in ((-1, left, bays[0]), (1, right, bays[1])):
    walk, verge, built = rng.uniform(1.8, 3.2), rng.uniform(0.5, 6), rng.choice([0.9, 0.65, 0.35], p=[0.4, 0.4, 0.2])
    x0 = kerb + side * walk
    solids.append(Solid("box", ((kerb + x0) / 2, 0.06, 81), (walk / 2, 0.06, 80), _slabs, flat=True))
    z, hedge = rng.uniform(2, 6), rng.random() < 0.5
    while z < 120:
      long = rng.uniform(8, 17)
      if rng.random() < built:
        deep = rng.uniform(4, 6)
        solids += _house(rng, x0 + side * (verge + deep), z + long / 2, (deep, long / 2), rng.integers(2, 5))
      else:  # a garden behind a hedge or a wall
        tall = rng.uniform(0.4, 0.8)
        paint, colour = (_leaves, "43592b") if hedge else (_wall, "9a6350")
        solids.append(Solid("box", (x0 + side * 0.4, tall, z + long / 2), (0.25, tall, long / 2), paint, colour,
                            blind=True, relief=0.2))  # fmt: skip
        for _ in range(2):
          away, at, tall = rng.uniform(2, 9), z + rng.uniform(0, long), rng.uniform(5, 10)
          solids += _tree(rng, x0 + side * away, at, tall, 3 if z < 40 else 1)
      z += long + rng.uniform(0.2, 4)
    z, gap, trees = rng.uniform(8, 14), rng.uniform(10, 20), rng.random() < 0.6
    while z < 100:
      if trees:
        solids += _tree(rng, kerb + side * 0.7, z, rng.uniform(5, 9), 4 if z < 40 else 2)
      elif rng.random() < 0.7:
        solids.append(Solid("post", (kerb + side * 0.5, 3.2, z), (0.08, 3.2, 0.08), _plain, "6c6f70"))
      z += gap * rng.uniform(0.8, 1.3)
    z = rng.uniform(6, 12)
    while bay and z < 70:
      if rng.random() < 0.65:
        solids += _vehicle(rng, kerb - side * (bay / 2 + 0.1), z, side > 0)
      z += rng.uniform(5.2, 6.5)
  for k in range(oncoming + 1):  # traffic
    z = rng.uniform(10, 45) if k < oncoming else rng.uniform(16, 50)
    while z < 80:
      solids += _vehicle(rng, (lanes[k] + lanes[k + 1]) / 2 + rng.uniform(-0.3, 0.3), z, k == oncoming)
      z += rng.uniform(20, 60)
  for x in np.arange(-24.0, 25.0, 6.0):  # what closes the street
    far, high = rng.uniform(155, 180), rng.uniform(7, 13)
    solids += _tree(rng, x, far, high, 1) if rng.random() < 0.7 else _house(rng, x, far, (4, 4), 3)
  azimuth, height, strength = rng.uniform(-2.4, 2.4), rng.uniform(0.6, 1.1), rng.uniform(0.65, 0.95)
  sun, where = np.array([np.sin(azimuth), height, np.cos(azimuth)]), F(rng.uniform(0, 10))
  light = Light(sun / np.linalg.norm(sun), F(strength) * _rgb("fff2dc"), F(1.08 - 0.5 * strength) * _rgb("c6d2e0"),
                _rgb("d6dde2"), 420)  # fmt: skip

  def sky(d):
    e = np.clip(d[1] / d[2], 0, 1)
    clouds = np.clip(0.4 * noise(where + d[0] / (e + 0.25), 1.5 / (e + 0.25), 0.4, True) + 0.3, 0, 1)
    blue = _mix(_rgb("eef2f4"), _rgb("7fa8d8"), np.minimum(e * 2.6, 1))
    hills = d[1] < (0.02 + 0.01 * noise(where + d[0] / d[2], 0 * e, 1.0, True)) * d[2]
    return np.where(hills, _rgb("9db0ac"), _mix(blue, _rgb("fbfbfa"), clouds * 0.85))

  return solids, light, sky


# Velodyne HDL-64E (its manual; as mounted on KITTI's car): 64 beams from +2 to -24.9 degrees, about 0.09
# degrees between pulses. KITTI's truth gathers 11 turns, which makes it denser: here three rings a beam.
BEAMS, TOP, BOTTOM, PULSE, REACH = 64, 2.0, -24.9, 0.09, 80.0


def scan(rng, camera, size, depth, paint) -> np.ndarray:
  """bool (H, W): where a laser scanner beside the camera measures surfaces of brightness `paint`.

  A pixel is measured if one of the rings of constant elevation passes between its upper and lower
  edge and one of the ring's pulses between its left and right one. In small pictures rings and
  pulses are kept a pixel or two apart, or every pixel would be measured.
  """
  f = camera.focal(size)
  degree = f * np.pi / 180  # in pixels
  ring, pulse = max((TOP - BOTTOM) / (3 * BEAMS - 1), 2 / degree), max(PULSE, 1.1 / degree)
  x = (np.arange(size[1] + 1) - size[1] / 2) / f
  y = (camera.horizon * size[0] - np.arange(size[0] + 1)) / f
  middle = np.sqrt(1 + ((x[1:] + x[:-1]) / 2) ** 2)
  k = np.floor((TOP - np.degrees(np.arctan(y[:, None] / middle))) / ring).astype(int)
  at = k[1:]  # the ring last passed
  on_ring = (at > k[:-1]) & (at >= 0) & (at <= (TOP - BOTTOM) / ring)
  turn, phase = np.degrees(np.arctan(x)) / pulse, rng.random(256)[np.clip(at, 0, 255)]
  hit = on_ring & (np.floor(turn[1:] + phase) > np.floor(turn[:-1] + phase))
  # Few echoes come back from glass and dark paint, and from afar; whole patches contradict themselves over time.
  lost = 0.03 + np.clip(0.8 - 3 * paint, 0, 0.7) + 0.35 * np.minimum(depth / REACH, 1) ** 2
  lost += 0.5 * (_upsampled(rng, (24, 60), size) > 1.3)
  return hit & (depth < REACH) & (rng.random(size) > lost)


def draw_street(seed: int, index: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
  """Draws street `index` of the stream `seed` at `size` = (height, width).

  Returns input: uint8 (H, W, 3); target: float32 (H, W, 1) z-depth in metres, 0 where unmeasured, at
  most 80; mask: bool (H, W, 1), where it is measured.
  """
  rng = np.random.default_rng([seed, index])
  solids, light, sky = street_scene(rng)
  hits = trace(solids, STREET, size, 0.5)
  rgb, paint = shade(solids, hits, light, sky, 0.5 / STREET.focal(size))
  depth = hits.t[1::2, 1::2]
  mask = scan(rng, STREET, size, depth, paint[1::2, 1::2])
  return {"input": tent(rgb), "target": np.where(mask, depth, F(0))[..., None], "mask": mask[..., None]}


# --- Room -------------------------------------------------------------------------------------------------------------


def _furniture(rng, kind) -> tuple[list, float, float]:
  """Parts [(shape, centre, half)] in the piece's own frame, its front towards -z, and its half width and depth."""
  u, parts, pairs = rng.uniform, [], [(a, b) for a in (-1, 1) for b in (-1, 1)]

  def add(shape, x, y, z, w, h, d):  # y is the lower side, w and d half extents, h the whole height
    parts.append((shape, (x, y + h / 2, z), (w, h / 2, d)))

  if kind in ("table", "desk"):
    w, d, h, leg = u(0.6, 1.0), u(0.4, 0.55), u(0.7, 0.78), u(0.025, 0.045)
    add("box", 0, h - 0.04, 0, w, 0.04, d)
    for i, j in pairs:
      add("post", i * (w - 0.07), 0, j * (d - 0.07), leg, h - 0.04, leg)
    for _ in range(int(rng.integers(0, 5))):  # things on it
      size = u(0.04, 0.12)
      add(_pick(rng, "box post ball"), u(-0.7, 0.7) * w, h, u(-0.7, 0.7) * d, size, u(1, 3) * size, size)
    if kind == "desk":
      add("box", u(-0.3, 0.3) * w, h + 0.1, 0.5 * d, 0.27, 0.34, 0.02)
  elif kind == "chair":
    w = d = 0.22
    add("box", 0, 0.42, 0, w, 0.05, d)
    add("box", 0, 0.62, d - 0.02, w, u(0.25, 0.4), 0.02)
    for i, j in pairs:
      add("box", i * (w - 0.02), 0, j * (d - 0.02), 0.02, 0.7 if j > 0 else 0.42, 0.02)
  elif kind == "bed":
    w, d = u(0.5, 0.95), 1.05
    add("box", 0, 0.1, 0, w, 0.35, d)
    add("box", 0, 0, d - 0.03, w + 0.03, u(0.8, 1.1), 0.03)
    for i in (-0.5, 0.5) if w > 0.7 else (0,):
      add("ball", i * w, 0.4, d - 0.35, 0.33, 0.2, 0.2)
  elif kind == "sofa":
    w, d = u(0.75, 1.15), u(0.4, 0.48)
    add("box", 0, 0.05, 0, w, 0.38, d)
    add("box", 0, 0.05, d - 0.1, w, u(0.7, 0.85), 0.1)
    for i in (-1, 1):
      add("box", i * (w - 0.09), 0.05, 0, 0.09, 0.56, d)
    add("ball", u(-0.5, 0.5) * w, 0.42, d - 0.3, 0.2, 0.36, 0.1)
  elif kind == "shelf":
    w, d, h = u(0.4, 0.6), u(0.15, 0.2), u(1.2, 2.1)
    boards = round(h / 0.38)
    add("box", 0, 0, d - 0.01, w, h, 0.01)
    for i in (-1, 1):
      add("box", i * (w - 0.015), 0, 0, 0.015, h, d)
    for y in np.arange(boards + 1) * (h - 0.03) / boards:
      add("box", 0, y, 0, w, 0.03, d)
      if y < h - 0.3 and rng.random() < 0.8:  # a row of books, or a box
        long = u(0.3, 0.85) * w
        add("box", u(-1, 1) * (w - long - 0.03), y + 0.03, 0.03, long, u(0.18, 0.28), d - u(0.03, 0.08))
  elif kind == "cabinet":
    w, d, h = u(0.35, 0.9), u(0.22, 0.3), _pick(rng, [0.55, 0.8, 0.9, 1.8])
    add("box", 0, 0.06, 0, w, h, d)
    for k in range(3):
      add("box", 0, 0.16 + 0.3 * k * h, -d - 0.015, 0.08, 0.02, 0.015)
    if h < 1:
      add(_pick(rng, "post ball box"), u(-0.5, 0.5) * w, h + 0.06, 0, 0.12, u(0.2, 0.5), 0.1)
  elif kind == "cupboard":  # on the wall, above a counter
    w, d = u(0.5, 1.1), 0.3
    add("box", 0, 0, 0, w, 0.88, d)
    add("box", 0, 0.88, -0.02, w + 0.02, 0.04, d + 0.02)
    add("box", 0, 1.4, 0.13, w, 0.65, 0.17)
  else:  # a lamp, or a plant
    w, d, h, lamp = 0.22, 0.22, u(1.3, 1.7), kind == "lamp"
    add("post", 0, 0, 0, 0.15, 0.03 if lamp else 0.35, 0.15)
    add("post", 0, 0, 0, 0.018, h - 0.1 if lamp else 0.8, 0.018)
    if lamp:
      add(_pick(rng, "spire post ball"), 0, h - 0.15, 0, 0.2, 0.3, 0.2)
    else:
      for _ in range(4):
        add("ball", u(-0.12, 0.12), u(0.5, 0.7), u(-0.12, 0.12), u(0.13, 0.2), u(0.25, 0.45), 0.17)
  return parts, w, d


def room_scene(rng) -> tuple[list[Solid], Camera]:
  """A furnished room of 3.4-5.6 x 4.4-8.4 m, the camera near one wall; no furniture within 0.75 m of depth."""
  half, high = np.array([rng.uniform(1.7, 2.8), rng.uniform(2.2, 4.2)]), rng.uniform(2.35, 2.9)
  camera, yaw = Camera(rng.uniform(1.15, 1.6), 0.5, ROOM_ZOOM, rng.uniform(0.1, 0.42)), rng.uniform(-0.5, 0.5)
  stand = np.array([rng.uniform(-0.3, 0.3) * half[0], -half[1] + rng.uniform(0.3, 0.7)])
  turn = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])  # the room's (x, z) -> the world's
  x, z = turn @ -stand
  solids, taken = [Solid("box", (x, high / 2, z), (half[0], high / 2, half[1]), yaw=yaw, inside=True)], []

  def put(piece, x, z, angle, reach=None):
    """Adds the piece if nothing is within `reach` metres of it and it is not in the camera's way."""
    if reach and any(np.hypot(x - a, z - b) < reach + c for a, b, c in taken):
      return False
    c, s, made = np.cos(angle), np.sin(angle), []
    for shape, (px, py, pz), size in piece:
      px, pz = turn @ ([x + c * px + s * pz, z - s * px + c * pz] - stand)
      made.append(Solid(shape, (px, py, pz), size, yaw=angle + yaw))
    corners = np.concatenate([m.corners for m in made]) - [0, camera.height, 0]
    if (corners @ camera.axes()[2]).min() < 0.75 + 0.6 * (corners[:, 1].max() > -0.2):  # tall ones keep more distance
      return False
    solids.extend(made)
    if reach:
      taken.append((x, z, reach))
    return True

  for _ in range(24):  # along the far, left and right walls
    wall, along = int(rng.integers(3)), rng.uniform(-1, 1)
    piece, w, d = _furniture(rng, _pick(rng, "shelf cabinet sofa bed desk lamp plant cupboard chair"))
    if wall == 0:
      put(piece, along * (half[0] - w), half[1] - d - 0.02, 0.0, 0.7 * max(w, d))
    else:
      side = 2 * wall - 3
      put(piece, side * (half[0] - d - 0.02), along * (half[1] - w), side * np.pi / 2, 0.7 * max(w, d))
  for _ in range(6):  # in the middle
    kind = _pick(rng, "table table chair sofa plant")
    piece, w, d = _furniture(rng, kind)
    x, z, angle = rng.uniform(-0.5, 0.5) * half[0], rng.uniform(-0.4, 0.6) * half[1], rng.uniform(-np.pi, np.pi)
    if put(piece, x, z, angle, 0.9 * max(w, d)) and kind == "table":
      for k in np.flatnonzero(rng.random(4) < 0.7):
        a, r = angle + k * np.pi / 2, (w if k % 2 else d) + rng.uniform(0.05, 0.3)
        put(_furniture(rng, "chair")[0], x + r * np.sin(a), z + r * np.cos(a), a + rng.uniform(-0.2, 0.2))
  return solids, camera


# The first Kinect: 75 mm from projector to camera, 580 px focal length at 640 x 480, disparities in
# steps of 1/8 px, so that depth comes in steps of STEP z^2: 2.9 mm at 1 m, 46 mm at 4 m.
BASELINE, STEP = 0.075, 1 / (8 * 0.075 * 580)


def kinect(rng, solids, camera, hits, size) -> np.ndarray:
  """float32 (H, W) raw depth in metres as a Kinect reports it, 0 in holes.

  Holes: what the projector, BASELINE to the right, does not light (bands left of everything that
  stands out, as wide as the disparity jumps); dark, shiny, far and grazed surfaces, in blotches; the
  rim; specks. Elsewhere the disparity is within 0.75 steps of the truth.
  """
  z, tendency = hits.t, np.zeros(size, F)  # by how many deviations a surface is likelier to be missed
  for k, s in enumerate(solids):
    faces = rng.normal(0, 1.1) + rng.normal(0.0, 0.8, 10) - (1.5 if s.inside else 0)
    i = np.flatnonzero(hits.who == k)
    if len(i):
      d, face = hits.d.reshape(3, -1)[:, i], hits.face.ravel()[i]
      n = s.normal(hits.o[:, None] + d * z.ravel()[i], face)
      cosine = abs((n * d).sum(0)) / np.sqrt((d * d).sum(0))
      tendency.ravel()[i] = faces[face] + 6 * np.clip(0.35 - cosine, 0, 1)
  tendency += 1.5 * np.clip(z - 6.5, 0, 2) + 0.8 * _upsampled(rng, (15, 20), size)
  tendency += 0.4 * _upsampled(rng, (60, 80), size)
  projector = hits.o + (BASELINE * camera.axes()[0]).astype(F)
  to = (hits.o - projector)[:, None, None] + hits.d * z
  beams = Hits(projector, to, np.full(size, F(0.99)), np.full(size, -1, np.int16), np.zeros(size, np.int8))
  shadow = trace(solids, camera, size, hits=beams, pad=camera.focal(size) * BASELINE / 0.7).who >= 0
  hole = shadow.copy()
  for k in range(1, round(size[1] / 200) + 1):  # the pattern is matched in windows some pixels wide
    hole[:, k:] |= shadow[:, :-k]
    hole[:, :-k] |= shadow[:, k:]
  y, x = ((np.arange(m) + 0.5) / m for m in size)
  wave = 0.003 * _upsampled(rng, (24, 2), (size[0], 2))[:, :1]
  hole |= (x > 0.988 + wave) | (x < 0.004 + wave) | (y[:, None] < 0.008) | (_upsampled(rng, (120, 160), size) > 2.5)
  more = rng.uniform(0.11, 0.22) - hole.mean()  # blotches make up the rest
  if more > 0:
    hole |= tendency > np.quantile(tendency[~hole], 1 - more / (1 - hole.mean()))
  jitter = np.clip(0.1 * _upsampled(rng, (240, 320), size), -0.25, 0.25)
  return np.where(hole, F(0), (1 / (STEP * np.rint(1 / (STEP * z) + jitter))).astype(F))


def draw_room(seed: int, index: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
  """Draws room `index` of the stream `seed` at `size` = (height, width).

  Returns input: float32 (H, W, 1) raw depth in metres, 0 in holes; target: float32 (H, W, 1) z-depth
  in metres, in [0.7, 10]; mask: bool (H, W, 1), where the target is known: everywhere.
  """
  rng = np.random.default_rng([seed, index])
  solids, camera = room_scene(rng)
  hits = trace(solids, camera, size)
  raw = kinect(rng, solids, camera, hits, size)
  return {"input": raw[..., None], "target": hits.t[..., None], "mask": np.isfinite(hits.t)[..., None]}


# --- Seasons ----------------------------------------------------------------------------------------------------------


def _meadow(s, q, normal, px):
  """Grass and a path; in winter snow, trodden on the path."""
  x, z, (way, width, winter) = q[0], q[2], s.how["path"]
  path = abs(x - way(z)) < F(width) + 0.2 * noise(x, z, 0.4, True)
  grain = 0.05 * noise(x, z, 0.3) + 0.05 * noise(x, z, 0.06, True) + 0.08 * _fine(0.1, px) * noise(z, x, 1.5)
  if winter:
    thin = np.clip(noise(z, x, 0.25, True) - 1.4, 0, 0.6)  # grass shows where the snow is thin
    ground, trodden = _mix(_rgb("e9edf2") * (1 + 0.4 * grain), _rgb("a8a382"), thin), _rgb("b5aea3") * (1 + grain)
  else:
    lush = np.clip(0.5 + 0.35 * noise(z, x, 0.12, True), 0, 1)
    ground, trodden = _mix(_rgb("5f8a37"), _rgb("84994a"), lush) * (1 + 1.2 * grain), _rgb("b39a74") * (1 + 1.2 * grain)
  return np.where(path, trodden, ground)


def _snowed(paint, steep):
  """The paint under snow on all that faces up more than `steep`, give or take some."""

  def under(s, q, normal, px):
    snow = normal[1] + 0.13 * (noise(q[0], q[2], 0.3, True) + noise(q[1], q[0] - q[2], 0.6)) > steep
    return np.where(snow, _rgb("eceff4") * (1 + 0.03 * noise(q[0], q[2], 0.3)), paint(s, q, normal, px))

  return under


def village_scene(rng, winter: bool) -> tuple[list[Solid], int, Camera]:
  """A village below a fixed camera. Both seasons have the same solids, differently painted; the crowns
  that winter strips come last, from the returned number on."""
  camera = Camera(rng.uniform(4, 8), 0.42, 0.95, rng.uniform(0.02, 0.08))
  middle, swing, wave, phase, width = (F(rng.uniform(*r)) for r in ((-4, 4), (1, 6), (9, 18), (0, 6), (0.9, 1.8)))
  taken = []

  def way(z):
    return middle + swing * np.sin(z / wave + phase)

  def spot(near, far, r):
    for _ in range(30):
      z = near * (far / near) ** rng.random()
      x = rng.uniform(-0.62, 0.62) * (z + 4)
      if abs(x - way(z)) > r + width and all(np.hypot(x - a, z - b) > r + c for a, b, c in taken):
        taken.append((x, z, r))
        return x, z
    return None

  solids = [Solid("ground", (0, -1, 0), (300, 1, 300), _meadow, flat=True, path=(way, width, winter))]
  for _ in range(int(rng.integers(4, 9))):
    at, half, yaw = spot(19, 70, 6.5), (rng.uniform(3.5, 5), rng.uniform(4.5, 7)), rng.choice([0, np.pi / 2])
    if at:
      house = _house(rng, *at, half, rng.integers(1, 3), yaw + rng.uniform(-0.35, 0.35))
      roof = house[1]
      top = roof.centre + roof.turn @ [0.35 * half[0], 0.25 * roof.half[1], rng.uniform(-0.6, 0.6) * half[1]]
      solids += [*house, Solid("box", top, (0.4, 0.5 * roof.half[1] + 0.5, 0.4), _plain, "8a5a48", roof.yaw)]
  for _ in range(int(rng.integers(8, 16))):
    at, height = spot(13, 90, 2.2), rng.uniform(5, 9)
    if at and rng.random() < 0.4:
      (x, z), green = at, _rgb("3a5236") * F(rng.uniform(0.8, 1.1))
      solids.append(Solid("post", (x, 0.5, z), (0.2, 0.5, 0.2), _plain, "4d4036"))
      for k, y in enumerate((0.24, 0.46, 0.65, 0.81, 0.93)):
        r = height * (0.25 - 0.04 * k)
        solids.append(Solid("spire", (x, height * y, z), (r, 0.7 * r, r), _leaves, green, 0.3 * k, leafy=0.3 * r))
    elif at:
      solids += _tree(rng, *at, height, 5 if at[1] < 50 else 3)
  if winter:
    for s in solids[1:]:
      s.paint = _snowed(s.paint, 0.6 if s.paint is _leaves else 0.7)
  solids.sort(key=lambda s: "crown" in s.how)
  return solids, sum("crown" not in s.how for s in solids), camera


def _mountains(where, winter):
  """The sky and two ridges: a function of ray directions (3, n) to colours (3, n)."""

  def sky(d):
    a, e = F(where) + d[0] / d[2], np.maximum(d[1] / d[2], 0)
    clouds = noise(a / (e + 0.4), 0.6 / (e + 0.4), 0.7, True)
    if winter:
      out = _mix(_rgb("dde1e6"), _rgb("b9c1cb"), np.clip(2 * e + 0.1 * clouds, 0, 1))
    else:
      blue = _mix(_rgb("cfe2f2"), _rgb("5c96d8"), np.clip(2 * e, 0, 1))
      out = _mix(blue, _rgb("fafbfc"), np.clip(0.5 * clouds, 0, 0.8))
    for base, rise, k, stone, veil in ((0.17, 0.05, 1.0, "8b95a3", 0.35), (0.05, 0.02, 1.7, "5d7355", 0.25)):
      top = base + rise * (np.sin(3.1 * k * a) + 0.5 * np.sin(7.7 * k * a + 1) + 0.3 * noise(a, 0 * a, 2.5 * k, True))
      slope = noise(a + 0.7 * e, e - 0.4 * a, 4 * k, True)
      high = np.clip((e - top) / rise + 1.2, 0, 1) if k == 1 else 0  # snow stays on the peaks all year
      snow = np.clip(0.8 * slope + 2 * high - (-0.4 if winter and k == 1 else 0.6 if winter else 1.9), 0, 1)
      rock = _mix(_rgb(stone) * (1 + 0.1 * slope), _rgb("e9edf2"), snow)
      out = np.where(e < top, _mix(rock, _rgb("ccd3da" if winter else "c3d5e6"), F(veil)), out)
    return out

  return sky


def _twigs(rgb, solids, hits, first):
  """Draws bare branches over the picture, in place, where the crowns, solids number `first` on, would be."""
  i = np.flatnonzero(hits.who.ravel() >= first)
  root = np.array([s.how.get("crown", (0, 0, 0, 1)) for s in solids], F)[hits.who.ravel()[i]].T
  p = hits.o[:, None] + hits.d.reshape(3, -1)[:, i] * hits.t.ravel()[i]
  x, y = (p[0] - root[0]) / root[3], (p[1] - root[1]) / root[3]
  angle, far = np.arctan2(x, y + 0.05) + root[0], np.sqrt(x * x + y * y)  # branches fan out from the trunk's top
  bough = 1.2 - abs(noise(angle, 0.5 * far, 0.9, True)) / (0.45 - 0.3 * far)
  shoots = 1.1 - abs(noise(angle + 3, 0.8 * far, 2.2, True)) / 0.45
  alpha = 0.1 + np.maximum(np.clip(bough, 0, 0.75), np.clip(0.8 * shoots, 0, 0.6)) * np.clip(2.2 - 1.6 * far, 0.4, 1)
  snow = np.clip(noise(angle + 0.03, 0.5 * far, 0.9, True), 0, 0.4)  # on one side of each branch
  bare = rgb.reshape(3, -1)
  bare[:, i] = _mix(bare[:, i], _mix(_rgb("564b44"), _rgb("e4e7ec"), snow), alpha)


def draw_seasons(seed: int, index: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
  """Draws village `index` of the stream `seed` at `size` = (height, width).

  Returns input, target: uint8 (H, W, 3), the same view in winter and in summer.
  """
  solids, first, camera = village_scene(np.random.default_rng([seed, index]), winter=False)
  white = village_scene(np.random.default_rng([seed, index]), winter=True)[0]
  rng = np.random.default_rng([seed, index, 1])
  sun, where, px = np.array([-np.sin(rng.uniform(0.9, 1.4)), 0.75, -0.6]), rng.uniform(0, 10), 0.5 / camera.focal(size)
  sun /= np.linalg.norm(sun)
  bare = trace(solids[:first], camera, size, 0.5)
  full = trace(solids[first:], camera, size, 0.5, bare.copy(), first)
  light = Light(sun, F(0.8) * _rgb("fff0d8"), F(0.62) * _rgb("cfdcf0"), _rgb("c3d5e6"), 600)
  summer, _ = shade(solids, full, light, _mountains(where, False), px)
  light = Light(sun, F(0.25) * _rgb("fff4e4"), F(0.84) * _rgb("dfe6f2"), _rgb("ccd3da"), 350, shadows=False)
  winter, _ = shade(white[:first], bare, light, _mountains(where, True), px)
  _twigs(winter, solids, full, first)
  return {"input": tent(winter), "target": tent(summer)}
