"""Houses and trees, with their paints, for the street and the village."""

from typing import Any

import numpy as np
from numpy import float32

from pix2pix_jax.data.synthesis.paint import noise, rgb, visible_share
from pix2pix_jax.data.synthesis.raytrace import Solid

STOREY = 2.9  # height in metres


def plain(solid: Solid, p: np.ndarray, normals: np.ndarray, sample_width: np.ndarray) -> np.ndarray:
  """Lacquer, wood or rubber: one slightly uneven colour."""
  return solid.colour * (1 + 0.06 * noise(p[0] + p[2], p[1] + p[2], 0.4))


def leaves(solid: Solid, p: np.ndarray, normals: np.ndarray, sample_width: np.ndarray) -> np.ndarray:
  """Foliage in clumps and specks, darker on the underside."""
  # The noise is two-dimensional and makes streaks along the third axis; noise projected another way hides them.
  clumps = noise(p[0], p[1], 0.5) + noise(p[2], p[1] + 7, 0.5) + noise(p[0], p[2], 0.5)
  specks = noise(p[1], p[0], 1.3) + noise(p[2], p[1], 1.3)
  light = 0.85 + 0.2 * normals[1] + 0.13 * clumps + 0.17 * visible_share(0.15, sample_width) * specks
  return solid.colour * np.clip(light, 0.25, 1.7)


def wall(solid: Solid, p: np.ndarray, normals: np.ndarray, sample_width: np.ndarray) -> np.ndarray:
  """Walls of blocks, with rows of windows and a door unless `blind`; sloping faces are tiled if there are `tiles`.

  Details: `relief`, how dark the joints are; `blind`; `door`, a colour; `tiles`, a colour or absent.
  """
  x_half, y_half, z_half = solid.half.astype(float32)
  on_gable = abs(p[2]) >= float32(solid.half[2] * 0.999)
  half = np.where(on_gable, x_half, z_half)
  along, height = np.where(half == x_half, p[0], p[2]), p[1] + y_half  # along the wall, and above its foot
  course = np.floor(height / 0.22)
  joint = ((height / 0.22 - course) < 0.14) | (((along / 0.5 + 0.5 * (course % 2)) % 1) < 0.06)
  fine = visible_share(0.3, sample_width)
  blocks = 1 + 0.05 * noise(along, height, 0.12) - solid.details["relief"] * joint * fine
  colour = solid.colour * (blocks * np.clip(0.8 + height / 3, 0.8, 1))
  if not solid.details["blind"]:
    colour = _windows_and_door(solid, colour, along, height, half)
  slope = np.flatnonzero(normals[1] > 0.3)
  if len(slope) and "tiles" in solid.details:
    v, u, fine = p[1, slope] * 1.4, p[2, slope], fine[slope]
    row = np.floor(v / 0.32)
    edge = ((v / 0.32 - row) < 0.25) | (((u / 0.3 + 0.5 * (row % 2)) % 1) < 0.12)
    colour[:, slope] = solid.details["tiles"] * (1 - 0.25 * edge * fine + 0.08 * noise(u, v, 0.3))
  return colour


def _windows_and_door(
  solid: Solid, colour: np.ndarray, along: np.ndarray, height: np.ndarray, half: np.ndarray
) -> np.ndarray:
  """Paints windows, their frames and a door over the wall's colours (3, n).

  `along` and `height` (n,) are positions on the wall in metres; `half` (n,) is half the length of that wall.
  """
  cells = np.maximum(1, np.round(half / 1.25))  # one window in each
  position = (along / half + 1) * cells / 2
  cell, storey = np.floor(position), np.floor(height / STOREY)
  x = abs(position - cell - 0.5) * 2 * half / cells  # from the window's middle
  y = abs(height - storey * STOREY - 1.65)
  below_roof = storey < int(2 * solid.half[1] / STOREY)
  glint = noise(storey + 3 * cell, along * 0.1 + float32(solid.centre[2]), 0.07)
  glass = rgb("8fa6b8") * (0.16 + 0.2 * np.clip(glint + 0.3, 0, 1) + 0.12 * y)
  colour = np.where((x < 0.56) & (y < 0.78) & below_roof, rgb("d8d4ca"), colour)
  colour = np.where((x < 0.47) & (y < 0.69) & (x > 0.04) & below_roof, glass, colour)
  door = (storey == 0) & (cell == np.floor(cells / 3)) & (x < 0.55) & (height < 2.2)
  return np.where(door, solid.details["door"] * np.where(x < 0.45, float32(0.8), float32(1.5)), colour)


def house(
  rng: np.random.Generator, x: float, z: float, half: tuple[float, float], storeys: int, yaw: float = 0.0
) -> list[Solid]:
  """Walls and a gable roof at (x, z), with half extents `half` = (x, z) in metres and the ridge along z."""
  height, rise = STOREY * storeys + rng.uniform(0.2, 0.7), rng.uniform(0.35, 0.55) * half[0]
  details: dict[str, Any] = {
    "relief": float(rng.choice([0.04, 0.22])),
    "door": rgb(rng.choice("5a3a26 2f4a3c 38495e".split())),
    "tiles": rgb(rng.choice("8a4632 6f3a2e 4a4d52 7a5a48".split())),
  }
  colour = rgb(rng.choice("b9835f c9a878 d8c6a0 a5543f 8f5a45 cfc8ba b8b09c 7f8fa0 c7905a".split()))
  colour = colour * float32(rng.uniform(0.8, 1.05))
  size, eaves = (half[0], height / 2, half[1]), (half[0] + 0.4, rise, half[1] + 0.3)
  return [
    Solid("box", (x, height / 2, z), size, wall, colour, yaw, blind=False, **details),
    Solid("gable", (x, height + rise, z), eaves, wall, colour, yaw, blind=True, **details),
  ]


def tree(rng: np.random.Generator, x: float, z: float, height: float, balls: int = 4) -> list[Solid]:
  """A trunk and a crown of frayed balls.

  Each ball's detail `crown` is (x, y, z, height in metres) of the crown, at the top of the trunk.
  """
  green = rgb(rng.choice("4c6a2c 5d7a33 3c5a2a 6d7c34".split())) * float32(rng.uniform(0.75, 1.05))
  width, first = 0.02 * height + 0.05, rng.uniform(0, 6)
  crown = (x, height * 0.3, z, height * 0.6)
  solids = [Solid("post", (x, height * 0.25, z), (width, height * 0.25, width), plain, "4d4036")]
  for k in range(balls):
    r, angle = height * (0.25 if k == 0 else rng.uniform(0.14, 0.2)), first + 2.1 * k
    away, up = (0, 0.65) if k == 0 else (0.17 * height, rng.uniform(0.52, 0.76))
    centre = (x + away * np.cos(angle), height * up, z + away * np.sin(angle))
    solids.append(Solid("ball", centre, (r, r * 0.95, r), leaves, green, fray=0.7 * r, crown=crown))
  return solids
