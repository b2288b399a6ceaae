"""Users' files and habits end to end: the same numbers for every command, and names of every kind."""

import csv
import os
import sys
import unicodedata

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import tifffile
from tiny_runs import tiny_config

import pix2pix_jax as p2p
from pix2pix_jax import config as config_lib
from pix2pix_jax import evaluate, signals, translate
from pix2pix_jax.configs import folder as folder_config
from pix2pix_jax.data import files, pipeline, prepare
from pix2pix_jax.model.state import NetworkState, TrainState
from pix2pix_jax.run import checkpoint, translation
from pix2pix_jax.run.experiment import make_mesh
from pix2pix_jax.train import train_and_evaluate

SIZE = (24, 32)
VALUES = np.random.default_rng(0).integers(0, 256, (*SIZE, 4), np.uint8)
RGB, GREY, ALPHA = VALUES[..., :3], VALUES[..., 0], VALUES[..., 3]
WIDE = RGB.astype(np.uint16) * 257
PILLOW = Image.fromarray(RGB)


def palette(bits):
  """A palette image of few colours."""
  return PILLOW.quantize(2**bits)


def turned(orientation):
  """EXIF data with this orientation."""
  exif = Image.Exif()
  exif[274] = orientation
  return exif


# Every form of a file, by the channels and the type that both training and translation see.
FORMS = {
  (3, np.uint8): {
    "rgb.png": PILLOW.save,
    "rgb.bmp": PILLOW.save,
    "rgb.tga": PILLOW.save,
    "rgb.ppm": PILLOW.save,
    "rgb.jpg": PILLOW.save,
    "rgb.jp2": PILLOW.save,
    "rgb.webp": PILLOW.save,
    "palette.png": palette(5).save,
    "palette.gif": palette(8).save,
    "palette4.bmp": palette(4).save,
    "palette.tif": palette(5).save,
    "planar.tif": lambda p: tifffile.imwrite(p, np.moveaxis(RGB, -1, 0), photometric="rgb", planarconfig="separate"),
    "lzw.tif": lambda p: PILLOW.save(p, compression="tiff_lzw"),
    "jpeg.tif": lambda p: PILLOW.save(p, compression="jpeg"),
    "deflate.tif": lambda p: PILLOW.save(p, compression="tiff_deflate"),
    "tiles.tif": lambda p: tifffile.imwrite(p, RGB, photometric="rgb", tile=(16, 16)),
    "cmyk.tif": PILLOW.convert("CMYK").save,
    "cmyk.jpg": PILLOW.convert("CMYK").save,
    "rotated.jpg": lambda p: PILLOW.transpose(Image.Transpose.ROTATE_90).save(p, exif=turned(6)),
    "mirrored.webp": lambda p: PILLOW.save(p, exif=turned(2)),
    "nonsense.png": lambda p: PILLOW.save(p, exif=turned(9)),
    "channels_last.npy": lambda p: np.save(p, RGB),
    "fortran_order.npy": lambda p: np.save(p, np.asfortranarray(RGB)),
  },
  (3, np.uint16): {
    "wide.tif": lambda p: tifffile.imwrite(p, WIDE, photometric="rgb"),
    "big_endian.tif": lambda p: tifffile.imwrite(p, WIDE, photometric="rgb", byteorder=">"),
    "wide.png": lambda p: files.write(p, WIDE),
    "wide.npy": lambda p: np.save(p, WIDE),
    "big_endian.npy": lambda p: np.save(p, WIDE.astype(">u2")),
    "double.npy": lambda p: np.save(p, RGB / 255),
    "half.npy": lambda p: np.save(p, (RGB > 99).astype(np.float16)),
  },
  (1, np.uint8): {
    "grey.png": Image.fromarray(GREY).save,
    "grey.pgm": Image.fromarray(GREY).save,
    "bits.png": Image.fromarray(GREY).convert("1").save,
    "bits.tif": Image.fromarray(GREY).convert("1").save,
    "bits.bmp": Image.fromarray(GREY).convert("1").save,
    "bits.pbm": Image.fromarray(GREY).convert("1").save,
    "white_is_zero.tif": lambda p: tifffile.imwrite(p, GREY, photometric="miniswhite"),
    "bool.npy": lambda p: np.save(p, GREY > 99),
    "no_channel_axis.npy": lambda p: np.save(p, GREY),
  },
  (1, np.uint16): {
    "grey.png": Image.fromarray(GREY.astype(np.uint16) * 257).save,
    "grey.tif": lambda p: tifffile.imwrite(p, WIDE[..., 0]),
    "white_is_zero.tif": lambda p: tifffile.imwrite(p, WIDE[..., 0], photometric="miniswhite"),
  },
  (2, np.uint8): {"alpha.png": lambda p: Image.fromarray(np.stack([GREY, ALPHA], -1), "LA").save(p)},
  (4, np.uint8): {"alpha.png": Image.fromarray(VALUES).save, "alpha.tif": Image.fromarray(VALUES).save},
}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form[0]}x{np.dtype(form[1]).name}")
def test_training_and_translation_see_the_same_numbers(tmp_path, form):
  channels, dtype = form
  for side in "AB":
    (tmp_path / "raw" / side / "train").mkdir(parents=True)
  for name, save in FORMS[form].items():
    number = len(list((tmp_path / "raw/A/train").iterdir()))
    path = tmp_path / "raw/A/train" / f"{number}_{name}"
    save(path)
    files.write(tmp_path / "raw/B/train" / f"{path.stem}.png", RGB)
  config = folder_config.get_config()
  settings = {"source_dir": str(tmp_path / "raw"), "prepared_dir": str(tmp_path / "prepared"), "input_kind": "image"}
  config.data.update(settings)
  split = pipeline.load_split(prepare.prepare(config.data), "train", SIZE, cache_gib=1)
  signal = signals.Image(channels, np.dtype(dtype).name)
  paths = list((tmp_path / "raw/A/train").iterdir())
  read = {path.stem: signal.store(translation.read(signal, path).images[0]) for path in paths}
  assert sorted(split.ids) == sorted(read) and len(read) == len(FORMS[form])
  for id_, trained in zip(split.ids, split.arrays["input"]):
    assert (trained.dtype, trained.shape) == (dtype, (*SIZE, channels))
    np.testing.assert_array_equal(trained, read[id_], err_msg=id_)
    assert np.ptp(trained) > 0


# --- One run for all commands


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """(workdir, raw folder) of a short run on a folder of images."""
  root = tmp_path_factory.mktemp("cases")
  rng = np.random.default_rng(1)
  for side in "AB":
    for split, count in (("train", 4), ("val", 3)):
      for number in range(count):
        files.write(root / "raw" / side / split / f"{number}.png", rng.integers(0, 256, (16, 16, 3), np.uint8))
  fields = {"data__name": "folder", "data__source_dir": str(root / "raw"), "data__prepared_dir": str(root / "prepared")}
  train_and_evaluate(tiny_config(**fields, data__load_size=16, train__num_steps=2), root / "run")
  return root / "run", root / "raw"


def test_evaluate_and_translate_agree_on_every_image(trained, tmp_path, capsys):
  workdir, raw = trained
  evaluate.evaluate(workdir, split="val", dropout=False, baseline=("none",))
  table = next(path for path in (workdir / "eval").glob("*dropout=off*/per_image.csv"))
  translate.main([f"--workdir={workdir}", f"--input={raw / 'A/val'}", f"--output={tmp_path}", "--dropout=off"])
  said = capsys.readouterr().out
  rows = list(csv.DictReader(table.open()))
  assert [row["id"] for row in rows] == ["0", "1", "2"]
  for row in rows:
    translated, target = (files.read(path / f"{row['id']}.png") / 255 for path in (tmp_path, raw / "B/val"))
    error = np.abs(translated - target).mean()
    np.testing.assert_allclose(error, float(row["l1"]), atol=0.5 / 255)  # PNG is rounded
  with checkpoint.Checkpointer(workdir, config=config_lib.read(workdir), read_only=True) as checkpointer:
    step, value = checkpointer.best()
  assert f"Checkpoint: step {step}, best ssim ({value:.4f})." in said


@pytest.mark.parametrize("asked, said", [("latest", "step 2, the newest"), ("2", "step 2")])
def test_translate_names_the_checkpoint(trained, tmp_path, capsys, asked, said):
  workdir, raw = trained
  translate.main([f"--workdir={workdir}", f"--input={raw / 'A/val/0.png'}", f"--output={tmp_path}", f"--step={asked}"])
  assert f"Checkpoint: {said}.\n" in capsys.readouterr().out


# --- Measurements


def test_an_image_without_any_measurement_changes_no_mean():
  rng = np.random.default_rng(2)
  x = rng.integers(0, 256, (6, 16, 16, 3), np.uint8)
  y = rng.uniform(1, 70, (6, 16, 16, 1)).astype(np.float32)
  settings = {"model.base_features": 2, "model.patch": 1, "train.compilation_cache": "none", "train.num_steps": 1}
  fitted = p2p.fit(x, y, target_kind="depth", overrides=settings, verbose=0)
  measured = fitted.evaluate(x[:2], y[:2])
  assert measured["rmse"] > 0 and np.isfinite(measured["l1"])
  y[2:] = np.array([0, -1, np.nan, np.inf]).reshape(4, 1, 1, 1)
  with_empty = fitted.evaluate(x, y)
  for name in ("l1", "psnr", "rmse", "mae", "abs_rel", "delta1"):
    np.testing.assert_allclose(with_empty[name], measured[name], rtol=1e-6, err_msg=name)


# --- Names of workdirs

NAMES = [
  "with space",
  " leading and trailing ",
  "(1)",
  "run #3",
  "[x]",
  "[a-c]",
  "[256px",
  "100%",
  "a%20b",
  "q'uo\"te",
  "a{b},c",
  "a&b=c;d",
  "a+b@c",
  "$HOME ~",
  "日本",
  unicodedata.normalize("NFD", "é"),
  "-leading",
  "--workdir=x",
  ".hidden",
  "7",
  "default.orbax-checkpoint-tmp-1",
]
NAMES_OF_POSIX = ["what?", "st*r", "a:b", "gs:x", "a|b", "<a>", "a\tb\n", "a\\b", "back\\", "[0]\\?*"]


@pytest.mark.parametrize("name", NAMES + NAMES_OF_POSIX * (os.name == "posix"))
def test_checkpoints_of_a_workdir_of_any_name_can_be_read_again(tmp_path, name):
  if sys.platform != "linux" and set(name) & set("[?*\\"):
    pytest.skip("refused on this system")
  sharding = jax.sharding.NamedSharding(make_mesh(), jax.sharding.PartitionSpec())
  network = lambda value: NetworkState({"kernel": jnp.full((4, 4), value)}, {}, {"mu": jnp.full(4, value)})
  for step, value in ((4, 0.1), (6, 0.2)):
    state = jax.device_put(TrainState(jnp.int32(step), network(1.0), network(2.0)), sharding)
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state)
    with checkpoint.Checkpointer(tmp_path / name) as checkpointer:
      checkpointer.save(step, state, {"l1": value})
  with checkpoint.Checkpointer(tmp_path / name, read_only=True) as checkpointer:
    assert checkpointer.best() == (4, 0.1) and checkpointer.resolve_step("latest") == 6
    variables = checkpointer.restore_variables(4)
    restored = checkpointer.restore(6, like)
  np.testing.assert_array_equal(variables["discriminator"]["params"]["kernel"], np.full((4, 4), 2))
  for one, other in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
    np.testing.assert_array_equal(one, other)
  assert [path.name for path in tmp_path.iterdir()] == [name], "a stray folder"


@pytest.mark.skipif(sys.platform != "linux", reason="refused on this system")
def test_a_run_in_a_workdir_of_any_name(trained, tmp_path, capsys):
  """Trained, resumed and used."""
  _, raw = trained
  workdir = tmp_path / "runs [256px]" / unicodedata.normalize("NFD", "#1?*{é}%20\\b")
  fields = {"data__name": "folder", "data__source_dir": str(raw), "data__prepared_dir": str(tmp_path / "prepared")}
  for steps in (2, 3):
    train_and_evaluate(tiny_config(**fields, data__load_size=16, train__num_steps=steps), workdir)
  assert "Resuming from step 2." in capsys.readouterr().out
  translate.main([f"--workdir={workdir}", f"--input={raw / 'A/val'}", f"--output={tmp_path / 'out'}", "--step=latest"])
  assert "Checkpoint: step 3, the newest.\n3 of 3 images" in capsys.readouterr().out
