"""The translate command on real files: formats, subfolders, a broken file, samples, tiles."""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import tifffile

from pix2pix_jax import depth, models, translate
from pix2pix_jax.configs import default
from pix2pix_jax.errors import UsageError
from pix2pix_jax.inference import Translator


def make_translator(**fields):
  """An untrained translator of 3 levels and 2 features."""
  config = default.get_config()
  config.update_from_flattened_dict({
      "model.base_features": 2, "model.levels": 3, "model.input_channels": 3, "model.output_channels": 3, "data.input_dtype": "uint8",
      "data.target_dtype": "uint8", **{name.replace("__", "."): value for name, value in fields.items()}})
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


def picture(shape=(16, 24, 3), dtype=np.uint8):
  return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


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
  (tmp_path / "in/broken.png").write_bytes(whole[:len(whole) // 2])
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
  using = make_translator(model__input_channels=1, model__output_channels=1, data__input_dtype="uint16", data__target_dtype="uint16")
  values = picture((16, 16), np.uint16)
  Image.fromarray(values).save(tmp_path / "in.png")
  np.testing.assert_array_equal(translate.read(tmp_path / "in.png", 1, False)[..., 0], values)
  run(f"--input={tmp_path / 'in.png'}", f"--output={tmp_path / 'out.png'}", using=using)
  written = np.asarray(Image.open(tmp_path / "out.png"))
  np.testing.assert_array_equal(written.astype(np.uint16), using(values)[..., 0])
  assert len(np.unique(written)) > 200, "8 bits could not tell so many apart"


def test_depth_in_and_out_in_kittis_encoding(tmp_path, run):
  using = make_translator(model__input_channels=1, model__output_channels=1, data__input_dtype="float32", data__target_dtype="float32")
  metres = np.random.default_rng(0).uniform(1, 70, (16, 16, 1)).astype(np.float32)
  depth.write_png(tmp_path / "in.png", metres)
  run(f"--input={tmp_path / 'in.png'}", f"--output={tmp_path / 'out.png'}", using=using)
  expected = using(depth.read_png(tmp_path / "in.png"))
  np.testing.assert_allclose(depth.read_png(tmp_path / "out.png"), expected, atol=1 / 512 + 1e-6)


@pytest.mark.parametrize("arguments, message", [
    (["--input=nowhere", "--output=out"], "'nowhere' is no file, folder or pattern"),
    (["--input={folder}", "--output=out", "--samples=0"], "--samples is 0"),
])
def test_wrong_arguments_are_explained(tmp_path, run, arguments, message):
  with pytest.raises(UsageError, match=message):
    run(*(argument.format(folder=tmp_path) for argument in arguments))


def test_inputs_that_would_share_an_output_are_refused(tmp_path, run):
  for suffix in ("png", "jpg"):
    Image.fromarray(picture()).save(tmp_path / f"same.{suffix}")
  with pytest.raises(UsageError, match="written to one output"):
    run(f"--input={tmp_path}", f"--output={tmp_path / 'out'}")
