"""benchmarks/ablation.py: its commands are valid, and its table holds what has been finished."""

import argparse
import importlib
import json
from pathlib import Path
import sys

import pytest

from pix2pix_jax import cli


@pytest.fixture(scope="module")
def ablation():
  sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
  yield importlib.import_module("ablation")
  sys.path.pop(0)


def test_every_variant_is_a_run_that_differs_from_the_papers(ablation, monkeypatch, tmp_path):
  commands = []
  monkeypatch.setattr(ablation, "run", commands.append)
  options = {"source_dir": tmp_path, "output": tmp_path, "crop_size": 128, "base_features": 32, "num_epochs": 20}
  configs = {}
  for name in ablation.VARIANTS:
    commands.clear()
    ablation.train(argparse.Namespace(**options, flags=["--config.train.log_every_steps=7"]), name, 3)
    (training,) = commands
    assert training[1].endswith("main.py")
    configs[name], workdir = cli.parse_train(training[2:])[:2]
    assert Path(workdir) == ablation.workdir_of(tmp_path, name, 3)
  assert len({config.to_json() for config in configs.values()}) == len(configs)
  for name, host in ablation.WITHIN.items():  # they differ only in what an average of the weights does not change
    configs[name].train.ema_decay = configs[host].train.ema_decay
    assert configs[name].to_json() == configs[host].to_json()
  paper = configs["paper"]
  assert (paper.data.load_size, paper.train.batch_size, paper.seed, paper.train.log_every_steps) == (143, 1, 3, 7)
  assert [configs[name].train.keep_every_steps for name in ("paper", "batch_4", "batch_10")] == [400, 100, 40]
  assert configs["classes_ema"].data.input_kind == "classes" and configs["classes_ema"].train.ema_decay == 0.999


def test_paths_are_the_callers_and_further_flags_reach_every_run(ablation, monkeypatch, tmp_path, capsys):
  commands = []
  monkeypatch.setattr(ablation, "run", commands.append)
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


def test_the_tables_have_the_last_epochs_and_the_choices_of_measured_runs(ablation, tmp_path):
  def write(seed, offset, **more):
    workdir = ablation.workdir_of(tmp_path, "paper", seed)
    steps = [400 * epoch for epoch in range(1, 8)]
    for step in steps:
      (workdir / "checkpoints" / str(step)).mkdir(parents=True)
    values = [0.9, 0.1, 0.18, 0.2, 0.2, 0.2, 0.22]  # the last five have a mean of 0.2
    own = [
      {"step": step, "l1": value + offset, "psnr": 12.0, "ssim": 0.01 * step, "grid": 3.0}
      for step, value in zip(steps, values, strict=True)
    ]
    average = [{**row, "l1": 0.3, **more} for row in own]
    by_weights = {"own": {"image": own, "batch": own[-5:]}, "average": {"image": average, "running": average}}
    ablation.write_results(workdir, {**by_weights, "own": {**by_weights["own"], "running": []}, "average": {
      **by_weights["average"], "batch": []}})
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["2800"]
