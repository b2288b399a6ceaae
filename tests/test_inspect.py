"""The command `inspect`: the summary and sheets of what a run would train on."""

import numpy as np
from PIL import Image
import pytest

from pix2pix_jax import cli, inspect
from pix2pix_jax import config as config_lib
from pix2pix_jax.data import files, pipeline, prepare
from pix2pix_jax.errors import UsageError
from pix2pix_jax.run import viz

SIZES = ("--config.data.load_size=72", "--config.data.crop_size=64")


@pytest.fixture
def flags(tmp_path):
  """Of a folder with 12 pairs for training and two for validation, RGB → depth."""
  generator = np.random.default_rng(0)
  for split, count in (("train", 12), ("val", 2)):
    for number in range(count):
      files.write(tmp_path / f"raw/A/{split}/{number}.png", generator.integers(0, 256, (72, 72, 3), np.uint8))
      metres = generator.uniform(-1, 8, (72, 72, 1)).astype(np.float32)
      files.write(tmp_path / f"raw/B/{split}/{number}.npy", np.maximum(metres, 0))
  fields = {
    "source_dir": tmp_path / "raw",
    "prepared_dir": tmp_path / "prepared",
    "target_kind": "depth",
    "depth_range": "(0, 10)",
  }
  return ["--config=folder", *SIZES, *(f"--config.data.{name}={value}" for name, value in fields.items())]


def test_it_prints_the_summary_and_writes_the_batches_of_training(flags, tmp_path, capsys):
  inspect.main([*flags, f"--output={tmp_path / 'sheets'}", "--config.train.batch_size", "5"])
  lines = capsys.readouterr().out.splitlines()
  assert "  train 12  input   72×72; 8-bit image, 3 channels; 0 to 255" in lines
  assert any(line.startswith("            target  72×72; depth, 0 to 10 m, 1 channel; ") for line in lines)
  assert not [line for line in lines if line.startswith("Warning")]
  sheets = {path.name: np.asarray(Image.open(path)) for path in (tmp_path / "sheets").iterdir()}
  assert sheets.keys() == {"train_1.png", "train_2.png", "val.png"}

  config = cli.load_config("folder", flags[1:])
  source = prepare.prepare(config.data)
  split = pipeline.load_split(source, "train", (72, 72), cache_gib=1)
  batches = pipeline.train_batches(split, config.data, batch_size=5, seed=config.seed)
  for step, name in enumerate(("train_1.png", "train_2.png")):
    batch = next(batches)
    ids = pipeline.train_ids(split, config.data, batch_size=5, seed=config.seed, step=step)
    for id_, image in zip(ids, batch["input"], strict=True):
      raw = files.read(tmp_path / f"raw/A/train/{id_}.png") / 127.5 - 1
      crops = np.lib.stride_tricks.sliding_window_view(raw, (64, 64, 3)).reshape(-1, 64, 64, 3)
      distance = min(np.abs(crops - each).max((1, 2, 3)).min() for each in (image, image[:, ::-1]))
      assert distance < 1e-5, "the id of another pair"
    columns = {
      "input": [source.spec.input.display(image) for image in batch["input"]],
      "target": [source.spec.target.display(*pair) for pair in zip(batch["target"], batch["mask"])],
    }
    np.testing.assert_array_equal(sheets[name], viz.grid(columns, (0.0, 10.0), captions=ids))
    assert sheets[name].shape != viz.grid(columns, (0.0, 10.0)).shape, "the ids have room"


def test_warnings_are_printed(flags, tmp_path, capsys):
  wider = [flag.replace("(0, 10)", "(0, 100)") for flag in flags]
  inspect.main([*wider, f"--output={tmp_path / 'sheets'}"])
  assert "Warning: Depth reaches 7.9" in capsys.readouterr().out


def test_a_split_without_validation_has_no_such_sheet(tmp_path, capsys):
  config = config_lib.load("procedural")
  changes = {
    "data.num_train": 4,
    "data.num_val": 0,
    "data.num_test": 0,
    "data.prepared_dir": str(tmp_path / "prepared"),
  }
  config_lib.update(config, changes)
  written = inspect.inspect(config, tmp_path / "sheets")
  assert [path.name for path in written] == ["train_1.png", "train_2.png"]
  assert "will memorise 4 training pairs instead" in capsys.readouterr().out


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--config.data.num_trai=3"], "no field data.num_trai; did you mean data.num_train?"),
    (["--config.data.num_train=three"], "data.num_train is 'three'; it has to be an integer"),
    (["--config.data.num_train=3", "--output=/dev/null/x"], "--output=/dev/null/x cannot be created"),
  ],
)
def test_wrong_flags_are_named(arguments, message):
  with pytest.raises(UsageError) as error:
    inspect.main(["--config=procedural", *arguments])
  assert message in str(error.value)


@pytest.mark.parametrize(
  "arguments, message",
  [
    (
      [],
      "--config is missing. For your own folder of pairs: pix2pix_jax inspect --config=folder --config.data.source_",
    ),
    (["--config=folder"], "data.source_dir is not set. Add --config.data.source_dir=DIR"),
    (["--config=procedural", "--config.data.crop_size=50"], "cannot be halved twice"),
  ],
)
def test_what_is_missing_is_named_before_any_work(arguments, message, monkeypatch):
  monkeypatch.setattr(inspect, "inspect", lambda *unused: pytest.fail("the data was read"))
  with pytest.raises(UsageError) as error:
    inspect.main(arguments)
  assert message in str(error.value)


@pytest.mark.parametrize("low", [0, 28010])
def test_images_that_use_little_of_16_bits_are_shown_over_what_they_use(tmp_path, monkeypatch, low):
  generator = np.random.default_rng(0)
  for number in range(12):
    for side, channels in (("A", 2), ("B", 3)):
      values = generator.integers(low, low + 4096, (64, 64, channels), np.uint16)
      files.write(tmp_path / f"raw/{side}/train/{number}.png", values)
  drawn = []
  monkeypatch.setattr(viz, "save_png", lambda path, sheet: drawn.append(sheet))
  titled = []
  monkeypatch.setattr(viz._Sheet, "__init__", lambda self, columns, *_: titled.append(columns))
  monkeypatch.setattr(viz._Sheet, "draw", lambda self: np.zeros((1, 1, 3), np.uint8))
  data = [
    f"--config.data.{name}={tmp_path / folder}" for name, folder in (("source_dir", "raw"), ("prepared_dir", "p"))
  ]
  inspect.main(["--config=folder", *SIZES, *data, f"--output={tmp_path / 'sheets'}"])
  assert len(drawn) == 2 and list(titled[0]) == [
    f"input, channel 1 of 2, {low} to {low + 4095}",
    f"target, {low} to {low + 4095}",
  ]
  for images in titled[0].values():
    assert 100 < np.mean(images) < 155 and np.max(images) > 240
