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
    training, *evaluations = commands
    assert training[1].endswith("main.py") and [command[-1] for command in evaluations] == [
      f"--norm_stats={kind}" for kind in ("image", "batch", "running")
    ]
    configs[name], workdir = cli.parse_train(training[2:])[:2]
    assert Path(workdir) == ablation.workdir_of(tmp_path, name, 3)
  assert len({config.to_json() for config in configs.values()}) == len(configs)
  paper = configs["paper"]
  assert (paper.data.load_size, paper.train.batch_size, paper.seed, paper.train.log_every_steps) == (143, 1, 3, 7)
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


def test_the_table_has_the_means_of_the_last_validations_of_finished_runs(ablation, tmp_path):
  def write(seed, l1, finished=True):
    workdir = ablation.workdir_of(tmp_path, "paper", seed)
    workdir.mkdir(parents=True)
    values = [9.0, 9.0, l1 - 0.02, l1, l1, l1, l1 + 0.02]  # at step 0, and at 1 to 6
    rows = [{"step": step, "val/l1": value, "val/psnr": 12.0, "val/ssim": 0.25} for step, value in enumerate(values)]
    (workdir / "history.jsonl").write_text(
      "".join(json.dumps(row) + "\n" for row in [*rows, {"step": 6, "train/l1": 1}])
    )
    for kind in ("image", "running") if finished else ():
      folder = workdir / ("eval/val" if kind == "image" else f"eval/val@norm_stats={kind}")
      folder.mkdir(parents=True)
      metrics = {"l1": l1 + (kind == "running"), "psnr": 12.0, "ssim": 0.25}
      summary = {"step": 6, "metrics": metrics, "protocol": {"norm_stats": kind}}
      (folder / "metrics.json").write_text(json.dumps(summary))

  write(0, 0.2)
  write(1, 0.3)
  write(2, 0.9, finished=False)
  assert ablation.table(tmp_path, ["paper", "ema"], [0, 1, 2]).splitlines()[2:] == [
    "| paper | 2 | 0.2500 ± 0.0707 | 12.00 ± 0.00 | 0.250 ± 0.000 |",
    "| paper, evaluated with image | 2 | 0.2500 ± 0.0707 | 12.00 ± 0.00 | 0.250 ± 0.000 |",
    "| paper, evaluated with running | 2 | 1.2500 ± 0.0707 | 12.00 ± 0.00 | 0.250 ± 0.000 |",
  ]
