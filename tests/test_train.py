"""Training through main.py: what it writes, that it learns, and evaluation of the result."""

import json
import os
import subprocess
import sys

import forked
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
from tiny_runs import ROOT, changed, command, latest_step, run, tiny_config

from pix2pix_jax import config as config_lib
from pix2pix_jax import evaluate, output, signals
from pix2pix_jax.configs import procedural
from pix2pix_jax.data import pipeline, prepare
from pix2pix_jax.errors import UsageError
from pix2pix_jax.run import evaluation, final, history, reporter
from pix2pix_jax.train import train_and_evaluate

CURVES = True  # see conftest.py


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A run of six steps through main.py."""
  workdir = tmp_path_factory.mktemp("trained") / "run"
  done = run(workdir, train__tensorboard=True)
  assert done.returncode == 0, done.stderr
  return workdir, done.stdout


def test_the_workdir_is_complete(trained):
  workdir, output = trained
  config = json.loads((workdir / "config.json").read_text())
  assert config["model"]["input_channels"] == config["model"]["output_channels"] == 3
  assert config["loss"]["l1_weight"] == 100.0
  assert [path.name for path in sorted((workdir / "samples").iterdir())] == [
    "step_00000000.png",
    "step_00000003.png",
    "step_00000006.png",
  ]
  assert list(workdir.glob("events.out.tfevents.*"))
  assert Image.open(workdir / "curves.png").size == (1300, 650)
  rows = history.read(workdir)
  assert [row["step"] for row in rows if "train/generator_loss" in row] == [2, 4, 6]
  assert [row["step"] for row in rows if "val/generator_loss" in row] == [0, 3, 6]
  assert {
    "train/discriminator_loss",
    "train/gan_loss",
    "train/l1",
    "train/discriminator_accuracy_real",
    "train/discriminator_accuracy_fake",
    "train/data_wait_share",
    "train/learning_rate",
    "train/generator_update_norm",
    "train/discriminator_update_norm",
  } <= rows[1].keys()
  assert "Generator: unet, 3 levels, 2 features" in output and "6 steps, batch size 2" in output
  summary = json.loads((workdir / "eval/val/metrics.json").read_text())
  assert (summary["count"], summary["step"]) == (7, 6)
  table = (workdir / "eval/val/per_image.csv").read_text().splitlines()
  assert len(table) == 8 and table[1].startswith("facades_00008,")
  column = table[0].split(",").index("l1")
  np.testing.assert_allclose(
    np.mean([float(line.split(",")[column]) for line in table[1:]]), summary["metrics"]["l1"], rtol=1e-4
  )


def test_a_workdir_that_is_a_file_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UsageError, match="--workdir .*file cannot be created as a folder"):
    train_and_evaluate(tiny_config(), tmp_path / "file")


def test_a_start_that_failed_leaves_the_workdir_usable(tmp_path):
  with pytest.raises(UsageError, match="model.norm is 'batchnorm'; did you mean batch"):
    train_and_evaluate(tiny_config(train__num_steps=2, model__norm="batchnorm"), tmp_path / "run")
  train_and_evaluate(tiny_config(train__num_steps=2), tmp_path / "run")


def test_training_without_a_validation_split(tmp_path):
  train_and_evaluate(tiny_config(data__num_val=0, train__num_steps=2), tmp_path / "run")
  assert latest_step(tmp_path / "run") == 2
  assert not (tmp_path / "run/eval").exists()


def test_evaluate_command_measures_every_test_image_once(trained):
  workdir, _ = trained
  command = [sys.executable, "-m", "pix2pix_jax.evaluate", f"--workdir={workdir}", "--split=test", "--step=latest"]
  done = forked.run(command, cwd=ROOT)
  assert done.returncode == 0, done.stderr
  summary = json.loads((workdir / "eval/test/metrics.json").read_text())
  assert (summary["count"], summary["step"], summary["protocol"]["norm_stats"]) == (3, 6, "running")
  assert len((workdir / "eval/test/per_image.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize(
  "flags, message",
  [
    (["--workdir={}", "--step=5"], "no checkpoint '5'; it has .*6, 'best' and 'latest'"),
    (["--workdir={}", "--split=validation"], "--split is 'validation'; did you mean val?"),
    (["--workdir={}/nowhere"], "holds no run|does not exist"),
  ],
)
def test_names_are_checked_before_evaluate_loads_anything(trained, flags, message, monkeypatch):
  monkeypatch.setitem(sys.modules, "pix2pix_jax.data.prepare", None)  # makes its import fail
  monkeypatch.delattr("pix2pix_jax.data.prepare")
  with pytest.raises(UsageError, match=message):
    evaluate.main([flag.format(trained[0]) for flag in flags])


def test_results_of_another_protocol_step_or_data_get_their_own_folder(trained):
  """The run's own results are never replaced by results that mean something else."""
  workdir, _ = trained
  own = (workdir / "eval/val/metrics.json").read_bytes()
  evaluate.evaluate(workdir, dropout=False, norm_stats="image", step="latest", baseline=["none"])
  evaluate.evaluate(workdir, step=3 if (workdir / "checkpoints/3").is_dir() else 6, baseline=["none"])
  config = config_lib.read(workdir)
  assert (workdir / "eval/val/metrics.json").read_bytes() == own or not (workdir / "checkpoints/3").is_dir()
  summary = evaluation.read_summary(workdir / "eval/val@step6,dropout=off,norm_stats=image")
  assert (summary["protocol"]["dropout"], summary["protocol"]["norm_stats"]) == (False, "image")
  name = lambda **changes: evaluate._results_folder(workdir, "val", 6, False, changed(config, **changes), config).name
  assert name() == "val" and name(data__source_dir="/elsewhere/my data") == "val@data=my_data"
  assert name(data__source_dir="") == "val"
  assert evaluate._results_folder(workdir, "val", 3, False, config, config).name == "val@step3"
  assert evaluate._results_folder(workdir, "train", 3, True, config, config).name == "train"


def test_data_of_another_kind_is_refused(trained, tmp_path):
  workdir, _ = trained
  for side in "AB":
    (tmp_path / side).mkdir()
    for name in range(2):
      np.save(tmp_path / side / f"{name}.npy", np.full((16, 16, 5), 50 * name, np.uint8))
  with pytest.raises(UsageError, match="5 channels"):
    evaluate.evaluate(workdir, split="train", source_dir=tmp_path, reader="folder")


@pytest.mark.parametrize("place, split", [("test/{}", "test"), ("{}", "whole")])
def test_other_data_are_evaluated_whole_and_without_the_baseline_that_they_lack(
  trained, tmp_path, capsys, place, split
):
  """As a folder `test/` alone, or as a flat folder of both sides."""
  workdir, _ = trained
  for side, shade in (("A", 40), ("B", 200)):
    folder = tmp_path / place.format(side)
    folder.mkdir(parents=True)
    for name in range(5):
      Image.fromarray(np.full((16, 16, 3), shade + name, np.uint8)).save(folder / f"{name}.png")
  result = evaluate.evaluate(workdir, split=split, source_dir=tmp_path, reader="folder")
  printed = capsys.readouterr().out
  assert len(result.per_image["l1"]) == 5 and f"{split}: 5 images" in printed
  assert f"Without mean_target: {tmp_path} has no train split." in printed


def test_evaluation_does_not_depend_on_the_batch_size(trained):
  workdir, _ = trained
  results = []
  for size in (4, 7):
    config_lib.write(workdir, changed(config_lib.read(workdir), evaluation__batch_size=size))
    results.append(evaluate.evaluate(workdir).per_image)
  assert all(len(values) == 7 for values in results[0].values())
  for name in results[0]:
    np.testing.assert_allclose(results[0][name], results[1][name], rtol=2e-3, atol=1e-4, err_msg=name)


def test_it_learns(tmp_path):
  """The negative of façades, under the default protocol: L1 falls far below the mean target's and the untrained
  model's.
  """
  config = procedural.get_config()
  config.update_from_flattened_dict(
    {
      "data.load_size": 36,
      "data.crop_size": 32,
      "data.num_train": 64,
      "data.num_val": 16,
      "model.base_features": 16,
      "model.patch": 16,
      "train.num_steps": 400,
      "train.eval_every_steps": 400,
      "train.checkpoint_every_steps": 400,
    }
  )
  prepared = prepare.prepare(config.data)
  photos = {
    split: pipeline.load_split(prepared, split, (36, 36), cache_gib=1).arrays["target"] for split in ("train", "val")
  }
  train_and_evaluate(
    config,
    tmp_path / "run",
    source=pipeline.ArraySource({split: (array, 255 - array) for split, array in photos.items()}, prepared.spec),
  )
  used = config_lib.read(tmp_path / "run").evaluation
  assert used.dropout and used.norm_stats == "image"
  untrained, trained = (row["val/l1"] for row in history.read(tmp_path / "run") if "val/l1" in row)
  baseline = json.loads((tmp_path / "run/eval/val/metrics.json").read_text())["baselines"]["mean_target"]["l1"]
  assert trained < 0.75 * baseline and trained < 0.6 * untrained, (
    trained,
    baseline,
    untrained,
  )  # 0.63 and 0.44 were seen


@pytest.mark.parametrize(
  "metric, model, baselines, expected",
  [
    ("l1", 0.0408, {"mean_target": {"l1": 0.0398}}, "By l1, the model (0.0408) is no better than mean_target (0.0398)"),
    ("l1", 0.03, {"mean_target": {"l1": 0.04}}, ""),
    ("ssim", 0.3, {"mean_target": {"ssim": 0.2}}, ""),
    ("ssim", 0.3, {"a": {"ssim": 0.2}, "b": {"ssim": 0.4}}, "no better than b (0.4000)"),
    ("l1", 0.03, {}, ""),
  ],
)
def test_a_model_that_does_not_beat_a_baseline_is_said_to_be_no_better(metric, model, baselines, expected):
  found = final._not_better(metric, {metric: model}, baselines)
  assert expected in found if expected else found == ""


def test_a_slow_run_is_estimated_before_its_first_log_line(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(reporter, "FIRST_ESTIMATE", 0)
  train_and_evaluate(tiny_config(**{"train.num_steps": 8, "train.log_every_steps": 8}), tmp_path / "run")
  lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith(" left")]
  assert [line.partition("  ")[0] for line in lines] == ["step 3/8", "step 8/8"]  # the first step compiles


@pytest.mark.parametrize("saving, validating", [(0, 0), (0.9, 0), (0, 3), (0.4, 3)])
def test_the_time_left_is_wall_clock_with_saving_and_validating(tmp_path, monkeypatch, capsys, saving, validating):
  now = 0.0

  def wait(seconds):
    nonlocal now
    now += seconds

  monkeypatch.setattr(reporter.time, "perf_counter", lambda: now)
  train = tiny_config(train__num_steps=1100, train__eval_every_steps=10, train__log_every_steps=100).train
  writer = type("Writer", (), {"load": lambda *_: None, "write_scalars": lambda *_: None})()
  shown = reporter.Reporter(writer, tmp_path, start=0, config=train)
  for step in range(1, 101):
    with shown.data_wait():
      wait(0.04)
    wait(0.06)
    shown.trained(step, {"generator_loss": jnp.ones(())}, last=False)
    with shown.pause():
      if step % 10 == 0:
        with shown.validating():
          wait(validating)
      wait(saving)
  (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step 100/")]
  assert "10.00 steps/s" in line
  assert line.endswith(f"  {output.duration(1000 * (0.1 + 0.99 * saving) + 100 * validating)} left")  # 99 were saved


@pytest.mark.parametrize(
  "batch_size, norm, asked, used",
  [
    (1, "batch", "auto", "image"),
    (2, "batch", "auto", "running"),
    (10, "batch", "auto", "running"),
    (10, "instance", "auto", "image"),
    (10, "none", "auto", "image"),
    (10, "batch", "image", "image"),
    (1, "batch", "running", "running"),
    (2, "batch", "batch", "batch"),
  ],
)
def test_evaluation_uses_image_statistics_after_training_with_single_images(batch_size, norm, asked, used):
  config = tiny_config(train__batch_size=batch_size, model__norm=norm, evaluation__norm_stats=asked)
  spec = signals.DataSpec.of(signals.Image(3), signals.Image(3), {"train": 20}, "")
  assert config_lib.resolve(config, spec).evaluation.norm_stats == used


@pytest.mark.parametrize("pairs, batch_size, expected", [(3, 2, 100), (30, 1, 120), (400, 1, 400), (400, 10, 120)])
def test_checkpoints_are_whole_epochs_and_at_least_100_steps_apart(pairs, batch_size, expected):
  config = tiny_config(train__batch_size=batch_size, train__checkpoint_every_steps=0, train__num_steps=1000)
  spec = signals.DataSpec.of(signals.Image(3), signals.Image(3), {"train": pairs}, "")
  assert config_lib.resolve(config, spec).train.checkpoint_every_steps == expected
  assert config_lib.resolve(changed(config, train__checkpoint_every_steps=7), spec).train.checkpoint_every_steps == 7


def test_the_first_step_on_prepared_data_needs_no_tensorflow(trained, tmp_path):
  blocked = tmp_path / "blocked/tensorflow"
  blocked.mkdir(parents=True)
  blocked.joinpath("__init__.py").write_text("raise SystemExit('TensorFlow was imported')", encoding="utf-8")
  env = os.environ | {"PYTHONPATH": os.pathsep.join([str(blocked.parent), os.environ.get("PYTHONPATH", "")])}

  def start(workdir, **fields):
    arguments = command(tmp_path / workdir, train__num_steps=2, **fields)
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=300, env=env)

  done = start("run", train__tensorboard=True)
  assert "First step done" in done.stdout and "TensorFlow was imported" in done.stderr, done.stdout + done.stderr
  done = start("without", train__tensorboard=False)  # nor does the rest, which writes no event files
  assert done.returncode == 0 and "for all scalars: history.jsonl" in done.stdout, done.stderr
  assert not list((tmp_path / "without").glob("events*")) and history.read(tmp_path / "without")
