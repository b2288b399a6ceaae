"""Quantities and classes through every layer: numbers, resizing, losses, metrics, `fit`, and use of the workdir."""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image as PillowImage
import pytest

import pix2pix_jax as p2p
from pix2pix_jax import config as config_lib
from pix2pix_jax import palettes, translate
from pix2pix_jax.data import files, pipeline, prepare, summary
from pix2pix_jax.data.synthesis import facades
from pix2pix_jax.errors import UsageError
from pix2pix_jax.model import losses, metrics
from pix2pix_jax.run import evaluation, translation
from pix2pix_jax.signals import SHARPNESS, Classes, DataSpec, Depth, Image, Quantity

RNG = np.random.default_rng(0)
HOUNSFIELD = Quantity(1, "int16", ((-1000.0, 3000.0),), "HU", nodata=(-2000.0,))


# --- Signals


def test_every_hounsfield_unit_survives_encoding():
  raw = np.arange(-1000, 3001, dtype=np.int16).reshape(1, -1, 1)
  encoded = HOUNSFIELD.encode(raw)
  assert encoded.dtype == np.float32 and (encoded.min(), encoded.max()) == (-1, 1)
  decoded = HOUNSFIELD.decode(encoded)
  assert decoded.dtype == np.int16
  np.testing.assert_array_equal(decoded, raw)
  np.testing.assert_allclose(encoded, (raw.astype(np.float64) + 1000) / 2000 - 1, atol=1e-6)


@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf, -2000.0])
def test_pixels_without_a_value_are_invalid_and_zero_is_a_value(missing):
  raw = np.array([[[0.0], [missing], [-5.0]]], np.float32)
  accepted = HOUNSFIELD.accept(raw, "x")
  np.testing.assert_array_equal(np.isnan(accepted), np.isnan([[[0], [np.nan], [0]]]))
  np.testing.assert_array_equal(HOUNSFIELD.valid(raw), [[[True], [False], [True]]])
  assert HOUNSFIELD.encode(raw)[0, 1, 0] == -1
  np.testing.assert_allclose(jax.jit(HOUNSFIELD.encode)(raw), HOUNSFIELD.encode(raw), atol=1e-7)


def test_each_channel_has_its_range():
  signal = Quantity(2, range=((0.0, 10.0), (-1.0, 1.0)))
  np.testing.assert_allclose(signal.encode(np.array([[[5.0, 0.5]], [[20.0, -9.0]]])), [[[0, 0.5]], [[1, -1]]])
  np.testing.assert_allclose(signal.decode(np.array([[[0.0, 0.5]]], np.float32)), [[[5, 0.5]]])
  assert signal.clipped(np.array([[[5.0, 0.5], [20.0, 0.0]]])) == 0.25


def test_values_that_a_quantity_cannot_hold_are_refused():
  with pytest.raises(UsageError, match="x holds complex"):
    HOUNSFIELD.accept(np.zeros((2, 2, 1), complex), "x")
  with pytest.raises(UsageError, match="x holds integers beyond"):
    HOUNSFIELD.accept(np.full((2, 2, 1), 2**25), "x")
  with pytest.raises(UsageError, match="x holds no value at all"):
    HOUNSFIELD.check_range(np.full((2, 2, 1), np.nan), "x")
  with pytest.raises(UsageError, match="between 5000 and 9000, but the range is -1000 to 3000 HU: 100%"):
    HOUNSFIELD.check_range(np.array([5000.0, 9000.0]), "x")


@pytest.mark.parametrize("dtype", ["int16", "float32", "uint16"])
def test_files_of_other_numbers_than_in_training_are_refused(dtype, tmp_path):
  decibel = Quantity(1, dtype, ((-25.0, 300.0),), "dB")
  picture = np.random.default_rng(1).integers(0, 255, (8, 8, 1), np.uint8)
  files.write(tmp_path / "picture.png", picture)
  with pytest.raises(UsageError, match=rf"picture.png holds 8-bit .* trained on {dtype} in the range -25 to 300 dB"):
    translation.read(decibel, tmp_path / "picture.png")
  files.write(tmp_path / "same.npy", picture.astype(dtype))
  np.testing.assert_array_equal(translation.read(decibel, tmp_path / "same.npy").images[0], picture)
  assert Quantity(1, "uint8", ((0.0, 100.0),)).accept(picture, "x").dtype == np.float32
  files.write(tmp_path / "far.npy", np.full((8, 8, 1), 1000, dtype))
  with pytest.raises(UsageError, match="far.npy lies between 1000 and 1000, but the range is -25 to 300 dB: 100%"):
    translation.read(decibel, tmp_path / "far.npy")
  files.write(tmp_path / "mm.npy", np.full((8, 8, 1), 4000.0, np.float32))
  with pytest.raises(UsageError, match="mm.npy lies between 4000 and 4000, but the depth range is 0 to 10 m"):
    translation.read(Depth(range=(0.0, 10.0)), tmp_path / "mm.npy")


def test_classes_are_one_hot_and_come_back():
  signal = Classes(4, ignore=255)
  labels = np.array([[[0], [3]], [[255], [2]]], np.uint8)
  encoded = signal.encode(signal.accept(labels, "x"))
  np.testing.assert_array_equal(encoded[0, 1], [-1, -1, -1, 1])
  np.testing.assert_array_equal(encoded[1, 0], [-1, -1, -1, -1])
  np.testing.assert_array_equal(signal.valid(labels), labels != 255)
  np.testing.assert_array_equal(signal.decode(encoded)[labels != 255], labels[labels != 255])
  with pytest.raises(UsageError, match=r"x holds the class 7, .* 0 to 3.*declare it"):
    signal.accept(np.full((2, 2, 1), 7), "x")
  with pytest.raises(UsageError, match="x holds float32 of 1 channel"):
    signal.accept(np.zeros((2, 2, 1), np.float32), "x")


@pytest.mark.parametrize("palette", ["cmp", "cityscapes"])
def test_colours_of_a_palette_become_indices_even_from_jpeg(palette, tmp_path):
  colors = np.array(palettes.NAMED[palette], np.uint8)
  labels = np.kron(RNG.integers(0, len(colors), (6, 6)), np.ones((16, 16), int))
  signal = Classes(len(colors), palettes.NAMED[palette])
  np.testing.assert_array_equal(signal.accept(colors[labels], "x")[..., 0], labels)
  PillowImage.fromarray(colors[labels]).save(tmp_path / "x.jpg", quality=90)
  found = signal.accept(files.read(tmp_path / "x.jpg"), "x")[..., 0]
  inner = np.tile(np.pad(np.ones((8, 8), bool), 4), (6, 6))  # JPEG blends colours along the borders
  assert (found == labels)[inner].mean() > 0.995
  np.testing.assert_array_equal(signal.colors(labels[..., None]), colors[labels])


def test_an_unknown_colour_is_named():
  image = np.tile(np.array(palettes.CMP[1], np.uint8), (16, 16, 1))
  image[:8] = (90, 200, 90)
  with pytest.raises(UsageError, match=r"a.png: 50% of the pixels .* #5ac85a \(90, 200, 90\)"):
    palettes.match(image, palettes.CMP, "a.png")
  with pytest.raises(UsageError, match="a.png holds colours.*declare the palette"):
    palettes.match(image, (), "a.png")


def test_palettes_are_parsed_and_distinct():
  assert palettes.parse("#0000aa,#FF5500") == ((0, 0, 170), (255, 85, 0))
  for text in ("cmb", "#12", "#000000,#000000"):
    with pytest.raises(UsageError, match="palette is"):
      palettes.parse(text)
  assert all(len(set(palettes.distinct(count))) == count for count in (2, 12, 40))


# --- Resizing


def test_a_quantity_is_resized_over_its_valid_pixels():
  """The mean of each 2×2 block, of its valid pixels alone; without a value where less than half of them have one."""
  raw = RNG.normal(size=(1, 8, 8, 2)).astype(np.float32)
  raw[0, 0, 0, 0] = np.nan
  raw[0, 2:4, 2:4, 1] = np.nan
  source = pipeline.ArraySource({"train": (raw, raw)}, DataSpec(Quantity(2), Quantity(2), {"train": 1}))
  (small,) = pipeline.load_split(source, "train", (4, 4), cache_gib=1).arrays["target"]
  assert np.isnan(small[1, 1, 1]) and np.isfinite(small[0, 0, 0])
  assert abs(small[3, 3, 0] - raw[0, 6:8, 6:8, 0].mean()) < 0.5  # bilinear weights reach a little farther
  constant = np.where(np.isnan(raw), np.nan, np.float32(7))
  source = pipeline.ArraySource({"train": (constant, constant)}, DataSpec(Quantity(2), Quantity(2), {"train": 1}))
  (small,) = pipeline.load_split(source, "train", (4, 4), cache_gib=1).arrays["target"]
  np.testing.assert_allclose(small[np.isfinite(small)], 7, rtol=1e-6)


# --- Losses and metrics


def test_cross_entropy_against_float64():
  output = RNG.uniform(-1, 1, (3, 5, 4, 6))
  labels = RNG.integers(0, 6, (3, 5, 4, 1))
  mask = RNG.integers(0, 2, (3, 5, 4, 1)).astype(float)
  mask[2] = 0
  exponentials = np.exp(SHARPNESS * output)
  probability = np.take_along_axis(exponentials / exponentials.sum(-1, keepdims=True), labels, -1)
  expected = [(-np.log(probability) * mask)[i].sum() / max(1, mask[i].sum()) for i in range(3)]
  target = Classes(6).encode(labels.astype(np.uint8))
  found = losses.cross_entropy(jnp.asarray(output, jnp.float32), jnp.asarray(target), jnp.asarray(mask, jnp.float32))
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  np.testing.assert_allclose(
    losses.cross_entropy(jnp.asarray(output, jnp.float32), jnp.asarray(target)),
    -np.log(probability).mean((1, 2, 3)),
    rtol=1e-5,
  )


def test_class_metrics_against_counting():
  truth, guess = RNG.integers(0, 4, (2, 9, 9, 1)), RNG.integers(0, 5, (2, 9, 9, 1))
  mask = RNG.integers(0, 2, (2, 9, 9, 1))
  one_hot = Classes(6).encode
  counts = metrics.confusion(
    jnp.asarray(one_hot(guess.astype(np.uint8))),
    jnp.asarray(one_hot(truth.astype(np.uint8))),
    jnp.asarray(mask, jnp.float32),
  )
  found = metrics.class_metrics(counts)
  for i in range(2):
    t, g = truth[i][mask[i] > 0], guess[i][mask[i] > 0]
    assert all(counts[i, a, b] == np.sum((t == a) & (g == b)) for a in range(6) for b in range(6))
    ious = [np.sum((t == c) & (g == c)) / np.sum((t == c) | (g == c)) for c in range(6) if np.any((t == c) | (g == c))]
    recalls = [np.mean(g[t == c] == c) for c in range(6) if np.any(t == c)]
    expected = {"mean_iou": np.mean(ious), "pixel_accuracy": np.mean(t == g), "class_accuracy": np.mean(recalls)}
    for name, value in expected.items():
      np.testing.assert_allclose(found[name][i], value, rtol=1e-5, err_msg=name)
  assert all(np.isnan(value) for value in metrics.class_metrics(np.zeros((6, 6))).values())


def test_a_splits_class_metrics_come_from_one_matrix():
  """Not the mean over images: a small image counts by its pixels."""
  counts = np.array([[[90, 10], [0, 0]], [[0, 1], [0, 9]]])
  per_image = {metrics.CONFUSION: counts, **metrics.class_metrics(counts)}
  found = evaluation.means(per_image)
  assert found["pixel_accuracy"] == pytest.approx(99 / 110)
  assert found["mean_iou"] == pytest.approx((90 / 101 + 9 / 20) / 2)
  assert metrics.CONFUSION not in found


def test_quantity_metrics_against_float64():
  signal = Quantity(2, range=((-10.0, 30.0), (0.0, 1.0)))
  truth = np.stack([RNG.uniform(-10, 30, (3, 16, 16)), RNG.uniform(0, 1, (3, 16, 16))], -1)
  guess = np.clip(truth + RNG.normal(size=truth.shape) * [4, 0.1], [-10, 0], [30, 1])
  mask = RNG.integers(0, 2, (3, 16, 16, 1))
  mask[1], mask[2] = 1, 0
  encoded = [jnp.asarray(signal.encode(array), jnp.float32) for array in (guess, truth)]
  found = metrics.measure(
    encoded[0], encoded[1], encoded[1], jnp.asarray(mask, jnp.float32), Quantity(2, range=signal.range), signal
  )
  for i in range(2):
    error = (guess - truth)[i][np.broadcast_to(mask, truth.shape)[i] > 0]
    np.testing.assert_allclose(found["mae"][i], np.abs(error).mean(), rtol=1e-4)
    np.testing.assert_allclose(found["rmse"][i], np.sqrt(np.square(error).mean()), rtol=1e-4)
  plain = metrics.image_metrics(*encoded)
  np.testing.assert_allclose(found["ssim"][1], plain["ssim"][1], rtol=1e-5)
  assert all(np.isnan(found[name][2]) for name in ("mae", "rmse", "ssim", "l1", "psnr"))


def test_holes_hide_every_difference():
  signal = Quantity(1, range=((0.0, 1.0),))
  truth = RNG.uniform(-1, 1, (1, 24, 24, 1)).astype(np.float32)
  mask = np.ones_like(truth)
  mask[:, 5:9, 5:20] = 0
  guess = np.where(mask > 0, truth, 1)
  found = metrics.measure(jnp.asarray(guess), truth, jnp.asarray(truth), jnp.asarray(mask), signal, signal)
  assert (float(found["mae"][0]), float(found["ssim"][0])) == (0, pytest.approx(1, abs=1e-6))


# --- From the data


def test_open_ranges_and_counts_come_from_the_training_split():
  values = np.concatenate([np.linspace(-1024, 3071, 100_000), [30_000.0]])
  ((low, high),) = summary.percentiles(values[:, None])
  assert -1024 <= low <= -1019 and 3066 <= high <= 3071
  assert summary.percentiles(np.array([[5.0, np.nan], [5.0, 2.0]]))[0] == (5.0, 6.0)
  assert summary.complete_signal(Classes(0, ignore=255), [], [0, 3, 255], "input").count == 4
  with pytest.raises(UsageError, match="single class"):
    summary.complete_signal(Classes(0), [], [0], "input")
  declared = Quantity(1, range=((0.0, 1.0),))
  assert summary.complete_signal(declared, [(5.0, 6.0)], [], "input") == declared


def test_a_file_s_colours_stand_for_its_classes():
  palette = [(9, 8, 7), (1, 2, 3), (1, 2, 3), (200, 100, 0)]
  signal = summary.complete_signal(Classes(), [], [0, 2], "input", palette)
  assert signal.count == 3 and signal.shown == tuple(palette[:3])  # colours may repeat; those of no class are dropped
  assert palettes.parse(palettes.write(signal.shown), shown_only=True) == signal.shown
  more = summary.complete_signal(Classes(6, ignore=4), [], [], "input", palette)
  shown = [tuple(color) for color in more.color_table[:6].tolist()]
  assert shown == [*palette, (0, 0, 0), palettes.distinct(6)[5]]  # 4 has no label, and 5 no colour in the file
  declared = Classes(2, ((5, 5, 5), (6, 6, 6)))
  assert declared.color_table[:2].tolist() == [[5, 5, 5], [6, 6, 6]]


def make_folder(tmp_path, count=6):
  """Float inputs with negative values and NaN, and class indices as palette PNGs."""
  for side in "AB":
    (tmp_path / "raw" / side).mkdir(parents=True)
  for i in range(count):
    labels = np.kron(RNG.integers(0, 3, (4, 4)), np.ones((4, 4))).astype(np.uint8)
    decibel = (-20 + 5.0 * labels + RNG.normal(size=labels.shape)).astype(np.float32)
    decibel[0, 0] = np.nan
    np.save(tmp_path / f"raw/A/{i}.npy", decibel)
    image = PillowImage.fromarray(labels, "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(tmp_path / f"raw/B/{i}.png")
  config = config_lib.load("folder")
  fields = {
    "data.source_dir": str(tmp_path / "raw"),
    "data.prepared_dir": str(tmp_path / "prepared"),
    "data.input_kind": "quantity",
    "data.input_unit": "dB",
    "data.target_kind": "classes",
    "data.load_size": 16,
    "data.crop_size": 16,
    "model.base_features": 4,
    "model.patch": 16,
    "train.num_steps": 4,
    "train.batch_size": 2,
    "train.eval_every_steps": 2,
    "train.log_every_steps": 2,
  }
  config_lib.update(config, fields)
  return config


def test_a_folder_of_decibels_and_labels_trains_resumes_and_translates(tmp_path, capsys):
  from pix2pix_jax.train import train_and_evaluate

  config = make_folder(tmp_path)
  train_and_evaluate(config, tmp_path / "run")
  saved = config_lib.read(tmp_path / "run")
  low, high = saved.data.input_range
  assert -26 < low < -20 and -12 < high < -4 and saved.data.target_classes == 3
  assert (saved.loss.pixel, saved.train.best_metric, saved.model.output_channels) == ("cross_entropy", "mean_iou", 3)
  assert "dB" in capsys.readouterr().out and (tmp_path / "run/eval/val/confusion.png").stat().st_size > 500
  translator = p2p.Translator.load(tmp_path / "run")
  labels = translator(np.load(tmp_path / "raw/A/0.npy"))
  assert labels.shape == (16, 16, 1) and labels.dtype == np.uint8 and labels.max() < 3
  colors = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)  # of the files' palettes
  assert saved.data.target_colors == "#000000,#ff0000,#00ff00" and saved.data.target_palette == ""
  translate.main(
    [f"--workdir={tmp_path / 'run'}", f"--input={tmp_path / 'raw/A/0.npy'}", f"--output={tmp_path / 'out.png'}"]
  )
  np.testing.assert_array_equal(files.read(tmp_path / "out.png"), colors[labels[..., 0]])
  np.testing.assert_array_equal(files.read(tmp_path / "out.png", colors=False), labels)

  for path in (tmp_path / "raw/B").glob("*.png"):  # nor do other colours of the same classes
    image = PillowImage.open(path)
    image.putpalette([7, 7, 7, 9, 9, 9, 8, 8, 8])
    image.save(path)
  for path in (tmp_path / "raw/A").glob("*.npy"):  # another range of values does not change the recorded one
    np.save(path, np.load(path) * 0.8)
  config_lib.update(config, {"train.num_steps": 5})
  train_and_evaluate(config, tmp_path / "run")
  resumed = config_lib.read(tmp_path / "run").data
  assert tuple(resumed.input_range) == (low, high) and resumed.target_colors == saved.data.target_colors


def test_the_facades_labels_can_be_classes(tmp_path):
  (tmp_path / "raw/train").mkdir(parents=True)
  labels = np.kron(RNG.integers(0, 12, (8, 8)), np.ones((8, 8))).astype(np.uint8)
  photo = RNG.integers(0, 256, (64, 64, 3), np.uint8)
  both = np.concatenate([photo, np.array(palettes.CMP, np.uint8)[labels]], 1)
  PillowImage.fromarray(both).save(tmp_path / "raw/train/1.jpg", quality=95)
  for variant, side in (("classes", "input"), ("best", "input"), ("labels", "target")):
    data = config_lib.load(f"facades:{variant}").data
    data.source_dir, data.prepared_dir = str(tmp_path / "raw"), str(tmp_path / "prepared")
    source = prepare.prepare(data)
    found = getattr(source.spec, side)
    assert (found.kind, found.count, found.palette) == ("classes", 12, palettes.CMP)
    assert {source.spec.input.kind, source.spec.target.kind} == {"classes", "image"}
    split = pipeline.load_split(source, "train", (64, 64), cache_gib=1)
    assert (split.arrays[side][0, ..., 0] == labels).mean() > 0.8  # JPEG blends borders
  train = config_lib.load("facades:best").train
  assert (train.ema_decay, train.batch_size) == (0.999, 1)


# --- fit


@pytest.mark.parametrize("variant, side", [("classes", "input"), ("labels", "target")])
def test_the_labels_of_built_in_facades_can_be_classes(variant, side, tmp_path):
  photo_side = {"input": "target", "target": "input"}[side]
  config = config_lib.load(f"facades:{variant},procedural")
  config.data.update({"load_size": 16, "crop_size": 16, "num_train": 3, "num_val": 1, "num_test": 0})
  config.data.prepared_dir = str(tmp_path)
  source = prepare.prepare(config.data, config.model)
  signal = getattr(source.spec, side)
  assert (signal.kind, signal.count) == ("classes", 12) and getattr(source.spec, photo_side).kind == "image"
  split = pipeline.load_split(source, "train", (16, 16), cache_gib=1)
  for index in range(3):
    drawn = facades.draw(0, index, (16, 16))
    np.testing.assert_array_equal(signal.colors(split.arrays[side][index]), drawn["input"])
    np.testing.assert_array_equal(split.arrays[photo_side][index], drawn["target"])
  with pytest.raises(UsageError, match="both classes"):
    config.data.update({f"{each}_kind": "classes" for each in ("input", "target")})
    prepare.prepare(config.data, config.model)


def test_fit_with_negative_values_learns_them():
  x = RNG.uniform(-50, 50, (16, 4, 4, 1)).repeat(4, 1).repeat(4, 2).astype(np.float32)
  result = p2p.fit(
    *(x, (-3 * x).astype(np.int16)),
    input_kind="quantity",
    target_kind="quantity",
    target_unit="HU",
    target_range=(-160, 160),
    batch_size=4,
    epochs=30,
    validation_split=0.25,
    verbose=0,
    overrides={"model.base_features": 8, "model.patch": 16, "optimizer.learning_rate": 2e-3},
  )
  answer = result.predict(x[:4])
  assert answer.dtype == np.int16 and np.corrcoef(answer.ravel(), -3 * x[:4].ravel())[0, 1] > 0.8
  assert result.history["val_mae"][-1] < 0.7 * np.abs(3 * x).mean()
  assert result.translator.target_signal.range == ((-160.0, 160.0),)


def test_fit_keeps_a_recorded_range_when_it_resumes(tmp_path):
  x = RNG.uniform(-50, 50, (4, 16, 16, 1)).astype(np.float32)
  options = {"input_kind": "quantity", "target_kind": "quantity", "verbose": 0, "workdir": tmp_path / "run"}
  overrides = {"model.base_features": 2, "model.patch": 16, "loss.gan": "none"}
  first = p2p.fit(x, x, epochs=1, batch_size=2, overrides=overrides, **options)
  with pytest.warns(UserWarning, match="other data"):
    second = p2p.fit(x / 2, x / 2, epochs=2, batch_size=2, overrides=overrides, **options)
  assert second.translator.input_signal == first.translator.input_signal


def test_exported_programs_take_raw_values(tmp_path):
  from pix2pix_jax import export

  labels = RNG.integers(0, 3, (4, 16, 16, 1)).astype(np.uint8)
  options = {"batch_size": 2, "epochs": 1, "verbose": 0, "overrides": {"model.base_features": 2, "model.patch": 16}}
  result = p2p.fit(labels, RNG.normal(size=labels.shape).astype(np.float32), input_kind="classes", num_classes=3,
    target_kind="quantity", workdir=tmp_path / "run", **options)  # fmt: skip
  export.export(tmp_path / "run", tmp_path / "model.stablehlo")
  program = jax.export.deserialize(bytearray((tmp_path / "model.stablehlo").read_bytes()))
  found = np.asarray(program.call(labels, np.uint32(0)))
  np.testing.assert_allclose(found, result.predict(labels, seed=0), atol=1e-4)


def test_images_are_untouched_by_the_new_kinds():
  assert Image(3).activate(0.5) == 0.5 and Quantity().activate(0.5) == 0.5
  probability = (np.asarray(Classes(3).activate(jnp.array([1.0, -1.0, -1.0]))) + 1) / 2
  np.testing.assert_allclose(probability, np.exp([5, -5, -5]) / np.exp([5, -5, -5]).sum(), atol=1e-7)
