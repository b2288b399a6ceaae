"""Several inputs on one grid: their notation, the reader, the signal, training, translation and baselines."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image as PillowImage
import pytest

from pix2pix_jax import config as config_lib
from pix2pix_jax import depth, inputs, translate
from pix2pix_jax.data import files, pipeline, prepare, summary
from pix2pix_jax.errors import UsageError
from pix2pix_jax.inference import Translator
from pix2pix_jax.run import baselines, translation
from pix2pix_jax.signals import Classes, Depth, Image, Quantity, Stack

SIZE = (16, 24)
STACK = Stack(
  (
    Image(3),
    Depth(1, (0.0, 80.0), 256.0),
    Quantity(2, "int16", ((-25.0, 3.0), (0.0, 50.0)), "dB"),
    Classes(4, ignore=255),
  ),
  ("rgb", "lidar", "sar", "labels"),
)


def raw_parts(seed=0, size=SIZE):
  rng = np.random.default_rng(seed)
  return {
    "rgb": rng.integers(0, 256, (*size, 3), np.uint8),
    "lidar": np.where(rng.random((*size, 1)) < 0.3, rng.integers(512, 80 * 256, (*size, 1)) / 256, 0).astype(
      np.float32
    ),
    "sar": rng.integers(-25, 40, (*size, 2)).astype(np.int16),
    "labels": rng.choice([0, 1, 2, 3, 255], (*size, 1)).astype(np.uint8),
  }


# --- Notation


def test_the_notation_of_inputs():
  texts = (
    "rgb",
    "lidar:depth,scale=256",
    "s1:quantity,unit=dB,range=-25/3/-30/0,nodata=-9999/0",
    "map:classes,palette=cmp",
  )
  rgb, lidar, s1, labels = inputs.parse(texts, (1.0, 50.0))
  assert (rgb.name, rgb.settings.kind) == ("rgb", "auto")
  assert (lidar.settings.kind, lidar.settings.scale, lidar.settings.depth_range) == ("depth", 256, (1, 50))
  assert (s1.settings.unit, s1.settings.range, s1.settings.nodata) == ("dB", ((-25, 3), (-30, 0)), (-9999, 0))
  assert len(labels.settings.palette) == 12


def test_what_is_written_makes_the_same_signals():
  made = tuple(part.settings.make(part.channels, part.dtype) for part in inputs.parse(inputs.write(STACK)))
  assert made == STACK.parts
  bands = Stack(
    (Image(7, shown_channels=(4, 3, 2)), Quantity(2, "float32", ((0.0, 1.0),), shown_channels=(1,))), ("a", "b")
  )
  assert [part.settings.make(part.channels, part.dtype) for part in inputs.parse(inputs.write(bands))] == [*bands.parts]
  shown = Classes(2, shown=((1, 2, 3), (4, 5, 6)))
  assert inputs.parse(inputs.write(Stack((shown, shown), ("a", "b"))))[0].settings.make(1, "uint8") == shown


@pytest.mark.parametrize(
  "texts, message",
  [
    (("rgb", "lidar:metres"), "'metres'; the kinds are image, depth"),
    (("rgb", "lidar:depth,scale"), "'scale' is not FIELD=VALUE. Give several inputs as"),
    (("rgb", "lidar:depth,scal=3"), "'scal=3' is none of"),
    (("rgb", "lidar:depth,scale=many"), "scale is 'many'; it has to be a number"),
    (("rgb", "a:quantity,range=3/1"), "range is '3/1'; it has to be lowest/highest"),
    (("rgb", "a:classes,palette=blue"), "palette is 'blue'"),
    (("rgb", "a:image,display=3/2"), "display is '3/2'; it has to be one or three channels, from 0, joined by slashes"),
    (("rgb", "RGB"), "name each folder only once"),
    (("rgb", "a/b"), "each input is NAME"),
    (("rgb", ""), "each input is NAME"),
    (("rgb:image",), "kind and range of a single input are data.input_kind"),
  ],
)
def test_mistakes_in_the_notation_are_explained(texts, message):
  config = config_lib.default()
  config.data.inputs = texts
  with pytest.raises(UsageError, match=message):
    config_lib.check(config)


def test_a_resume_keeps_open_ranges_and_counts():
  asked = ("rgb", "lidar:depth,scale=256", "sar:quantity,unit=dB", "labels")
  kept = inputs.parse(inputs.keep(asked, inputs.write(STACK)))
  assert kept[2].settings.range == STACK.parts[2].range and kept[3].settings.count == 4
  assert inputs.keep(("rgb", "sar:quantity,range=0/1"), inputs.write(STACK))[1] == "sar:quantity,range=0/1"


# --- Signal


def test_parts_are_encoded_one_after_the_other_by_numpy_and_jax():
  parts = raw_parts()
  raw = STACK.join(parts)
  assert raw.dtype == np.float32 and raw.shape == (*SIZE, 7) and STACK.channels == 3 + 1 + 2 + 4
  expected = np.concatenate([signal.encode(parts[name]) for name, signal in zip(STACK.names, STACK.parts)], axis=-1)
  np.testing.assert_array_equal(STACK.encode(raw), expected)
  np.testing.assert_allclose(jax.jit(lambda x: STACK.encode(STACK.canonical(x)))(jnp.asarray(raw)), expected, atol=1e-6)
  np.testing.assert_array_equal(STACK.accept(raw, "x"), raw)


def test_images_of_other_number_types_are_converted():
  stack = Stack((Image(1, "uint16"), Image(1)), ("a", "b"))
  raw = stack.join({"a": np.full((2, 2), 255, np.uint8), "b": np.full((2, 2), 0.5, np.float32)})
  np.testing.assert_array_equal(raw[0, 0], [65535, 128])


@pytest.mark.parametrize(
  "change, message",
  [
    ({"rgb": np.zeros((8, 8, 3), np.uint8)}, "different sizes: rgb 8×8, lidar 24×16"),
    ({"rgb": np.zeros((*SIZE, 1), np.uint8)}, "rgb, has 1 channel; this model has 3 channels"),
    ({"lidar": np.zeros((*SIZE, 1), np.int8)}, "lidar, holds int8"),
    ({"radar": np.zeros((*SIZE, 1))}, "has the parts rgb, lidar, sar, labels, radar"),
  ],
)
def test_parts_that_do_not_fit_are_explained(change, message):
  if "lidar" in change:
    stack = dataclasses.replace(STACK, parts=(STACK.parts[0], Depth(), *STACK.parts[2:]))
  else:
    stack = STACK
  with pytest.raises(UsageError, match=message):
    stack.join(raw_parts() | change)


# --- Reader


def write_folders(root, count=6, split="train", size=SIZE):
  """Photographs, 16-bit LiDAR PNGs and dense depth; returns what was written."""
  written = []
  for i in range(count):
    parts = raw_parts(i, size)
    dense = np.random.default_rng(100 + i).uniform(1, 79, (*size, 1)).astype(np.float32)
    files.write(root / f"rgb/{split}/{i}.png", parts["rgb"])
    files.write(root / f"lidar/{split}/{i}.png", parts["lidar"], depth_scale=256)
    files.write(root / f"depth/{split}/{i}.npy", dense)
    written.append((parts["rgb"], parts["lidar"], dense))
  return written


def make_config(tmp_path, **fields):
  config = config_lib.default()
  config.update_from_flattened_dict(
    {
      "data.name": "folder",
      "data.source_dir": str(tmp_path / "raw"),
      "data.prepared_dir": str(tmp_path / "prepared"),
      "data.inputs": ("rgb", "lidar:depth,scale=256"),
      "data.target_folder": "depth",
      "data.target_kind": "depth",
      "data.load_size": 16,
      "data.load_width": 24,
      "data.crop_size": 16,
      "data.crop_width": 16,
      "data.eval_width": 24,
      "model.base_features": 2,
      "model.levels": 2,
      "model.patch": 16,
      "train.num_steps": 3,
      "evaluation.batch_size": 2,
      **fields,
    }
  )
  return config


def test_folders_of_several_inputs_are_one_array(tmp_path, capsys):
  written = write_folders(tmp_path / "raw")
  config = make_config(tmp_path)
  source = prepare.prepare(config.data)
  assert source.spec.input == Stack((Image(3), Depth(1, (0.0, 80.0), 256.0)), ("rgb", "lidar"))
  split = pipeline.load_split(source, "train", SIZE, cache_gib=1)
  for i, (rgb, lidar, dense) in enumerate(written):
    found = split.read(i)
    np.testing.assert_array_equal(found["input"][..., :3], rgb)
    np.testing.assert_array_equal(found["input"][..., 3:], lidar)
    np.testing.assert_array_equal(found["target"], dense)
  text = summary.describe(source, config_lib.resolve(config, source.spec))
  assert "rgb " in text and "8-bit image, 3 channels" in text and "lidar" in text and "holes" in text


def test_each_part_is_resized_in_its_own_way(tmp_path):
  write_folders(tmp_path / "raw", 1)
  source = prepare.prepare(make_config(tmp_path).data)
  small = pipeline.load_split(source, "train", (8, 12), cache_gib=1).read(0)["input"]
  whole = pipeline.load_split(source, "train", SIZE, cache_gib=1).read(0)["input"]
  assert set(np.unique(small[..., 3])) <= set(np.unique(whole[..., 3]))  # nearest: no measurement is blended
  np.testing.assert_array_equal(small[..., :3], np.round(small[..., :3]))
  assert not set(np.unique(small[..., 0])) <= set(np.unique(whole[..., 0]))


def test_a_single_input_may_have_another_folder(tmp_path):
  for i in range(3):
    files.write(tmp_path / f"raw/train/photos/{i}.png", raw_parts(i)["rgb"])
    PillowImage.fromarray(raw_parts(i)["labels"][..., 0] % 4).save((tmp_path / "raw/train/photos").parent / f"{i}.png")
  for path in list((tmp_path / "raw/train").glob("*.png")):
    (tmp_path / "raw/train/masks").mkdir(exist_ok=True)
    path.rename(tmp_path / "raw/train/masks" / path.name)
  config = make_config(
    tmp_path, **{"data.inputs": ("photos",), "data.target_folder": "masks", "data.target_kind": "classes"}
  )
  source = prepare.prepare(config.data)
  assert (source.spec.input, source.spec.target.kind, source.spec.counts) == (Image(3), "classes", {"train": 3})


@pytest.mark.parametrize("name", ["lidar/train/1.png", "depth/train/1.npy"])
def test_a_pair_without_one_of_its_files_is_left_out_and_named(tmp_path, capsys, name):
  write_folders(tmp_path / "raw", 3)
  (tmp_path / "raw" / name).unlink()
  source = prepare.prepare(make_config(tmp_path).data)
  assert source.spec.counts == {"train": 2} and "1.png" in capsys.readouterr().out


def test_inputs_of_different_sizes_are_named(tmp_path):
  write_folders(tmp_path / "raw", 2)
  files.write(tmp_path / "raw/lidar/train/1.png", np.ones((8, 12, 1), np.uint16))
  with pytest.raises(UsageError, match=r"rgb/train/1.png is 24×16 but .*lidar/train/1.png is 12×8 .* one size"):
    prepare.prepare(make_config(tmp_path).data)


def test_a_missing_folder_is_named(tmp_path):
  write_folders(tmp_path / "raw", 2)
  config = make_config(tmp_path, **{"data.inputs": ("rgb", "radar")})
  with pytest.raises(UsageError, match="data.inputs names the folder radar, but .*raw has none of this name"):
    prepare.prepare(config.data)


def test_lidar_that_is_declared_as_an_image_is_noticed(tmp_path):
  write_folders(tmp_path / "raw", 12)
  config = make_config(tmp_path, **{"data.inputs": ("rgb", "lidar")})
  source = prepare.prepare(config.data)
  found = summary.describe(source, config_lib.resolve(config, source.spec))
  assert "The lidar looks like depth" in found and "declare 'lidar:depth,scale=1000' in data.inputs" in found


# --- Training and use


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  from pix2pix_jax.train import train_and_evaluate

  folder = tmp_path_factory.mktemp("several")
  write_folders(folder / "raw")
  write_folders(folder / "raw", 3, "val")
  config = make_config(folder, **{"model.residual": True})
  train_and_evaluate(config, folder / "run")
  return folder


def test_a_run_records_its_inputs_and_resumes(trained, capsys):
  from pix2pix_jax.train import train_and_evaluate

  saved = config_lib.read(trained / "run")
  assert saved.data.inputs[1] == "lidar:depth,channels=1,dtype=float32,scale=256,range=0/80"
  assert (saved.data.input_kind, saved.model.input_channels, saved.model.residual_channel) == ("stack", 4, 3)
  prepared = {path.name for path in (trained / "prepared").rglob("*.json")}
  capsys.readouterr()
  train_and_evaluate(make_config(trained, **{"train.num_steps": 4, "model.residual": True}), trained / "run")
  said = capsys.readouterr().out
  assert "resum" in said.lower() and "data.inputs" not in said and "Preparing" not in said
  assert {path.name for path in (trained / "prepared").rglob("*.json")} == prepared


def test_translation_by_name_by_array_and_by_folders(trained):
  translator = Translator.load(trained / "run")
  parts = raw_parts(3)
  parts = {name: parts[name] for name in ("rgb", "lidar")}
  by_name = translator(parts)
  assert by_name.shape == (*SIZE, 1) and by_name.dtype == np.float32
  np.testing.assert_array_equal(translator(translator.input_signal.join(parts)), by_name)
  translate.main(
    [f"--workdir={trained / 'run'}", f"--input={trained / 'new'}", f"--output={trained / 'out'}"]
    if write_folders(trained / "new", 4, ".")
    else []
  )
  assert {path.name for path in (trained / "out").iterdir()} == {f"{i}.png" for i in range(4)}
  written = files.read(trained / "out/3.png")
  np.testing.assert_allclose(written / 256, translator(parts), atol=0.01)


def test_folders_that_a_model_needs_are_named(trained):
  with pytest.raises(UsageError, match="has the inputs rgb, lidar, but --input .* lacks the folder rgb"):
    translate.main([f"--workdir={trained / 'run'}", f"--input={trained / 'raw/rgb'}", f"--output={trained / 'no'}"])


def test_the_baselines_fill_the_holes_of_the_depth_among_the_inputs(trained):
  config = config_lib.read(trained / "run")
  source = prepare.prepare(config.data)
  split = pipeline.load_split(source, "val", SIZE, cache_gib=1)
  assert baselines.names(source.spec) == ("mean_target", "nearest_valid", "interpolated")
  found = baselines.measure(source, split, config, ["nearest_valid"])["nearest_valid"]
  errors = []
  for i in range(3):
    raw = split.read(i)
    filled = depth.fill_with_nearest(raw["input"][..., 3:])
    errors.append(np.abs(filled - raw["target"]).mean())
  assert found["mae"] == pytest.approx(np.mean(errors), rel=1e-4)


def test_a_residual_generator_corrects_the_depth_among_the_inputs(trained):
  translator = Translator.load(trained / "run")
  output = translator.variables["params"]["output"]
  raw = translator.input_signal.join({name: raw_parts(2)[name] for name in ("rgb", "lidar")})
  encoded = translator.input_signal.encode(raw)[None, ..., 3:]
  filled = translator.target_signal.decode(depth.interpolate(encoded, encoded > -1))[0]
  assert np.abs(translator(raw) - filled).max() > 1e-2
  zeros = translator.variables | {
    "params": translator.variables["params"] | {"output": jax.tree.map(jnp.zeros_like, output)}
  }
  np.testing.assert_allclose(Translator(translator.config, zeros)(raw), filled, atol=1e-4)


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"model.residual_channel": 2}, "residual_channel is 2, but depth is in channel 3 of the input. Set it to 0"),
    (
      {"data.inputs": ("rgb", "lidar:depth,scale=256,range=0/50")},
      "both need one range, but that depth is: depth, 0 to 50 m.*the target: depth, 0 to 80 m",
    ),
    (
      {"data.inputs": ("rgb", "lidar:quantity,range=0/65535"), "model.residual_channel": 3},
      "model.residual needs depth of one channel",
    ),
  ],
)
def test_a_residual_generator_needs_depth_of_the_same_range(tmp_path, fields, message):
  write_folders(tmp_path / "raw", 2)
  config = make_config(tmp_path, **{"model.residual": True, **fields})
  with pytest.raises(UsageError, match=message):
    config_lib.resolve(config, prepare.prepare(config.data).spec)


def test_baselines_fill_the_depth_that_a_residual_generator_corrects(tmp_path):
  write_folders(tmp_path / "raw", 2)
  inputs = {"data.inputs": ("lidar:depth,scale=256", "dense:depth")}
  (tmp_path / "raw/depth").rename(tmp_path / "raw/dense")
  for path in (tmp_path / "raw/dense/train").iterdir():
    files.write(tmp_path / "raw/depth/train" / path.name, files.read(path))
  config = make_config(tmp_path, **inputs, **{"model.residual": True, "model.residual_channel": 1})
  source = prepare.prepare(config.data)
  config = config_lib.resolve(config, source.spec)
  split = pipeline.load_split(source, "train", SIZE, cache_gib=1)
  found = baselines.measure(source, split, config, ["nearest_valid", "interpolated"])
  assert found["nearest_valid"]["mae"] < 1e-4 and found["interpolated"]["mae"] < 1e-4  # it is the target


def test_sheets_show_every_input(trained):
  image = np.asarray(PillowImage.open(sorted((trained / "run").rglob("eval/val/*.png"))[0]))
  assert image.std() > 0
  sheets = list((trained / "run").rglob("*.png"))
  texts = " ".join(str(PillowImage.open(path).text) for path in sheets)
  assert '"rgb", "lidar", "output", "target", "error"' in texts


def test_exported_programs_take_all_channels(trained):
  from pix2pix_jax import export

  export.main([f"--workdir={trained / 'run'}", f"--output={trained / 'g.stablehlo'}"])
  program = jax.export.deserialize(bytearray((trained / "g.stablehlo").read_bytes()))
  translator = Translator.load(trained / "run")
  raw = translator.input_signal.join({name: raw_parts(1)[name] for name in ("rgb", "lidar")})
  (shape,) = [each.shape for each in program.in_avals if len(each.shape) == 4]
  assert shape[-1] == 4
  raw = raw[:, : shape[2]] if isinstance(shape[2], int) else raw
  np.testing.assert_allclose(np.asarray(program.call(raw[None], np.uint32(0)))[0], translator(raw), atol=1e-3)


def test_augmentations_move_all_inputs_together(tmp_path):
  write_folders(tmp_path / "raw", 4)
  config = make_config(tmp_path, **{"data.rotate_degrees": 20.0, "data.scale": (0.8, 1.2), "data.brightness": 0.3})
  source = prepare.prepare(config.data)
  config_lib.resolve(config, source.spec)
  split = pipeline.load_split(source, "train", SIZE, cache_gib=1)
  batch = next(pipeline.train_batches(split, config.data, batch_size=4, seed=0))
  lidar = STACK.parts[1].decode(batch["input"][..., 3:])
  known = np.concatenate([split.read(i)["input"][..., 3] for i in range(4)])
  assert batch["input"].shape == (4, 16, 16, 4) and np.isfinite(batch["input"]).all()
  distance = np.abs(lidar.reshape(-1, 1) - np.unique(known)[None]).min(1)
  assert distance.max() < 1e-4  # nearest: rotated measurements are still measurements


def test_swapped_folders_are_noticed_by_their_channels(trained, tmp_path):
  write_folders(tmp_path / "new", 1, ".")
  (tmp_path / "new/rgb").rename(tmp_path / "new/other")
  (tmp_path / "new/lidar").rename(tmp_path / "new/rgb")
  (tmp_path / "new/other").rename(tmp_path / "new/lidar")
  signal = Translator.load(trained / "run").input_signal
  partners = {tmp_path / "new/rgb/0.png": (tmp_path / "new/rgb/0.png", tmp_path / "new/lidar/0.png")}
  with pytest.raises(
    UsageError, match="new/lidar/0.png has 3 channels, but the input lidar has 1. Are the folders swap"
  ):
    translation.read(signal, tmp_path / "new/rgb/0.png", translation.Options(partners=partners))


def test_a_single_file_for_several_inputs_is_explained(trained, tmp_path):
  with pytest.raises(UsageError, match="has the inputs rgb, lidar, but --input .* is one file. Give a folder"):
    translate.main([f"--workdir={trained / 'run'}", f"--input={trained / 'raw/rgb/val/0.png'}", "--output=out.png"])


def test_an_image_of_other_channels_among_the_inputs_is_named(tmp_path):
  write_folders(tmp_path / "raw", 4)
  files.write(tmp_path / "raw/rgb/train/2.png", np.zeros((*SIZE, 1), np.uint8))
  with pytest.raises(UsageError, match=r"rgb/train/2.png is uint8 of 1 channel, but .* All images of rgb must agree"):
    prepare.prepare(make_config(tmp_path).data)
