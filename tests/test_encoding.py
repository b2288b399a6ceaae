"""Encodings of prepared data: lossless, small, and the bytes of the files themselves where these hold the pixels."""

import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from pix2pix_jax.data import encoding, files
from pix2pix_jax.data.encoding import PART, Record

RNG = np.random.default_rng(0)
PHOTO = np.asarray(Image.fromarray(RNG.integers(0, 256, (12, 20, 3)).astype(np.uint8)).resize((80, 48)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.bool_])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_arrays_survive_unchanged(dtype, channels):
  low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max) if np.dtype(dtype).kind in "ui" else (0, 2)
  array = RNG.uniform(low, high, (9, 11, channels)).astype(dtype)
  array[3:5] = dtype(high) if dtype != np.bool_ else False
  decoded = encoding.decode(encoding.encode(array))
  assert decoded.dtype == dtype
  np.testing.assert_array_equal(decoded, array)


DEPTH = RNG.integers(0, 2**16, (40, 50, 1))


@pytest.mark.parametrize(
  "values",
  [
    (DEPTH / np.float32(256)).astype(np.float32),  # KITTI
    (DEPTH.astype(np.float32) / np.float32(1000)),  # millimetres
    np.where(DEPTH % 3 == 0, np.nan, DEPTH // 2 - 2**14).astype(np.float32),  # whole numbers with holes
  ],
)
def test_floats_made_of_16_bits_take_16_bits(values):
  content = encoding.encode(values)
  np.testing.assert_array_equal(encoding.decode(content), values)
  assert len(content) < 2.1 * values.size


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf, -0.0, 1e-40, 3e38])
def test_special_floats_survive(special):
  values = RNG.normal(size=(6, 7, 2)).astype(np.float32)
  values[1, 2] = special
  np.testing.assert_array_equal(encoding.decode(encoding.encode(values)), values)
  constant = np.full((3, 2, 1), special, np.float32)
  np.testing.assert_array_equal(encoding.decode(encoding.encode(constant)), constant)


def record(**contents):
  """A record as TFDS writes it, parsed."""
  features = {
    name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))
    for name, content in {**contents, "id": b"a"}.items()
  }
  example = tf.train.Example(features=tf.train.Features(feature=features))
  return Record.parse(example.SerializeToString())


def kept(arrays, paths):
  """`keep_files`, checked: decoded to the same arrays and sizes."""
  contents = encoding.keep_files(arrays, paths)
  found = record(**{name: c if isinstance(c, bytes) else encoding.encode(c) for name, c in contents.items()})
  for name, array in arrays.items():
    np.testing.assert_array_equal(found.arrays()[name], array)
    assert found.sizes()[name] == array.shape[:2]
  return contents


@pytest.mark.parametrize("form", ["jpeg", "png", "webp"])
def test_a_file_that_decodes_to_the_pixels_is_stored_as_it_is(tmp_path, form):
  paths = {"input": tmp_path / f"x.{form}", "target": tmp_path / "y.png"}
  Image.fromarray(PHOTO).save(paths["input"], quality=80)
  Image.fromarray(PHOTO[..., 0]).save(paths["target"])
  arrays = {name: files.read(path) for name, path in paths.items()}
  assert kept(arrays, paths) == {name: path.read_bytes() for name, path in paths.items()}


def test_a_side_by_side_file_is_stored_once(tmp_path):
  path = tmp_path / "x.jpg"
  Image.fromarray(PHOTO).save(path)
  left, right = np.split(files.read(path), 2, axis=1)
  content, paths = path.read_bytes(), {"input": path, "target": path}
  for arrays in ({"input": left, "target": right}, {"input": right, "target": left}):
    contents = kept(arrays, paths)
    assert contents["input"].startswith(PART) and contents["input"].endswith(content)
    assert len(contents["input"]) + len(contents["target"]) < len(content) + 50
  labels = np.zeros((48, 40, 1), np.uint8)  # one side is not the file's: the other still is
  assert kept({"input": labels, "target": left}, paths)["target"].endswith(content)


def test_a_file_that_is_cropped_as_kitti_is_stored_as_it_is(tmp_path):
  path, other = tmp_path / "x.jpg", tmp_path / "y.png"
  Image.fromarray(PHOTO).save(path)
  Image.fromarray(PHOTO[:30, :61]).save(other)
  cropped = files.read(path)[18:, 9:70]
  contents = kept({"input": cropped, "target": PHOTO[:30, :61]}, {"input": path, "target": other})
  assert contents["input"].endswith(path.read_bytes()) and contents["target"] == other.read_bytes()


def rotated(path):
  exif = Image.Exif()
  exif[274] = 6
  Image.fromarray(PHOTO).save(path, exif=exif)


CHANGED = {
  "rotated.jpg": rotated,
  "inks.jpg": lambda path: Image.fromarray(PHOTO).convert("CMYK").save(path),
  "table.bmp": lambda path: Image.fromarray(PHOTO).save(path),
  "wide.png": lambda path: Image.fromarray(PHOTO[..., 0].astype(np.uint16) * 256).save(path),
}


@pytest.mark.parametrize("name", CHANGED)
def test_other_files_are_encoded_anew(tmp_path, name):
  """Rotated by EXIF, with inks, of another format or with more bits; `kept` checks that the pixels survive."""
  path = tmp_path / name
  CHANGED[name](path)
  pixels = files.read(path)
  other = tmp_path / "y.png"
  Image.fromarray(PHOTO).save(other)
  contents = kept({"input": pixels, "target": PHOTO}, {"input": path, "target": other})
  assert contents["target"] == other.read_bytes()
  assert isinstance(contents["input"], np.ndarray) or name == "inks.jpg"


def test_a_file_changed_by_the_reader_is_not_taken_for_its_pixels(tmp_path):
  path, other = tmp_path / "x.png", tmp_path / "y.png"
  for each in (path, other):
    Image.fromarray(PHOTO).save(each)
  contents = kept({"input": PHOTO[..., :1], "target": PHOTO}, {"input": path, "target": other})
  assert isinstance(contents["input"], np.ndarray) and contents["target"] == other.read_bytes()
