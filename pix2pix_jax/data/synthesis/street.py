"""Built-in stand-in for KITTI depth: streets seen from a car, and the depth that a LiDAR measures there."""

from collections.abc import Iterator

import numpy as np
from numpy import float32

from pix2pix_jax.data.synthesis.outdoors import house, leaves, plain, tree, wall
from pix2pix_jax.data.synthesis.paint import mix, noise, rgb, smooth_noise, visible_share
from pix2pix_jax.data.synthesis.raytrace import Camera, Light, Sky, Solid, shade, tent, trace

# KITTI's colour camera: 1.65 m above the road, level, focal length 721.5 px at 352 x 1216.
CAMERA = Camera(height=1.65, horizon=0.43, zoom=721.5 / (352 * 1216) ** 0.5)

# Velodyne HDL-64E (from its manual, as mounted on KITTI's car): 64 beams from +2 to -24.9 degrees, with pulses about
# 0.09 degrees apart. KITTI's ground truth accumulates 11 scans and is denser than one scan: here, three rings per beam.
BEAMS, RINGS_PER_BEAM = 64, 3
TOP, BOTTOM, PULSE = 2.0, -24.9, 0.09  # degrees
REACH = 80.0  # metres


def draw(seed: int, index: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
  """Draws street `index` of the sequence `seed` at `size` = (height, width).

  The scene depends on (seed, index) only, never on the size.

  Returns:
    input: uint8 (H, W, 3), a photograph.
    target: float32 (H, W, 1), z-depth in metres, at most 80; 0 where it is not measured.
    mask: bool (H, W, 1), where it is measured.
    scan: float32 (H, W, 1), the same depth where a single scan measures it; 0 elsewhere.
  """
  rng = np.random.default_rng([seed, index])
  solids, light, sky = scene(rng)
  hits = trace(solids, CAMERA, size, 0.5)
  samples, brightness = shade(solids, hits, light, sky, 0.5 / CAMERA.focal(size))
  depth = hits.depth[1::2, 1::2]
  mask, single = scan(rng, CAMERA, size, depth, brightness[1::2, 1::2])
  return {
    "input": tent(samples),
    "target": np.where(mask, depth, float32(0))[..., None],
    "mask": mask[..., None],
    "scan": np.where(single, depth, float32(0))[..., None],
  }


def scene(rng: np.random.Generator) -> tuple[list[Solid], Light, Sky]:
  """A street along z with houses, gardens, trees and cars. The lane ahead, |x| < 1.3 m, is free for the first 12 m."""
  lane_width, oncoming = rng.uniform(3.2, 3.8), int(rng.integers(1, 3))
  parking = rng.uniform(1.9, 2.2, 2) * (rng.random(2) < 0.7)  # width of the parking bays, left and right
  lines = [lane_width * (k - oncoming - 0.5) for k in range(oncoming + 2)]  # x of the lane marks
  left, right = lines[0] - 0.3 - parking[0], lines[-1] + 0.3 + parking[1]
  road = (left, right, lines, rng.random() < 0.6)
  solids = [Solid("ground", (0, -1, 0), (300, 1, 300), _road, flat=True, road=road)]
  for side, kerb, bay in ((-1, left, parking[0]), (1, right, parking[1])):
    solids += _roadside(rng, side, kerb, bay)
  for k in range(oncoming + 1):  # traffic; the last lane is the camera's own
    z = rng.uniform(10, 45) if k < oncoming else rng.uniform(16, 50)
    while z < 80:
      solids += _vehicle(rng, (lines[k] + lines[k + 1]) / 2 + rng.uniform(-0.3, 0.3), z, k == oncoming)
      z += rng.uniform(20, 60)
  for x in np.arange(-24.0, 25.0, 6.0):  # trees and houses close the view at the far end
    z, height = rng.uniform(155, 180), rng.uniform(7, 13)
    solids += tree(rng, x, z, height, 1) if rng.random() < 0.7 else house(rng, x, z, (4, 4), 3)
  return solids, *_weather(rng)


def _roadside(rng: np.random.Generator, side: int, kerb: float, bay: float) -> Iterator[Solid]:
  """Everything on one side of the street.

  Args:
    rng: decides what stands where.
    side: -1 for the left, 1 for the right side.
    kerb: x of the kerb.
    bay: width of the parking bay in metres, 0 for none.
  """
  walk, verge = rng.uniform(1.8, 3.2), rng.uniform(0.5, 6)
  built = rng.choice([0.9, 0.65, 0.35], p=[0.4, 0.4, 0.2])  # probability that a plot has a house
  boundary = kerb + side * walk
  yield Solid("box", ((kerb + boundary) / 2, 0.06, 81), (walk / 2, 0.06, 80), _pavement, flat=True)
  z, hedge = rng.uniform(2, 6), rng.random() < 0.5
  while z < 120:
    long = rng.uniform(8, 17)
    if rng.random() < built:
      deep = rng.uniform(4, 6)
      yield from house(rng, boundary + side * (verge + deep), z + long / 2, (deep, long / 2), int(rng.integers(2, 5)))
    else:
      yield from _garden(rng, side, boundary, z, long, hedge)
    z += long + rng.uniform(0.2, 4)
  z, gap, trees = rng.uniform(8, 14), rng.uniform(10, 20), rng.random() < 0.6
  while z < 100:  # trees or street lamps
    if trees:
      yield from tree(rng, kerb + side * 0.7, z, rng.uniform(5, 9), 4 if z < 40 else 2)
    elif rng.random() < 0.7:
      yield Solid("post", (kerb + side * 0.5, 3.2, z), (0.08, 3.2, 0.08), plain, "6c6f70")
    z += gap * rng.uniform(0.8, 1.3)
  z = rng.uniform(6, 12)
  while bay and z < 70:  # parked cars
    if rng.random() < 0.65:
      yield from _vehicle(rng, kerb - side * (bay / 2 + 0.1), z, side > 0)
    z += rng.uniform(5.2, 6.5)


def _garden(
  rng: np.random.Generator, side: int, boundary: float, z: float, long: float, hedge: bool
) -> Iterator[Solid]:
  """A garden with two trees, from z to z + long, behind a hedge or a wall."""
  tall = rng.uniform(0.4, 0.8)
  paint, colour = (leaves, "43592b") if hedge else (wall, "9a6350")
  centre, half = (boundary + side * 0.4, tall, z + long / 2), (0.25, tall, long / 2)
  yield Solid("box", centre, half, paint, colour, blind=True, relief=0.2)
  for _ in range(2):
    away, at, tall = rng.uniform(2, 9), z + rng.uniform(0, long), rng.uniform(5, 10)
    yield from tree(rng, boundary + side * away, at, tall, 3 if z < 40 else 1)


def _vehicle(rng: np.random.Generator, x: float, z: float, away: bool) -> list[Solid]:
  """A car or van at (x, z), seen from behind if it drives `away`."""
  colour = rng.choice("1c1d20 2b3a52 8c8f93 d5d6d4 7b1f1f 3d4a3c b9bcc0 15181c".split())
  yaw, ahead = (0.0, 1) if away else (np.pi, -1)
  van = rng.random() < 0.2
  wide, belt, long = (0.95, 1.1, 2.4) if van else (0.88, rng.uniform(0.86, 0.95), rng.uniform(1.85, 2.2))
  top, shift, share = (0.5, 0.12, 0.85) if van else (0.29, 0.12 * long, 0.62)  # of the cabin
  cabin = (x, belt + top, z - shift * ahead), (wide * 0.95, top, long * share)
  solids = [
    Solid("box", (x, belt / 2 + 0.13, z), (wide, belt / 2 - 0.13, long), _bodywork, rgb(colour), yaw),
    Solid("cabin", *cabin, _bodywork, rgb(colour), yaw, cabin=True),
  ]
  wheels = (-0.62 * long, 0.62 * long) if z < 40 else ()
  return solids + [Solid("axle", (x, 0.32, z + at), (wide * 1.01, 0.32, 0.32), plain, "17171a") for at in wheels]


def _weather(rng: np.random.Generator) -> tuple[Light, Sky]:
  """A sunny day: the light, and a sky with clouds above distant hills."""
  azimuth, height, strength = rng.uniform(-2.4, 2.4), rng.uniform(0.6, 1.1), rng.uniform(0.65, 0.95)
  sun, shift = np.array([np.sin(azimuth), height, np.cos(azimuth)]), float32(rng.uniform(0, 10))
  light = Light(
    sun=sun / np.linalg.norm(sun),
    direct=float32(strength) * rgb("fff2dc"),
    ambient=float32(1.08 - 0.5 * strength) * rgb("c6d2e0"),
    haze=rgb("d6dde2"),
    reach=420,
  )

  def sky(d: np.ndarray) -> np.ndarray:
    e = np.clip(d[1] / d[2], 0, 1)
    clouds = np.clip(0.4 * noise(shift + d[0] / (e + 0.25), 1.5 / (e + 0.25), 0.4, True) + 0.3, 0, 1)
    blue = mix(rgb("eef2f4"), rgb("7fa8d8"), np.minimum(e * 2.6, 1))
    hills = d[1] < (0.02 + 0.01 * noise(shift + d[0] / d[2], 0 * e, 1.0, True)) * d[2]
    return np.where(hills, rgb("9db0ac"), mix(blue, rgb("fbfbfa"), clouds * 0.85))

  return light, sky


def _road(solid: Solid, p: np.ndarray, normals: np.ndarray, sample_width: np.ndarray) -> np.ndarray:
  """Asphalt with lane marks between the kerbs, grass or paving beyond them."""
  left, right, lines, grass = solid.details["road"]
  x, z = p[0], p[2]
  grain = 0.09 * visible_share(0.05, sample_width) * noise(x, z, 3) + 0.03 * noise(x, z * 0.25, 0.3)
  light = 0.405 * (1 + grain - 0.12 * (noise(x * 0.3, z * 0.1, 0.25) > 1.3))
  for k, line in enumerate(lines):
    mark = abs(x - float32(line)) < 0.07
    if 0 < k < len(lines) - 1:  # dashed between lanes
      mark &= (z / 9) % 1 < 0.42
    light[mark] = 0.86 + grain[mark]
  colour = light * np.array([[1], [1], [1.02]], float32)
  off = np.flatnonzero((x < float32(left)) | (x > float32(right)))
  x, z = x[off], z[off]
  rough = 1 + 0.12 * noise(x, z, 0.3) + 0.2 * visible_share(0.1, sample_width[off]) * noise(z, x, 1.5)
  colour[:, off] = rgb("5f7a35" if grass else "89847a") * rough
  return colour


def _pavement(solid: Solid, p: np.ndarray, normals: np.ndarray, sample_width: np.ndarray) -> np.ndarray:
  """Slabs between two kerbs."""
  joint = ((p[0] / 0.6) % 1 < 0.06) | ((p[2] / 0.6) % 1 < 0.06)
  colour = rgb("9b968d") * (1 - 0.2 * joint * visible_share(0.4, sample_width) + 0.06 * noise(p[0], p[2], 0.5))
  return np.where(abs(p[0]) > float32(solid.half[0] - 0.15), rgb("b9b5ab"), colour)


def _bodywork(solid: Solid, p: np.ndarray, normals: np.ndarray, sample_width: np.ndarray) -> np.ndarray:
  """A car's body with lamps, grille, plates and doors, or, with the detail `cabin`, its windows."""
  x, y, z = p / solid.half.astype(float32)[:, None]
  sill = np.where(y < -0.75, float32(0.5), float32(1))
  colour = solid.colour * ((1 + 0.25 * np.clip(normals[1], 0, 1)) * sill)
  side, end = abs(normals[0]) > 0.5, abs(normals[2]) > 0.5
  if solid.details.get("cabin"):
    pane = (abs(y + 0.05) < 0.7) & (abs(normals[1]) < 0.8)
    pane &= np.where(side, (abs(z) < 0.8) & (abs(z - 0.05) > 0.03), abs(x) < 0.85)
    return np.where(pane, rgb("2a333a") + 0.18 * np.clip(y + 0.3, 0, 1), colour)
  door = side & ((abs(z + 0.38) < 0.012) | (abs(z - 0.1) < 0.012) | (abs(z - 0.55) < 0.012))
  grille = end & (z > 0) & (abs(x) < 0.5) & (abs(y - 0.1) < 0.3)
  lamp = end & (abs(x) > 0.66) & (abs(y - 0.3) < 0.22)
  plate = end & (abs(x) < 0.28) & (abs(y + 0.3) < 0.13)
  colour = np.where(door, solid.colour * float32(0.45), colour)
  colour = np.where(grille, rgb("1c1d1f"), colour)
  colour = np.where(lamp, np.where(z < 0, rgb("b01818"), rgb("f0ead0")), colour)
  return np.where(plate, rgb("e8e4d8"), colour)


def scan(
  rng: np.random.Generator, camera: Camera, size: tuple[int, int], depth: np.ndarray, brightness: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Simulates a laser scanner beside the camera: which pixels, bool (H, W), accumulated scans and a single one measure.

  A pixel is measured if one of the scanner's rings of constant elevation passes between its upper and lower edge,
  one of the ring's pulses between its left and right edge, and the echo returns. In small images the rings and pulses
  are kept one or two pixels apart; otherwise every pixel would be measured.

  Args:
    rng: decides which echoes are lost.
    camera: the camera whose pixels are meant.
    size: (height, width) in pixels.
    depth: (H, W) in metres, +inf for the sky.
    brightness: (H, W) in [0, 1], of the surfaces' paint.
  """
  f = camera.focal(size)
  degree = f * np.pi / 180  # in pixels
  ring = max((TOP - BOTTOM) / (RINGS_PER_BEAM * BEAMS - 1), 2 / degree)
  pulse = max(PULSE, 1.1 / degree)
  x = (np.arange(size[1] + 1) - size[1] / 2) / f
  y = (camera.horizon * size[0] - np.arange(size[0] + 1)) / f
  column = np.sqrt(1 + ((x[1:] + x[:-1]) / 2) ** 2)  # horizontal distance per metre of depth
  rings_above = np.floor((TOP - np.degrees(np.arctan(y[:, None] / column))) / ring).astype(int)  # of each pixel edge
  last = rings_above[1:]
  on_ring = (last > rings_above[:-1]) & (last >= 0) & (last <= (TOP - BOTTOM) / ring)
  azimuth, phase = np.degrees(np.arctan(x)) / pulse, rng.random(256)[np.clip(last, 0, 255)]
  hit = on_ring & (np.floor(azimuth[1:] + phase) > np.floor(azimuth[:-1] + phase))
  # Few echoes return from glass, dark paint and far surfaces. Whole patches are missing, too, where the accumulated
  # scans contradict each other.
  lost = 0.03 + np.clip(0.8 - 3 * brightness, 0, 0.7) + 0.35 * np.minimum(depth / REACH, 1) ** 2
  lost += 0.5 * (smooth_noise(rng, (24, 60), size) > 1.3)
  mask = hit & (depth < REACH) & (rng.random(size) > lost)
  return mask, mask & (last % RINGS_PER_BEAM == 0)
