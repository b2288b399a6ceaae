"""The reader of a user's own pairs: every layout and kind of number, and preparation in bounded memory."""

import os
import re
import shutil
import unicodedata

import numpy as np
from PIL import Image
import pytest
from tensorflow_datasets.core import shuffle

from pix2pix_jax import config as config_lib
from pix2pix_jax.data import files, pipeline, prepare
from pix2pix_jax.data.formats import volumes
from pix2pix_jax.data.readers import examples, folder, pairs, progress
from pix2pix_jax.errors import UsageError

SIZE = (6, 8)


def draw(seed, channels=1, dtype=np.uint8, size=SIZE):
  """(H, W, C): integers over the whole range, or floats like metres of depth."""
  generator = np.random.default_rng(seed)
  if np.dtype(dtype).kind == "f":
    return generator.uniform(0.5, 9, (*size, channels)).astype(dtype)
  return generator.integers(0, np.iinfo(dtype).max, (*size, channels), dtype, endpoint=True)


def write(path, array):
  if path.suffix.lower() in files.WRITABLE:
    files.write(path, array)
  else:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.squeeze()).save(path)


def put(root, names, channels=1):
  """Files of these names, each with other content."""
  for number, name in enumerate(names):
    write(root / name, draw(number, channels))


def ids(root, seed=0):
  return {split: [pair.id for pair in members] for split, members in pairs.find_splits(root, seed)[0].items()}


def make_data(tmp_path, **fields):
  data = config_lib.default().data
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


def load(tmp_path, split="train", shape=SIZE, **fields):
  return pipeline.load_split(prepare.prepare(make_data(tmp_path, **fields)), split, shape, cache_gib=1)


# --- What is stored


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
@pytest.mark.parametrize("suffix, dtype", [(".png", np.uint8), (".tif", np.uint16), (".npy", np.uint16)])
def test_prepared_images_are_exact(tmp_path, channels, suffix, dtype):
  if suffix == ".png" and channels > 4:
    pytest.skip("PNG has no such form")
  inputs = {number: draw(number, channels, dtype) for number in (1, 2, 10)}
  labels = {number: draw(100 + number, 3) for number in inputs}
  for number in inputs:
    write(tmp_path / f"raw/A/train/{number}{suffix}", inputs[number])
    write(tmp_path / f"raw/B/train/{number}.png", labels[number])
  source = prepare.prepare(make_data(tmp_path))
  assert (source.spec.input.kind, source.spec.input.channels, source.spec.input.dtype) == (
    "image",
    channels,
    np.dtype(dtype).name,
  )
  split = pipeline.load_split(source, "train", SIZE, cache_gib=1)
  assert split.ids == ["1", "2", "10"] and set(split.arrays) == {"input", "target"}
  for row, number in enumerate(inputs):
    np.testing.assert_array_equal(split.arrays["input"][row], inputs[number])
    np.testing.assert_array_equal(split.arrays["target"][row], labels[number])


def test_float_images_keep_16_bits_and_have_no_holes(tmp_path):
  values = np.linspace(0, 1, 48, dtype=np.float32).reshape(*SIZE, 1)
  write(tmp_path / "raw/A/train/1.npy", values)
  write(tmp_path / "raw/B/train/1.tif", 1 - values)
  split = load(tmp_path, input_kind="image", target_kind="picture")
  assert set(split.arrays) == {"input", "target"} and split.arrays["input"].dtype == np.uint16
  np.testing.assert_allclose(split.arrays["input"][0] / 65535, values, atol=1 / 131070)


@pytest.mark.parametrize("form", ["float32", "float64", "float16", "png256", "int16mm"])
def test_depth_has_a_mask_and_no_holes_but_zeros(tmp_path, form):
  metres = draw(0, 1, np.float32)
  scale, expected = 0.0, metres
  if form == "png256":
    scale, array = 256.0, np.round(metres * 256).astype(np.uint16)
    array[0, 0] = array[1, 1] = 0
    expected = array / np.float32(256)
  elif form == "int16mm":
    scale, array = 1000.0, np.round(metres * 1000).astype(np.int16)
    array[0, 0], array[1, 1] = 0, -7
    expected = array.clip(0) / np.float32(1000)
  else:
    array = metres.astype(form)
    array[0, 0], array[1, 1], array[2, 2], array[3, 3] = 0, np.nan, -1, np.inf
    expected = np.where(np.isfinite(array) & (array > 0), array, 0).astype(np.float32)
  write(tmp_path / "raw/A/train/1.png", draw(1, 3))
  write(tmp_path / f"raw/B/train/1.{'png' if form == 'png256' else 'npy'}", array)
  split = load(tmp_path, target_kind="depth", target_scale=scale)
  np.testing.assert_array_equal(split.arrays["target"][0], expected)
  np.testing.assert_array_equal(split.arrays["mask"][0], expected > 0)
  assert split.arrays["mask"][0].mean() < 1


def test_depth_as_input_alone_has_no_mask(tmp_path):
  write(tmp_path / "raw/A/train/1.npy", draw(0, 2, np.float32))
  write(tmp_path / "raw/B/train/1.png", draw(1, 3))
  source = prepare.prepare(make_data(tmp_path, input_kind="depth"))
  assert (source.spec.input.kind, source.spec.target.kind) == ("depth", "image")
  assert set(pipeline.load_split(source, "train", SIZE, cache_gib=1).arrays) == {"input", "target"}


@pytest.mark.parametrize(
  "array, fields, message",
  [
    (draw(0, 1, np.float32), {}, "1.npy holds float32 numbers.*Set data.target_kind: 'depth'"),
    (np.full((*SIZE, 1), -1000, np.int16), {}, "1.npy holds int16 numbers.*Set data.target_kind"),
    (draw(0, 1, np.float32), {"target_kind": "image"}, "1.npy is float from .*float images lie in"),
    (draw(0, 1, np.uint16), {"target_kind": "depth"}, "1.npy holds uint16.*data.target_scale"),
    (draw(0, 1, np.int32), {"target_kind": "image"}, "1.npy is int32; images are"),
    (np.zeros((3, 40, 60), np.uint8), {}, r"1.npy has the shape \(3, 40, 60\).*first axis"),
  ],
)
def test_numbers_whose_meaning_is_open_or_wrong_are_refused(tmp_path, array, fields, message):
  write(tmp_path / "raw/A/1.png", draw(1, 3, size=array.shape[:2]))
  write(tmp_path / "raw/B/1.npy", array)
  with pytest.raises(UsageError, match=message):
    prepare.prepare(make_data(tmp_path, **fields))


def test_an_exif_orientation_brings_both_sides_together(tmp_path):
  upright = np.random.default_rng(0).integers(0, 255, (16, 24), np.uint8)
  exif = Image.Exif()
  exif[274] = 6  # stored on its side; shown after a quarter turn clockwise
  (tmp_path / "A").mkdir()
  Image.fromarray(np.rot90(upright)).save(tmp_path / "A/1.png", exif=exif)
  write(tmp_path / "B/1.png", upright[..., None])
  splits, _ = pairs.find_splits(tmp_path)
  one, other = pairs.read_pair(splits["train"][0])
  np.testing.assert_array_equal(one, other)


# --- Layouts


@pytest.mark.parametrize("order", ["input_target", "target_input"])
def test_side_by_side_with_split_folders(tmp_path, order):
  left, right = draw(0, 3), draw(1, 3)
  for split, names in {"train": ["2", "10"], "test": ["1"]}.items():
    for name in names:
      write(tmp_path / f"raw/{split}/{name}.png", np.concatenate([left, right], axis=1))
  (tmp_path / "raw/train/._2.png").write_bytes(b"\0\5\x16\7")
  source = prepare.prepare(make_data(tmp_path, side_by_side=order))
  assert source.spec.counts == {"train": 2, "test": 1}, "an absent split is absent"
  split = pipeline.load_split(source, "train", SIZE, cache_gib=1)
  assert split.ids == ["2", "10"]
  one, other = (left, right) if order == "input_target" else (right, left)
  np.testing.assert_array_equal(split.arrays["input"][0], one)
  np.testing.assert_array_equal(split.arrays["target"][0], other)


@pytest.mark.parametrize(
  "names", [("train", "val", "test"), ("Train", "VALID", "Testing"), ("TRAINING", "validation", "test")]
)
@pytest.mark.parametrize(
  "layout", ["{side}/{split}", "{split}/{side}", "{split}{side}", "{split}_{side}", "{split}", "{lower}/{split}"]
)
def test_splits_and_sides_in_every_arrangement_and_case(tmp_path, layout, names):
  for split, name in zip(names, "abc"):
    for side in "AB":
      place = layout.format(side=side, split=split, lower=side.lower())
      put(tmp_path / place, [f"{name}.png", f"deep/{name}.webp"])
  assert ids(tmp_path) == {split: [f"{name}", f"deep/{name}"] for split, name in zip(("train", "val", "test"), "abc")}
  notes = [note for note in pairs.find_splits(tmp_path)[1] if not note.startswith("Read as side-by-side images")]
  assert not notes, "nothing is left out"


def test_nested_folders_give_their_path_as_id(tmp_path):
  put(tmp_path / "s/train", ["x.png", "cam1/2.png", "cam1/10.png", "cam2/2.png"])
  assert ids(tmp_path / "s") == {"train": ["cam1/2", "cam1/10", "cam2/2", "x"]}
  for side in "AB":
    put(tmp_path / "p" / side / "train", ["cam1/2.png", "cam2/2.png"])
  assert ids(tmp_path / "p") == {"train": ["cam1/2", "cam2/2"]}


def test_links_are_followed(tmp_path):
  for side in "AB":
    put(tmp_path / "disk" / side, ["1.png", "2.png"])
    (tmp_path / "raw" / side).mkdir(parents=True)
    (tmp_path / "raw" / side / "train").symlink_to(tmp_path / "disk" / side)
  assert ids(tmp_path / "raw") == {"train": ["1", "2"]}


def test_a_change_behind_a_link_is_noticed(tmp_path):
  for side in "AB":
    put(tmp_path / "disk" / side, ["0.png", "1.png"])
    (tmp_path / "raw" / side).mkdir(parents=True)
    (tmp_path / "raw" / side / "train").symlink_to(tmp_path / "disk" / side)
  before = prepare.prepare(make_data(tmp_path))
  label = draw(99, size=(7, 9))[:6, :8]
  write(tmp_path / "disk/B/0.png", label)
  for side in "AB":
    write(tmp_path / f"disk/{side}/new.png", draw(5))
  after = prepare.prepare(make_data(tmp_path))
  assert after.folder != before.folder and after.spec.fingerprint != before.spec.fingerprint
  split = pipeline.load_split(after, "train", SIZE, cache_gib=1)
  assert split.ids == ["0", "1", "new"]
  np.testing.assert_array_equal(split.arrays["target"][0], label)


def test_copied_data_are_the_same_data(tmp_path):
  """Names of folders and times of files do not count; the numbers in the images do."""
  for side in "AB":
    put(tmp_path / "raw" / side, ["0.png", "1.png", "2.png"])
  first = prepare.prepare(make_data(tmp_path)).spec.fingerprint
  shutil.copytree(tmp_path / "raw", tmp_path / "moved/raw")
  for path in (tmp_path / "moved/raw").rglob("*.png"):
    os.utime(path, (1, 1))
  assert prepare.prepare(make_data(tmp_path / "moved")).spec.fingerprint == first
  array = files.read(tmp_path / "moved/raw/B/0.png").copy()
  array[0, 0, 0] ^= 1
  write(tmp_path / "moved/raw/B/0.png", array)
  assert prepare.prepare(make_data(tmp_path / "moved")).spec.fingerprint != first


def test_label_maps_with_palettes_keep_their_colours(tmp_path):
  """A side whose files have palettes with few colours is resized by nearest neighbour, unless the config differs."""
  palette = np.random.default_rng(1).integers(0, 256, (5, 3), np.uint8)
  indices = np.kron(np.random.default_rng(0).integers(0, 5, (8, 8)), np.ones((4, 4))).astype(np.uint8)
  image = Image.fromarray(indices, "P")
  image.putpalette(palette.ravel().tolist())
  photo = draw(7, size=(32, 32))
  for suffix in ("png", "gif", "tif", "bmp"):
    for side in "AB":
      (tmp_path / suffix / "raw" / side).mkdir(parents=True)
    image.save(tmp_path / suffix / f"raw/A/0.{suffix}")
    write(tmp_path / suffix / "raw/B/0.png", photo)
    data = make_data(tmp_path / suffix)
    source = prepare.prepare(data)
    assert (source.spec.input.resampling, source.spec.target.resampling) == ("nearest", "bicubic")
    (resized,) = pipeline.load_split(source, "train", (20, 12), cache_gib=1).arrays["input"]
    assert {tuple(color) for color in resized.reshape(-1, 3)} <= {tuple(color) for color in palette}
    data.input_resampling = "bicubic"
    assert prepare.prepare(data).spec.input.resampling == "bicubic"
  noise = np.random.default_rng(2).integers(0, 256, (32, 32, 3), np.uint8)
  photo_in_palette = Image.fromarray(noise).quantize(256)
  photo_in_palette.save(tmp_path / "png/raw/A/0.png")
  assert prepare.prepare(make_data(tmp_path / "png")).spec.input.resampling == "bicubic"


def test_names_match_across_unicode_forms_case_and_side_suffixes(tmp_path):
  put(
    tmp_path / "A", [unicodedata.normalize("NFD", "é.png"), "IMG_1.JPG", "b/2_A.png", "x_A.png", "same.png", "Same.png"]
  )
  put(
    tmp_path / "B",
    [unicodedata.normalize("NFC", "é.png"), "img_1.png", "b/2_B.npy", "X_b.webp", "same.png", "SAME.png"],
  )
  splits, notes = pairs.find_splits(tmp_path)
  partners = {pair.id: pair.files[1].relative_to(tmp_path / "B").as_posix() for pair in splits["train"] + splits["val"]}
  assert partners == {
    "é": unicodedata.normalize("NFC", "é.png"),
    "IMG_1": "img_1.png",
    "b/2_A": "b/2_B.npy",
    "x_A": "X_b.webp",
    "same": "same.png",
    "Same": "SAME.png",
  }
  assert len(notes) == 1 and notes[0].startswith("No split folders")


def test_case_is_ignored_only_where_one_partner_is_left(tmp_path):
  put(tmp_path / "A", ["one.png", "ONE.png", "x.png"])
  put(tmp_path / "B", ["One.png", "x.png"])
  splits, notes = pairs.find_splits(tmp_path)
  assert [pair.id for pair in splits["train"]] == ["x"]
  assert "2 of 3 files" in notes[0] and "1 of 2 files" in notes[1]


def test_names_that_differ_in_their_suffix_alone_are_told_apart(tmp_path):
  put(tmp_path / "both", ["1.png", "2.png", "2.bmp"])
  assert sorted(sum(ids(tmp_path / "both").values(), [])) == ["1", "2_bmp", "2_png"]
  put(tmp_path / "apart/A", ["1.png", "1.jpg", "2.png", "2.bmp"])
  put(tmp_path / "apart/B", ["1.png", "2.png", "2.bmp"])
  splits, notes = pairs.find_splits(tmp_path / "apart")
  partners = {pair.files[0].name: pair.files[1].name for members in splits.values() for pair in members}
  assert partners == {name: name for name in ("1.png", "2.png", "2.bmp")}
  assert len(notes) == 2 and "1 of 4 files" in notes[0] and notes[0].endswith(": 1.jpg.")


def test_files_of_any_format_pair_up(tmp_path):
  put(tmp_path / "A/train", ["1.webp", "2.bmp", "3.gif", "4.JFIF", "5.pgm"])
  put(tmp_path / "B/train", ["1.png", "2.tif", "3.npy", "4.bmp", "5.webp"])
  assert ids(tmp_path) == {"train": ["1", "2", "3", "4", "5"]}


@pytest.mark.parametrize(
  "names, note",
  [
    (
      ["A/1.png", "B/1.png", "A/notes.txt", "A/2.heic"],
      "Left out of .*A: 2 files of unknown formats: 2.heic, notes.txt",
    ),
    (["A/1.png", "B/1.png", "A/2.png", "B/2.heic"], "1 of 2 files in .*A have a partner in .*read: 2.png \\(2.heic"),
    (["A/train/1.png", "B/train/1.png", "A/2.png", "A/val/3.png"], r"Not used, .*: A/val/, A/2.png"),
    (["A/1.png", "B/1.png", "train/1.png", "trainA/1.png"], "Not used, .*: train/, trainA/"),
    (["trainA/1.png", "trainB/1.png", "testA/1.png", "x.png"], "Not used, .*: testA/, x.png"),
    (["1.png", "2.png", "cam1/3.png"], "Not used, .*: cam1/"),
    (["train/A/1.png", "train/B/1.png", "dev/A/1.png", "dev/B/1.png"], "Not used, .*: dev/"),
    (["train/A/1.png", "train/B/1.png", "train/2.png"], "Not used, .*: train/2.png"),
  ],
)
def test_what_is_left_out_is_said(tmp_path, names, note):
  for name in names:
    if name.endswith((".txt", ".heic")):
      (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
      (tmp_path / name).touch()
    else:
      put(tmp_path, [name])
  lines = folder.report(tmp_path)
  assert lines[-1].startswith("Pairs: train 1")
  assert re.search(note, "\n".join(lines[:-1])), lines


def test_broken_links_are_listed(tmp_path):
  for side in "AB":
    put(tmp_path / side, ["1.png"])
  (tmp_path / "A/2.png").symlink_to(tmp_path / "nowhere.png")
  assert "A: 1 file that cannot be opened (broken links?): 2.png." in folder.report(tmp_path)[0]


@pytest.mark.parametrize(
  "inputs, targets, endings",
  [
    (
      ["bonn/bonn_000_leftImg8bit.jpg", "köln/köln_000_leftImg8bit.jpg", "köln/köln_001_leftImg8bit.jpg"],
      ["bonn/bonn_000_gtFine_labelIds.png", "köln/köln_000_gtFine_labelIds.png", "köln/köln_001_gtFine_labelIds.png"],
      ("_leftImg8bit", "_gtFine_labelIds"),
    ),
    (["1.color.png", "2.color.png", "3.color.png"], ["1.depth.png", "2.depth.png"], (".color", ".depth")),
    (["a_0.png", "b_0.png"], ["a_0_mask.png", "b_0_mask.png", "c_1_mask.png"], ("", "_mask")),
    (["1_x.png", "2_x.png"], ["3_y.png", "4_y.png"], None),
    (["1_x.png", "2_x.png", "3_x.png"], ["1_y.png", "8_y.png", "9_y.png"], None),
    (["scan.png"], ["scan_1.png"], None),
  ],
)
def test_names_that_differ_by_a_constant_ending_are_partners(tmp_path, inputs, targets, endings):
  for side, names in zip("AB", (inputs, targets)):
    put(tmp_path / side, names)
  notes = []
  found = pairs.match([tmp_path / "A", tmp_path / "B"], notes)
  assert len(found) == (min(len(inputs), len(targets)) if endings else 0)
  assert any(f"without their endings, {endings[0]!r} and {endings[1]!r}" in note for note in notes) if endings else True
  for pair in found:
    one, other = (path.stem.removesuffix(ending) for path, ending in zip(pair.paths, endings))
    assert one == other and pair.paths[0].parent.name.replace("A", "B") == pair.paths[1].parent.name


@pytest.mark.parametrize(
  "names, found",
  [
    (["1_day.png", "1_night.png", "2_day.png", "2_night.png"], r"\*_day files to A/ and the \*_night files to B/"),
    (["train/1.color.png", "train/1.depth.png", "train/x_2.color.png", "train/x_2.depth.png"], r"\*.color files"),
    (["cat_1.jpg", "cat_1_mask.png", "cat_2.jpg", "cat_2_mask.png"], r"\*_mask"),
    (["a_dog.jpg", "a_dog_mask.png", "a_cat.jpg", "a_cat_mask.png"], r"other.*\*_mask"),
    (["1.jpg", "1.png", "2.jpg", "2.png"], r"\*_jpg.*\*_png"),
    ([f"{n}_{what}.png" for n in range(3) for what in ("rgb", "depth", "seg")], r"\*_depth, \*_rgb, \*_seg"),
    (["cam_1.png", "cam_2.png", "rear_1.png", "rear_2.png"], None),
    (["red_day.png", "blue_day.png", "red_night.png", "green_noon.png"], None),
    (["one_day.png", "two_day.png", "three_day.png"], None),
    ([f"{n}.png" for n in range(20)], None),
  ],
)
def test_separate_files_in_one_folder_are_not_cut_in_halves(tmp_path, names, found):
  put(tmp_path, names)
  if found:
    with pytest.raises(UsageError, match=f"separate files of pairs, not side-by-side images.*{found}"):
      pairs.find_splits(tmp_path)
    order, halves = pairs.Reading(side_by_side="target_input"), "left half = target, right half = input"
  else:
    order, halves = pairs.PLAIN, "left half = input, right half = target"
  notes = pairs.find_splits(tmp_path, reading=order)[1]  # which is read as asked for
  assert any(halves in note for note in notes), notes


@pytest.mark.parametrize("name", ["train.txt", "val_list.txt", "split.json", "pairs.csv", "README.txt", "info.json"])
def test_lists_of_splits_are_said_not_to_be_read(tmp_path, name):
  put(tmp_path, ["A/1.png", "B/1.png", "A/2.png", "B/2.png"])
  (tmp_path / name).write_text("1\n")
  notes = pairs.find_splits(tmp_path)[1]
  assert any(note.startswith(f"Not read: {name}. Lists") for note in notes) == (name not in ("README.txt", "info.json"))
  assert sum("No split folders" in note for note in notes) == 1
  assert not any("No split folders" in note for note in pairs.find_splits(tmp_path, whole=True)[1])


def test_files_without_a_partner_are_reported_once(tmp_path, capsys):
  put(tmp_path / "raw/A", [f"{name}.png" for name in [*range(14), "both"]])
  put(tmp_path / "raw/B", ["both.png", "other.png"])
  prepare.prepare(make_data(tmp_path))
  output = capsys.readouterr().out
  assert output.count("no partner") == 2, "each side is reported, once"
  assert "14 of 15 files in" in output and "0.png, 1.png, 2.png" in output and "9.png and 4 more" in output
  assert "1 of 2 files in" in output and "other.png" in output and "Pairs: train 1." in output
  (tmp_path / "raw/A/both.png").unlink()
  with pytest.raises(
    UsageError, match="holds no pairs. 14 of 14 files in .*A have no partner.*0.png.*2 of 2 files.*both.png"
  ):
    prepare.prepare(make_data(tmp_path))


@pytest.mark.parametrize(
  "names, fields, message",
  [
    ([], {}, "holds no pairs. It should hold pairs as A/NAME"),
    (["trainA/1.png"], {}, "holds no pairs. Its folders trainA lack a partner"),
    (["inputs/1.png", "targets/1.png"], {}, "Its folders inputs, targets lack a partner, or are named neither"),
    (["train/images/1.png", "train/labels/1.png"], {}, "train holds the folders images, labels.*name them A"),
    (["train/A/1.png", "train/B2/1.png"], {}, "train holds the folders A, B2.*name them A"),
    (["train/1.png", "val/1.png", "valid/1.png"], {}, "holds both val and valid, which mean the same"),
    (
      ["1.png"],
      {"side_by_side": "left_right"},
      "data.side_by_side is 'left_right'; it is input_target or target_input",
    ),
    (["1.png"], {"input_kind": "metres"}, "data.input_kind is 'metres'; the kinds are image, depth, quantity, classes"),
  ],
)
def test_wrong_folders_say_what_is_wrong(tmp_path, names, fields, message):
  (tmp_path / "raw").mkdir()
  put(tmp_path / "raw", names)
  with pytest.raises(UsageError, match=message):
    prepare.prepare(make_data(tmp_path, **fields))


def test_sizes_that_cannot_show_the_same_view_are_named(tmp_path):
  write(tmp_path / "raw/A/1.png", draw(0, size=(4, 8)))
  write(tmp_path / "raw/B/1.png", draw(0, size=(8, 8)))
  with pytest.raises(UsageError, match="A/1.png is 8×4 but .*B/1.png is 8×8"):
    prepare.prepare(make_data(tmp_path))
  write(tmp_path / "odd/1.png", draw(0, size=(4, 7)))
  with pytest.raises(UsageError, match="1.png is 7 pixels wide"):
    prepare.prepare(make_data(tmp_path, source_dir=str(tmp_path / "odd")))


@pytest.mark.parametrize("sides", ["AB", "BA"])
def test_channels_first_are_named(tmp_path, sides):
  write(tmp_path / f"raw/{sides[0]}/1.png", draw(0, size=(8, 8)))
  write(tmp_path / f"raw/{sides[1]}/1.npy", draw(0, 8, size=(5, 8)))
  with pytest.raises(UsageError, match=rf"{sides[1]}/1.npy has the shape \(5, 8, 8\). Are the channels first"):
    prepare.prepare(make_data(tmp_path))


@pytest.mark.parametrize(
  "name, message", [("x.zip", "archive. Extract it"), ("x.csv", "Lists of pairs are not read"), ("x.png", "the folder")]
)
def test_a_file_in_place_of_the_folder_is_named(tmp_path, name, message):
  (tmp_path / name).write_bytes(b"x")
  with pytest.raises(UsageError, match=f"{name}' is .*{message}"):
    pairs.find_splits(tmp_path / name)


def test_a_stack_in_an_archive_is_named(tmp_path):
  (tmp_path / "raw").mkdir()
  np.savez(tmp_path / "raw/1.npz", x=draw(0, 3)[None].repeat(2, 0), y=draw(0, 1)[None].repeat(2, 0))
  with pytest.raises(UsageError, match=r"array 'x' of .*1.npz has the shape \(2, 6, 8, 3\): a stack of 2 images"):
    prepare.prepare(make_data(tmp_path, input_key="x", target_key="y"))


def test_a_series_beside_single_images_is_named(tmp_path, monkeypatch):
  series = tmp_path / "A/p1"
  monkeypatch.setattr(volumes, "is_series", lambda path: path == series)
  put(tmp_path, ["B/p1/1.png", "B/p1/2.png"])
  series.mkdir(parents=True)
  (series / "1.dcm").write_bytes(b"x")
  with pytest.raises(UsageError, match="A/p1 is a DICOM series, one volume, but .*B/p1 holds 2 single images"):
    pairs.find_splits(tmp_path)


# --- Splits without folders


def test_without_split_folders_a_tenth_is_val(tmp_path):
  put(tmp_path / "side", [f"{number}.png" for number in range(200)])
  found = ids(tmp_path / "side")
  assert set(found) == {"train", "val"} and 8 <= len(found["val"]) <= 34  # 20 ± 3.3 standard deviations
  assert sorted(map(int, found["train"] + found["val"])) == list(range(200))
  assert found["train"] == sorted(found["train"], key=int) and found["val"] == sorted(found["val"], key=int)
  assert ids(tmp_path / "side") == found != ids(tmp_path / "side", seed=1)
  for side in "AB":
    put(tmp_path / "ab" / side, [f"{number}.png" for number in range(200)])
  assert ids(tmp_path / "ab") == found, "name and seed alone decide"


def test_adding_or_removing_a_pair_moves_no_other(tmp_path):
  put(tmp_path, [f"{number:03d}.png" for number in range(60)])
  before = ids(tmp_path)
  put(tmp_path, ["0005.png", "new.png", "zzz.png"])
  after = ids(tmp_path)
  assert set(before["val"]) <= set(after["val"]) and set(before["train"]) <= set(after["train"])
  (tmp_path / f"{before['train'][3]}.png").unlink()
  assert set(before["val"]) <= set(ids(tmp_path)["val"])


@pytest.mark.parametrize("count, val", [(1, 0), (2, 1), (3, 1)])
def test_few_pairs(tmp_path, count, val):
  for seed in range(20):
    put(tmp_path, [f"{number}.png" for number in range(count)])
    found = ids(tmp_path, seed)
    assert len(found.get("val", [])) in {val, min(val + 1, count - 1)} and len(found["train"]) >= 1


def test_pairs_without_split_folders_as_one_split(tmp_path):
  names = [f"{number}.png" for number in range(20)]
  put(tmp_path / "raw", names)
  cut = prepare.prepare(make_data(tmp_path))
  source = prepare.prepare(make_data(tmp_path), whole=True)
  assert source.spec.counts == {"whole": 20} and cut.spec.counts.keys() == {"train", "val"}
  assert pipeline.load_split(source, "whole", SIZE, cache_gib=1).ids == [str(number) for number in range(20)]
  assert prepare.prepare(make_data(tmp_path)).spec.counts == cut.spec.counts, "both stay prepared"
  put(tmp_path / "with_folders/test", names)
  data = make_data(tmp_path, source_dir=str(tmp_path / "with_folders"))
  assert prepare.prepare(data, whole=True).spec.counts == {"test": 20}, "split folders are kept"


# --- Conversion


@pytest.mark.parametrize("first, other", [(3, 1), (1, 3), (3, 4), (4, 3), (3, 2)])
def test_images_are_converted_to_the_channels_of_the_model(tmp_path, capsys, first, other):
  whole = {name: draw(number, channels) for number, (name, channels) in enumerate(zip("123", (first, other, first)))}
  for name, array in whole.items():
    write(tmp_path / f"raw/A/train/{name}.png", array)
    write(tmp_path / f"raw/B/train/{name}.png", draw(9, 3))
  with pytest.raises(UsageError, match=r"A/train/2.png is uint8 of .* Or set --config.model.input_channels=3 to"):
    prepare.prepare(make_data(tmp_path))
  model = config_lib.default().model
  model.input_channels = 3
  source = prepare.prepare(make_data(tmp_path), model)
  arrays = pipeline.load_split(source, "train", SIZE, cache_gib=1).arrays["input"]
  for row, array in zip(arrays, whole.values(), strict=True):
    np.testing.assert_array_equal(row, files.with_channels(array, 3, ""))
  assert f"{1 if first == 3 else 2} input" in (said := capsys.readouterr().out) and "converted to 3 channels" in said
  prepare.prepare(make_data(tmp_path), model)
  assert "converted to 3 channels" in capsys.readouterr().out, "later starts say it again"


@pytest.mark.parametrize("suffix, alpha, warned", [(".png", None, True), (".png", 255, False), (".npy", None, False)])
def test_transparency_that_is_trained_is_said(tmp_path, capsys, suffix, alpha, warned):
  for number in range(3):
    array = draw(number, 4)
    array[..., 3] = array[..., 3] if alpha is None else alpha
    write(tmp_path / f"raw/A/train/{number}{suffix}", array)
    write(tmp_path / f"raw/B/train/{number}.png", draw(9, 3))
  prepare.prepare(make_data(tmp_path))
  message = "inputs have an alpha channel, such as 0.png, which is used as channel 4. To composite"
  shown = capsys.readouterr().out
  assert (message in shown) == warned and ("--config.model.input_channels=3." in shown) == warned


def test_bands_that_are_no_colours_are_not_converted(tmp_path):
  for side in "AB":
    write(tmp_path / f"raw/{side}/train/1.tif", draw(1, 2))
  model = config_lib.default().model
  model.input_channels = 3
  with pytest.raises(
    UsageError, match="A/train/1.tif has 2 channels of uint8 .* 3 are needed.*declares no such channels"
  ):
    prepare.prepare(make_data(tmp_path), model)


def test_conversion_that_loses_colours_has_shards_of_its_own(tmp_path):
  put(tmp_path / "raw/train", ["1.png", "2.png"], channels=3)
  model = config_lib.default().model
  model.input_channels = model.output_channels = 1
  grey, rgb = prepare.prepare(make_data(tmp_path), model), prepare.prepare(make_data(tmp_path))
  assert (grey.spec.target.channels, rgb.spec.target.channels) == (1, 3) and grey.folder != rgb.folder
  model.output_channels = model.input_channels = 3
  assert prepare.prepare(make_data(tmp_path), model).folder == rgb.folder, "nothing to convert"


def test_bands_without_a_conversion_are_refused(tmp_path):
  put(tmp_path / "raw/A/train", ["1.tif", "2.tif"], channels=13)
  put(tmp_path / "raw/B/train", ["1.tif", "2.tif"], channels=3)
  model = config_lib.default().model
  model.input_channels = 3
  with pytest.raises(UsageError, match="1.tif has 13 channels of uint8.* but 3 are needed"):
    prepare.prepare(make_data(tmp_path), model)


# --- Depth that is none


def write_depth(tmp_path, values):
  """Pairs whose targets are declared as depth; `values` (n, H, W)."""
  for number, array in enumerate(values):
    write(tmp_path / f"raw/A/train/{number}.png", draw(number, 3, size=array.shape))
    write(tmp_path / f"raw/B/train/{number}.npy", array[..., None].astype(np.float32))
  return make_data(tmp_path, target_kind="depth", depth_range=(0.0, 10.0))


def test_depth_beyond_its_range_is_refused_with_the_range_found(tmp_path):
  data = write_depth(tmp_path, np.linspace(500, 9000, 96).reshape(2, *SIZE))
  for _ in range(2):  # also of shards that are there already
    with pytest.raises(UsageError, match="target of the split train lies between 500 and 9000.*0 to 10 m: 100%.*1000"):
      prepare.prepare(data)
  data.depth_range = (0.0, 9000.0)
  assert prepare.prepare(data).spec.counts == {"train": 2}


def test_a_split_without_any_measurement_is_refused_but_an_image_is_not(tmp_path):
  values = np.full((3, *SIZE), 5.0)
  values[1] = 0
  assert prepare.prepare(write_depth(tmp_path, values)).spec.counts == {"train": 3}
  data = write_depth(tmp_path, np.full((3, *SIZE), -1.0))
  with pytest.raises(UsageError, match="target of the split train holds no measurement at all"):
    prepare.prepare(data)


def test_mostly_negative_depth_is_refused(tmp_path):
  hounsfield = np.resize([-1000, -80, -1000, 40, 60], (2, *SIZE))
  with pytest.raises(UsageError, match="declared as depth, but 60% of its values are negative, down to -1000.*kind"):
    prepare.prepare(write_depth(tmp_path, hounsfield))


def test_a_marker_of_missing_depth_may_be_the_most(tmp_path, capsys):
  prepare.prepare(write_depth(tmp_path, np.resize([-1, -1, -1, 5], (2, *SIZE))))
  assert "negative" not in capsys.readouterr().out


def test_some_negative_depth_is_said(tmp_path, capsys):
  prepare.prepare(write_depth(tmp_path, np.resize([-3, -2, 5, 6, 7, 0, 0, 8], (2, *SIZE))))
  assert "33% of the values of the target are negative, down to -3" in capsys.readouterr().out


# --- Progress


def test_long_preparations_show_rate_and_time_left(monkeypatch, capsys, tmp_path):
  clock = iter(np.arange(0, 1000, 4.0))
  monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
  assert list(progress.track("abcdefgh", 8, "Preparing train")) == list("abcdefgh")
  # The clock is read at the start and before every item: the item i follows after 4 (i + 1) seconds.
  assert capsys.readouterr().out.splitlines() == [
    "Preparing train: 2 of 8 (0.167/s, 36 s left)",
    "Preparing train: 5 of 8 (0.208/s, 14 s left)",
  ]
  monkeypatch.undo()
  monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
  put(tmp_path / "raw/train", ["1.png", "2.png", "3.png"])
  prepare.prepare(make_data(tmp_path))
  assert "\nPreparing train: 2 of 3 (" in capsys.readouterr().out, "TFDS is silent, but the progress is not"


# --- Files that cannot be used


@pytest.mark.parametrize("side", ["A", "B"])
@pytest.mark.parametrize(
  "array, form", [(draw(0), "uint8 of 1 channel"), (draw(0, 3, np.uint16), "uint16 of 3 channels")]
)
def test_files_that_differ_from_the_first_are_both_named(tmp_path, side, array, form):
  for name in ("1", "2"):
    for each in "AB":
      write(tmp_path / f"raw/{each}/train/{name}.png", array if (each, name) == (side, "2") else draw(0, 3))
  with pytest.raises(
    UsageError, match=f"{side}/train/2.png is {form}, but .*{side}/train/1.png is uint8 of 3 channels"
  ):
    prepare.prepare(make_data(tmp_path))


def test_all_files_that_cannot_be_used_are_listed_at_once(tmp_path):
  for split in ("train", "val"):
    for number in range(8):
      write(tmp_path / f"raw/{split}/{number}.png", draw(number, 1 if number in (3, 5) else 3))
    write(tmp_path / f"raw/{split}/odd.png", draw(0, 3, size=(6, 7)))
  whole = (tmp_path / "raw/train/0.png").read_bytes()
  (tmp_path / "raw/train/0.png").write_bytes(whole[:60])
  with pytest.raises(UsageError) as caught:
    prepare.prepare(make_data(tmp_path))
  message = str(caught.value)
  assert "All inputs must agree: convert or remove these 4 files." in message and "but " in message
  for name in ("train/3.png", "train/5.png", "val/3.png", "val/5.png", "train/0.png", "train/odd.png", "val/odd.png"):
    assert re.search(rf"raw/{name}[ ,:]", message), name
  assert re.search("train/odd.png, .*val/odd.png: each is ", message), "a shared reason is said once"
  assert "3 files cannot be used." in message and "train/1.png is uint8 of 3 channels" in message


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy", ".jpg", ".bmp"])
@pytest.mark.parametrize("whole", [0, 4])
def test_damaged_files_of_any_format_on_both_sides_are_listed_at_once(tmp_path, suffix, whole):
  """Also if they are the first files, or all of them."""
  for number in range(4 + whole):
    for side in "AB":
      path = tmp_path / f"raw/{side}/train/{number}{suffix}"
      write(path, draw(number, 3, size=(16, 16)))
      if number < 4:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * (1 + number) // 6])
  with pytest.raises(UsageError) as caught:
    prepare.prepare(make_data(tmp_path))
  lines = str(caught.value).splitlines()
  assert lines[0] == "8 files cannot be used." and len(lines) <= 9
  for side in "AB":
    for number in range(4):
      assert str(caught.value).count(f"raw/{side}/train/{number}{suffix}") == 1


def test_files_with_the_same_fault_are_one_line_with_the_first_ten_and_a_count(tmp_path):
  for number in range(20):
    write(tmp_path / f"raw/train/{number}.png", draw(number, 3))
    if number > 5:
      (tmp_path / f"raw/train/{number}.png").write_bytes(b"")
  with pytest.raises(UsageError) as caught:
    prepare.prepare(make_data(tmp_path))
  heading, line = str(caught.value).splitlines()
  assert heading == "14 files cannot be used." and line.count(".png") == 10
  assert line.endswith("15.png and 4 more: each is empty (0 bytes). Replace it, or remove it.")


def test_what_is_wrong_with_every_file_is_said_once(tmp_path):
  for number in range(3):
    for side in "AB":
      write(tmp_path / f"raw/{side}/train/{number}.npy", draw(number, 1, np.float32))
  with pytest.raises(UsageError, match=r"A/train/0.npy holds float32 numbers from 0.5.*, which could mean") as caught:
    prepare.prepare(make_data(tmp_path))
  of_input, of_target = str(caught.value).splitlines()  # both sides at once, and no other files
  assert "Set data.input_kind" in of_input and "0.npy" in of_target and "Set data.target_kind" in of_target


def test_a_long_list_is_cut_after_ten(tmp_path):
  for number in range(40):
    write(tmp_path / f"raw/train/{number}.png", draw(number, 1 if number % 2 else 3))
  with pytest.raises(UsageError, match="and 10 more, but .*0.png is uint8 of 3.*these 20 files"):
    prepare.prepare(make_data(tmp_path))


def test_a_split_of_damaged_files_alone_is_named(tmp_path):
  put(tmp_path / "raw/train", ["1.png"])
  (tmp_path / "raw/val").mkdir()
  (tmp_path / "raw/val/2.png").write_bytes(b"nothing")
  put(tmp_path / "raw/test", ["3.png"])
  with pytest.raises(UsageError, match="val/2.png cannot be read as an image"):
    prepare.prepare(make_data(tmp_path))


def test_a_damaged_file_is_named_and_the_preparation_does_not_count(tmp_path):
  put(tmp_path / "raw/train", ["0.png", "1.png", "2.png"])
  whole = (tmp_path / "raw/train/1.png").read_bytes()
  (tmp_path / "raw/train/1.png").write_bytes(whole[:50])
  with pytest.raises(UsageError, match="train/1.png cannot be read as an image"):
    prepare.prepare(make_data(tmp_path))
  (tmp_path / "raw/train/1.png").write_bytes(whole)
  assert prepare.prepare(make_data(tmp_path)).spec.counts == {"train": 3}


@pytest.mark.parametrize("place", ["data.prepared_dir", "TFDS_DATA_DIR", "XDG_CACHE_HOME"])
def test_a_folder_for_prepared_data_that_cannot_be_written_is_named(tmp_path, monkeypatch, place):
  put(tmp_path / "raw/train", ["0.png"])
  (tmp_path / "file").touch()
  data = make_data(tmp_path)
  data.prepared_dir = str(tmp_path / "file/x") if place == "data.prepared_dir" else ""
  if place != "data.prepared_dir":
    monkeypatch.setenv(place, str(tmp_path / "file/x"))
  with pytest.raises(UsageError, match=r"file/x.*\(Not a directory\)\..*set data\.prepared_dir"):
    prepare.prepare(data)


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
    write(tmp_path / f"raw/train/{number}.png", np.full((1, 2, 1), number % 256, np.uint8))
  split = load(tmp_path, shape=(1, 1))
  assert max(lengths) == 3 and sum(lengths) == count and sum(length > 0 for length in lengths) == examples.BUCKETS
  assert split.ids == [str(number) for number in range(count)]


def test_files_beside_the_pairs_do_not_matter_but_new_pairs_do(tmp_path):
  for side in "AB":
    put(tmp_path / "raw" / side / "train", ["1.png"])
  first = prepare.prepare(make_data(tmp_path)).folder
  put(tmp_path / "raw/runs", ["1.png"])
  assert prepare.prepare(make_data(tmp_path)).folder == first
  write(tmp_path / "raw/B/train/1.png", draw(2, 1))
  assert prepare.prepare(make_data(tmp_path)).folder != first


def test_real_facades_as_ones_own_folder(real_data):
  splits, notes = pairs.find_splits(real_data / "facades")
  assert len(notes) == 1 and {split: len(members) for split, members in splits.items()} == {"train": 400, "val": 100}
  labels, photo = pairs.read_pair(splits["train"][0], pairs.Reading("target_input"))
  whole = np.asarray(Image.open(real_data / "facades/train/1.jpg"))
  np.testing.assert_array_equal(np.concatenate([photo, labels], axis=1), whole)


def test_channels_to_show_are_checked_before_the_files_are_prepared(tmp_path):
  for side, channels in (("A", 7), ("B", 3)):
    write(tmp_path / f"raw/{side}/train/1.npy", draw(1, channels, np.uint16))
  with pytest.raises(UsageError, match=r"data.input_display is \(4, 3, 7\), but these .* 7 channels. .* from 0"):
    prepare.prepare(make_data(tmp_path, input_display=(4, 3, 7)))
  assert not (tmp_path / "prepared").exists()
  source = prepare.prepare(make_data(tmp_path, input_display=(4, 3, 2), target_display=(2,)))
  assert (source.spec.input.shown_channels, source.spec.target.shown_channels) == ((4, 3, 2), (2,))


def test_folders_without_common_names_are_not_proposed_as_sides(tmp_path):
  put(tmp_path, ["sub-00/t1.png", "sub-01/t2.png"])
  with pytest.raises(UsageError, match="sub-00, sub-01 lack a partner") as error:
    pairs.find_splits(tmp_path)
  assert "data.inputs" not in str(error.value)


def test_folders_of_other_names_are_proposed_as_sides(tmp_path):
  put(tmp_path, ["images/1.png", "masks/1.png"])
  with pytest.raises(UsageError, match="set data.inputs=images and data.target_folder=masks"):
    pairs.find_splits(tmp_path)
  found, _ = pairs.find_splits(tmp_path, reading=pairs.Reading(inputs=("images",), target="masks"))
  assert sum(map(len, found.values())) == 1
  with pytest.raises(UsageError, match="data.target_folder names the folder mask, .* did you mean masks"):
    pairs.find_splits(tmp_path, reading=pairs.Reading(inputs=("images",), target="mask"))
