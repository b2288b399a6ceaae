"""Images of their own sizes: crops at native resolution, and evaluation in a few padded shapes."""

import json

import jax.numpy as jnp
import numpy as np
from PIL import Image as PillowImage
import pytest
from tiny_runs import make_translator, tiny_config

from pix2pix_jax import config as config_lib
from pix2pix_jax import evaluate, translate
from pix2pix_jax import inspect as inspect_lib
from pix2pix_jax.data import pipeline, prepare
from pix2pix_jax.errors import UsageError
from pix2pix_jax.inference import Translator
from pix2pix_jax.model import metrics
from pix2pix_jax.run import baselines, evaluation
from pix2pix_jax.run.experiment import Experiment
from pix2pix_jax.signals import Classes, DataSpec, Depth, Image, Quantity
from pix2pix_jax.train import train_and_evaluate

SIZES = [(32, 40), (33, 57), (64, 32), (32, 40), (50, 50)]


def write_pairs(folder, sizes=SIZES, splits=("train", "val")):
  """Pairs of one noisy picture and its negative, in the folders A and B."""
  rng = np.random.default_rng(0)
  for split in splits:
    for number, size in enumerate(sizes):
      image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
      for side, content in (("A", image), ("B", 255 - image)):
        (folder / side / split).mkdir(parents=True, exist_ok=True)
        PillowImage.fromarray(content).save(folder / side / split / f"{number}.png")
  return folder


def make_config(tmp_path, **fields):
  return tiny_config(
    **{
      "data__name": "folder",
      "data__source_dir": str(tmp_path / "raw"),
      "data__prepared_dir": str(tmp_path / "prepared"),
      "data__load_size": 0,
      "data__crop_size": 32,
      **fields,
    }
  )


@pytest.mark.parametrize("cache_gib", [1, 0])
def test_crops_are_cut_from_images_of_their_own_size(tmp_path, cache_gib):
  write_pairs(tmp_path / "raw")
  data = make_config(tmp_path).data
  split = pipeline.load_split(prepare.prepare(data), "train", config_lib.load_shape(data), cache_gib=cache_gib)
  assert split.is_mixed and split.sizes.tolist() == [list(size) for size in SIZES]
  assert isinstance(split, pipeline.StreamedSplit) == (cache_gib == 0)
  images = [split.read(index)["input"] for index in range(len(split))]
  assert [image.shape for image in images] == [(*size, 3) for size in SIZES]
  batch = next(pipeline.train_batches(split, data, batch_size=20, seed=0))
  np.testing.assert_allclose(batch["input"], -batch["target"], atol=1e-6)
  seen = set()
  for crop in np.round((batch["input"] + 1) * 127.5).astype(np.uint8):
    seen |= {
      index
      for index, image in enumerate(images)
      for y in range(image.shape[0] - 31)
      for x in range(image.shape[1] - 31)
      if image[y, x].tolist() in (crop[0, 0].tolist(), crop[0, -1].tolist())
      and any(np.array_equal(image[y : y + 32, x : x + 32], form) for form in (crop, crop[:, ::-1]))
    }
  assert seen == set(range(len(SIZES)))


def test_images_smaller_than_the_crop_are_named(tmp_path):
  write_pairs(tmp_path / "raw", [*SIZES, (20, 99)])
  data = make_config(tmp_path).data
  split = pipeline.load_split(prepare.prepare(data), "train", None, cache_gib=1)
  with pytest.raises(
    UsageError, match=r"but 1 training image is smaller: 5 \(99×20\) .*data.crop_size, or set data.load"
  ):
    pipeline.train_batches(split, data, batch_size=2, seed=0)


def test_sides_of_different_sizes_are_named(tmp_path):
  write_pairs(tmp_path / "raw")
  PillowImage.new("RGB", (80, 64), "red").save(tmp_path / "raw/B/train/0.png")  # the same view, twice as large
  with pytest.raises(UsageError, match="input of 0 in train is 40×32 but its target 80×64 .*load_size=0 crops both"):
    pipeline.load_split(prepare.prepare(make_config(tmp_path).data), "train", None, cache_gib=1)


def test_a_width_without_a_height_is_refused():
  config = tiny_config(data__load_size=0, data__load_width=300)
  with pytest.raises(UsageError, match="data.load_width is 300, but data.load_size is 0"):
    config_lib.check_shapes(config)


def test_evaluation_visits_every_image_once_in_few_shapes_with_reflected_borders():
  rng = np.random.default_rng(0)
  sizes = rng.integers(20, 200, (60, 2))
  images = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]
  spec = DataSpec(Image(3), Image(3), {})
  split = pipeline.MemorySplit({"input": images, "target": images}, [str(i) for i in range(60)], spec)
  seen, shapes = [], set()
  for batch in pipeline.eval_batches(split, batch_size=4, multiple=16):
    shapes.add(batch["input"].shape[1:3])
    assert len(batch["input"]) == 4 and not set(np.array(batch["input"].shape[1:3]) % 16) - {0}
    for row in np.flatnonzero(batch["is_real"]):
      index = batch["index"][row]
      seen.append(index)
      height, width = sizes[index]
      expected = spec.input.encode(images[index])
      np.testing.assert_array_equal(batch["input"][row, :height, :width], expected)
      assert batch["inside"][row].sum() == height * width == batch["inside"][row, :height, :width].sum()
      if height < batch["input"].shape[1]:
        np.testing.assert_array_equal(batch["input"][row, height, :width], expected[-2])
  assert sorted(seen) == list(range(60)) and len(shapes) <= pipeline.MAX_SHAPES


def signals_and_arrays():
  rng = np.random.default_rng(1)
  uniform = lambda channels: rng.uniform(-1, 1, (2, 21, 30, channels)).astype(np.float32)
  mask = (rng.random((2, 21, 30, 1)) < 0.7).astype(np.float32)
  one_hot = np.eye(3, dtype=np.float32)[rng.integers(0, 3, (2, 21, 30))] * 2 - 1
  yield "image", Image(3), uniform(3), uniform(3), None
  yield "depth", Depth(1, (0.0, 20.0)), uniform(1), uniform(1), mask
  yield "quantity", Quantity(2, range=((-3.0, 5.0),)), uniform(2), uniform(2), mask
  yield "classes", Classes(3), uniform(3), one_hot, None


@pytest.mark.parametrize("case", signals_and_arrays(), ids=lambda case: case[0])
def test_padding_changes_no_metric(case):
  _, signal, prediction, target, mask = case
  depth = Depth(1, (0.0, 20.0))
  x = np.random.default_rng(2).uniform(-1, 1, (2, 21, 30, 1)).astype(np.float32)
  expected = metrics.measure(prediction, x, target, mask, depth, signal)
  noise = np.random.default_rng(3).uniform(-1, 1, (2, 32, 48, 8)).astype(np.float32)

  def pad(array, fill=None):
    padded = noise[..., : array.shape[-1]].copy() if fill is None else np.zeros((2, 32, 48, 1), np.float32)
    padded[:, :21, :30] = array
    return jnp.asarray(padded)

  inside = pad(np.ones((2, 21, 30, 1)), 0)
  padded_mask = None if mask is None else pad(mask, 0)
  found = metrics.measure(pad(prediction), pad(x), pad(target), padded_mask, depth, signal, inside)
  assert found.keys() == expected.keys()
  for name, values in expected.items():
    np.testing.assert_allclose(found[name], values, rtol=2e-5, atol=1e-6, err_msg=name)


def test_images_that_need_no_padding_are_evaluated_as_ever(tmp_path):
  """Among others of other sizes, with their metrics in the order of the split, and one compilation a shape."""
  rng = np.random.default_rng(0)
  images = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in [(32, 32), (24, 40), (32, 32), (29, 31)]]
  spec = DataSpec(Image(3), Image(3), {"train": 4})
  run = Experiment(config_lib.resolve(tiny_config(), spec), spec)
  variables = run.init().variables

  def measure(numbers):
    chosen = [images[number] for number in numbers]
    split = pipeline.MemorySplit({"input": chosen, "target": chosen}, [str(number) for number in numbers], spec)
    shown = []
    found = evaluation.evaluate_split(run, variables, split, lambda batch, output: shown.append(output.shape[1:3]))
    return found, shown

  mixed, shown = measure([1, 0, 3, 2])
  assert sorted(shown) == [(24, 40), (29, 31), (32, 32), (32, 32)]  # those of one shape are padded, row by row
  alone, _ = measure([1])
  for name, values in alone.per_image.items():
    if "loss" not in name and "accuracy" not in name:
      np.testing.assert_allclose(mixed.per_image[name][0], values[0], rtol=1e-5, err_msg=name)
  assert len(set(mixed.per_image["l1"])) == 4 and set(mixed.rows) == {0, 1, 2, 3}
  assert mixed.rows[2].images["output"].shape == (29, 31, 3)


def test_a_folder_of_mixed_sizes_is_inspected_trained_and_evaluated(tmp_path):
  write_pairs(tmp_path / "raw")
  config = make_config(tmp_path, train__num_steps=2, train__eval_every_steps=2, data__scale=(0.8, 1.2))
  written = inspect_lib.inspect(config, tmp_path / "inspect")
  assert [path.name for path in written] == ["train_1.png", "train_2.png", "val.png"]
  train_and_evaluate(config, tmp_path / "run")
  evaluate.evaluate(tmp_path / "run", split="val")
  results = json.loads((tmp_path / "run/eval/val/metrics.json").read_text(encoding="utf-8"))
  assert results["count"] == len(SIZES) and results["protocol"]["height_width"] == []
  assert {"l1", "psnr", "ssim"} <= results["baselines"]["mean_target"].keys()


@pytest.mark.parametrize("sizes", [[(32, 32)] * 4, [(24, 40)] * 3 + [(29, 31)], [(21, 30)] * 3])
def test_the_mean_target_is_an_image_at_native_resolution(tmp_path, sizes):
  """The mean of all targets pixel by pixel, by hand, if they have one size; else of the most common size."""
  write_pairs(tmp_path / "raw", sizes)
  config = make_config(tmp_path)
  source = prepare.prepare(config.data)
  config = config_lib.resolve(config, source.spec)
  mean = baselines.mean_target(source, config)
  assert mean.shape == (*sizes[0], 3)
  split = pipeline.load_split(source, "val", None, cache_gib=1)
  found = baselines.measure(source, split, config, ["mean_target"])["mean_target"]["l1"]
  if len(set(sizes)) > 1:
    assert 0 < found < 0.3
    return
  train = pipeline.load_split(source, "train", None, cache_gib=1)
  targets, trained = (np.stack([each.read(i)["target"] for i in range(len(each))]) / 255 for each in (split, train))
  np.testing.assert_allclose((mean + 1) / 2, trained.mean(0), atol=1e-6)
  assert found == pytest.approx(np.abs(targets - trained.mean(0)).mean(), rel=1e-4)


def test_a_model_of_native_resolution_gives_no_hint_about_sizes(tmp_path, monkeypatch, capsys):
  write_pairs(tmp_path / "new", [(64, 96)], splits=["."])
  for load_size, hints in ((0, 0), (18, 1)):
    translator = make_translator(data__load_size=load_size)
    monkeypatch.setattr(Translator, "load", lambda workdir, step, found=translator: found)
    output = tmp_path / f"out{load_size}"
    translate.main(["--workdir=any", f"--input={tmp_path / 'new/A'}", f"--output={output}"])
    assert capsys.readouterr().out.count("Hint") == hints
