"""Signals: numbers to [-1, 1] and back, holes, and how both are shown."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2pix_jax import config as config_lib
from pix2pix_jax import depth, signals
from pix2pix_jax.errors import UsageError
from pix2pix_jax.run import viz
from pix2pix_jax.signals import DataSpec, Depth, Image, Quantity


@pytest.mark.parametrize("dtype, largest", [("uint8", 255), ("uint16", 65535)])
@pytest.mark.parametrize("array", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_every_level_of_an_image_survives(dtype, largest, array):
  values = np.arange(largest + 1, dtype=dtype).reshape(1, -1, 1)
  encoded = Image(1, dtype).encode(array(values))
  assert (encoded.dtype, encoded[0, 0, 0], encoded[0, -1, 0]) == (np.float32, -1, 1)
  np.testing.assert_array_equal(Image(1, dtype).decode(encoded), values)
  np.testing.assert_allclose(encoded, values.astype(np.float64) / largest * 2 - 1, atol=1e-6)


def test_float_images_are_kept_in_16_bits():
  values = np.linspace(0, 1, 7, dtype=np.float64).reshape(7, 1, 1)
  stored = Image(1, "uint16").store(Image(1, "uint16").accept(values, "x"))
  np.testing.assert_array_equal(stored.ravel(), np.round(np.arange(7) / 6 * 65535))
  np.testing.assert_allclose(Image(1, "uint16").encode(stored), 2 * values - 1, atol=2e-5)


def test_an_image_clips_what_lies_beyond_its_range():
  np.testing.assert_array_equal(Image().decode(np.float32([[[-3, 0.0039, 2]]])), [[[0, 128, 255]]])
  np.testing.assert_allclose(Image().decode_float(np.float32([-3, 0, 2])), [0, 0.5, 1])


@pytest.mark.parametrize(
  "array, message",
  [
    (np.zeros((2, 2, 1), np.int32), "f.png is int32; images are uint8, uint16, bool, or float in .0, 1"),
    (
      np.full((2, 2, 1), 1.5),
      "f.png is float from 1.5 to 1.5; float images lie in .0, 1..*divide them by 255 or convert",
    ),
    (np.full((2, 2, 1), 4095.0), "divide them by 65535 or convert them to uint16"),
    (np.array([-1.0, 0.5]).reshape(1, 2, 1), r"pass \(values \+ 1\) / 2. .*input_kind, target_kind"),
    (np.full((2, 2, 1), -0.1), "f.png is float from -0.1"),
    (np.full((2, 2, 1), np.nan), "f.png holds NaN or infinite values; float images lie in"),
    (np.zeros((2, 2, 1), complex), "f.png is complex128"),
  ],
)
def test_numbers_that_are_no_image_are_refused(array, message):
  with pytest.raises(UsageError, match=message):
    Image(1).accept(array, "f.png")


def test_bool_and_foreign_byte_order_are_images():
  np.testing.assert_array_equal(Image(1).accept(np.array([[[True], [False]]]), "x").ravel(), [255, 0])
  swapped = Image(1, "uint16").accept(np.array([[[258]]], ">u2"), "x")
  assert swapped.dtype.isnative and swapped[0, 0, 0] == 258


def test_depth_is_linear_over_its_range_and_comes_back_in_metres():
  signal = Depth(1, (0.0, 80.0))
  metres = np.float32([0, 10, 40, 90]).reshape(4, 1, 1)
  np.testing.assert_allclose(signal.encode(metres).ravel(), [-1, -0.75, 0, 1])
  np.testing.assert_allclose(signal.decode(signal.encode(metres)).ravel(), [0, 10, 40, 80])
  near = Depth(1, (0.5, 10.0))
  values = np.float32([0, 0.4, 0.7, 5, 10, 12]).reshape(6, 1, 1)
  np.testing.assert_array_equal(near.valid(values).ravel(), [False, False, True, True, True, False])
  np.testing.assert_array_equal(near.measured(near.encode(values)).ravel(), [False, False, True, True, True, True])


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_a_hole_has_one_representation(array):
  raw = array(np.float32([3, 0, -1, np.nan, np.inf, -np.inf]).reshape(6, 1, 1))
  np.testing.assert_array_equal(np.ravel(Depth().canonical(raw)), [3, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("dtype", [np.uint16, np.uint8, np.int32, np.int16])
def test_integers_are_depth_by_their_scale(dtype):
  values = np.array([0, 50, 100], dtype).reshape(3, 1, 1)
  np.testing.assert_allclose(Depth(1, (0, 80), 50).accept(values, "x").ravel(), [0, 1, 2])
  with pytest.raises(UsageError, match="d.png holds .*int.*, but depth is float metres.*data.target_scale: 256"):
    Depth().accept(values, "d.png")


def test_a_validity_mask_needs_every_channel():
  metres = np.float32([[[1, 2], [1, 0], [1, 90]]])
  np.testing.assert_array_equal(Depth(2).valid(metres)[0, :, 0], [True, False, False])


def test_auto_takes_unsigned_integers_as_images_and_nothing_else():
  for dtype in (np.uint8, np.uint16, np.bool_):
    assert signals.choose_kind("auto", np.zeros(2, dtype), "data.input_kind", "x") == "image"
  for values, found, suggested in (
    (np.array([0, 0.5, np.nan], np.float32), "float32 numbers from 0 to 0.5", "'image' .*'depth'"),
    (np.array([0, 1.5]), "float64 numbers from 0 to 1.5", "'depth'"),
    (np.array([-1000, 1000], np.int16), "int16 numbers from -1000 to 1000", "'depth'"),
    (np.array([0, 1], np.int32), "int32 numbers from 0 to 1", "'depth'"),
    (np.array([np.nan]), "float64 numbers", "'image' .*'depth'"),
  ):
    with pytest.raises(UsageError, match=f"x holds {found}, which .* Set data.input_kind: {suggested}"):
      signals.choose_kind("auto", values, "data.input_kind", "x")
  assert signals.choose_kind("picture", np.zeros(2, np.float32), "f", "x") == "image"
  with pytest.raises(UsageError, match="f is 'heat'; the kinds are image, depth, quantity, classes"):
    signals.choose_kind("heat", np.zeros(2, np.uint8), "f", "x")


def test_signals_return_from_a_resolved_configuration():
  spec = DataSpec(Image(4, "uint16"), Depth(1, (1.0, 9.0), 1000.0), {"train": 3})
  config = config_lib.default()
  config_lib.update(
    config, {"data.depth_range": (1.0, 9.0), "data.target_scale": 1000.0, "data.validity_channel": True}
  )
  resolved = config_lib.resolve(config, spec)
  assert config_lib.signals_of(resolved) == (spec.input, spec.target)
  assert (resolved.data.input_kind, resolved.data.target_kind, resolved.model.output_channels) == ("image", "depth", 2)


def test_a_version_0_1_configuration_gets_its_kinds(tmp_path):
  """It had no kinds: depth, and nothing else, was float32."""
  spec = DataSpec(Image(3), Depth(1, (0.0, 80.0)), {"train": 3})
  resolved = config_lib.resolve(config_lib.default(), spec)
  fields = resolved.to_dict()
  for name in ("input_kind", "target_kind", "input_scale", "target_scale"):
    del fields["data"][name]
  import json

  (tmp_path / "config.json").write_text(json.dumps(fields))
  assert config_lib.signals_of(config_lib.read(tmp_path)) == (spec.input, spec.target)


def test_the_compiled_encoding_is_the_pipelines():
  values = np.random.default_rng(0).uniform(0, 100, (3, 5, 1)).astype(np.float32)
  np.testing.assert_allclose(jax.jit(Depth().encode)(values), Depth().encode(values), atol=1e-6)
  images = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)
  np.testing.assert_array_equal(jax.jit(Image().encode)(images), Image().encode(images))


def test_holes_have_a_colour_that_no_depth_has():
  encoded = np.linspace(-1, 1, 1000, dtype=np.float32).reshape(20, 50, 1)
  colors = Depth().display(encoded)
  assert (np.abs(colors.astype(int) - depth.HOLE_COLOR).sum(-1) > 60).all()
  mask = np.ones((20, 50, 1))
  mask[3, 4] = 0
  assert tuple(Depth().display(encoded, mask)[3, 4]) == depth.HOLE_COLOR
  lightness = depth.colors(np.linspace(-1, 1, 256, dtype=np.float32)[None])[0].astype(float) @ [0.299, 0.587, 0.114]
  # Near is light and far is dark, monotonically.
  assert (np.diff(lightness) < 1.5).all() and lightness[0] > 200 > 60 > lightness[-1]


def test_raw_values_are_shown_as_they_are():
  images = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
  np.testing.assert_array_equal(viz.show(Image(), images), images)
  grey = np.uint16([[[0], [65535]]])
  np.testing.assert_array_equal(viz.show(Image(1, "uint16"), grey), [[[0] * 3, [255] * 3]])
  metres = np.float32([[[0], [5]]])
  shown = viz.show(Depth(1, (0.0, 10.0)), metres)
  assert tuple(shown[0, 0]) == depth.HOLE_COLOR and tuple(shown[0, 1]) == tuple(depth.colors(np.float32([[0]]))[0, 0])


def test_chosen_channels_are_shown():
  bands = np.uint16([[[0, 65535, 257, 514]]])  # 257 is one level of 8 bits
  show = lambda signal, raw: viz.show(signal, raw)[0, 0].tolist()
  assert show(Image(4, "uint16"), bands) == [0, 0, 0]
  assert show(Image(4, "uint16", shown_channels=(3,)), bands) == [2, 2, 2]
  assert show(Image(4, "uint16", shown_channels=(3, 1, 2)), bands) == [2, 255, 1]
  assert show(Image(3, shown_channels=(2, 1, 0)), np.uint8([[[10, 20, 30]]])) == [30, 20, 10]


def test_chosen_channels_of_a_quantity_are_shown_each_over_its_range():
  ranges = ((-20.0, 0.0), (0.0, 1.0), (100.0, 355.0))
  raw = np.float32([[[-20, 0.2, 102], [0, 1, 355], [-20, 0, 100], [np.nan, 1, 355]]])  # the last pixel is a hole
  shown = viz.show(Quantity(3, range=ranges, shown_channels=(2, 1, 0)), raw)[0].tolist()
  assert shown == [[2, 51, 1], [255, 255, 255], [1, 1, 1], [0, 0, 0]], "black is for holes alone"
  one = viz.show(Quantity(3, range=ranges, shown_channels=(1,)), raw)
  np.testing.assert_array_equal(one[:, :3], viz.show(Quantity(1, range=ranges[1:2]), raw[..., 1:2])[:, :3])
  assert Quantity(3, range=ranges).range_of(2) == (100, 355) and Quantity(3, range=ranges[:1]).range_of(2) == (-20, 0)


@pytest.mark.parametrize(
  "changes, channels, dtype, message",
  [
    (
      {"input_display": (3, 2, 4)},
      4,
      "uint16",
      r"display is \(3, 2, 4\), but these data are: 16-bit image, 4 channels",
    ),
    ({"input_display": (1,), "input_kind": "depth"}, 1, "float32", "images and quantities, and these data are: depth"),
    ({"input_display": (1,), "input_kind": "classes"}, 1, "uint8", "images and quantities, .* classes"),
    ({"inputs": ("a", "b:depth,display=1")}, 1, "uint8", "display of b in data.inputs is .1,., .* are: depth"),
    ({"inputs": ("a", "b"), "input_display": (1,)}, 1, "uint8", "set it in data.inputs, as in"),
  ],
)
def test_channels_that_cannot_be_shown_are_refused(changes, channels, dtype, message):
  data = config_lib.default().data
  data.update(changes)
  with pytest.raises(UsageError, match=message):
    settings = config_lib.settings_of(data, "input")
    if settings.parts:
      parts = [part._replace(settings=signals.Settings("image"), channels=1, dtype="uint8") for part in settings.parts]
      parts[1] = parts[1]._replace(settings=settings.parts[1].settings)
      settings = dataclasses.replace(settings, parts=tuple(parts))
    elif settings.kind == "auto":
      settings = dataclasses.replace(settings, kind="image")
    settings.check_display(settings.make(channels, dtype), "data.input_display")


@pytest.mark.parametrize(
  "kind, metric", [("image", "ssim"), ("depth", "l1"), ("quantity", "l1"), ("classes", "mean_iou")]
)
def test_the_best_checkpoint_is_chosen_by_a_metric_of_the_target(kind, metric):
  signal = signals.TYPES[kind]
  assert signal.main_metric == metric and metric in signal.metrics
