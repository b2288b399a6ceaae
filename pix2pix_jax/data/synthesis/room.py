"""Built-in stand-in for NYU Depth: furnished rooms, and the raw depth that a Kinect reports of them."""

from collections.abc import Callable
import dataclasses

import numpy as np
from numpy import float32

from pix2pix_jax.data.synthesis.paint import smooth_noise
from pix2pix_jax.data.synthesis.raytrace import Camera, Hits, Solid, trace

ZOOM = (
  519 / (425 * 560) ** 0.5
)  # NYU's Kinect: focal length 519 px at 425 x 560, the part of the image that is labelled

# The first Kinect: projector and camera 75 mm apart, focal length 580 px at 640 x 480, disparities in steps of 1/8 px.
# Depth z therefore comes in steps of STEP z^2: 2.9 mm at 1 m, 46 mm at 4 m.
BASELINE, STEP = 0.075, 1 / (8 * 0.075 * 580)


def draw(seed: int, index: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
  """Draws room `index` of the sequence `seed` at `size` = (height, width).

  The scene depends on (seed, index) only, never on the size.

  Returns:
    input: float32 (H, W, 1), raw depth in metres, 0 in holes.
    target: float32 (H, W, 1), z-depth in metres, in [0.7, 10].
    mask: bool (H, W, 1), where the target is known: everywhere.
  """
  rng = np.random.default_rng([seed, index])
  solids, camera = scene(rng)
  hits = trace(solids, camera, size)
  raw = kinect(rng, solids, camera, hits, size)
  return {"input": raw[..., None], "target": hits.depth[..., None], "mask": np.isfinite(hits.depth)[..., None]}


def scene(rng: np.random.Generator) -> tuple[list[Solid], Camera]:
  """A furnished room of 3.4-5.6 by 4.4-8.4 m with the camera near one wall and no furniture within 0.75 m of it."""
  room = _Room(rng)
  half = room.half
  for _ in range(24):  # along the far, left and right walls
    wall, along = int(rng.integers(3)), rng.uniform(-1, 1)
    piece = _furniture(rng, "shelf cabinet sofa bed desk lamp plant cupboard chair")
    reach = 0.7 * max(piece.wide, piece.deep)
    if wall == 0:
      room.put(piece, along * (half[0] - piece.wide), half[1] - piece.deep - 0.02, 0.0, reach)
    else:
      side = 2 * wall - 3
      x, z = side * (half[0] - piece.deep - 0.02), along * (half[1] - piece.wide)
      room.put(piece, x, z, side * np.pi / 2, reach)
  for _ in range(6):  # in the middle
    piece = _furniture(rng, "table table chair sofa plant")
    x, z, angle = rng.uniform(-0.5, 0.5) * half[0], rng.uniform(-0.4, 0.6) * half[1], rng.uniform(-np.pi, np.pi)
    if room.put(piece, x, z, angle, 0.9 * max(piece.wide, piece.deep)) and piece.kind == "table":
      for k in np.flatnonzero(rng.random(4) < 0.7):  # chairs at its sides
        a, r = angle + k * np.pi / 2, (piece.wide if k % 2 else piece.deep) + rng.uniform(0.05, 0.3)
        room.put(_furniture(rng, "chair"), x + r * np.sin(a), z + r * np.cos(a), a + rng.uniform(-0.2, 0.2))
  return room.solids, room.camera


class _Room:
  """Four walls, floor and ceiling, a camera, and the furniture put into it so far.

  Furniture is placed in the room's own frame: (0, 0) in the middle, x to the right and z towards the far wall. `half`
  holds the half extents (x, z) in metres. In the world's frame the camera is at (0, height, 0).
  """

  def __init__(self, rng: np.random.Generator):
    self.half, high = np.array([rng.uniform(1.7, 2.8), rng.uniform(2.2, 4.2)]), rng.uniform(2.35, 2.9)
    self.camera = Camera(rng.uniform(1.15, 1.6), 0.5, ZOOM, rng.uniform(0.1, 0.42))
    self.yaw = rng.uniform(-0.5, 0.5)
    self.stand = np.array([rng.uniform(-0.3, 0.3) * self.half[0], -self.half[1] + rng.uniform(0.3, 0.7)])
    c, s = np.cos(self.yaw), np.sin(self.yaw)
    self.rotation = np.array([[c, s], [-s, c]])  # from the room's (x, z) to the world's
    x, z = self._to_world(0, 0)
    size = (self.half[0], high / 2, self.half[1])
    self.solids = [Solid("box", (x, high / 2, z), size, yaw=self.yaw, inside=True)]
    self.taken: list[tuple[float, float, float]] = []  # (x, z, radius) of the furniture that keeps its distance

  def _to_world(self, x: float, z: float) -> np.ndarray:
    return self.rotation @ ([x, z] - self.stand)

  def put(self, piece: "_Piece", x: float, z: float, angle: float, reach: float | None = None) -> bool:
    """Adds the piece at (x, z), turned by `angle`, unless it would stand too close to the camera.

    With `reach`, it is also left out if another piece is closer than the sum of both reaches, in metres.
    Returns whether it was added.
    """
    if reach and any(np.hypot(x - a, z - b) < reach + c for a, b, c in self.taken):
      return False
    c, s, solids = np.cos(angle), np.sin(angle), []
    for shape, (px, py, pz), size in piece.parts:
      wx, wz = self._to_world(x + c * px + s * pz, z - s * px + c * pz)
      solids.append(Solid(shape, (wx, py, wz), size, yaw=angle + self.yaw))
    corners = np.concatenate([s.corners for s in solids]) - [0, self.camera.height, 0]
    tall = corners[:, 1].max() > -0.2  # tall pieces keep a greater distance
    if (corners @ self.camera.axes()[2]).min() < 0.75 + 0.6 * tall:
      return False
    self.solids += solids
    if reach:
      self.taken.append((x, z, reach))
    return True


@dataclasses.dataclass
class _Piece:
  """A piece of furniture in its own frame, its front towards -z.

  Attributes:
    kind: a name in _BUILDERS.
    parts: (shape, centre, half extents) of each solid.
    wide, deep: half extents of the whole piece in x and z, in metres.
  """

  kind: str
  parts: list[tuple[str, tuple[float, float, float], tuple[float, float, float]]] = dataclasses.field(
    default_factory=list
  )
  wide: float = 0.22
  deep: float = 0.22

  def add(self, shape: str, x: float, y: float, z: float, wide: float, high: float, deep: float) -> None:
    """Adds a solid whose lower side is at height y: `wide` and `deep` are half extents, `high` is the whole height."""
    self.parts.append((shape, (x, y + high / 2, z), (wide, high / 2, deep)))


def _furniture(rng: np.random.Generator, kinds: str) -> _Piece:
  """Builds one piece, of a kind drawn from the words of `kinds`; a repeated word is likelier."""
  piece = _Piece(str(rng.choice(kinds.split())))
  _BUILDERS[piece.kind](piece, rng)
  return piece


_PAIRS = [(a, b) for a in (-1, 1) for b in (-1, 1)]  # signs of x and z for four legs


def _table(piece: _Piece, rng: np.random.Generator) -> None:
  u, add = rng.uniform, piece.add
  w, d, h, leg = u(0.6, 1.0), u(0.4, 0.55), u(0.7, 0.78), u(0.025, 0.045)
  piece.wide, piece.deep = w, d
  add("box", 0, h - 0.04, 0, w, 0.04, d)
  for i, j in _PAIRS:
    add("post", i * (w - 0.07), 0, j * (d - 0.07), leg, h - 0.04, leg)
  for _ in range(int(rng.integers(0, 5))):  # things on it
    size = u(0.04, 0.12)
    add(rng.choice(["box", "post", "ball"]), u(-0.7, 0.7) * w, h, u(-0.7, 0.7) * d, size, u(1, 3) * size, size)
  if piece.kind == "desk":
    add("box", u(-0.3, 0.3) * w, h + 0.1, 0.5 * d, 0.27, 0.34, 0.02)  # a screen


def _chair(piece: _Piece, rng: np.random.Generator) -> None:
  w = d = piece.wide
  piece.add("box", 0, 0.42, 0, w, 0.05, d)
  piece.add("box", 0, 0.62, d - 0.02, w, rng.uniform(0.25, 0.4), 0.02)
  for i, j in _PAIRS:
    piece.add("box", i * (w - 0.02), 0, j * (d - 0.02), 0.02, 0.7 if j > 0 else 0.42, 0.02)


def _bed(piece: _Piece, rng: np.random.Generator) -> None:
  piece.wide, piece.deep = w, d = rng.uniform(0.5, 0.95), 1.05
  piece.add("box", 0, 0.1, 0, w, 0.35, d)
  piece.add("box", 0, 0, d - 0.03, w + 0.03, rng.uniform(0.8, 1.1), 0.03)
  for i in (-0.5, 0.5) if w > 0.7 else (0.0,):
    piece.add("ball", i * w, 0.4, d - 0.35, 0.33, 0.2, 0.2)  # pillows


def _sofa(piece: _Piece, rng: np.random.Generator) -> None:
  u, add = rng.uniform, piece.add
  piece.wide, piece.deep = w, d = u(0.75, 1.15), u(0.4, 0.48)
  add("box", 0, 0.05, 0, w, 0.38, d)
  add("box", 0, 0.05, d - 0.1, w, u(0.7, 0.85), 0.1)
  for i in (-1, 1):
    add("box", i * (w - 0.09), 0.05, 0, 0.09, 0.56, d)
  add("ball", u(-0.5, 0.5) * w, 0.42, d - 0.3, 0.2, 0.36, 0.1)  # a cushion


def _shelf(piece: _Piece, rng: np.random.Generator) -> None:
  u, add = rng.uniform, piece.add
  w, d, h = u(0.4, 0.6), u(0.15, 0.2), u(1.2, 2.1)
  piece.wide, piece.deep = w, d
  boards = round(h / 0.38)
  add("box", 0, 0, d - 0.01, w, h, 0.01)
  for i in (-1, 1):
    add("box", i * (w - 0.015), 0, 0, 0.015, h, d)
  for y in np.arange(boards + 1) * (h - 0.03) / boards:
    add("box", 0, y, 0, w, 0.03, d)
    if y < h - 0.3 and rng.random() < 0.8:  # a row of books, or a box
      long = u(0.3, 0.85) * w
      add("box", u(-1, 1) * (w - long - 0.03), y + 0.03, 0.03, long, u(0.18, 0.28), d - u(0.03, 0.08))


def _cabinet(piece: _Piece, rng: np.random.Generator) -> None:
  u, add = rng.uniform, piece.add
  w, d, h = u(0.35, 0.9), u(0.22, 0.3), float(rng.choice([0.55, 0.8, 0.9, 1.8]))
  piece.wide, piece.deep = w, d
  add("box", 0, 0.06, 0, w, h, d)
  for k in range(3):
    add("box", 0, 0.16 + 0.3 * k * h, -d - 0.015, 0.08, 0.02, 0.015)  # handles
  if h < 1:
    add(rng.choice(["post", "ball", "box"]), u(-0.5, 0.5) * w, h + 0.06, 0, 0.12, u(0.2, 0.5), 0.1)


def _cupboard(piece: _Piece, rng: np.random.Generator) -> None:
  """A counter with a cupboard on the wall above it."""
  piece.wide, piece.deep = w, d = rng.uniform(0.5, 1.1), 0.3
  piece.add("box", 0, 0, 0, w, 0.88, d)
  piece.add("box", 0, 0.88, -0.02, w + 0.02, 0.04, d + 0.02)
  piece.add("box", 0, 1.4, 0.13, w, 0.65, 0.17)


def _lamp(piece: _Piece, rng: np.random.Generator) -> None:
  h = rng.uniform(1.3, 1.7)
  piece.add("post", 0, 0, 0, 0.15, 0.03, 0.15)
  piece.add("post", 0, 0, 0, 0.018, h - 0.1, 0.018)
  piece.add(rng.choice(["spire", "post", "ball"]), 0, h - 0.15, 0, 0.2, 0.3, 0.2)


def _plant(piece: _Piece, rng: np.random.Generator) -> None:
  u = rng.uniform
  u(1.3, 1.7)  # unused, but without this draw the same seed would give different rooms
  piece.add("post", 0, 0, 0, 0.15, 0.35, 0.15)
  piece.add("post", 0, 0, 0, 0.018, 0.8, 0.018)
  for _ in range(4):
    piece.add("ball", u(-0.12, 0.12), u(0.5, 0.7), u(-0.12, 0.12), u(0.13, 0.2), u(0.25, 0.45), 0.17)


_BUILDERS: dict[str, Callable[[_Piece, np.random.Generator], None]] = {
  "table": _table,
  "desk": _table,
  "chair": _chair,
  "bed": _bed,
  "sofa": _sofa,
  "shelf": _shelf,
  "cabinet": _cabinet,
  "cupboard": _cupboard,
  "lamp": _lamp,
  "plant": _plant,
}


def kinect(
  rng: np.random.Generator, solids: list[Solid], camera: Camera, hits: Hits, size: tuple[int, int]
) -> np.ndarray:
  """Simulates a Kinect's raw depth of the pixels in `hits`: float32 (H, W) in metres, 0 in holes.

  Holes are the bands that the projector, BASELINE to the right of the camera, does not light (left of everything that
  stands out, as wide as the disparity jumps); blotches on dark, shiny, far and grazed surfaces; the image border; and
  specks. Elsewhere the disparity is within 0.75 steps of the exact value.
  """
  hole = _unlit(solids, camera, hits, size)
  tendency = _tendency_to_fail(rng, solids, hits, size)
  y, x = ((np.arange(m) + 0.5) / m for m in size)
  wave = 0.003 * smooth_noise(rng, (24, 2), (size[0], 2))[:, :1]
  hole |= (x > 0.988 + wave) | (x < 0.004 + wave) | (y[:, None] < 0.008)
  hole |= smooth_noise(rng, (120, 160), size) > 2.5
  missing = rng.uniform(0.11, 0.22) - hole.mean()
  if missing > 0:  # blotches make up the rest
    hole |= tendency > np.quantile(tendency[~hole], 1 - missing / (1 - hole.mean()))
  jitter = np.clip(0.1 * smooth_noise(rng, (240, 320), size), -0.25, 0.25)
  measured = 1 / (STEP * np.rint(1 / (STEP * hits.depth) + jitter))
  return np.where(hole, float32(0), measured.astype(float32))


def _tendency_to_fail(rng: np.random.Generator, solids: list[Solid], hits: Hits, size: tuple[int, int]) -> np.ndarray:
  """How readily each pixel (H, W) becomes a hole, in standard deviations: by its face, angle, distance and chance."""
  tendency = np.zeros(size, float32)
  for k, s in enumerate(solids):
    faces = rng.normal(0, 1.1) + rng.normal(0.0, 0.8, 10) - (1.5 if s.inside else 0)
    i = np.flatnonzero(hits.solid == k)
    if len(i):
      d, face = hits.directions.reshape(3, -1)[:, i], hits.face.ravel()[i]
      normal = s.normal(hits.points(i), face)
      cosine = abs((normal * d).sum(0)) / np.sqrt((d * d).sum(0))
      tendency.ravel()[i] = faces[face] + 6 * np.clip(0.35 - cosine, 0, 1)
  tendency += 1.5 * np.clip(hits.depth - 6.5, 0, 2) + 0.8 * smooth_noise(rng, (15, 20), size)
  tendency += 0.4 * smooth_noise(rng, (60, 80), size)
  return tendency


def _unlit(solids: list[Solid], camera: Camera, hits: Hits, size: tuple[int, int]) -> np.ndarray:
  """bool (H, W): pixels whose surface something hides from the projector, widened as the Kinect's matching does."""
  projector = hits.origin + (BASELINE * camera.axes()[0]).astype(float32)
  to_surface = (hits.origin - projector)[:, None, None] + hits.directions * hits.depth
  beams = Hits.none(projector, to_surface, reach=0.99)
  shadow = trace(solids, camera, size, hits=beams, margin=camera.focal(size) * BASELINE / 0.7).solid >= 0
  unlit = shadow.copy()
  for k in range(1, round(size[1] / 200) + 1):  # the pattern is matched in windows a few pixels wide
    unlit[:, k:] |= shadow[:, :-k]
    unlit[:, :-k] |= shadow[:, k:]
  return unlit
