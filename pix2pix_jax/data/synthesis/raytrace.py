"""A small ray caster for synthetic scenes: cameras, convex solids, shadows, light and the reduction to pixels.

A scene is a list of solids on the ground y = 0. x points right, y up and z forward, all in metres. Ray directions
have length 1 along the optical axis, so the ray parameter t *is* the z-depth.

Colour is sampled at points half a pixel apart. Every second one is a pixel centre and supplies the depth; a 3x3 tent
filter over all of them gives the colour. Colour and depth thus come from the same intersections, and depth is never
averaged across an edge.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import numpy as np
from numpy import float32

from pix2pix_jax.data.synthesis.paint import noise, rgb

# paint(solid, points, normals, sample_width) → colours (3, n) in [0, 1]. The points, in metres, and the unit normals
# are (3, n) in the solid's own frame; sample_width (n,) is the width in metres of one sample at that distance.
Paint = Callable[["Solid", np.ndarray, np.ndarray, np.ndarray], np.ndarray]
Sky = Callable[[np.ndarray], np.ndarray]  # ray directions (3, n) → colours (3, n) in [0, 1]


@dataclasses.dataclass(frozen=True)
class Camera:
  """A pinhole camera at (0, height, 0) that looks along +z, tilted down by atan(slope).

  Attributes:
    height: metres above the ground.
    horizon: row of the optical axis, as a fraction of the image height.
    zoom: focal length divided by sqrt(H W); the view covers about the same solid angle at every aspect ratio.
    slope: tangent of the downward tilt.
  """

  height: float
  horizon: float
  zoom: float
  slope: float = 0.0

  def focal(self, size: tuple[int, int]) -> float:
    """Focal length in pixels at size (H, W)."""
    return self.zoom * float(size[0] * size[1]) ** 0.5

  def axes(self) -> np.ndarray:
    """The camera's right, up and forward directions in world coordinates, as rows of a (3, 3) array."""
    c = 1 / (1 + self.slope**2) ** 0.5
    s = self.slope * c
    return np.array([[1, 0, 0], [0, c, s], [0, -s, c]])

  def rays(self, size: tuple[int, int], step: float) -> np.ndarray:
    """World directions, float32 (3, rows, cols), with z = 1 in the camera's frame, `step` pixels apart.

    Step 1 gives one ray through each pixel centre; step 1/2 gives 2H+1 by 2W+1 rays from edge to edge.
    """
    f, first = self.focal(size), _first_sample(step)
    v, u = (np.arange(first, n + 0.25, step) for n in size)
    right, up, forward = self.axes()
    x, y = (u - size[1] / 2) / f, (self.horizon * size[0] - v) / f
    directions = [right[i] * x[None] + up[i] * y[:, None] + forward[i] for i in range(3)]
    return np.stack(directions).astype(float32)


def _first_sample(step: float) -> float:
  """Position in pixels of the first sample: the centre of the first pixel for step 1, its edge for step 1/2."""
  return 0.5 if step == 1 else 0.0


# Solids in units of their half extents: rows (nx, ny, nz, d) stand for half-spaces n.p <= d.
_BOX = [(1, 0, 0, 1), (-1, 0, 0, 1), (0, 1, 0, 1), (0, -1, 0, 1), (0, 0, 1, 1), (0, 0, -1, 1)]
_PLANES: dict[str, list] = {
  "box": _BOX,
  "gable": [(1, 0.5, 0, 0.5), (-1, 0.5, 0, 0.5), (0, -1, 0, 1), (0, 0, 1, 1), (0, 0, -1, 1)],  # ridge along z
  "cabin": [(1, 0.13, 0, 0.87), (-1, 0.13, 0, 0.87), *_BOX[2:4], (0, 0.26, 1, 0.74), (0, 0.17, -1, 0.83)],
  "spire": [(0, -1, 0, 1), *((np.cos(a), 0.5, np.sin(a), 0.5) for a in np.arange(8) * np.pi / 4)],  # eight-sided
  "ball": [],
  "ground": [(0, 1, 0, 1)],
  "post": _BOX[2:4],  # an upright cylinder
  "axle": _BOX[:2],  # a cylinder along x
}
SHAPES = {name: np.array(planes, float).reshape(-1, 4) for name, planes in _PLANES.items()}
_CURVED = {"ball": np.array([1, 1, 1]), "post": np.array([1, 0, 1]), "axle": np.array([0, 1, 1])}
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)


def _dot(a: Sequence[Any] | np.ndarray, b: Sequence[Any] | np.ndarray) -> np.ndarray:
  """Scalar product over the first axis."""
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def flat_colour(solid: "Solid", points: np.ndarray, normals: np.ndarray, sample_width: np.ndarray) -> np.ndarray:
  """The paint of solids that are given none."""
  return np.broadcast_to(solid.colour, points.shape)


class Solid:
  """A convex solid: half-spaces, intersected with an ellipsoid or a cylinder if its shape is round.

  Args:
    shape: a name in SHAPES.
    centre: (x, y, z) in metres.
    half: half extents in metres along the solid's own axes.
    paint: computes its colours; see `Paint`.
    colour: base colour for the paint, "rrggbb" or (3, 1) in [0, 1].
    yaw: rotation about y in radians.
    fray: rays that pass through up to about this many metres of the solid may miss it, which gives ragged outlines.
    inside: the solid is hollow and seen from within, as a room is.
    details: anything else that the paint needs, kept as `solid.details`; `flat=True` marks solids that cast no shadow.
  """

  def __init__(
    self,
    shape: str,
    centre: Sequence[float] | np.ndarray,
    half: Sequence[float] | np.ndarray,
    paint: Paint = flat_colour,
    colour: str | np.ndarray = "808080",
    yaw: float = 0.0,
    fray: float = 0.0,
    inside: bool = False,
    **details: Any,
  ):
    self.centre, self.half = np.array(centre, float), np.array(half, float)
    planes = SHAPES[shape]
    normals, corners = planes[:, :3] / self.half, _CORNERS * self.half
    self.rotation = np.eye(3)  # from the solid's own frame to the world's
    if yaw:
      c, s = np.cos(yaw), np.sin(yaw)
      self.rotation = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
      normals, corners = normals @ self.rotation.T, corners @ self.rotation.T
    unit = 1 / np.sqrt((normals * normals).sum(1))
    self.offsets = ((planes[:, 3] + normals @ self.centre) * unit).astype(float32)[:, None]
    self.normals = (normals * unit[:, None]).astype(float32)
    self.inverse_radii = (_CURVED[shape] / self.half).astype(float32) if shape in _CURVED else None
    self.corners = self.centre + corners
    self.paint, self.colour = paint, rgb(colour) if isinstance(colour, str) else colour
    self.yaw, self.fray, self.inside, self.details = yaw, fray, inside, details

  def to_local(self, vectors: np.ndarray, inverse: bool = False) -> np.ndarray:
    """Rotates vectors (3, n) from the world's into the solid's own frame, or back with `inverse`."""
    if not self.yaw:
      return vectors
    c, s = float32(self.rotation[0, 0]), float32(self.rotation[2, 0] if inverse else self.rotation[0, 2])
    return np.stack([c * vectors[0] - s * vectors[2], vectors[1], s * vectors[0] + c * vectors[2]])

  def from_centre(self, points: np.ndarray) -> np.ndarray:
    """World points (3, n) in the solid's own frame."""
    return self.to_local(points - self.centre.astype(float32)[:, None])

  def span(self, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the rays origins + t * directions, each (3, n) or (3, 1), enter and leave the solid.

    Returns:
      t (n,) of the entry, t (n,) of the exit, and the index (n,) of the face of entry, -1 for the curved one.
      A ray misses the solid where exit <= entry. Seen from inside, the "entry" is where the ray meets the wall.
    """
    with np.errstate(all="ignore"):  # rays parallel to a face give ±inf, rays past a ball NaN: both compare as misses
      if self.inside:
        slope, t = self._cross_planes(origins, directions)
        t[slope < 0] = np.inf
        return t.min(0), np.full(t.shape[1:], float32(np.inf)), t.argmin(0)
      if self.inverse_radii is None:
        enter, leave, face = self._span_planes(origins, directions)
      elif not len(self.normals):
        enter, leave = self._span_curved(origins, directions, self.inverse_radii)
        face = np.full(enter.shape, -1)
      else:
        enter, leave, face = self._span_planes(origins, directions)
        near, far = self._span_curved(origins, directions, self.inverse_radii)
        face = np.where(near > enter, -1, face)
        enter, leave = np.maximum(enter, near), np.minimum(leave, far)
    if self.fray:
      p = origins + directions * np.where(np.isfinite(enter), enter, 0)
      ragged = self.fray * (1 + noise(p[0] + p[2], p[1] + 0.5 * p[2], 2.2))
      leave = np.where(leave - enter < ragged, enter, leave)
    return enter, leave, face

  def _cross_planes(self, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each plane and ray (k, n): the direction's component along the plane's normal, and t where they meet."""
    normals = self.normals.T[:, :, None]
    slope = _dot(normals, directions)
    return slope, (self.offsets - _dot(normals, origins)) / slope

  def _span_planes(self, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`span` of the half-spaces alone."""
    slope, t = self._cross_planes(origins, directions)
    entries = np.where(slope < 0, t, float32(-np.inf))
    return entries.max(0), np.where(slope < 0, float32(np.inf), t).min(0), entries.argmax(0)

  def _span_curved(
    self, origins: np.ndarray, directions: np.ndarray, inverse_radii: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Entry and exit of the ellipsoid or cylinder alone, NaN where a ray misses it."""
    scale = inverse_radii[:, None]
    e, k = self.from_centre(origins) * scale, self.to_local(directions) * scale  # now it is the unit sphere or cylinder
    a = _dot(k, k)
    b = _dot(k, e) / a
    e = e - k * b  # the point of the ray nearest to the centre: in float32, b^2 - c would lose all digits
    root = np.sqrt((1 - e[0] * e[0] - e[1] * e[1] - e[2] * e[2]) / a)
    return -b - root, root - b

  def normal(self, points: np.ndarray, face: np.ndarray) -> np.ndarray:
    """Outward unit normals (3, n) at world points (3, n) on the given faces (n,); inward ones for `inside`."""
    n = self.normals[face].T if len(self.normals) else np.zeros_like(points)
    if self.inverse_radii is not None:
      curved = self.from_centre(points) * (self.inverse_radii * self.inverse_radii)[:, None]
      curved /= np.sqrt((curved * curved).sum(0)) + float32(1e-9)
      n = np.where(face < 0, self.to_local(curved, inverse=True), n)
    return -n if self.inside else n


@dataclasses.dataclass
class Hits:
  """The first solid that each ray meets.

  Attributes:
    origin: float32 (3,), common to all rays.
    directions: float32 (3, rows, cols).
    depth: float32 (rows, cols), the ray parameter t, which is the z-depth in metres; +inf for the sky.
    solid: int16 (rows, cols), index of the solid, -1 for the sky.
    face: int8 (rows, cols), index of its face, -1 for the curved one.
  """

  origin: np.ndarray
  directions: np.ndarray
  depth: np.ndarray
  solid: np.ndarray
  face: np.ndarray

  @classmethod
  def none(cls, origin: np.ndarray, directions: np.ndarray, reach: float = np.inf) -> "Hits":
    """Rays that have met nothing yet; only solids nearer than t = `reach` will count."""
    shape = directions.shape[1:]
    depth, solid, face = np.full(shape, float32(reach)), np.full(shape, -1, np.int16), np.zeros(shape, np.int8)
    return cls(origin, directions, depth, solid, face)

  def copy(self) -> "Hits":
    """A copy that `trace` can extend; the rays themselves are shared."""
    return dataclasses.replace(self, depth=self.depth.copy(), solid=self.solid.copy(), face=self.face.copy())

  def points(self, rays: np.ndarray) -> np.ndarray:
    """World points (3, n) that the rays of the given flat indices (n,) hit."""
    return self.origin[:, None] + self.directions.reshape(3, -1)[:, rays] * self.depth.ravel()[rays]


def screen_bounds(
  solids: Sequence[Solid], camera: Camera, size: tuple[int, int], step: float, margin: float = 0.0
) -> np.ndarray:
  """The rectangle of samples that can see each solid, with `margin` pixels around it.

  Returns:
    int (n, 4): first row, end of rows, first column, end of columns. All samples for a solid that reaches behind
    the camera, none for one that lies wholly behind it.
  """
  corners = np.moveaxis(np.stack([s.corners for s in solids]) - [0, camera.height, 0], 2, 0)
  x, y, z = (_dot(axis, corners) for axis in camera.axes())
  f, first = camera.focal(size), _first_sample(step)
  reaches_behind, wholly_behind, ahead = z.min(1) < 0.2, z.max(1) < 0.2, np.maximum(z, 0.2)
  bounds = []
  for pixel in (camera.horizon * size[0] - f * y / ahead, size[1] / 2 + f * x / ahead):
    start, end = (pixel.min(1) - margin - first) / step, (pixel.max(1) + margin - first) / step + 2
    bounds += [np.where(reaches_behind, 0, start), np.where(reaches_behind, np.where(wholly_behind, 0, 1e6), end)]
  return np.stack(bounds, 1).clip(0, 1e6).astype(int)


def trace(
  solids: Sequence[Solid],
  camera: Camera,
  size: tuple[int, int],
  step: float = 1.0,
  hits: Hits | None = None,
  first: int = 0,
  margin: float = 0.0,
) -> Hits:
  """Casts one ray per sample at `solids` and returns what it hits first.

  Args:
    solids: the scene.
    camera: where the rays start, unless `hits` says otherwise.
    size: (height, width) of the image in pixels.
    step: distance of the samples in pixels, 1 or 1/2.
    hits: rays and earlier hits to extend, in place.
    first: number of the first solid in the result.
    margin: pixels by which the rays of `hits` may be displaced from the camera's.
  """
  if hits is None:
    hits = Hits.none(np.array([0, camera.height, 0], float32), camera.rays(size, step))
  origin, bounds = hits.origin[:, None], screen_bounds(solids, camera, size, step, margin)
  for k, (solid, (row, end_row, col, end_col)) in enumerate(zip(solids, bounds), first):
    window = slice(row, end_row), slice(col, end_col)
    directions, depth = hits.directions[:, *window], hits.depth[window]
    if not depth.size:
      continue
    enter, leave, face = (a.reshape(depth.shape) for a in solid.span(origin, directions.reshape(3, -1)))
    new = (leave > enter) & (enter > 0.05) & (enter < depth)
    depth[new] = enter[new]
    hits.solid[window][new] = k
    hits.face[window][new] = face[new]
  return hits


def in_shadow(solids: Sequence[Solid], points: np.ndarray, sun: np.ndarray) -> np.ndarray:
  """Whether a solid hides each of the world points (3, n) from the sun, which lies in direction `sun`: bool (n,)."""
  a = np.array([sun[2], 0, -sun[0]]) / np.hypot(sun[0], sun[2])
  b = np.cross(sun, a)
  pa, pb = (_dot(axis.astype(float32), points) for axis in (a, b))
  # Seen from the sun, each solid lies in a rectangle of the plane (a, b), and only points in it need a ray. The points
  # are sorted into columns 0.25 m wide, so that those of one rectangle lie close together in memory.
  column = np.clip(pa * 4 + 16384, 0, 32767).astype(np.int16)
  order = np.argsort(column, kind="stable")
  column, pb, points = column[order], pb[order], points[:, order]
  dark, direction = np.zeros(len(pb), bool), np.array(sun, float32)[:, None]
  for s in solids:
    ca, cb = s.corners @ a, s.corners @ b
    lo, hi = np.searchsorted(column, np.array([ca.min() * 4 + 16383, ca.max() * 4 + 16386], np.int16))
    below, above = float32(cb.min()), float32(cb.max())
    i = lo + np.flatnonzero((pb[lo:hi] > below) & (pb[lo:hi] < above) & ~dark[lo:hi])
    if len(i):
      enter, leave, _ = s.span(points[:, i], direction)
      dark[i] = (leave > 0.03) & (leave > enter)
  unsorted = np.empty_like(dark)
  unsorted[order] = dark
  return unsorted


@dataclasses.dataclass
class Light:
  """The light of a scene.

  Attributes:
    sun: unit vector towards the sun.
    direct: colour (3, 1) of the sunlight.
    ambient: colour (3, 1) of the light from the sky.
    haze: colour (3, 1) that distant surfaces fade to.
    reach: distance in metres over which 1 - 1/e of a surface's colour is lost to haze.
    shadows: whether the sun casts shadows; not under an overcast sky.
  """

  sun: np.ndarray
  direct: np.ndarray
  ambient: np.ndarray
  haze: np.ndarray
  reach: float
  shadows: bool = True


def shade(
  solids: Sequence[Solid], hits: Hits, light: Light, sky: Sky, sample_width: float
) -> tuple[np.ndarray, np.ndarray]:
  """Colours the hits.

  Args:
    solids: the scene that was traced.
    hits: the result of `trace`.
    light: sun, sky light and haze.
    sky: colours of the rays that hit nothing.
    sample_width: width in metres of one sample at 1 m.

  Returns:
    Colours (3, rows, cols) in [0, 1], and the unlit brightness (rows, cols) of each surface's paint, 0 for the sky.
  """
  solid, shape = hits.solid.ravel(), hits.solid.shape
  order = np.argsort(solid, kind="stable")  # the samples of one solid after those of another, the sky first
  ends = np.searchsorted(solid[order], np.arange(len(solids) + 1))
  out, brightness = np.empty((3, solid.size), float32), np.zeros(solid.size, float32)
  empty, order = order[: ends[0]], order[ends[0] :]
  out[:, empty] = sky(hits.directions.reshape(3, -1)[:, empty])
  points, depth, face = hits.points(order), hits.depth.ravel()[order], hits.face.ravel()[order]
  colour, normal = np.empty_like(points), np.empty_like(points)
  for k in np.flatnonzero(np.diff(ends)).tolist():
    s, i = solids[k], slice(ends[k] - ends[0], ends[k + 1] - ends[0])
    normal[:, i] = n = s.normal(points[:, i], face[i])
    colour[:, i] = s.paint(s, s.from_centre(points[:, i]), s.to_local(n), float32(sample_width) * depth[i])
  brightness[order] = colour[1]
  direct = np.maximum(_dot(light.sun.astype(float32), normal), 0)
  if light.shadows:
    facing = np.flatnonzero(direct)
    casting = [s for s in solids if not s.details.get("flat")]
    direct[facing[in_shadow(casting, points[:, facing], light.sun)]] = 0
  ambient = 0.78 + 0.22 * normal[1]  # share of the sky that the surface sees, less near the foot of a wall
  wall = np.flatnonzero((abs(normal[1]) < 0.5) & (points[1] < 1.5))
  ambient[wall] *= 1 - 0.35 * np.exp(-np.maximum(points[1, wall], 0) / float32(0.4))
  clear = np.exp(depth * float32(-1 / light.reach))
  for c in range(3):
    lit = colour[c] * (light.ambient[c] * ambient + light.direct[c] * direct)
    out[c, order] = light.haze[c] + (lit - light.haze[c]) * clear
  return out.reshape(3, *shape), brightness.reshape(shape)


def tent(samples: np.ndarray) -> np.ndarray:
  """Reduces (3, 2H+1, 2W+1) samples in [0, 1], half a pixel apart, to uint8 (H, W, 3) with weights 1, 2, 1 each way."""
  rows = samples[:, :-1:2] + 2 * samples[:, 1::2] + samples[:, 2::2]
  out = (rows[:, :, :-1:2] + 2 * rows[:, :, 1::2] + rows[:, :, 2::2]) * float32(255 / 16) + float32(0.5)
  return np.ascontiguousarray(np.clip(out, 0, 255).astype(np.uint8).transpose(1, 2, 0))
