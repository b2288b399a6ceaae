"""The summary of a data set and its warnings, with numbers counted by hand."""

import dataclasses
import json
import re

import numpy as np
from PIL import Image as PillowImage
import pytest

from pix2pix_jax import config as config_lib
from pix2pix_jax import signals
from pix2pix_jax.data import files, prepare, summary
from pix2pix_jax.data.source import ArraySource
from pix2pix_jax.errors import UsageError
from pix2pix_jax.signals import DataSpec


def noise(count, height, width, channels=3, dtype=np.uint8, low=0, high=None):
  high = np.iinfo(dtype).max if high is None else high
  return np.random.default_rng(0).integers(low, high, (count, height, width, channels), dtype, endpoint=True)


def arrays(x, y, *, target_kind="image", depth_range=(0.0, 80.0), split="train"):
  """A source of arrays in one split, which are stored as `fit` does."""
  made = [
    signals.Settings(kind, depth_range=depth_range).make(array.shape[-1], array.dtype)
    for kind, array in (("image", x), (target_kind, y))
  ]
  stored = tuple(signal.store(signal.accept(array, "x")) for signal, array in zip(made, (x, y)))
  return ArraySource({split: stored}, DataSpec(made[0], made[1], {split: len(x)}))


def resolved(source, **fields):
  """A resolved configuration for sizes of 64, with fields by dotted names (`__` for the dot)."""
  config = config_lib.default()
  sizes = {"data.name": "arrays", "data.load_size": 64, "data.crop_size": 64}
  config_lib.update(config, {**sizes, **{name.replace("__", "."): value for name, value in fields.items()}})
  return config_lib.resolve(config, source.spec)


def warn(source, **fields):
  config = resolved(source, **fields)
  return [line for line in summary.describe(source, config).splitlines() if line.startswith("Warning: ")]


def folder_data(tmp_path, **fields):
  data = config_lib.default().data
  data.update(
    {"name": "folder", "source_dir": str(tmp_path / "raw"), "prepared_dir": str(tmp_path / "prepared"), **fields}
  )
  return data


# --- The block


def test_the_block_has_a_line_for_each_side_of_each_split(tmp_path):
  sizes = {"train": [(8, 16)] * 5 + [(8, 12), (4, 4), (6, 6), (6, 6)], "val": [(8, 16)], "test": [(8, 16)]}
  for split, shapes in sizes.items():
    for number, (height, width) in enumerate(shapes):
      files.write(tmp_path / f"raw/A/{split}/{number}.png", np.full((height, width, 3), 10 + number, np.uint8))
      metres = np.full((height, width, 1), 4.0, np.float32)
      metres[0, : width // 2] = 0
      metres[1, 0] = 12
      metres[1, 1] = 2
      files.write(tmp_path / f"raw/B/{split}/{number}.npy", metres)
  source = prepare.prepare(folder_data(tmp_path, target_kind="depth", depth_range=(0.0, 10.0)))
  found = summary.read(source)
  # Of 5·128 + 96 + 16 + 2·36 values in train, half a row each is a hole: 5·8 + 6 + 2 + 2·3 of 824. Of the other
  # 770, one in each of the 9 images is out of range.
  assert found.splits["train"].target.zeros == pytest.approx(54 / 824)
  assert summary.lines(found, source.spec) == [
    "Data, in pairs (sizes are width × height):",
    "  train 9        input   16×8 (5), 6×6 (2) and 2 other sizes (2); 8-bit image, 3 channels; 10 to 18",
    "                 target  16×8 (5), 6×6 (2) and 2 other sizes (2); depth, 0 to 10 m, 1 channel; "
    "2 to 12 m, median 4 m; 6.6% holes; 1.2% out of range",
    "  val 1, test 1  input   16×8; 8-bit image, 3 channels; 10 to 10",
    "                 target  16×8; depth, 0 to 10 m, 1 channel; 2 to 12 m, median 4 m; 6.2% holes; 0.8% out of range",
  ]


@pytest.mark.parametrize("missing, text", [(0, ""), (1, "under 0.1% {}"), (6, "0.1% {}"), (100, "1.0% {}")])
def test_missing_values_are_named_only_if_there_are_some(missing, text):
  x = np.linspace(1, 2, 10_000, dtype=np.float32).reshape(1, 100, 100, 1)
  for signal, hole, word in (
    (signals.Depth(range=(0.0, 3.0)), 0, "holes"),
    (signals.Quantity(range=((0.0, 3.0),)), np.nan, "without a value"),
  ):
    y = x.copy()
    y.reshape(-1)[:missing] = hole
    source = ArraySource({"train": (x, y)}, DataSpec(signals.Quantity(range=((0.0, 3.0),)), signal, {}))
    of_input, of_target = summary.lines(summary.make(source), source.spec)[1:]
    assert word not in of_input and "holes" not in of_input
    assert of_target.count(word) == (missing > 0) and text.format(word) in of_target


def test_it_is_made_once_and_read_again(tmp_path, monkeypatch, capsys):
  for side in "AB":
    for number in range(2):
      files.write(tmp_path / f"raw/{side}/{number}.png", noise(1, 8, 8)[0])
  (tmp_path / "raw/A/notes.heic").touch()
  source = prepare.prepare(folder_data(tmp_path))
  first = summary.read(source)
  assert json.loads((source.folder / "summary.json").read_text(encoding="utf-8"))["splits"].keys() == {"train", "val"}
  assert "1 file of unknown formats: notes.heic" in capsys.readouterr().out
  monkeypatch.setattr(summary, "make", None)  # would fail if it were called
  again = prepare.prepare(folder_data(tmp_path))
  assert summary.read(again) == first
  assert "1 file of unknown formats: notes.heic" in capsys.readouterr().out, "later starts say it, too"
  monkeypatch.undo()
  (source.folder / "summary.json").write_text('{"revision": 0}')  # of another version
  prepare.prepare(folder_data(tmp_path))
  assert summary.read(source) == first


def test_quantiles_are_those_of_all_measurements():
  metres = np.linspace(1, 5, 12 * 64 * 64, dtype=np.float32).reshape(12, 64, 64, 1)
  side = summary.make(arrays(noise(12, 64, 64), metres, target_kind="depth")).splits["train"].target
  np.testing.assert_allclose(side.quantiles, np.linspace(1.002, 4.998, 1000), rtol=1e-3)
  assert (side.low, side.high, side.zeros) == (1, 5, 0)


# --- Warnings


def test_ordinary_data_have_no_warnings():
  assert warn(arrays(noise(12, 64, 64), noise(12, 64, 64)[::-1])) == []
  metres = np.random.default_rng(0).uniform(1, 70, (12, 64, 64, 1)).astype(np.float32)
  assert warn(arrays(noise(12, 64, 64), metres, target_kind="depth")) == []
  assert warn(arrays(noise(12, 256, 256), noise(12, 256, 256)[::-1]), data__load_size=286, data__crop_size=256) == []


BLOCKS = np.kron(np.random.default_rng(0).integers(0, 19, (12, 16, 16)), np.ones((8, 8), int))[..., None]
PALETTE = np.random.default_rng(1).integers(0, 256, (19, 3)).astype(np.uint8)
MILLIMETRES = np.where(BLOCKS > 4, 400 + 25 * BLOCKS + np.arange(128)[:, None], 0).astype(np.uint16)


@pytest.mark.parametrize(
  "x, fields, message",
  [
    (noise(12, 64, 192), {}, "Images of 192×64 are trained as 64×64.*set data.load_width=192 data.crop_width=192."),
    (
      noise(12, 64, 192),
      {"data__load_width": 192},
      "192×64 are validated as 64×64.*set data.eval_size=64 data.eval_width=192.",
    ),
    (noise(12, 64, 64), {"data__load_size": 286}, "64×64 are enlarged to 286×286.*load_size=72 and data.crop_size=64"),
    (noise(12, 300, 300), {"data__load_size": 286}, "each crop of 64×64 shows 5% of one.*set data.load_size=72"),
    (noise(12, 100, 100), {"data__load_size": 100, "data__crop_size": 100}, "100×100 .* 2 levels.*data.crop_size=64."),
    (noise(12, 28, 28), {"data__load_size": 28, "data__crop_size": 28}, "28×28 .* 2 levels.*data.crop_size=32."),
    (noise(3, 64, 64), {}, "will memorise 3 training pairs instead"),
    (PALETTE[BLOCKS[..., 0]], {}, "input has only 19 colours.*data.input_resampling=nearest"),
    (BLOCKS.astype(np.uint8), {}, "input holds 19 different values up to 18 of 255: class numbers.* 7.1%"),
    (BLOCKS.astype(np.uint16), {}, "input holds 19 different values up to 18 of 65535: class numbers"),
    ((BLOCKS > 9).astype(np.uint8), {}, "input holds 2 different values up to 1 of 255: class numbers"),
    (MILLIMETRES, {}, "input looks like depth: 16 bits, .*% zeros, otherwise 5.* data.input_scale=1000"),
    (
      noise(12, 64, 64, 1, np.uint16, 0, 4095),
      {},
      "input uses 0 to 4095 of the 16-bit range, 6.2%.*data.input_kind=quantity",
    ),
    (
      noise(12, 64, 64, 1, np.uint16, 28010, 30918),
      {},
      "uses 28010 to 30918 of the 16-bit .*If these are measurements, set data.input_kind=quantity, [^;]*data.$",
    ),
    (noise(12, 64, 64, 1, np.uint16, 700, 9990), {}, "uses 700 to 9990 of the 16-bit .*data.input_kind=depth"),
  ],
)
def test_what_may_be_unintended_is_said_with_its_remedy(x, fields, message):
  y = noise(len(x), *x.shape[1:3])[::-1]
  found = warn(arrays(x, y), **fields)
  assert any(re.search(message, line) for line in found), found
  assert max(map(len, found)) < 330


@pytest.mark.parametrize(
  "y, message",
  [
    (np.full((12, 64, 64, 3), 7, np.uint8), "All target values are 7"),
    (np.repeat(noise(1, 64, 64), 12, axis=0), "All 12 targets are the same image"),
    (noise(12, 64, 64), "The target of every pair equals its input"),
  ],
)
def test_targets_from_which_nothing_can_be_learned_are_named(y, message):
  assert [line for line in warn(arrays(noise(12, 64, 64), y)) if message in line]


@pytest.mark.parametrize(
  "low, high, depth_range, parts",
  [
    (0.1, 1.0, (0.0, 80.0), ("Depth reaches 0.999 m, only 1.2% of data.depth_range", '="(0, 1)"', "kind='image'")),
    (5.0, 15.0, (0.0, 12.0), ("30% of the target's measurements lie outside", "do not count", '="(0, 15)"')),
  ],
)
def test_depth_that_hardly_fits_its_range_is_named(low, high, depth_range, parts):
  metres = np.linspace(low, high, 12 * 64 * 64, dtype=np.float32).reshape(12, 64, 64, 1)
  source = arrays(noise(12, 64, 64), metres, target_kind="depth", depth_range=depth_range)
  (line,) = warn(source, data__target_kind="depth", data__depth_range=depth_range)
  assert all(part in line for part in parts), line


@pytest.mark.parametrize(
  "height, width", [(60, 100), (72, 64), (70, 90), (120, 160), (375, 1242), (90, 60), (200, 201), (77, 310)]
)
def test_the_remedy_for_proportions_removes_the_warning(height, width):
  """And it brings no other one: the generator keeps at least four levels."""
  source = arrays(noise(12, height, width), noise(12, height, width)[::-1])
  before = warn(source, data__load_size=72)
  if (height, width) == (200, 201):
    assert before == []
    return
  assert len(before) == 1 and f"Images of {width}×{height} are trained as 72×72" in before[0]
  fields = dict(re.findall(r"(data\.\w+)=(\d+)", before[0]))
  settings = {"data__load_size": 72} | {name.replace(".", "__"): int(value) for name, value in fields.items()}
  assert warn(source, **settings) == []
  sides = [settings[f"data__{name}"] for name in ("load_size", "load_width") if f"data__{name}" in settings]
  assert max(sides) <= 1.15 * max(height, width), "images are not enlarged"
  assert resolved(source, **settings).model.levels >= 4


# --- Errors


def test_check_uses_the_range_of_the_signal():
  metres = np.linspace(1, 9, 12 * 64 * 64, dtype=np.float32).reshape(12, 64, 64, 1)
  source = arrays(noise(12, 64, 64), metres, target_kind="depth")
  found = summary.make(source)
  summary.check(found, source.spec)
  near = dataclasses.replace(source.spec, target=dataclasses.replace(source.spec.target, range=(0.0, 4.0)))
  with pytest.raises(UsageError, match="split train lies between 1 and 9.*0 to 4 m: 62% .*data.target_kind"):
    summary.check(found, near)


def test_pairs_that_occur_twice_and_inputs_of_several_splits_are_named():
  x, y = noise(40, 64, 64), noise(40, 64, 64, low=3)
  spec = DataSpec(signals.Image(3), signals.Image(3), {})
  clean = {"train": (x[:30], y[:30]), "val": (x[30:], y[30:])}
  assert summary.make(ArraySource(clean, spec)).duplicates == []
  leaking = {"train": (x[:30], y[:30]), "val": (x[28:], y[:12])}  # two inputs of train, with other targets
  (line,) = summary.make(ArraySource(leaking, spec)).duplicates
  assert line.startswith("2 inputs of val also occur in train (val_00000 is train_00028, val_00001 is train_00029)")
  repeated = {"train": (np.concatenate([x[:3], x[1:2]]), np.concatenate([y[:3], y[1:2]]))}
  (line,) = summary.make(ArraySource(repeated, spec)).duplicates
  assert line.startswith("1 pair of train repeats another one (train_00003 is train_00001)")
  several = {"train": (np.concatenate([x[:3], x[1:2]]), np.concatenate([y[:3], y[5:6]]))}  # one input, two targets
  assert summary.make(ArraySource(several, spec)).duplicates == []


def test_a_class_far_above_the_others_may_mark_pixels_without_a_label():
  labels = noise(12, 64, 64, 1, np.uint8, 0, 4)
  labels[:, :8] = 255
  signal = summary.complete_signal(signals.Classes(), [], [0, 4, 255], "target")
  source = ArraySource({"train": (noise(12, 64, 64), labels)}, DataSpec(signals.Image(3), signal, {}))
  found = summary.warnings(summary.make(source), resolved(source, train__batch_size=1), source.spec)
  assert any("classes 0 to 4 and 255, so 256 classes" in line and "data.target_ignore=255" in line for line in found)
  ignoring = dataclasses.replace(signal, count=5, ignore=255)
  source = ArraySource({"train": (noise(12, 64, 64), labels)}, DataSpec(signals.Image(3), ignoring, {}))
  assert "5 classes; 5 occur" in "\n".join(summary.lines(summary.make(source), source.spec))
  assert not any("255" in line for line in summary.warnings(summary.make(source), resolved(source), source.spec))


def test_masks_of_black_and_white_become_two_classes_as_advised(tmp_path):
  for number in range(3):
    files.write(tmp_path / f"raw/A/train/{number}.png", noise(1, 16, 16)[0])
    mask = np.full((16, 16, 1), 255 * (number > 0), np.uint8)  # one of black alone, one of white alone
    mask[: 8 * (number > 1)] = 0
    files.write(tmp_path / f"raw/B/train/{number}.png", mask)
  data = folder_data(tmp_path, target_kind="classes")
  (line,) = [line for line in warn(prepare.prepare(data)) if "classes" in line]
  assert "values 0 and 255 alone" in line and "data.target_palette=#000000,#ffffff." in line
  data.target_palette = "#000000,#ffffff"
  source = prepare.prepare(data)
  assert source.spec.target.count == 2 and not [line for line in warn(source) if "classes" in line]
  assert [np.unique(y).tolist() for _, _, y in source.pairs("train")] == [[0], [1], [0, 1]]
  assert source.spec.target.accept(np.eye(2, dtype=np.uint8)[..., None], "x")[..., 0].tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
  "values, marker",
  [
    ((-9999, 112, 226), -9999),  # elevation with an undeclared marker
    ((1e5, 112, 226), 1e5),
    ((-1000, -80, 900), None),  # Hounsfield units: air is far from tissue, but bone is as far
    ((100, 112, 226), None),
    ((0, 1, 1), None),  # two values
    ((-9999, 0, 8848), -9999),
    ((-32768, -400, 30000), -32768),
    ((65535, 1000, 30000), 65535),
    ((-3.4e38, 0, 5), -3.4e38),
    ((0, 200, 1050), 0),
    ((0, 0.1, 90), None),  # rain
    ((100, 300, 1050), None),
  ],
)
def test_a_number_far_from_all_others_may_stand_for_no_value(values, marker):
  odd, low, high = values
  y = np.random.default_rng(0).uniform(low, high, (12, 64, 64, 1)).astype(np.float32)
  y[:, :10] = odd
  signal = signals.Quantity(1, range=((min(values), max(values)),))
  source = ArraySource({"train": (noise(12, 64, 64), y)}, DataSpec(signals.Image(3), signal, {}))
  found = [line for line in warn(source) if "no value" in line]
  assert len(found) == (marker is not None)
  if marker is not None:
    assert f"15.6% of the target's values are {marker:g}, far" in found[0]
    assert f"set data.target_nodata={marker:g}." in found[0]


@pytest.mark.parametrize("odd, expected", [(65535, 1), (4000, 0)])
def test_a_16_bit_image_may_have_marked_pixels_without_a_value(odd, expected):
  y = noise(12, 64, 64, 1, np.uint16, 200, 4095)
  y[:, :10] = odd
  found = [line for line in warn(arrays(noise(12, 64, 64), y)) if "no value" in line]
  assert len(found) == expected
  if expected:
    assert "15.6% of the target's values are 65535" in found[0]
    assert "set data.target_kind=quantity, data.target_nodata=65535." in found[0]


@pytest.mark.parametrize("count, expected", [(1, 1), (2, 0)])
def test_a_single_validation_pair_is_named(count, expected):
  splits = {
    "train": (noise(12, 64, 64)[1:], noise(12, 64, 64)[:-1]),
    "val": (noise(count, 60, 64), noise(count, 60, 64, low=3)),
  }
  found = warn(ArraySource(splits, DataSpec(signals.Image(3), signals.Image(3), {})))
  assert sum("validation split has 1 pair" in line for line in found) == expected


def test_images_without_content_and_copied_targets_are_named_in_every_split():
  x, y = noise(40, 64, 64), noise(40, 64, 64, low=3)
  y[[3, 5]] = [[[[9, 8, 7]]]]
  y[[12, 35]] = x[[12, 35]]
  x[31] = 255
  splits = {"train": (x[:30], y[:30]), "val": (x[30:], y[30:])}
  found = summary.make(ArraySource(splits, DataSpec(signals.Image(3), signals.Image(3), {}))).splits
  assert found["train"].findings == [
    "1 target of train equals its input (train_00012). Check which files they were taken from.",
    "2 targets of train have the same value in every pixel (train_00003, train_00005). Check the files, or leave these "
    "pairs out.",
  ]
  assert [line.split(".")[0] for line in found["val"].findings] == [
    "1 target of val equals its input (val_00005)",
    "1 input of val has the same value in every pixel (val_00001)",
  ]
  assert any("train_00003, train_00005" in line for line in warn(arrays(x[:30], y[:30])))


def test_depth_without_a_measurement_is_named():
  y = np.full((12, 64, 64, 1), 5, np.float32)
  y[:, 0, 0] = 4  # so that no map is flat
  y[[0, 4, 8]] = 0
  (line,) = summary.make(arrays(noise(12, 64, 64), y, target_kind="depth")).splits["train"].findings
  assert line.startswith("3 targets of train have no value in any pixel (train_00000, train_00004, train_00008)")


def test_label_maps_of_one_class_are_ordinary():
  labels = np.repeat(np.uint8([0, 0, 0, 1, 2, 1, 0, 0, 0, 0, 0, 0])[:, None, None, None], 64, 1).repeat(64, 2)
  labels[3:9, 20:40] += 1
  source = ArraySource({"train": (noise(12, 64, 64), labels)}, DataSpec(signals.Image(3), signals.Classes(4), {}))
  assert summary.make(source).splits["train"].findings == []
  masks = arrays(noise(12, 64, 64), labels * 60)
  assert summary.make(masks).splits["train"].findings == []
  unlabelled = DataSpec(signals.Image(3), signals.Classes(4, ignore=0), {})
  (line,) = summary.make(ArraySource({"train": (noise(12, 64, 64), labels)}, unlabelled)).splits["train"].findings
  assert line.startswith("6 targets of train have no value in any pixel (train_00000, train_00001, train_00002 ")


def test_a_depth_range_that_clips_more_than_one_percent_is_named():
  metres = np.linspace(1, 10, 12 * 64 * 64, dtype=np.float32).reshape(12, 64, 64, 1)
  for far, expected in ((9.95, 0), (9.8, 1)):  # of 9 metres, 0.6 % and 2.2 % lie beyond
    source = arrays(noise(12, 64, 64), metres, target_kind="depth", depth_range=(0.0, far))
    found = warn(source, data__target_kind="depth", data__depth_range=(0.0, far))
    assert len(found) == expected and all("2% of the target's measurements lie outside" in line for line in found)


def test_images_of_many_proportions_are_advised_to_keep_their_sizes(tmp_path):
  sizes = [(60, 90), (90, 60), (70, 200), (200, 70), (128, 50)]
  for i, size in enumerate(sizes):
    for side in "AB":
      path = tmp_path / f"raw/{side}/train/{i}.png"
      path.parent.mkdir(parents=True, exist_ok=True)
      PillowImage.fromarray(noise(1, *size)[0]).save(path)
  found = warn(prepare.prepare(folder_data(tmp_path)), data__load_size=286, data__crop_size=256)
  about = [line for line in found if "sizes" in line or "proportions" in line]
  assert len(about) == 1 and "have 5 sizes of different proportions" in about[0]
  assert "set data.load_size=0 and data.crop_size=32." in about[0]  # halved often, and no larger than any image


def test_small_images_of_other_proportions_get_one_piece_of_advice():
  found = warn(arrays(noise(12, 112, 128), noise(12, 112, 128)[::-1]), data__load_size=286, data__crop_size=256)
  about = [line for line in found if "112" in line]
  assert len(about) == 1 and "set data.load_size=0 and data.crop_size=64." in about[0]


def test_sides_of_two_sizes_are_not_advised_to_keep_them():
  source = arrays(noise(12, 96, 128), noise(12, 48, 64))
  (line,) = [line for line in warn(source, data__load_size=286, data__crop_size=256) if "128×96" in line]
  assert "set data.load_size=96 data.load_width=128 data.crop_size=96 data.crop_width=128." in line
  fields = {"load_size": 96, "load_width": 128, "crop_size": 96, "crop_width": 128}
  assert not any("128×96" in line for line in warn(source, **{f"data__{name}": n for name, n in fields.items()}))


@pytest.mark.parametrize("kind, count", [("auto", 1), ("classes", 0)])
def test_palette_targets_that_are_learned_as_images_are_noticed(tmp_path, kind, count):
  for i in range(12):
    for side in "AB":
      path = tmp_path / f"raw/{side}/train/{i}.png"
      path.parent.mkdir(parents=True, exist_ok=True)
      image = PillowImage.fromarray(noise(1, 64, 64)[0] if side == "A" else (noise(1, 64, 64)[0][..., 0] // 70))
      if side == "B":
        image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200, 250, 250, 0])
      image.save(path)
  data = folder_data(tmp_path, target_kind=kind)
  found = warn(prepare.prepare(data), data__name="folder", data__target_kind=kind)
  assert (
    sum(
      "palettes and use 4 colours: label maps? If so, set --config.data.target_kind=classes" in line for line in found
    )
    == count
  )
