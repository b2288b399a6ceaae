"""The translate command on real files: formats, names, a broken file, depth, samples, tiles."""

from contextlib import nullcontext
import os
import subprocess
import sys
import time
import unicodedata
import weakref
import zlib

import numpy as np
from PIL import Image
import pytest
import tifffile
from tiny_runs import make_translator

from pix2pix_jax import translate
from pix2pix_jax.data import files, resizing
from pix2pix_jax.errors import UsageError
from pix2pix_jax.inference import Translator
from pix2pix_jax.run import translation


def depth_translator(**fields):
  kinds = {"data__input_kind": "depth", "data__target_kind": "depth"}
  types = {"data__input_dtype": "float32", "data__target_dtype": "float32"}
  return make_translator(model__input_channels=1, model__output_channels=1, **kinds, **types, **fields)


@pytest.fixture(scope="module")
def translator():
  return make_translator()


@pytest.fixture
def run(monkeypatch, translator):
  """The command line with an untrained translator in place of a workdir."""

  def call(*arguments, using=translator):
    monkeypatch.setattr(Translator, "load", lambda workdir, step: using)
    translate.main(["--workdir=any", *map(str, arguments)])

  return call


def draw(shape=(16, 24, 3), dtype=np.uint8, seed=0):
  return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def names_below(folder):
  return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


class Recorder:
  """A translator that keeps the shapes it was called with."""

  def __init__(self, translator):
    self._translator, self.shapes = translator, []

  def __getattr__(self, name):
    return getattr(self._translator, name)

  def __call__(self, images, **options):
    self.shapes.append(images.shape)
    return self._translator(images, **options)


def test_one_file_of_odd_size(tmp_path, run, translator, capsys):
  files.write(tmp_path / "in.png", draw((13, 21, 3)))
  run(f"--input={tmp_path / 'in.png'}", f"--output={tmp_path / 'out.png'}")
  np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), translator(draw((13, 21, 3))))
  assert capsys.readouterr().out == f"1 of 1 image translated: {tmp_path / 'out.png'}.\n"


def test_a_folder_keeps_subfolders_and_names_and_does_the_rest_when_a_file_is_broken(tmp_path, run, translator, capsys):
  for name in ("a.png", "sub/c.tiff", "d.npy"):
    files.write(tmp_path / "in" / name, draw())
  for name in ("sub/b.jpg", "e.webp", "f.bmp"):
    Image.fromarray(draw()).save(tmp_path / "in" / name)
  whole = (tmp_path / "in/a.png").read_bytes()
  (tmp_path / "in/broken.png").write_bytes(whole[: len(whole) // 2])
  (tmp_path / "in/notes.txt").write_text("not an image")
  (tmp_path / "in/._a.png").write_bytes(b"\0\5\x16\7")
  with pytest.raises(SystemExit) as stop:
    run(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}")
  assert stop.value.code == 1
  said = capsys.readouterr()
  assert said.err.count("broken.png") == 1 and "6 of 7 images translated: " in said.out and "and 3 more." in said.out
  assert "Left out, because their format is unknown: " in said.out and "notes.txt" in said.out
  assert names_below(tmp_path / "out") == {"a.png", "sub/b.png", "sub/c.tiff", "d.npy", "e.png", "f.png"}
  np.testing.assert_array_equal(tifffile.imread(tmp_path / "out/sub/c.tiff"), translator(draw()))
  np.testing.assert_array_equal(np.load(tmp_path / "out/d.npy"), translator(draw()))


# --- Names


def test_inputs_that_would_share_an_output_get_their_suffixes_into_the_name(tmp_path, run, translator):
  files.write(tmp_path / "in/a.png", draw())
  files.write(tmp_path / "in/sub/a.png", draw())
  Image.fromarray(draw(seed=1)).save(tmp_path / "in/a.bmp")
  files.write(tmp_path / "in/z.png", draw())
  run(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}")
  assert names_below(tmp_path / "out") == {"a_png.png", "a_bmp.png", "sub/a.png", "z.png"}
  np.testing.assert_array_equal(files.read(tmp_path / "out/a_bmp.png"), translator(draw(seed=1)))


def test_collisions_that_remain_are_refused(tmp_path, run):
  files.write(tmp_path / "in/a.png", draw())
  files.write(tmp_path / "in/a_bmp.png", draw())
  Image.fromarray(draw()).save(tmp_path / "in/a.bmp")
  with pytest.raises(UsageError, match="a.bmp.*would be written to the same file"):
    run(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}")
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("link", [os.symlink, os.link, None])
def test_an_output_never_replaces_an_input(tmp_path, run, link):
  files.write(tmp_path / "in/a.png", draw())
  before = (tmp_path / "in/a.png").read_bytes()
  target = tmp_path / "in/a.png"
  if link:
    target = tmp_path / "other.png"
    link(tmp_path / "in/a.png", target)
  with pytest.raises(UsageError, match="would replace inputs: .*png. Choose another --output"):
    run(f"--input={tmp_path / 'in/a.png'}", f"--output={target}", "--overwrite")
  with pytest.raises(UsageError, match="is the input folder"):
    run(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'in/../in'}", "--overwrite")
  with pytest.raises(UsageError, match="would replace inputs"):
    run(f"--input={tmp_path}/in/*.png", f"--output={tmp_path / 'in'}", "--overwrite")
  assert (tmp_path / "in/a.png").read_bytes() == before


@pytest.mark.parametrize("pattern", ["in", "in/**/*.png"])
def test_outputs_below_the_input_folder_are_no_inputs(tmp_path, run, pattern):
  files.write(tmp_path / "in/a.png", draw())
  files.write(tmp_path / "in/sub/b.png", draw())
  for _ in range(2):
    run(f"--input={tmp_path}/{pattern}", f"--output={tmp_path / 'in/out'}", "--overwrite")
  assert names_below(tmp_path / "in/out") == {"a.png", "sub/b.png"}


@pytest.mark.parametrize(
  "name",
  [
    "a b.png",
    "[x].png",
    "a[0-9].png",
    "what?.png",
    "st*r.png",
    "back\\slash.png",
    "日本 é.png",
    "a'b\"c.png",
    "%20.png",
  ],
)
def test_names_are_taken_literally(tmp_path, run, name):
  folder = tmp_path / f"in {name}"
  for each in (name, unicodedata.normalize("NFD", f"x{name}")):
    files.write(folder / each, draw())
  run(f"--input={folder / name}", f"--output={tmp_path / 'one'}")
  assert names_below(tmp_path / "one") == {name}
  run(f"--input={folder}", f"--output={tmp_path / f'all {name} d'}")
  run(f"--input={folder}/*", f"--output={tmp_path / 'glob'}")
  assert names_below(tmp_path / "glob") == names_below(tmp_path / f"all {name} d") == names_below(folder)


def test_a_pattern_over_folders_keeps_their_names(tmp_path, run):
  for folder in ("one", "two"):
    files.write(tmp_path / folder / "x/a.png", draw())
  run(f"--input={tmp_path}/*/x/a.png", f"--output={tmp_path / 'out'}")
  assert names_below(tmp_path / "out") == {"one/x/a.png", "two/x/a.png"}


def test_linked_folders_are_inputs(tmp_path, run):
  files.write(tmp_path / "disk/a.png", draw())
  (tmp_path / "in").mkdir()
  (tmp_path / "in/linked").symlink_to(tmp_path / "disk")
  (tmp_path / "in/loop").symlink_to(tmp_path / "in")
  run(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}")
  assert names_below(tmp_path / "out") == {"linked/a.png"}


def test_existing_outputs_need_overwrite(tmp_path, run):
  files.write(tmp_path / "in.png", draw())
  (tmp_path / "out.png").write_bytes(b"precious")
  with pytest.raises(UsageError, match="out.png already exists.*--overwrite"):
    run(f"--input={tmp_path / 'in.png'}", f"--output={tmp_path / 'out.png'}")
  assert (tmp_path / "out.png").read_bytes() == b"precious"
  run(f"--input={tmp_path / 'in.png'}", f"--output={tmp_path / 'out.png'}", "--overwrite")
  assert Image.open(tmp_path / "out.png").size == (24, 16)


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--input=nowhere", "--output=out"], r"'nowhere' does not exist\. Give a file, a folder or a pattern"),
    (["--input={folder}/tow", "--output=out"], r"tow' does not exist; did you mean .*/two\? Give"),
    (["--input={folder}/empty", "--output=out"], r"empty' holds no image\. Images are PNG"),
    (["--input={folder}/[x].png", "--output=out"], r"matches no image\. Images are PNG"),
    (["--input={folder}/text", "--output=out"], "holds .*notes.txt"),
    (["--input={folder}/a.png", "--output={folder}/out.jpg"], "out.jpg.*not written as .jpg.*Choose one of .png, .tif"),
    (["--input={folder}/a.png", "--output={folder}/out.GIF"], "out.GIF.*Choose one of"),
    (["--input={folder}/two", "--output={folder}/out.png"], "out.png' is one file, but there are 2 inputs"),
    (["--input={folder}/two", "--output={folder}/text/notes.txt"], "notes.txt' is an existing file. Name a folder"),
    (["--input={folder}/a.png", "--output={folder}/a.png/"], "a.png' is an existing file. Name a folder"),
    (["--input={folder}", "--output=out", "--samples=0"], "--samples is 0"),
    (["--input={folder}", "--output=out", "--batch_size=0"], "--batch_size is 0"),
    (["--input={folder}", "--output=out", "--tile=0"], "--tile is 0"),
    (["--input={folder}", "--output=out", "--seed=-1"], "--seed is -1"),
    (["--input={folder}", "--output=out", "--resize=0"], "--resize is '0'; give a height"),
    (["--input={folder}", "--output=out", "--resize=64x"], "--resize is '64x'; give a height"),
    (["--input={folder}", "--output=out", "--resize=-64"], "--resize is '-64'; give a height"),
    (["--input={folder}", "--output=out", "--resize=1.5"], "--resize is '1.5'; give a height"),
  ],
)
def test_wrong_arguments_are_explained_before_any_work(tmp_path, run, arguments, message):
  for name in ("a.png", "two/1.png", "two/2.png"):
    files.write(tmp_path / name, draw())
  for name in ("text", "empty"):
    (tmp_path / name).mkdir()
  (tmp_path / "text/notes.txt").touch()
  with pytest.raises(UsageError, match=message):
    run(*(argument.format(folder=tmp_path) for argument in arguments), using=None)


@pytest.mark.parametrize("inputs", ["in/a.png", "in"])
def test_a_trailing_slash_means_a_folder(tmp_path, run, inputs, capsys):
  files.write(tmp_path / "in/a.png", draw())
  run(f"--input={tmp_path / inputs}", f"--output={tmp_path}/out.png/")
  assert names_below(tmp_path / "out.png") == {"a.png"}
  assert capsys.readouterr().out == f"1 of 1 image translated: {tmp_path / 'out.png/a.png'}.\n"


def test_unsupported_inputs_name_a_few_suffixes_and_help_lists_all(tmp_path, capsys):
  with pytest.raises(UsageError, match="PNG, JPEG, TIFF, .npy and others; .* --help") as error:
    translate.find_inputs(str(tmp_path))
  assert len(str(error.value)) < 250 + len(str(tmp_path))
  with pytest.raises(SystemExit, match="0"):
    translate.main(["--help"])
  assert set(files.SUFFIXES) <= set(capsys.readouterr().out.split())


# --- Options


def test_samples_differ_and_a_seed_repeats_them(tmp_path, run):
  files.write(tmp_path / "in.png", draw())
  for name in ("one", "two"):
    run(f"--input={tmp_path / 'in.png'}", f"--output={tmp_path / name}", "--samples=4", "--seed=3")
  written = sorted((tmp_path / "one").iterdir())
  assert [path.name for path in written] == [f"in_{n}.png" for n in range(4)]
  assert len({path.read_bytes() for path in written}) == 4
  assert all(path.read_bytes() == (tmp_path / "two" / path.name).read_bytes() for path in written)


@pytest.mark.parametrize("flag", ["--side_by_side", "--side-by-side"])
def test_a_pattern_and_side_by_side(tmp_path, run, flag, translator):
  for n in range(3):
    files.write(tmp_path / f"in{n}.tif", draw())
  run(f"--input={tmp_path}/in[01].tif", f"--output={tmp_path / 'out'}", flag)
  assert names_below(tmp_path / "out") == {"in0.png", "in1.png"}
  both = files.read(tmp_path / "out/in0.png")
  np.testing.assert_array_equal(both[:, :24], draw())
  np.testing.assert_array_equal(both[:, 24:], translator(draw()))


def test_tiles_on_the_command_line(tmp_path, run):
  files.write(tmp_path / "in.png", draw((50, 70, 3)))
  run(f"--input={tmp_path / 'in.png'}", f"--output={tmp_path / 'out.png'}", "--tile=32")
  assert Image.open(tmp_path / "out.png").size == (70, 50)


def test_a_tile_that_is_no_multiple_is_said(tmp_path, run, translator, capsys):
  assert translator.multiple == 8
  files.write(tmp_path / "in.png", draw())
  run(f"--input={tmp_path / 'in.png'}", f"--output={tmp_path / 'one.png'}", "--tile=13")
  assert capsys.readouterr().out.startswith("--tile=13 is rounded up to 16, a multiple of 8.\n1 of 1 image")
  run(f"--input={tmp_path / 'in.png'}", f"--output={tmp_path / 'two.png'}", "--tile=16")
  assert "rounded" not in capsys.readouterr().out
  assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


# --- Sizes


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape, size", [((64, 96, 3), (16, 24)), ((17, 30, 4), (40, 50)), ((50, 50, 1), (25, 70))])
def test_images_are_resampled_as_in_training(dtype, shape, size):
  tf = pytest.importorskip("tensorflow")
  largest = 1 if dtype == np.float32 else np.iinfo(dtype).max
  values = np.random.default_rng(0).uniform(0, largest, shape).astype(dtype)
  resized = resizing.resize(values, size, "bicubic")
  expected = tf.image.resize(values, size, "bicubic", antialias=True).numpy().clip(0, largest)
  assert resized.dtype == dtype
  np.testing.assert_allclose(resized, expected, rtol=0, atol=1e-5 if largest == 1 else 0.5 + 2e-6 * largest)


def test_shrinking_is_antialiased():
  stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))[..., None]
  assert set(np.unique(resizing.resize(stripes, (16, 16), "bicubic")[2:-2, 2:-2])) <= {127, 128}


def test_label_maps_gain_no_colours():
  tf = pytest.importorskip("tensorflow")
  labels = draw((17, 30, 3)) // 128 * 255
  resized = resizing.resize(labels, (40, 25), "nearest")
  np.testing.assert_array_equal(resized, tf.image.resize(labels, (40, 25), "nearest").numpy())


@pytest.mark.parametrize("shape, size", [((64, 96, 1), (16, 24)), ((17, 30, 1), (40, 50)), ((50, 50, 2), (25, 70))])
def test_depth_is_resampled_as_in_training(shape, size):
  tf = pytest.importorskip("tensorflow")
  metres = np.random.default_rng(0).uniform(0, 80, shape).astype(np.float32)
  resized = resizing.resize(metres, size, "nearest")
  np.testing.assert_array_equal(resized, tf.image.resize(metres, size, "nearest").numpy())


@pytest.mark.parametrize(
  "option, shape", [("16", (16, 32)), ("16x24", (16, 24)), ("16X24", (16, 24)), ("16×24", (16, 24)), ("7x1", (7, 1))]
)
def test_resize_on_the_command_line(tmp_path, run, translator, option, shape):
  values = draw((50, 100, 3))
  files.write(tmp_path / "in.png", values)
  run(f"--input={tmp_path / 'in.png'}", f"--output={tmp_path / 'out.png'}", f"--resize={option}")
  written = files.read(tmp_path / "out.png")
  assert written.shape == (*shape, 3)
  np.testing.assert_array_equal(written, translator(resizing.resize(values, shape, "bicubic")))


@pytest.mark.parametrize("shape, far", [((16, 24), 0), ((22, 33), 0), ((23, 35), 1), ((8, 12), 1), ((12, 37), 1)])
def test_a_size_that_is_far_from_that_of_validation_is_hinted_at(tmp_path, run, capsys, shape, far):
  files.write(tmp_path / "in/a.png", draw((*shape, 3)))
  files.write(tmp_path / "in/b.png", draw())
  run(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}")
  hint = f"Hint: a.png {shape[1]}×{shape[0]} (width × height) differs much from the size of validation images, 24×16."
  said = capsys.readouterr().out
  assert said.count(hint) == said.count("Hint") == said.count("--resize=16x24 (HEIGHTxWIDTH) resizes") == far
  run(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--overwrite", "--resize=16x24")
  assert "Hint" not in capsys.readouterr().out


@pytest.mark.parametrize("shapes, hints", [([(16, 48), (32, 96)], 1), ([(16, 48), (16, 24)], 0)])
def test_files_that_may_hold_pairs_side_by_side_are_noticed(tmp_path, run, capsys, shapes, hints):
  for number, shape in enumerate(shapes):
    files.write(tmp_path / f"in/{number}.png", draw((*shape, 3)))
  run(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}")
  assert capsys.readouterr().out.count("twice as wide as validation images, 24×16") == hints


@pytest.mark.parametrize("name, refused", [("o.txt", True), ("o.jason", True), ("o.txt/", False), ("v1.2", False)])
def test_a_folder_is_not_named_like_a_file(tmp_path, run, name, refused):
  files.write(tmp_path / "in.png", draw((16, 24, 3)))
  with pytest.raises(UsageError, match="looks like a file.*that of a folder with /") if refused else nullcontext():
    run(f"--input={tmp_path / 'in.png'}", f"--output={tmp_path}/{name}")
  assert (tmp_path / name).is_dir() != refused


# --- Numbers


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_stay_sixteen_bits(tmp_path, run, suffix, channels):
  using = make_translator(
    model__input_channels=channels,
    model__output_channels=channels,
    data__input_dtype="uint16",
    data__target_dtype="uint16",
  )
  values = draw((16, 16, channels), np.uint16)
  files.write(tmp_path / f"in{suffix}", values)
  run(f"--input={tmp_path / f'in{suffix}'}", f"--output={tmp_path / f'out{suffix}'}", using=using)
  written = files.read(tmp_path / f"out{suffix}")
  assert written.dtype == np.uint16 and len(np.unique(written)) > 200, "8 bits could not tell so many apart"
  np.testing.assert_array_equal(written, using(values))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_a_network_that_copies_loses_none_of_65536_levels(tmp_path, run, suffix):
  using = make_translator(
    model__input_channels=1, model__output_channels=1, data__input_dtype="uint16", data__target_dtype="uint16"
  )
  using._generate = lambda variables, images, key, **switches: images
  levels = np.random.default_rng(0).permutation(65536).astype(np.uint16).reshape(256, 256, 1)
  files.write(tmp_path / f"in{suffix}", levels)
  run(f"--input={tmp_path / f'in{suffix}'}", f"--output={tmp_path / f'out{suffix}'}", using=using)
  np.testing.assert_array_equal(files.read(tmp_path / f"out{suffix}"), levels)


def test_forms_of_one_image_give_one_result(tmp_path, run, translator):
  """What training reads, with the model's channels: the same bits for each form."""
  grey = draw((16, 24, 1))
  rgb = np.repeat(grey, 3, -1)
  files.write(tmp_path / "in/grey.png", grey)
  files.write(tmp_path / "in/rgb.png", rgb)
  files.write(tmp_path / "in/rgba.png", np.concatenate([rgb, np.full_like(grey, 255)], -1))
  grey_alpha = np.concatenate([grey, np.full_like(grey, 255)], -1)
  tifffile.imwrite(tmp_path / "in/la.tif", grey_alpha, photometric="minisblack", extrasamples=["unassalpha"])
  tifffile.imwrite(tmp_path / "in/white.tif", 255 - grey[..., 0], photometric="miniswhite")
  tifffile.imwrite(tmp_path / "in/planes.tif", np.moveaxis(rgb, -1, 0), photometric="rgb", planarconfig="separate")
  Image.fromarray(rgb).save(tmp_path / "in/lzw.tif", compression="tiff_lzw")
  palette = Image.fromarray(grey[..., 0], "P")
  palette.putpalette(np.repeat(np.arange(256, dtype=np.uint8), 3).tobytes())
  palette.save(tmp_path / "in/palette.png")
  exif = Image.Exif()
  exif[274] = 6
  Image.fromarray(np.rot90(rgb)).save(tmp_path / "in/phone.png", exif=exif)
  run(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--batch_size=1")
  written = sorted((tmp_path / "out").iterdir())
  assert len(written) == 9
  for path in written:
    np.testing.assert_array_equal(files.read(path), translator(rgb), err_msg=path.name)


@pytest.mark.parametrize("wanted, have", [(3, 2), (3, 4), (1, 2), (1, 4), (2, 1), (4, 3)])
def test_bands_that_are_no_colours_are_refused(tmp_path, run, capsys, wanted, have):
  using = make_translator(model__input_channels=wanted)
  bands = draw((16, 24, have), np.uint16)
  (tmp_path / "in").mkdir()
  tifffile.imwrite(tmp_path / "in/a.tif", bands, photometric="minisblack", planarconfig="contig" if have > 1 else None)
  np.save(tmp_path / "in/b.npy", bands)
  with pytest.raises(SystemExit):
    run(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", using=using)
  found = capsys.readouterr().err
  assert "in/a.tif" in found and "in/b.npy" in found
  assert f"has {have} channel" in found and f"but {wanted} {'is' if wanted == 1 else 'are'} needed" in found
  assert not (tmp_path / "out").exists()


def test_float_images_are_written_as_the_format_allows(tmp_path, run, translator):
  values = np.random.default_rng(0).uniform(size=(16, 24, 3)).astype(np.float32)
  np.save(tmp_path / "in.npy", values)
  for suffix in (".npy", ".tif", ".png"):
    run(f"--input={tmp_path / 'in.npy'}", f"--output={tmp_path / f'out{suffix}'}")
  result = translator(values)
  np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), result)
  np.testing.assert_array_equal(files.read(tmp_path / "out.tif"), result)
  np.testing.assert_array_equal(files.read(tmp_path / "out.png"), np.round(result * 255))


def test_more_channels_than_png_holds(tmp_path, run):
  using = make_translator(model__output_channels=5)
  files.write(tmp_path / "in/a.png", draw())
  files.write(tmp_path / "in/b.npy", draw())
  run(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", using=using)
  assert names_below(tmp_path / "out") == {"a.tif", "b.npy"}
  assert files.read(tmp_path / "out/a.tif").shape == (16, 24, 5)
  with pytest.raises(UsageError, match="PNG holds 1 to 4 channels.*not 5"):
    run(f"--input={tmp_path / 'in/a.png'}", f"--output={tmp_path / 'x.png'}", using=using)


@pytest.mark.parametrize("scale", [0.0, 1000.0])
def test_depth_in_and_out_as_integers_of_a_scale(tmp_path, run, scale, capsys):
  using = depth_translator(data__input_scale=scale, data__target_scale=scale, data__depth_range=(0.0, 256.0))
  divisor = scale or 256  # KITTI's
  values = draw((16, 16, 1), np.uint16)
  files.write(tmp_path / "in.png", values)
  run(f"--input={tmp_path / 'in.png'}", f"--output={tmp_path / 'out.png'}", using=using)
  assert ("in.png was read as metres · 256" in capsys.readouterr().out) == (not scale)
  expected = using(values.astype(np.float32) / np.float32(divisor))
  written = files.read(tmp_path / "out.png")
  assert written.dtype == np.uint16
  np.testing.assert_allclose(written / divisor, np.minimum(expected, 65535 / divisor), atol=0.5 / divisor + 1e-4)
  for suffix in (".npy", ".tif"):
    run(f"--input={tmp_path / 'in.png'}", f"--output={tmp_path / f'out{suffix}'}", using=using)
    written = files.read(tmp_path / f"out{suffix}")
    assert written.dtype == np.float32
    np.testing.assert_array_equal(written, expected)
  capsys.readouterr()
  files.write(tmp_path / "in.tif", values)
  run(f"--input={tmp_path / 'in.tif'}", f"--output={tmp_path / 'rows.tif'}", "--tile=16", using=using)  # streamed
  assert ("in.tif was read as metres · 256" in capsys.readouterr().out) == (not scale)
  files.write(tmp_path / "metres.npy", expected[..., 0])
  capsys.readouterr()
  run(f"--input={tmp_path / 'metres.npy'}", f"--output={tmp_path / 'of_metres.npy'}", using=using)
  assert "was read as" not in capsys.readouterr().out


def test_a_range_error_says_how_integers_were_read(tmp_path, run, capsys):
  files.write(tmp_path / "mm.png", np.full((16, 16, 1), 3500, np.uint16))  # 3.5 m; 13.7 m as KITTI writes them
  using = depth_translator(data__depth_range=(0.0, 10.0))
  with pytest.raises(SystemExit):
    run(f"--input={tmp_path / 'mm.png'}", f"--output={tmp_path / 'out.npy'}", using=using)
  said = capsys.readouterr().err
  assert "the depth range is 0 to 10 m" in said and "mm.png was read as metres · 256, KITTI's encoding" in said


def test_holes_of_every_spelling_give_the_same_bits(tmp_path, run):
  metres = np.random.default_rng(0).uniform(1, 70, (16, 24)).astype(np.float32)
  (tmp_path / "in").mkdir()
  for name, hole in {"zero": 0, "minus": -1, "nan": np.nan, "inf": np.inf, "minus_inf": -np.inf}.items():
    holed = metres.copy()
    holed[3:7, 5:12] = hole
    np.save(tmp_path / f"in/{name}.npy", holed)
    np.save(tmp_path / f"in/{name}_double.npy", holed.astype(np.float64))
    tifffile.imwrite(tmp_path / f"in/{name}_tiff.tif", holed)
  run(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--batch_size=1", using=depth_translator())
  written = sorted((tmp_path / "out").iterdir())
  results = [files.read(path) for path in written]
  assert len(results) == 15 and np.isfinite(results[0]).all() and np.ptp(results[0]) > 0
  for path, result in zip(written, results):
    np.testing.assert_array_equal(result, results[0], err_msg=path.name)


def test_depth_beside_its_input_shows_holes_in_black(tmp_path, run):
  metres = np.full((16, 24, 1), 40, np.float32)
  metres[:8] = np.nan
  files.write(tmp_path / "in.npy", metres)
  run(f"--input={tmp_path / 'in.npy'}", f"--output={tmp_path / 'out'}", "--side_by_side", using=depth_translator())
  both = files.read(tmp_path / "out/in.png")
  assert both.shape == (16, 48, 3) and not both[:8, :24].any() and both[8:, :24].any(-1).all()


def test_integers_that_are_no_depth_are_refused(tmp_path, run, capsys):
  files.write(tmp_path / "in/8bit.png", draw((16, 16, 1)))
  files.write(tmp_path / "in/rgb16.png", draw((16, 16, 3), np.uint16))
  with pytest.raises(SystemExit):
    run(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", using=depth_translator())
  lines = capsys.readouterr().err.splitlines()
  assert any("8bit.png holds uint8, but depth is float metres" in line for line in lines)
  assert any("rgb16.png" in line and "1 channel" in line for line in lines)


# --- Batches


@pytest.fixture
def assorted(tmp_path):
  """A folder of twenty different images with two sizes in turn, and one that is alone in its size."""
  for n in range(20):
    files.write(tmp_path / f"in/{n}.png", draw((16, 24, 3) if n % 3 else (13, 21, 3), seed=n))
  files.write(tmp_path / "in/20.png", draw((8, 8, 3)))
  return tmp_path / "in"


@pytest.mark.parametrize("samples", [1, 2])
def test_images_of_equal_size_are_computed_together_to_the_same_results(tmp_path, run, translator, assorted, samples):
  recorder = Recorder(translator)
  run(
    f"--input={assorted}",
    f"--output={tmp_path / 'out'}",
    "--batch_size=4",
    "--seed=5",
    f"--samples={samples}",
    using=recorder,
  )
  # 13 and 7 of two sizes; the last, short batch of each is filled up.
  assert sorted(recorder.shapes) == sorted([(4, 16, 24, 3)] * 4 + [(4, 13, 21, 3)] * 2 + [(8, 8, 3)])
  for path in assorted.iterdir():
    expected = translator(np.asarray(Image.open(path)), num_samples=samples, seed=5)
    for n, sample in enumerate(expected):
      written = np.asarray(Image.open(tmp_path / "out" / (f"{path.stem}_{n}.png" if samples > 1 else path.name)))
      assert np.abs(written.astype(int) - sample).max() <= 1, "more than rounding"


def test_an_image_alone_has_the_bits_of_the_translator(tmp_path, run, translator, assorted):
  recorder = Recorder(translator)
  run(f"--input={assorted}", f"--output={tmp_path / 'out'}", "--batch_size=1", using=recorder)
  assert all(len(shape) == 3 for shape in recorder.shapes)
  for path in assorted.iterdir():
    np.testing.assert_array_equal(
      np.asarray(Image.open(tmp_path / "out" / path.name)), translator(np.asarray(Image.open(path)))
    )


@pytest.mark.parametrize("flag", ["--norm_stats=batch", "--tile=16"])
def test_options_that_depend_on_the_batch_compute_images_alone(tmp_path, run, translator, assorted, flag):
  recorder = Recorder(translator)
  run(f"--input={assorted}", f"--output={tmp_path / 'out'}", flag, using=recorder)
  assert len(recorder.shapes) == 21 and all(len(shape) == 3 for shape in recorder.shapes)


def test_a_broken_file_does_not_sink_its_batch(tmp_path, run, translator, capsys):
  (tmp_path / "in").mkdir()
  images = {n: np.random.default_rng(n).uniform(size=(16, 24, 3)).astype(np.float32) for n in range(6)}
  images[2] = images[2] * 200  # not in [0, 1]
  images[4] = images[4][0, 0]
  for n, values in images.items():
    np.save(tmp_path / f"in/{n}.npy", values)
  (tmp_path / "in/7.npy").write_bytes(b"")
  tifffile.imwrite(tmp_path / "in/8.tiff", draw(), compression="zlib")
  whole = (tmp_path / "in/8.tiff").read_bytes()
  start = whole.index(zlib.compress(draw().tobytes(), 6)[:2])
  (tmp_path / "in/8.tiff").write_bytes(whole[:start] + b"\0" * (len(whole) - start))
  with pytest.raises(SystemExit) as stop:
    run(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}")
  assert stop.value.code == 1
  said = capsys.readouterr()
  assert "4 of 8 images" in said.out
  for name, reason in (
    ("2.npy", "lie in [0, 1]"),
    ("4.npy", "has the shape"),
    ("7.npy", "is empty"),
    ("8.tiff", "cannot be read"),
  ):
    assert any(name in line and reason in line for line in said.err.splitlines()), said.err
  assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.npy", "1.npy", "3.npy", "5.npy"]
  for n in (0, 1, 3, 5):
    np.testing.assert_allclose(np.load(tmp_path / f"out/{n}.npy"), translator(images[n]), atol=1e-5)


@pytest.mark.parametrize("sizes", [1, 100])
def test_memory_does_not_grow_with_the_number_of_files(tmp_path, monkeypatch, translator, sizes):
  alive, most = set(), 0

  def read(path, **options):
    nonlocal most
    made = np.zeros((8, 8 + int(path.stem) % sizes, 3), np.uint8)
    alive.add(path)
    weakref.finalize(made, alive.discard, path)
    most = max(most, len(alive))
    return made

  def write(path, result):
    time.sleep(0.002)  # slower than computing

  monkeypatch.setattr(files, "read", read)
  monkeypatch.setattr(files, "write", write)
  inputs = [tmp_path / f"{n}.png" for n in range(600)]
  fake = Recorder(translator)
  monkeypatch.setattr(Recorder, "__call__", lambda self, images, **options: images[None])
  work = translation.FileTranslator(fake, {path: [path] for path in inputs}, translation.Options(batch_size=4))
  work.run()
  assert not work.failed
  assert 4 <= most <= 50


def test_an_output_that_cannot_be_written_is_reported(tmp_path, run, capsys):
  files.write(tmp_path / "in/sub/a.png", draw())
  files.write(tmp_path / "in/b.png", draw())
  (tmp_path / "out").mkdir()
  (tmp_path / "out/sub").touch()
  with pytest.raises(SystemExit):
    run(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}")
  said = capsys.readouterr()
  assert "1 of 2 images" in said.out and "sub/a.png cannot be written" in said.err


def test_files_with_the_same_fault_are_reported_in_one_line(tmp_path, run, capsys):
  for name in ("a.png", "b.png", "c.png"):
    (tmp_path / "in").mkdir(exist_ok=True)
    (tmp_path / "in" / name).touch()
  for name in ("g.npy", "h.npy"):
    np.save(tmp_path / "in" / name, np.full((16, 24, 3), 7.0))
  files.write(tmp_path / "in/x.png", draw())
  with pytest.raises(SystemExit):
    run(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}")
  said = capsys.readouterr()
  empty, other = said.err.splitlines()
  folder = tmp_path / "in"
  assert empty.startswith(f"not translated: {folder}/a.png, {folder}/b.png, {folder}/c.png: each is empty (0 bytes)")
  assert other.startswith(f"not translated: {folder}/g.npy, {folder}/h.npy: each is float from 7 to 7")
  assert "1 of 6 images translated" in said.out


def test_help_imports_neither_tensorflow_nor_jax():
  code = (
    "import sys; from pix2pix_jax import translate\n"
    "try: translate.main(['--help'])\n"
    "finally: print({'tensorflow', 'jax'} & set(sys.modules), file=sys.stderr)"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert done.returncode == 0 and "set()" in done.stderr
  assert "--side_by_side" in done.stdout and "--side-by-side" not in done.stdout


@pytest.mark.parametrize(
  "values, message",
  [
    (
      np.full((8, 8), 0.2),
      "lies between 0.2 and 0.2, but the range is 5 to 6000 DN: 100% of the values would be clipped",
    ),
    (np.full((2, 8, 8, 1), np.nan), "holds no value at all"),
    (np.linspace(0, 7000, 64).reshape(8, 8), None),
    (np.concatenate([np.full((1, 8, 8, 1), np.nan), np.full((1, 8, 8, 1), 100.0)]), None),
  ],
)
def test_arrays_in_another_unit_are_refused_as_files_are(values, message):
  using = make_translator(
    model__input_channels=1,
    data__input_kind="quantity",
    data__input_dtype="float32",
    data__input_range=(5.0, 6000.0),
    data__input_unit="DN",
  )
  using._run = lambda batch, **_: batch.repeat(3, -1)
  if message:
    with pytest.raises(UsageError, match=f"The input {message}"):
      using(values.astype(np.float32))
  using(values.astype(np.float32), check_range=message is None)
