"""Several processes on one machine, and several devices of one process, against a single device."""

import json
import os
from pathlib import Path
import shutil
import signal
import socket
import subprocess
import time
import types

import forked
import jax
from jax._src import distributed
import numpy as np
import pytest
from test_options import OPTIONS
from tiny_runs import command, latest_step, saved_arrays, with_devices

from pix2pix_jax import cli
from pix2pix_jax.errors import UsageError
from pix2pix_jax.inference import Translator
from pix2pix_jax.run import processes

DEVICES = {"train__batch_size": 8, "evaluation__batch_size": 8}
LONG = {"train__num_steps": 100_000, "train__eval_every_steps": 100_000, "train__checkpoint_every_steps": 100_000}


class Run:
  """The processes of a run; their output is in files, because nobody reads several pipes at once."""

  def __init__(self, count: int, workdir: Path, folder: Path, each=(), **fields):
    with socket.socket() as free:
      free.bind(("127.0.0.1", 0))
      address = f"127.0.0.1:{free.getsockname()[1]}"
    folder.mkdir(parents=True, exist_ok=True)
    self.started, self._files = [], [folder / f"{workdir.name}.{index}.txt" for index in range(count)]
    for index, path in enumerate(self._files):
      flags = [
        f"--coordinator={address}",
        f"--num_processes={count}",
        f"--process_id={index}",
        *each[index : index + 1],
      ]
      with path.open("w") as file:
        self.started.append(forked.Popen([*command(workdir, **fields), *flags], stdout=file, stderr=subprocess.STDOUT))

  def output(self, index: int) -> str:
    return self._files[index].read_text(encoding="utf-8", errors="replace")

  def wait_for(self, text: str, index: int = 0, timeout: float = 180) -> None:
    for _ in range(int(timeout * 10)):
      if text in self.output(index):
        return
      assert self.started[index].poll() is None, self.output(index)
      try:
        self.started[index].wait(0.1)
      except subprocess.TimeoutExpired:
        pass
    raise AssertionError(f"no {text!r} in {self.output(index)}")

  def end(self, timeout: float = 180) -> list[int]:
    """The exit statuses of all processes."""
    try:
      return [process.wait(timeout) for process in self.started]
    finally:
      for process in self.started:
        process.kill()


def run_alone(workdir, devices: int = 1, **fields):
  done = forked.run(command(workdir, **fields), env=with_devices(devices))
  assert done.returncode == 0, done.stderr
  return done.stdout


def assert_close(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
  """Parameters after six steps of Adam: its first updates have the size of the rate whatever the gradient, so where a
  gradient is nearly zero, rounding decides their sign.
  """
  assert one.keys() == other.keys() and len(one) > 50
  for name in one:
    np.testing.assert_allclose(one[name], other[name], rtol=2e-3, atol=2e-4, err_msg=name)


def metrics(workdir):
  return json.loads((workdir / "eval/val/metrics.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """Six steps and an evaluation of seven images on one device."""
  workdir = tmp_path_factory.mktemp("alone") / "run"
  run_alone(workdir, **DEVICES)
  return workdir


@pytest.fixture(scope="module")
def two(tmp_path_factory):
  """The same with two processes."""
  folder = tmp_path_factory.mktemp("two")
  run = Run(2, folder / "run", folder, **DEVICES)
  return run.end(), run, folder / "run"


def test_two_processes_train_and_evaluate_as_one_does(alone, two):
  statuses, run, workdir = two
  assert statuses == [0, 0], run.output(0) + run.output(1)
  assert_close(saved_arrays(alone, 6), saved_arrays(workdir, 6))
  one, other = metrics(alone), metrics(workdir)
  assert other["count"] == 7
  assert other["metrics"] == pytest.approx(one["metrics"], rel=2e-3)
  assert other["baselines"]["mean_target"] == pytest.approx(one["baselines"]["mean_target"])


def test_two_processes_train_with_every_option_as_one_does(tmp_path):
  fields = {**OPTIONS, **DEVICES, "data__num_val": 7, "train__num_steps": 3}
  run_alone(tmp_path / "alone/run", **fields)
  run = Run(2, tmp_path / "two/run", tmp_path, **fields)
  assert run.end() == [0, 0], run.output(0) + run.output(1)
  one, two = (saved_arrays(tmp_path / name / "run", 3) for name in ("alone", "two"))
  assert_close(one, two)
  assert "['discriminator']['batch_stats']['scale_1']['conv_2']['v']" in two
  assert metrics(tmp_path / "two/run")["metrics"] == pytest.approx(metrics(tmp_path / "alone/run")["metrics"], rel=5e-3)


def test_a_model_of_two_processes_translates_on_one_device(two):
  image = np.zeros((16, 16, 3), np.uint8)
  assert Translator.load(two[2])(image).shape == image.shape


def test_only_process_0_writes_and_prints(alone, two):
  _, run, workdir = two
  names = lambda folder: sorted(
    str(path.relative_to(folder))
    for path in folder.rglob("*")
    if "tfevents" not in path.name and "checkpoints" not in path.parts
  )
  assert names(workdir) == names(alone)
  steps = [json.loads(line)["step"] for line in (workdir / "history.jsonl").read_text().splitlines()]
  assert steps == sorted(steps) and len(steps) == len((alone / "history.jsonl").read_text().splitlines())
  assert "Best validation" in run.output(0)
  assert [line for line in run.output(1).splitlines() if "Gloo" not in line] == []


def test_four_processes_go_on_from_the_checkpoint_of_two(two, alone, tmp_path):
  workdir, alone = (shutil.copytree(path, tmp_path / name / "run") for path, name in ((two[2], "two"), (alone, "one")))
  longer = {**DEVICES, "train__num_steps": 8}
  run = Run(4, workdir, tmp_path, **longer)
  assert run.end() == [0] * 4, run.output(0)
  assert "Resuming from step 6." in run.output(0)
  run_alone(alone, **longer)
  assert_close(saved_arrays(alone, 8), saved_arrays(workdir, 8))


def test_a_signal_to_one_process_stops_all_in_the_same_step_and_the_run_resumes(tmp_path):
  run = Run(2, tmp_path / "run", tmp_path / "first", **LONG)
  run.wait_for("First step done")
  run.started[1].send_signal(signal.SIGTERM)
  assert run.end() == [130, 130], run.output(0) + run.output(1)
  assert "error:" not in run.output(0) + run.output(1)
  step = latest_step(tmp_path / "run")
  assert f"Stopped at step {step} of 100000; run the same command to resume." in run.output(0)
  again = Run(2, tmp_path / "run", tmp_path / "again", **{**LONG, "train__num_steps": step + 1})
  assert again.end() == [0, 0], again.output(0)
  assert f"Resuming from step {step}." in again.output(0)


@pytest.mark.parametrize("victim", [0, 1])
def test_the_loss_of_a_process_ends_the_others_with_a_message(victim, tmp_path):
  run = Run(2, tmp_path / "run", tmp_path / "first", **LONG | {"train__checkpoint_every_steps": 1})
  run.wait_for("step 2/")
  run.started[victim].kill()
  other = 1 - victim
  status = run.started[other].wait(processes.LOST_AFTER + 40)
  if victim == 0 and status == -signal.SIGABRT:  # JAX was faster
    assert "Terminating process because the JAX distributed service detected fatal errors" in run.output(other)
  else:
    assert status == processes.LOST, run.output(other)
    assert f"error: Process {victim} was lost" in run.output(other)
    assert "Run the same command on every host to resume." in run.output(other)
  assert "Traceback" not in run.output(other)
  assert latest_step(tmp_path / "run") >= 1


class Ended(BaseException):
  """Instead of the end of this process."""


def test_a_process_that_died_just_after_a_report_is_lost(monkeypatch, capsys):
  """The others may read that report only when their collective operation has failed already."""
  reports = {}
  store = types.SimpleNamespace(
    key_value_set=lambda key, text, allow_overwrite: reports.update({key: text}),
    key_value_dir_get=lambda folder: [*reports.items(), (f"{folder}1", json.dumps({"kind": "alive", "number": 1}))],
  )
  ended = []

  def end(status):
    ended.append(status)
    raise SystemExit  # ends the watch's thread

  def sleep(seconds, really=time.sleep):
    if ended:
      raise Ended
    really(seconds)

  monkeypatch.setattr(distributed.global_state, "client", store)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(jax, "process_index", lambda: 0)
  monkeypatch.setattr(processes, "LOST_AFTER", 3)
  monkeypatch.setattr(processes, "_READING", 0)
  monkeypatch.setattr(os, "_exit", end)
  monkeypatch.setattr(time, "sleep", sleep)
  watch = processes._Watch()
  with pytest.raises(Ended):
    watch.fail("Gloo failed", 1)
  assert ended == [processes.LOST] and "error: Process 1 was lost" in capsys.readouterr().err
  assert "Gloo" not in "".join(reports.values())


def test_processes_with_different_settings_end_before_training(tmp_path):
  run = Run(2, tmp_path / "run", tmp_path, each=["--config.seed=1", "--config.seed=2"])
  assert run.end() == [2, 2]
  assert "error: Process 1 was started with other settings" in run.output(1)
  assert "seed is 2 here and 1 there" in run.output(1)
  assert "error: Process 1 ended: Process 1 was started with other settings" in run.output(0)
  assert not (tmp_path / "run").exists()


def test_what_may_differ_between_hosts_does_not_keep_a_run_from_starting_and_ending(two, tmp_path):
  """Where the other run and the compilation cache are; also once nothing is left to train."""
  (tmp_path / "link").symlink_to(two[2].parent)
  each = [f"--init_from={two[2]}", f"--init_from={tmp_path}/link/run"]
  fields = DEVICES | {"train__num_steps": 1}
  run = Run(2, tmp_path / "run", tmp_path / "first", each=each, **fields)
  assert run.end() == [0, 0], run.output(0) + run.output(1)
  assert f"arrays from {two[2]}, step " in run.output(0)
  each = ["--config.train.compilation_cache=", "--config.train.compilation_cache=none"]
  run = Run(2, tmp_path / "run", tmp_path / "again", each=each, **fields)
  assert run.end() == [0, 0], run.output(0) + run.output(1)
  assert "Already finished: 1 of 1 steps" in run.output(0)


@pytest.mark.parametrize(
  "flags, message",
  [
    (["--coordinator=h:1"], "--num_processes, --process_id is missing"),
    (["--coordinator=h", "--num_processes=2", "--process_id=0"], "has to be HOST:PORT"),
    (["--coordinator=h:1", "--num_processes=2", "--process_id=2"], "--process_id is 2; .* between 0 and 1"),
    (["--coordinator=h:1", "--num_processes=0", "--process_id=0"], "--num_processes is 0"),
  ],
)
def test_flags_of_a_distributed_run_are_checked(flags, message):
  with pytest.raises(UsageError, match=message):
    cli.parse_train(["--config=procedural", "--workdir=w", *flags])


# --- Devices


def test_a_checkpoint_of_four_devices_resumes_on_one_and_on_eight(alone, tmp_path):
  reference = saved_arrays(alone, 6)
  run_alone(tmp_path / "run", devices=4, **{**DEVICES, "train__num_steps": 2})
  run_alone(tmp_path / "run", devices=8, **{**DEVICES, "train__num_steps": 4})
  printed = run_alone(tmp_path / "run", devices=1, **DEVICES)
  assert "Resuming from step 4." in printed
  assert_close(reference, saved_arrays(tmp_path / "run", 6))
  assert metrics(tmp_path / "run")["metrics"] == pytest.approx(metrics(alone)["metrics"], rel=2e-3)


def test_averages_begin_and_end_on_other_devices_and_processes(tmp_path):
  """The checkpoint stays where it is: it is not damaged."""
  settings = {**DEVICES, "train__eval_every_steps": 100}
  run_alone(tmp_path / "run", devices=4, **settings, train__num_steps=2)
  printed = run_alone(tmp_path / "run", devices=1, **settings, train__num_steps=4, train__ema_decay=0.9)
  run = Run(2, tmp_path / "run", tmp_path, **settings, train__num_steps=6)
  assert run.end() == [0, 0], run.output(0) + run.output(1)
  last = Run(2, tmp_path / "run", tmp_path / "last", **settings, train__num_steps=7, train__ema_decay=0.9)
  assert last.end() == [0, 0], last.output(0) + last.output(1)
  for text, step in ((printed, 2), (run.output(0), 4), (last.output(0), 6)):
    assert f"Resuming from step {step}." in text
  assert not (tmp_path / "run/damaged").exists()
  weights, average = (
    {name: array for name, array in saved_arrays(tmp_path / "run", 7).items() if name.startswith(f"['{part}']")}
    for part in ("generator", "average")
  )
  assert average and all(
    0 < np.abs(array - weights[name.replace("average", "generator")]).max() < 1e-2
    for name, array in average.items()
    if "kernel" in name
  )


@pytest.mark.parametrize("batch_size", [8, 3])
def test_batch_statistics_of_an_evaluation_do_not_depend_on_the_devices(batch_size, tmp_path):
  """Seven images in a batch of eight, whose eighth row, on the last device, repeats an image; or in batches of three on
  eight devices: the other rows only fill.
  """
  fields = {**DEVICES, "evaluation__norm_stats": "batch", "train__num_steps": 1, "train__eval_every_steps": 1}
  fields["evaluation__batch_size"] = batch_size
  found = []
  for devices in (1, 8):
    run_alone(tmp_path / f"run{devices}", devices=devices, **fields)
    found.append(metrics(tmp_path / f"run{devices}")["metrics"])
  assert found[0] == pytest.approx(found[1], rel=2e-3)
