"""The reader of a user's own pairs: every file format and layout, written here; and that preparing stays in bounded memory."""

import numpy as np
from PIL import Image
import pytest
import tensorflow as tf
from tensorflow_datasets.core import shuffle
import tifffile

from pix2pix_jax import inference, train, translate
from pix2pix_jax.configs import default
from pix2pix_jax.configs import folder as folder_config
from pix2pix_jax.data import images, pipeline
from pix2pix_jax.data import prepare as datasets
from pix2pix_jax.data.readers import examples, folder
from pix2pix_jax.errors import UsageError

SIZE = (6, 8)


def draw(seed, channels, dtype):
  generator = np.random.default_rng(seed)
  shape = SIZE if channels == 1 else (*SIZE, channels)
  if dtype == np.float32:
    return generator.uniform(0.5, 9, shape).astype(np.float32)
  return generator.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def write(path, array):
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == ".npy":
    np.save(path, array)
  elif path.suffix in (".tif", ".tiff"):
    tifffile.imwrite(
      path,
      array,
      photometric="rgb" if array.ndim == 3 and array.shape[-1] >= 3 else "minisblack",
      planarconfig="contig" if array.ndim == 3 else None,
    )
  elif array.dtype == np.uint16 and array.ndim == 3:
    path.write_bytes(tf.io.encode_png(array).numpy())
  else:
    Image.fromarray(array).save(path)


def make_data(tmp_path, **fields):
  data = default.get_config().data
  data.update(
    {
      "name": "folder",
      "prepared_dir": str(tmp_path / "prepared"),
      "source_dir": str(tmp_path / "raw"),
      "load_size": SIZE[0],
      "load_width": SIZE[1],
      "crop_size": 4,
      **fields,
    }
  )
  return data


FORMS = [(".png", channels, dtype) for channels in (1, 2, 3, 4) for dtype in (np.uint8, np.uint16)]
FORMS += [(".tif", channels, dtype) for channels in (1, 2, 3, 4) for dtype in (np.uint8, np.uint16)]
FORMS += [(".npy", channels, dtype) for channels in (1, 2, 3, 4) for dtype in (np.uint8, np.uint16, np.float32)]
FORMS += [(".tiff", 1, np.float32)]


@pytest.mark.parametrize("suffix, channels, dtype", FORMS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_every_form_is_read_exactly(tmp_path, suffix, channels, dtype):
  array = draw(0, channels, dtype)
  write(tmp_path / f"x{suffix}", array)
  read = folder.read_file(tmp_path / f"x{suffix}")
  assert read.dtype == dtype
  np.testing.assert_array_equal(read, array.reshape(*SIZE, channels))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_prepared_pairs_are_exact(tmp_path, channels, dtype):
  pictures = {number: draw(number, channels, dtype) for number in (1, 2, 10)}
  labels = {number: draw(100 + number, 3, np.uint8) for number in pictures}
  for number in pictures:
    write(tmp_path / f"raw/A/train/{number}.npy", pictures[number])
    write(tmp_path / f"raw/B/train/{number}.png", labels[number])
  builder = datasets.prepare(make_data(tmp_path))
  assert builder.info.features["input"].shape[-1] == channels and set(builder.info.splits) == {"train"}
  split = pipeline.load_split(pipeline.PreparedSource(builder), "train", SIZE, cache_gib=1)
  assert (
    split.ids == ["1", "2", "10"] and split.arrays["input"].dtype == dtype and set(split.arrays) == {"input", "target"}
  )
  for row, number in enumerate(pictures):
    np.testing.assert_array_equal(split.arrays["input"][row], pictures[number].reshape(*SIZE, channels))
    np.testing.assert_array_equal(split.arrays["target"][row], labels[number])


def test_depth_targets_have_a_mask_and_no_holes_but_zeros(tmp_path):
  depth = draw(0, 1, np.float32)
  depth[0, 0], depth[1, 1], depth[2, 2], depth[3, 3] = 0, np.nan, -1, np.inf
  write(tmp_path / "raw/A/train/1.png", draw(1, 3, np.uint8))
  write(tmp_path / "raw/B/train/1.npy", depth.astype(np.float64))
  builder = datasets.prepare(make_data(tmp_path))
  assert np.dtype(builder.info.features["mask"].np_dtype) == bool
  split = pipeline.load_split(pipeline.PreparedSource(builder), "train", SIZE, cache_gib=1)
  hole = np.eye(*SIZE, dtype=bool) & (np.arange(SIZE[0]) < 4)[:, None]
  np.testing.assert_array_equal(split.arrays["mask"][0, ..., 0], ~hole)
  np.testing.assert_array_equal(split.arrays["target"][0, ..., 0], np.where(hole, 0, depth))


@pytest.mark.parametrize("order", ["input_target", "target_input"])
def test_side_by_side_with_split_folders(tmp_path, order):
  left, right = draw(0, 3, np.uint8), draw(1, 3, np.uint8)
  for split, names in {"train": ["2", "10"], "test": ["1"]}.items():
    for name in names:
      write(tmp_path / f"raw/{split}/{name}.png", np.concatenate([left, right], axis=1))
  (tmp_path / "raw/train/.hidden.png").touch()
  (tmp_path / "raw/train/notes.txt").touch()
  builder = datasets.prepare(make_data(tmp_path, side_by_side=order))
  assert set(builder.info.splits) == {"train", "test"}, "an absent split is absent"
  split = pipeline.load_split(pipeline.PreparedSource(builder), "train", SIZE, cache_gib=1)
  assert split.ids == ["2", "10"]
  one, other = (left, right) if order == "input_target" else (right, left)
  np.testing.assert_array_equal(split.arrays["input"][0], one)
  np.testing.assert_array_equal(split.arrays["target"][0], other)


def test_without_split_folders_a_seeded_tenth_is_val(tmp_path):
  for number in range(20):
    write(tmp_path / f"side/{number}.png", draw(number, 1, np.uint8))
    write(tmp_path / f"ab/A/{number}.png", draw(number, 1, np.uint8))
    write(tmp_path / f"ab/B/{number}.png", draw(number, 1, np.uint8))
  for source in (tmp_path / "side", tmp_path / "ab"):
    splits, report = folder.find_splits(source, seed=0)
    ids = {split: [pair.id for pair in members] for split, members in splits.items()}
    assert not report and len(ids["train"]) == 18 and len(ids["val"]) == 2
    assert sorted(map(int, ids["train"] + ids["val"])) == list(range(20))
    assert ids["train"] == sorted(ids["train"], key=int)
    again, other = (folder.find_splits(source, seed=seed)[0]["val"] for seed in (0, 1))
    assert again == splits["val"] != other
  assert folder.find_splits(tmp_path / "side", 0)[0]["val"][0].target is None


@pytest.mark.parametrize("layout", ["{side}/{split}", "{split}/{side}"])
def test_sides_and_splits_nest_either_way(tmp_path, layout):
  for split, names in {"train": "ab", "val": "c"}.items():
    for name in names:
      write(tmp_path / layout.format(side="A", split=split) / f"{name}.jpg", draw(0, 3, np.uint8))
      write(tmp_path / layout.format(side="B", split=split) / f"{name}.npy", draw(0, 1, np.float32))
  splits, _ = folder.find_splits(tmp_path)
  assert {split: [pair.id for pair in members] for split, members in splits.items()} == {
    "train": ["a", "b"],
    "val": ["c"],
  }
  assert all(pair.input.suffix == ".jpg" and pair.target.suffix == ".npy" for pair in splits["train"])


def test_what_does_not_match_is_reported(tmp_path, capsys):
  for name in [*range(14), "both"]:
    write(tmp_path / f"raw/A/{name}.png", draw(0, 1, np.uint8))
  for name in ["both", "other"]:
    write(tmp_path / f"raw/B/{name}.png", draw(0, 1, np.uint8))
  datasets.prepare(make_data(tmp_path))
  output = capsys.readouterr().out
  assert output.count("no partner") == 2, "each side is reported, once"
  assert "14 of 15 files in" in output and "0.png, 1.png, 2.png" in output and "9.png and 4 more" in output
  assert "1 of 2 files in" in output and "other.png" in output and "Pairs: train 1." in output
  (tmp_path / "raw/A/both.png").unlink()
  with pytest.raises(
    UsageError, match="holds no pairs. 14 of 14 files in .*A have no partner.*0.png.*2 of 2 files.*both.png"
  ):
    datasets.prepare(make_data(tmp_path))


@pytest.mark.parametrize("side", ["A", "B"])
@pytest.mark.parametrize(
  "array, form", [(draw(0, 1, np.uint8), "uint8 of 1 channel"), (draw(0, 3, np.uint16), "uint16 of 3 channels")]
)
def test_files_that_differ_from_the_first_are_both_named(tmp_path, side, array, form):
  for name in ("1", "2"):
    for each in "AB":
      write(tmp_path / f"raw/{each}/train/{name}.png", array if (each, name) == (side, "2") else draw(0, 3, np.uint8))
  with pytest.raises(
    UsageError, match=f"{side}/train/2.png is {form}, but .*{side}/train/1.png is uint8 of 3 channels"
  ):
    datasets.prepare(make_data(tmp_path))


def test_palettes_bits_and_odd_tiffs(tmp_path):
  rgb = draw(0, 3, np.uint8)
  palette = Image.fromarray(rgb).quantize(64)
  palette.save(tmp_path / "palette.png")
  palette.save(tmp_path / "palette.tif")
  for name in ("palette.png", "palette.tif"):
    np.testing.assert_array_equal(folder.read_file(tmp_path / name), np.asarray(palette.convert("RGB")))
  bits = draw(0, 1, np.uint8) > 127
  for name in ("bits.png", "bits.tif"):
    Image.fromarray(bits).save(tmp_path / name)
    np.testing.assert_array_equal(folder.read_file(tmp_path / name)[..., 0], bits * 255)
  for dtype in (np.uint8, np.uint16):
    picture = draw(0, 1, dtype)
    Image.fromarray(picture).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(folder.read_file(tmp_path / "lzw.tif")[..., 0], picture)
    tifffile.imwrite(tmp_path / "white.tif", np.iinfo(dtype).max - picture, photometric="miniswhite")
    np.testing.assert_array_equal(folder.read_file(tmp_path / "white.tif")[..., 0], picture)
    tifffile.imwrite(tmp_path / "big_endian.tif", picture, byteorder=">", compression="zlib")
    np.testing.assert_array_equal(folder.read_file(tmp_path / "big_endian.tif")[..., 0], picture)
  planes = draw(0, 3, np.uint16)
  tifffile.imwrite(tmp_path / "planes.tif", planes.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
  np.testing.assert_array_equal(folder.read_file(tmp_path / "planes.tif"), planes)


@pytest.mark.parametrize(
  "name, make, message",
  [
    (
      "x.npy",
      lambda path: np.save(path, np.zeros((3, 4), np.int64)),
      "x.npy holds int64; convert it to uint8 or uint16",
    ),
    ("x.npy", lambda path: np.save(path, np.zeros((3, 40, 40), np.uint8)), r"x.npy has the shape \(3, 40, 40\)"),
    ("x.npy", lambda path: path.write_bytes(b"\x93NUMPY"), "x.npy cannot be read as a numpy array"),
    (
      "x.npy",
      lambda path: np.save(path, np.array([{}], object), allow_pickle=True),
      "x.npy cannot be read as a numpy array",
    ),
    (
      "x.tif",
      lambda path: tifffile.imwrite(path, np.zeros((5, 9, 9), np.uint8), photometric="minisblack"),
      "holds 5 pictures",
    ),
    ("x.tif", lambda path: path.write_bytes(b"II*\x00" + b"\x07" * 40), "x.tif cannot be read as a TIFF"),
    (
      "x.png",
      lambda path: path.write_bytes(tf.io.encode_png(draw(0, 3, np.uint16)).numpy()[:150]),
      "x.png cannot be read",
    ),
    ("x.jpg", lambda path: path.write_bytes(b"nothing"), "x.jpg cannot be read as a picture"),
  ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, name, make, message):
  make(tmp_path / name)
  with pytest.raises(UsageError, match=message):
    folder.read_file(tmp_path / name)


@pytest.mark.parametrize(
  "files, fields, message",
  [
    ({}, {}, "holds no pairs. It should hold pairs as files side by side"),
    ({"1.png": (4, 7)}, {}, "1.png is 7 pixels wide"),
    ({"A/1.png": (4, 8), "B/1.png": (8, 8)}, {}, "A/1.png is 8×4 but .*B/1.png is 8×8"),
    ({"A/1.png": (4, 8), "A/1.jpg": (4, 8), "B/1.png": (4, 8)}, {}, "holds both 1.jpg and 1.png"),
    (
      {"1.png": (4, 8)},
      {"side_by_side": "left_right"},
      "data.side_by_side is 'left_right'; it is input_target or target_input",
    ),
  ],
)
def test_wrong_folders_say_what_is_wrong(tmp_path, files, fields, message):
  (tmp_path / "raw").mkdir()
  for name, size in files.items():
    write(tmp_path / "raw" / name, np.zeros(size, np.uint8))
  with pytest.raises(UsageError, match=message):
    datasets.prepare(make_data(tmp_path, **fields))


def test_a_damaged_file_is_named_and_the_preparation_does_not_count(tmp_path):
  for number in range(3):
    write(tmp_path / f"raw/train/{number}.png", draw(number, 1, np.uint8))
  whole = (tmp_path / "raw/train/1.png").read_bytes()
  (tmp_path / "raw/train/1.png").write_bytes(whole[:50])
  with pytest.raises(UsageError, match="train/1.png cannot be read as a picture"):
    datasets.prepare(make_data(tmp_path))
  (tmp_path / "raw/train/1.png").write_bytes(whole)
  assert datasets.prepare(make_data(tmp_path)).info.splits["train"].num_examples == 3


def test_large_data_are_stored_in_order_and_in_bounded_memory(tmp_path, monkeypatch):
  """Beyond its buffer TFDS sorts one file of examples at a time in memory: no file may hold more than its share."""
  monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1)
  lengths = []
  read_values = shuffle._Bucket.read_values
  monkeypatch.setattr(
    shuffle._Bucket, "read_values", lambda bucket: (lengths.append(len(bucket)), read_values(bucket))[1]
  )
  count = 3 * examples.BUCKETS
  for number in range(count):
    write(tmp_path / f"raw/train/{number}.png", np.full((1, 2), number % 256, np.uint8))
  builder = datasets.prepare(make_data(tmp_path))
  assert max(lengths) == 3 and sum(lengths) == count and sum(length > 0 for length in lengths) == examples.BUCKETS
  split = pipeline.load_split(pipeline.PreparedSource(builder), "train", (1, 1), cache_gib=1)
  assert split.ids == [str(number) for number in range(count)]


def test_sixteen_bit_tiffs_survive_from_reader_to_writer(tmp_path):
  """A copy task through training and the translate command: not one of the 65536 grey levels is lost."""
  levels = np.random.default_rng(0).permutation(65536).astype(np.uint16).reshape(16, 64, 64)
  for side in "AB":
    for i, picture in enumerate(levels):
      write(tmp_path / "raw" / side / f"{i}.tif", picture)
  config = folder_config.get_config()
  config.update_from_flattened_dict(
    {
      "data.prepared_dir": str(tmp_path / "prepared"),
      "data.source_dir": str(tmp_path / "raw"),
      "data.load_size": 64,
      "data.crop_size": 64,
      "model.base_features": 2,
      "model.levels": 3,
      "model.patch": 16,
      "train.batch_size": 2,
      "train.num_steps": 2,
    }
  )
  train.train_and_evaluate(config, tmp_path / "run")

  source, read = pipeline.PreparedSource(datasets.prepare(config.data)), []
  for split in source.counts:
    loaded = pipeline.load_split(source, split, (64, 64), cache_gib=1)
    for batch, counts in pipeline.eval_batches(loaded, config.data, batch_size=4):
      read.append((batch["target"][counts].astype(np.float64) + 1) / 2 * 65535)
  read = np.concatenate(read)[..., 0]
  errors = [
    np.abs(read - picture).max((1, 2)).min() for picture in levels
  ]  # against the original, whichever place it got
  assert len(read) == 16 and max(errors) < 0.01  # of one 16-bit step

  translator = inference.Translator.load(tmp_path / "run", step="latest")
  answer = translator(levels[0])
  assert answer.dtype == np.uint16 and len(np.unique(answer)) > 1000  # the untrained network: more than 8 bits of greys
  translator._translate = lambda variables, pictures, key, **switches: pictures  # a network that has learned to copy
  inputs = translate.find_inputs(str(tmp_path / "raw/A"))
  assert not translate.translate(translator, inputs, translate.name_outputs(inputs, tmp_path / "out", 1))
  for i, picture in enumerate(levels):
    np.testing.assert_array_equal(tifffile.imread(tmp_path / f"out/{i}.tif"), picture)


def test_files_beside_the_pairs_do_not_matter_but_new_pairs_do(tmp_path):
  for side in "AB":
    write(tmp_path / "raw" / side / "train" / "1.png", draw(0, 3, np.uint8))
  first = datasets.prepare(make_data(tmp_path)).data_dir
  write(tmp_path / "raw" / "runs" / "1.png", draw(1, 3, np.uint8))
  assert datasets.prepare(make_data(tmp_path)).data_dir == first
  write(tmp_path / "raw" / "B" / "train" / "1.png", draw(2, 3, np.uint8))
  assert datasets.prepare(make_data(tmp_path)).data_dir != first


def test_config_and_variants():
  assert (
    folder_config.get_config().data.name == "folder"
    and folder_config.get_config("report").model.decoder_widths == "report"
  )
  with pytest.raises(UsageError, match="no variant 'procedural'"):
    folder_config.get_config("procedural")


def test_real_facades_as_ones_own_folder(real_data):
  splits, report = folder.find_splits(real_data / "facades")
  assert not report and {split: len(members) for split, members in splits.items()} == {"train": 400, "val": 100}
  labels, photo = folder.read_pair(splits["train"][0], "target_input")
  np.testing.assert_array_equal(
    np.concatenate([photo, labels], axis=1), images.read_rgb(real_data / "facades/train/1.jpg")
  )


def test_real_depth_keeps_its_16_bits(real_data):
  depth = folder.read_file(real_data / "nyu/depth.png")
  assert depth.dtype == np.uint16 and depth.shape == (425, 560, 1) and depth.max() == 9484
