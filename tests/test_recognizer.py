"""The recognizer score, with recognizers and models whose answers are known."""

import numpy as np
import pytest

import pix2pix_jax as p2p
from pix2pix_jax import config as config_lib
from pix2pix_jax import evaluate, palettes
from pix2pix_jax.errors import UsageError
from pix2pix_jax.run.recognizer import Recognizer
from pix2pix_jax.signals import Classes, DataSpec, Depth, Image

COLORS = np.array(palettes.CMP[:3], np.uint8)
TINY = {"model.base_features": 4, "model.patch": 16, "loss.gan": "none"}
PALETTE = ",".join(f"#{bytes(color).hex()}" for color in COLORS)


def labels(count, seed=0):
  return np.random.default_rng(seed).integers(0, 3, (count, 4, 4, 1)).repeat(4, 1).repeat(4, 2).astype(np.uint8)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A run from colours to their classes; its weights are replaced below by a function, so it is hardly trained."""
  folder = tmp_path_factory.mktemp("recognizer") / "run"
  y = labels(4)
  overrides = TINY | {"data.target_palette": PALETTE}
  p2p.fit(COLORS[y[..., 0]], y, target_kind="classes", workdir=folder, verbose=0, batch_size=4, overrides=overrides)
  return folder


def make(workdir, spec, answer):
  """A recognizer that answers with a function of the 8-bit images."""
  recognizer = Recognizer(workdir, spec)
  recognizer._translator = lambda images, **_: answer(images)
  return recognizer


def nearest(images):
  return palettes.nearest(images, palettes.CMP[:3])[0]


@pytest.mark.parametrize("input_signal", [Classes(3, palettes.CMP[:3]), Image(3)])
def test_scores_are_those_of_the_confusion_matrix(workdir, input_signal):
  truth, painted = labels(5), labels(5)
  painted[:, :8] = 0  # the model paints class 0 into the upper half
  spec = DataSpec(input_signal, Image(3), {})
  raw = truth if input_signal.kind == "classes" else COLORS[truth[..., 0]]
  recognizer = make(workdir, spec, nearest)
  for start in (0, 3):  # in two batches
    rows = slice(start, start + 3)
    inputs = input_signal.encode(raw[rows])
    recognizer.add("model", inputs, spec.target.encode(COLORS[painted[rows, ..., 0]]))
    recognizer.add("target", inputs, spec.target.encode(COLORS[truth[rows, ..., 0]]))
  scores = recognizer.scores()
  assert scores["target"] == {f"recognizer_{name}": 1.0 for name in ("mean_iou", "pixel_accuracy", "class_accuracy")}
  ious = [np.sum((truth == c) & (painted == c)) / np.sum((truth == c) | (painted == c)) for c in range(3)]
  assert scores["model"]["recognizer_pixel_accuracy"] == pytest.approx(np.mean(truth == painted))
  assert scores["model"]["recognizer_mean_iou"] == pytest.approx(np.mean(ious))


def test_signals_that_do_not_suit_are_refused(workdir):
  for spec, message in (
    (DataSpec(Classes(5), Image(3), {}), "knows 3 classes, but this model's input is 5 classes"),
    (DataSpec(Image(1), Image(3), {}), "neither the same classes nor colours"),
    (DataSpec(Classes(3), Depth(), {}), "its input is 8-bit image, 3 channels, but this model's target is depth"),
  ):
    with pytest.raises(UsageError, match=message):
      Recognizer(workdir, spec)


def test_evaluate_writes_the_scores(workdir, tmp_path, capsys):
  from PIL import Image as PillowImage

  for split in ("train", "val"):
    (tmp_path / "raw" / split).mkdir(parents=True)
    for i, indices in enumerate(labels(3)):
      image = COLORS[indices[..., 0]]
      PillowImage.fromarray(np.concatenate([image, image], 1)).save(tmp_path / f"raw/{split}/{i}.png")
  config = config_lib.load("folder")
  fields = {"data.source_dir": str(tmp_path / "raw"), "data.prepared_dir": str(tmp_path / "prepared")}
  sizes = {"data.load_size": 16, "data.crop_size": 16, "train.num_steps": 1, "train.batch_size": 1}
  config_lib.update(config, {**fields, **sizes, **TINY})
  from pix2pix_jax.train import train_and_evaluate

  train_and_evaluate(config, tmp_path / "run")
  evaluate.main([f"--workdir={tmp_path / 'run'}", f"--recognizer={workdir}"])
  from pix2pix_jax.run import evaluation

  summary = evaluation.read_summary(tmp_path / "run/eval/val")
  for column in (summary["metrics"], summary["baselines"]["target"], summary["baselines"]["mean_target"]):
    assert 0 <= column["recognizer_mean_iou"] <= column["recognizer_pixel_accuracy"] + 1e-9 <= 1 + 1e-9
  assert "recognizer_mean_iou" in capsys.readouterr().out
  with pytest.raises(UsageError, match="its target is 8-bit image"):
    evaluate.main([f"--workdir={tmp_path / 'run'}", f"--recognizer={tmp_path / 'run'}"])
