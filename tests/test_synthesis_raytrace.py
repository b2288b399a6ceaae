"""The ray caster: hits lie on their solids, shortcuts omit nothing, shadows have the right length."""

import numpy as np

from pix2pix_jax.data.synthesis import outdoors, raytrace, room, street
from pix2pix_jax.data.synthesis.raytrace import Camera, Hits, Solid, in_shadow, tent, trace


def one_ray(direction, start=(0, 0, 0)):
  return np.array(start, np.float32)[:, None], np.array(direction, np.float32)[:, None]


def test_rays_enter_and_leave_simple_solids_where_geometry_says():
  ball, post = Solid("ball", (0, 0, 5), (1, 1, 2)), Solid("post", (0, 0, 5), (1, 3, 1))
  turned = Solid("box", (0, 0, 5), (1, 1, 1), yaw=np.pi / 4)
  slanted = (0.1, 0.2, 1)  # meets the cylinder x² + (z - 5)² = 1 where 1.01 t² - 10 t + 24 = 0
  root = np.sqrt(100 - 4 * 1.01 * 24)
  cases = [
    (ball, (0, 0, 1), (3, 7), -1),
    (post, slanted, ((10 - root) / 2.02, (10 + root) / 2.02), -1),
    (turned, (0, 0, 1), (5 - 2**0.5, 5 + 2**0.5), None),
    (Solid("box", (0, 0, 5), (1, 1, 1)), (0, 0, 1), (4, 6), 5),
  ]
  for solid, direction, (near, far), face in cases:
    enter, leave, hit = solid.span(*one_ray(direction))
    np.testing.assert_allclose([enter[0], leave[0]], [near, far], rtol=1e-5)
    assert face is None or hit[0] == face
  enter, leave, _ = ball.span(*one_ray((0.5, 0, 1)))
  assert not leave[0] > enter[0]  # passes the ball
  hollow = Solid("box", (0, 0, 0), (2, 2, 3), inside=True)
  enter, leave, far_wall = hollow.span(*one_ray((0, 0, 1)))
  assert enter[0] == 3 and leave[0] == np.inf
  np.testing.assert_allclose(
    hollow.normal(np.array([[0], [0], [3]], np.float32), far_wall)[:, 0], [0, 0, -1], atol=1e-6
  )


def test_rays_have_unit_depth_and_pass_through_pixel_centres():
  camera, size = Camera(height=1.0, horizon=0.25, zoom=1.5, slope=0.3), (40, 60)
  rays = np.tensordot(camera.axes(), camera.rays(size, 1.0), 1)  # in the camera's frame
  np.testing.assert_allclose(rays[2], 1, rtol=1e-6)
  np.testing.assert_allclose(rays[:2, 9, 29], np.array([-0.5, 0.5]) / camera.focal(size), rtol=1e-4)
  np.testing.assert_allclose(camera.rays(size, 0.5)[:, 1::2, 1::2], camera.rays(size, 1.0), atol=1e-6)
  assert camera.rays(size, 0.5).shape == (3, 81, 121)


def test_hits_lie_on_the_surface_of_their_solid():
  rng = np.random.default_rng(7)
  for solids, camera in ((street.scene(rng)[0], street.CAMERA), room.scene(rng)):
    hits, checked = trace(solids, camera, (60, 90)), 0
    for k, s in enumerate(solids):
      at = hits.solid == k
      if not at.any() or s.half[0] == 300:  # the ground has no sides
        continue
      p = hits.origin[:, None] + hits.directions[:, at] * hits.depth[at]
      q = (s.rotation.T @ (p - s.centre[:, None])) / s.half[:, None]
      assert (abs(q) < 1 + 2e-3).all()
      if s.paint is outdoors.leaves and not len(s.normals):  # a round crown
        np.testing.assert_allclose((q * q).sum(0), 1, atol=2e-3)
      elif s.inside or s.paint is street._pavement or "cabin" not in s.details and s.paint is street._bodywork:  # boxes
        np.testing.assert_allclose(abs(q).max(0), 1, atol=2e-3)
      else:
        continue
      checked += at.sum()
    assert checked > 300


def test_screen_bounds_omit_no_hit(monkeypatch):
  rng = np.random.default_rng(3)
  scenes, size = [room.scene(rng), (street.scene(rng)[0], street.CAMERA)], (45, 70)
  for solids, camera in scenes:
    for step in (1.0, 0.5):
      quick = trace(solids, camera, size, step)
      with monkeypatch.context() as m:
        m.setattr(raytrace, "screen_bounds", lambda s, *_: np.tile([0, 10**6, 0, 10**6], (len(s), 1)))
        slow = trace(solids, camera, size, step)
      np.testing.assert_array_equal(quick.solid, slow.solid)
      np.testing.assert_array_equal(quick.depth, slow.depth)


def test_tracing_in_two_parts_equals_tracing_at_once():
  solids = street.scene(np.random.default_rng(5))[0]
  whole = trace(solids, street.CAMERA, (24, 40))
  first = trace(solids[:20], street.CAMERA, (24, 40))
  both = trace(solids[20:], street.CAMERA, (24, 40), hits=first.copy(), first=20)
  for part in ("depth", "solid", "face"):
    np.testing.assert_array_equal(getattr(both, part), getattr(whole, part))
  assert (first.solid < 20).all() and (both.solid >= 20).any()  # the copy left the first result alone


def test_solids_beyond_the_reach_of_rays_do_not_count():
  camera, size = Camera(1.0, 0.5, 1.0), (8, 8)
  wall = Solid("box", (0, 0, 4.5), (9, 9, 0.5))
  origin, rays = np.array([0, 1, 0], np.float32), camera.rays(size, 1.0)
  for reach, seen in ((3.9, False), (4.1, True)):
    assert (trace([wall], camera, size, hits=Hits.none(origin, rays, reach)).solid == (0 if seen else -1)).all()


def test_the_shadow_of_a_box_is_as_long_as_the_sun_is_low():
  box, sun = Solid("box", (0, 1, 0), (0.5, 1, 0.5)), np.array([-0.6, 0.6, 0.2])
  x = np.linspace(-4, 4, 801, dtype=np.float32)
  dark = in_shadow([box], np.stack([x, 0 * x, 0 * x]), sun)
  # A ray from x on the ground meets the plane of the side x = 0.5 at a height of x - 0.5 and at z = (x - 0.5) / 3,
  # which from x = 2 on is beyond the side's edge at z = 0.5.
  np.testing.assert_array_equal(dark[abs(x) > 0.55], ((x > 0.5) & (x < 2.0))[abs(x) > 0.55])
  above = in_shadow([box], np.stack([x, 0 * x + 2.5, 0 * x]), sun)
  assert not above.any()


def test_shadows_equal_those_from_testing_every_solid():
  solids = [s for s in street.scene(np.random.default_rng(11))[0] if not s.details.get("flat")]
  rng, sun = np.random.default_rng(0), np.array([0.5, 0.7, -0.51])
  p = (rng.random((3, 3000)) * [[16], [4], [60]] - [[8], [0], [0]]).astype(np.float32)
  expected = np.zeros(p.shape[1], bool)
  for s in solids:
    enter, leave, _ = s.span(p, sun.astype(np.float32)[:, None])
    expected |= (leave > 0.03) & (leave > enter)
  dark = in_shadow(solids, p, sun)
  np.testing.assert_array_equal(dark, expected)
  assert 0.1 < dark.mean() < 0.9


def test_the_tent_filter_weights_neighbours_one_two_one():
  samples = np.zeros((3, 5, 5), np.float32)
  samples[:, 1, 1] = 1  # the centre of the first pixel
  samples[0, 2, 2] = 0.8  # the corner that all four pixels share
  pixels = tent(samples)
  assert pixels.shape == (2, 2, 3) and pixels.dtype == np.uint8
  np.testing.assert_array_equal(pixels[..., 1], [[64, 0], [0, 0]])  # 255 * 4 / 16 = 63.75
  np.testing.assert_array_equal(pixels[..., 0], [[77, 13], [13, 13]])  # plus 255 * 0.8 / 16 = 12.75
