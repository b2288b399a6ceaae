"""The translate command on real files: formats, subfolders, a broken file, samples, tiles."""

import time
import weakref
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import tifffile

from pix2pix_jax import depth, translate
from pix2pix_jax.configs import default
from pix2pix_jax.errors import UsageError
from pix2pix_jax.inference import Translator
from pix2pix_jax.model import networks as models


def make_translator(**fields):
  """An untrained translator of 3 levels and 2 features."""
  config = default.get_config()
  config.update_from_flattened_dict(
    {
      "model.base_features": 2,
      "model.levels": 3,
      "model.input_channels": 3,
      "model.output_channels": 3,
      "data.input_dtype": "uint8",
      "data.target_dtype": "uint8",
      **{name.replace("__", "."): value for name, value in fields.items()},
    }
  )
  generator, _ = models.make_networks(config.model)
  x = jnp.zeros((1, 8, 8, config.model.input_channels))
  return Translator(config, jax.jit(lambda: generator.init(jax.random.key(0), x, dropout=False, norm_stats="batch"))())


@pytest.fixture(scope="module")
def translator():
  return make_translator()


@pytest.fixture
def run(monkeypatch, translator):
  """The command line with an untrained translator in place of a workdir."""

  def call(*arguments, using=translator):
    monkeypatch.setattr(translate.Translator, "load", lambda workdir, step: using)
    translate.main(["--workdir=any", *map(str, arguments)])

  return call


def picture(shape=(16, 24, 3), dtype=np.uint8, seed=0):
  return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


class Recorder:
  """A translator that keeps the shapes it was called with."""

  def __init__(self, translator):
    self._translator, self.shapes = translator, []

  def __getattr__(self, name):
    return getattr(self._translator, name)

  def __call__(self, pictures, **options):
    self.shapes.append(pictures.shape)
    return self._translator(pictures, **options)


def test_one_file_of_odd_size(tmp_path, run, translator):
  Image.fromarray(picture((13, 21, 3))).save(tmp_path / "in.png")
  run(f"--input={tmp_path / 'in.png'}", f"--output={tmp_path / 'out.png'}")
  np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), translator(picture((13, 21, 3))))


def test_a_folder_keeps_subfolders_and_names_and_does_the_rest_when_a_file_is_broken(tmp_path, run, translator, capsys):
  for name in ("a.png", "sub/b.jpg", "sub/c.tiff", "d.npy"):
    (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
    if name.endswith("npy"):
      np.save(tmp_path / "in" / name, picture())
    elif name.endswith("tiff"):
      tifffile.imwrite(tmp_path / "in" / name, picture())
    else:
      Image.fromarray(picture()).save(tmp_path / "in" / name)
  whole = (tmp_path / "in/a.png").read_bytes()
  (tmp_path / "in/broken.png").write_bytes(whole[: len(whole) // 2])
  (tmp_path / "in/notes.txt").write_text("not a picture")
  with pytest.raises(SystemExit) as stop:
    run(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}")
  assert stop.value.code == 1
  errors = capsys.readouterr()
  assert "broken.png" in errors.err and "4 of 5" in errors.out
  written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
  assert written == {"a.png", "sub/b.png", "sub/c.tiff", "d.npy"}
  np.testing.assert_array_equal(tifffile.imread(tmp_path / "out/sub/c.tiff"), translator(picture()))
  np.testing.assert_array_equal(np.load(tmp_path / "out/d.npy"), translator(picture()))


def test_existing_outputs_need_overwrite(tmp_path, run):
  Image.fromarray(picture()).save(tmp_path / "in.png")
  (tmp_path / "out.png").write_bytes(b"precious")
  with pytest.raises(UsageError, match="1 outputs exist.*--overwrite"):
    run(f"--input={tmp_path / 'in.png'}", f"--output={tmp_path / 'out.png'}")
  assert (tmp_path / "out.png").read_bytes() == b"precious"
  run(f"--input={tmp_path / 'in.png'}", f"--output={tmp_path / 'out.png'}", "--overwrite")
  assert Image.open(tmp_path / "out.png").size == (24, 16)


def test_samples_differ_and_a_seed_repeats_them(tmp_path, run):
  Image.fromarray(picture()).save(tmp_path / "in.png")
  for name in ("one", "two"):
    run(f"--input={tmp_path / 'in.png'}", f"--output={tmp_path / name}", "--samples=4", "--seed=3")
  files = sorted((tmp_path / "one").iterdir())
  assert [path.name for path in files] == [f"in_{n}.png" for n in range(4)]
  assert len({path.read_bytes() for path in files}) == 4
  assert all(path.read_bytes() == (tmp_path / "two" / path.name).read_bytes() for path in files)


def test_a_glob_and_side_by_side(tmp_path, run):
  for n in range(3):
    Image.fromarray(picture()).save(tmp_path / f"in{n}.png")
  run(f"--input={tmp_path}/in[01].png", f"--output={tmp_path / 'out'}", "--side-by-side")
  assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["in0.png", "in1.png"]
  both = np.asarray(Image.open(tmp_path / "out/in0.png"))
  np.testing.assert_array_equal(both[:, :24], picture())


def test_tiles_on_the_command_line(tmp_path, run):
  Image.fromarray(picture((50, 70, 3))).save(tmp_path / "in.png")
  run(f"--input={tmp_path / 'in.png'}", f"--output={tmp_path / 'out.png'}", "--tile=32")
  assert Image.open(tmp_path / "out.png").size == (70, 50)


def test_sixteen_bit_grey_stays_sixteen_bit(tmp_path, run):
  using = make_translator(
    model__input_channels=1, model__output_channels=1, data__input_dtype="uint16", data__target_dtype="uint16"
  )
  values = picture((16, 16), np.uint16)
  Image.fromarray(values).save(tmp_path / "in.png")
  np.testing.assert_array_equal(translate.read(tmp_path / "in.png", 1, False)[..., 0], values)
  run(f"--input={tmp_path / 'in.png'}", f"--output={tmp_path / 'out.png'}", using=using)
  written = np.asarray(Image.open(tmp_path / "out.png"))
  np.testing.assert_array_equal(written.astype(np.uint16), using(values)[..., 0])
  assert len(np.unique(written)) > 200, "8 bits could not tell so many apart"


def test_depth_in_and_out_in_kittis_encoding(tmp_path, run):
  using = make_translator(
    model__input_channels=1, model__output_channels=1, data__input_dtype="float32", data__target_dtype="float32"
  )
  metres = np.random.default_rng(0).uniform(1, 70, (16, 16, 1)).astype(np.float32)
  depth.write_png(tmp_path / "in.png", metres)
  run(f"--input={tmp_path / 'in.png'}", f"--output={tmp_path / 'out.png'}", using=using)
  expected = using(depth.read_png(tmp_path / "in.png"))
  np.testing.assert_allclose(depth.read_png(tmp_path / "out.png"), expected, atol=1 / 512 + 1e-6)


@pytest.fixture
def assorted(tmp_path):
  """A folder of twenty pictures, each another, of two sizes in turn, and one that is alone in its size."""
  (tmp_path / "in").mkdir()
  for n in range(20):
    Image.fromarray(picture((16, 24, 3) if n % 3 else (13, 21, 3), seed=n)).save(tmp_path / f"in/{n}.png")
  Image.fromarray(picture((8, 8, 3))).save(tmp_path / "in/20.png")
  return tmp_path / "in"


@pytest.mark.parametrize("samples", [1, 2])
def test_pictures_of_equal_size_are_computed_together_to_the_same_answers(tmp_path, run, translator, assorted, samples):
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


def test_a_picture_alone_has_the_same_bits_as_ever(tmp_path, run, translator, assorted):
  recorder = Recorder(translator)
  run(f"--input={assorted}", f"--output={tmp_path / 'out'}", "--batch_size=1", using=recorder)
  assert all(len(shape) == 3 for shape in recorder.shapes)
  for path in assorted.iterdir():
    np.testing.assert_array_equal(
      np.asarray(Image.open(tmp_path / "out" / path.name)), translator(np.asarray(Image.open(path)))
    )


@pytest.mark.parametrize("flag", ["--norm_stats=batch", "--tile=16"])
def test_what_depends_on_the_batch_is_computed_alone(tmp_path, run, translator, assorted, flag):
  recorder = Recorder(translator)
  run(f"--input={assorted}", f"--output={tmp_path / 'out'}", flag, using=recorder)
  assert len(recorder.shapes) == 21 and all(len(shape) == 3 for shape in recorder.shapes)


def test_a_broken_file_does_not_sink_its_batch(tmp_path, run, translator, capsys):
  (tmp_path / "in").mkdir()
  pictures = {n: np.random.default_rng(n).uniform(size=(16, 24, 3)).astype(np.float32) for n in range(6)}
  pictures[2] = pictures[2] * 200  # no picture in [0, 1], found only when it is to be translated
  pictures[4] = pictures[4][0, 0]
  for n, values in pictures.items():
    np.save(tmp_path / f"in/{n}.npy", values)
  (tmp_path / "in/7.npy").write_bytes(b"")
  tifffile.imwrite(tmp_path / "in/8.tiff", picture(), compression="zlib")
  whole = (tmp_path / "in/8.tiff").read_bytes()
  start = whole.index(zlib.compress(picture().tobytes(), 6)[:2])
  (tmp_path / "in/8.tiff").write_bytes(whole[:start] + b"\0" * (len(whole) - start))
  with pytest.raises(SystemExit) as stop:
    run(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}")
  assert stop.value.code == 1
  said = capsys.readouterr()
  assert "4 of 8 pictures" in said.out
  for name, reason in (
    ("2.npy", "lie in [0, 1]"),
    ("4.npy", "have shape"),
    ("7.npy", "cannot be read"),
    ("8.tiff", "cannot be read"),
  ):
    assert any(name in line and reason in line for line in said.err.splitlines()), said.err
  assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.npy", "1.npy", "3.npy", "5.npy"]
  for n in (0, 1, 3, 5):
    np.testing.assert_allclose(np.load(tmp_path / f"out/{n}.npy"), translator(pictures[n]), atol=1e-5)


@pytest.mark.parametrize("sizes", [1, 100])
def test_memory_does_not_grow_with_the_number_of_files(tmp_path, monkeypatch, translator, sizes):
  alive, most = set(), 0

  def read(path, channels, is_depth):
    nonlocal most
    made = np.zeros((8, 8 + int(path.stem) % sizes, channels), np.uint8)
    alive.add(path)
    weakref.finalize(made, alive.discard, path)
    most = max(most, len(alive))
    return made

  def write(path, result):
    time.sleep(0.002)  # slower than the computing

  monkeypatch.setattr(translate, "read", read)
  monkeypatch.setattr(translate, "write", write)
  inputs = {tmp_path / f"{n}.png": tmp_path for n in range(600)}
  fake = Recorder(translator)
  monkeypatch.setattr(Recorder, "__call__", lambda self, pictures, **options: pictures[None])
  assert not translate.translate(fake, inputs, {path: [path] for path in inputs}, batch_size=4)
  assert 4 <= most <= 50


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--input=nowhere", "--output=out"], "'nowhere' is no file, folder or pattern"),
    (["--input={folder}", "--output=out", "--samples=0"], "--samples is 0"),
    (["--input={folder}", "--output=out", "--batch_size=0"], "--batch_size is 0"),
  ],
)
def test_wrong_arguments_are_explained(tmp_path, run, arguments, message):
  with pytest.raises(UsageError, match=message):
    run(*(argument.format(folder=tmp_path) for argument in arguments))


def test_inputs_that_would_share_an_output_are_refused(tmp_path, run):
  for suffix in ("png", "jpg"):
    Image.fromarray(picture()).save(tmp_path / f"same.{suffix}")
  with pytest.raises(UsageError, match="written to one output"):
    run(f"--input={tmp_path}", f"--output={tmp_path / 'out'}")
