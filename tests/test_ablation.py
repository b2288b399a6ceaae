"""benchmarks/ablation.py: its commands are valid, and its table holds what has been finished."""

import argparse
import importlib
from pathlib import Path
import sys

import numpy as np
import pytest
from tiny_runs import tiny_config

from pix2pix_jax import cli, train
from pix2pix_jax.run import history


@pytest.fixture(scope="module")
def ablation():
  sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
  yield importlib.import_module("ablation")
  sys.path.pop(0)


ROW = {"step": 400, "l1": 0.2, "psnr": 12.0, "ssim": 0.2, "grid": 3.0}
RESULTS = {"own": {"image": [ROW], "batch": [ROW], "running": [ROW]}}


def options_of(folder, **others):
  options = {"source_dir": None, "output": folder, "base_features": 32, "num_epochs": None, "flags": []}
  return argparse.Namespace(**options | others)


@pytest.mark.parametrize("name_of_study", ["facades", "street", "rooms"])
def test_every_variant_is_a_run_that_differs_from_the_papers(ablation, monkeypatch, tmp_path, name_of_study):
  commands = []
  monkeypatch.setattr(ablation, "run", commands.append)
  study = ablation.STUDIES[name_of_study]
  assert set(study.metrics) <= set(ablation.METRICS)
  configs = {}
  for name in study.variants:
    commands.clear()
    ablation.train(study, options_of(tmp_path, flags=["--config.train.log_every_steps=7"]), name, 3)
    (training,) = commands
    assert training[1].endswith("main.py")
    configs[name], workdir = cli.parse_train(training[2:])[:2]
    assert Path(workdir) == ablation.workdir_of(study, tmp_path, name, 3)
    config = configs[name]
    assert (config.seed, config.train.log_every_steps, config.train.num_epochs) == (3, 7, study.num_epochs)
    assert config.train.keep_every_steps * config.train.batch_size == study.pairs
    assert study.pairs == (config.data.num_train if config.data.name == "procedural" else 400)
  assert len({config.to_json() for config in configs.values()}) == len(configs)
  for name, host in study.within.items():  # they differ only in what an average of the weights does not change
    configs[name].train.ema_decay = configs[host].train.ema_decay
    assert configs[name].to_json() == configs[host].to_json()


def test_the_study_of_facades_is_the_recipe_of_the_results(ablation, monkeypatch, tmp_path):
  commands = []
  monkeypatch.setattr(ablation, "run", commands.append)
  study = ablation.STUDIES["facades"]
  configs = {}
  for name in ("paper", "batch_4", "classes_ema"):
    ablation.train(study, options_of(tmp_path, source_dir=tmp_path, num_epochs=30), name, 0)
    configs[name] = cli.parse_train(commands[-1][2:])[0]
  paper = configs["paper"]
  assert (paper.data.source_dir, paper.data.load_size, paper.data.crop_size) == (str(tmp_path), 143, 128)
  assert (paper.train.batch_size, paper.train.num_epochs, configs["batch_4"].train.keep_every_steps) == (1, 30, 100)
  assert configs["classes_ema"].data.input_kind == "classes" and configs["classes_ema"].train.ema_decay == 0.999


def test_paths_are_the_callers_and_further_flags_reach_every_run(ablation, monkeypatch, tmp_path, capsys):
  commands = []
  monkeypatch.setattr(ablation, "run", commands.append)
  monkeypatch.setattr(ablation, "measure", lambda study, workdir, recognizer: workdir.mkdir(parents=True) or RESULTS)
  monkeypatch.chdir(tmp_path)
  call = ["ablation.py", "--source_dir=facades", "--output=runs", "--only=ema,batch_4", "--seeds=5", "--config.seed=9"]
  monkeypatch.setattr(sys, "argv", call)
  ablation.main()
  trained = [command for command in commands if command[1].endswith("main.py")]
  assert len(trained) == 2 and all(command[-1] == "--config.seed=9" for command in trained)
  assert all(f"--config.data.source_dir={tmp_path / 'facades'}" in command for command in trained)
  monkeypatch.setattr(sys, "argv", [*call, "--nonsense"])
  with pytest.raises(SystemExit):
    ablation.main()
  assert "unknown flags: --nonsense" in capsys.readouterr().err
  monkeypatch.setattr(sys, "argv", ["ablation.py", "--output=runs"])
  with pytest.raises(SystemExit):
    ablation.main()
  assert "--source_dir is missing" in capsys.readouterr().err


def test_the_tables_have_the_last_epochs_and_the_choices_of_measured_runs(ablation, tmp_path):
  study = ablation.STUDIES["facades"]

  def write(seed, offset):
    workdir = ablation.workdir_of(study, tmp_path, "paper", seed)
    values = [0.9, 0.1, 0.18, 0.2, 0.2, 0.2, 0.22]  # by epoch; the last five have a mean of 0.2
    own = [
      {"step": 400 * epoch, "l1": value + offset, "psnr": 12.0, "ssim": 0.01 * epoch, "grid": 3.0}
      for epoch, value in enumerate(values, 1)
    ]
    average = [{**row, "l1": 0.3} for row in own]
    for row in own:
      (workdir / "checkpoints" / str(row["step"])).mkdir(parents=True)
    ablation.write_results(
      workdir,
      {
        "own": {"image": own, "batch": own[-5:], "running": own[-5:]},
        "average": {"image": average, "batch": average[-5:], "running": average[-5:]},
      },
    )
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["2800"]

  write(0, 0.0)
  write(1, 0.1)
  results = {
    name: [ablation.read_results(study, tmp_path, name, seed) for seed in (0, 1, 2)]
    for name in ("paper", "ema", "hinge")
  }
  assert ablation.table(study, results).splitlines()[2:] == [
    "| paper | 2 | 0.2500 ± 0.0707 | 12.00 ± 0.00 | 0.050 ± 0.000 |  | 3.0 ± 0.0 |",
    "| paper, statistics of batches | 2 | 0.2500 ± 0.0707 | 12.00 ± 0.00 | 0.050 ± 0.000 |  | 3.0 ± 0.0 |",
    "| paper, running statistics | 2 | 0.2500 ± 0.0707 | 12.00 ± 0.00 | 0.050 ± 0.000 |  | 3.0 ± 0.0 |",
    "| ema (train.ema_decay=0.999) | 2 | 0.3000 ± 0.0000 | 12.00 ± 0.00 | 0.050 ± 0.000 |  | 3.0 ± 0.0 |",
    "| ema, statistics of batches | 2 | 0.3000 ± 0.0000 | 12.00 ± 0.00 | 0.050 ± 0.000 |  | 3.0 ± 0.0 |",
    "| ema, running statistics | 2 | 0.3000 ± 0.0000 | 12.00 ± 0.00 | 0.050 ± 0.000 |  | 3.0 ± 0.0 |",
  ]
  assert ablation.choices(study, results).splitlines()[2:5] == [
    "| paper, best L1 | 2 | 2.0 ± 0.0 | 0.1500 ± 0.0707 | 12.00 ± 0.00 | 0.020 ± 0.000 |  | 3.0 ± 0.0 |",
    "| paper, best SSIM | 2 | 7.0 ± 0.0 | 0.2700 ± 0.0707 | 12.00 ± 0.00 | 0.070 ± 0.000 |  | 3.0 ± 0.0 |",
    "| paper, the last | 2 | 7.0 ± 0.0 | 0.2700 ± 0.0707 | 12.00 ± 0.00 | 0.070 ± 0.000 |  | 3.0 ± 0.0 |",
  ]
  assert ablation.table(study, results, slice(1, 3)).splitlines()[2:] == [
    "| paper | 2 | 0.1900 ± 0.0707 | 12.00 ± 0.00 | 0.025 ± 0.000 |  | 3.0 ± 0.0 |",
    "| ema (train.ema_decay=0.999) | 2 | 0.3000 ± 0.0000 | 12.00 ± 0.00 | 0.025 ± 0.000 |  | 3.0 ± 0.0 |",
  ]
  assert len(ablation.table(study, results, slice(6, 8)).splitlines()) == 2  # there is no epoch 8


def test_checkpoints_are_measured_with_both_weights(ablation, tmp_path):
  """The average is what a validation of the run itself measured; the weights of the last step are others."""
  sizes = {"data__crop_size": 64, "data__load_size": 64, "data__num_val": 2}
  steps = {"train__num_steps": 4, "train__eval_every_steps": 2, "train__keep_every_steps": 2}
  own = {"train__ema_decay": 0.9, "evaluation__norm_stats": "image"}
  train.train_and_evaluate(tiny_config(**sizes, **steps, **own), tmp_path / "run")
  found = ablation.measure(ablation.STUDIES["facades"], tmp_path / "run", None)
  rows = [row for row in history.read(tmp_path / "run") if "val/l1" in row and row["step"]]
  assert [row["step"] for row in found["average"]["image"]] == [row["step"] for row in rows] == [2, 4]
  for measured, row in zip(found["average"]["image"], rows, strict=True):
    np.testing.assert_allclose([measured[name] for name in ("l1", "ssim")], [row["val/l1"], row["val/ssim"]], rtol=1e-5)
  assert all(len(found[weights][kind]) == 2 for weights in found for kind in ablation.NORM_STATS)
  values = {found[weights][kind][-1]["l1"] for weights in found for kind in ("image", "running")}
  assert len(values) == 4 and all(row["grid"] > 0 for row in found["own"]["batch"])


def test_depth_is_measured_with_the_metrics_of_its_study(ablation, tmp_path):
  sizes = {"data__crop_size": 64, "data__load_size": 64, "data__num_val": 2, "data__task": "kitti_depth"}
  steps = {"train__num_steps": 2, "train__keep_every_steps": 2, "train__eval_every_steps": 2}
  train.train_and_evaluate(tiny_config(**sizes, **steps, evaluation__norm_stats="image"), tmp_path / "run")
  study = ablation.STUDIES["street"]
  (row,) = ablation.measure(study, tmp_path / "run", None)["own"]["image"]
  (logged,) = [row for row in history.read(tmp_path / "run") if row["step"] == 2 and "val/l1" in row]
  assert list(row) == ["step", *study.metrics]
  np.testing.assert_allclose(
    [row[name] for name in study.metrics], [logged[f"val/{name}"] for name in study.metrics], 1e-5
  )
