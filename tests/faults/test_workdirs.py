"""A workdir that is used twice, full, read-only, moved or removed: a clear message, and no checkpoint is lost."""

import os
import shutil
import signal
import subprocess
import sys
import time

from faults import config, copy, steps
import pytest
from tiny_runs import assert_same_bits, saved_arrays

from pix2pix_jax import evaluate
from pix2pix_jax.errors import UsageError, run_command
from pix2pix_jax.run import lock, storage
from pix2pix_jax.train import Observer, train_and_evaluate

HOLDER = """
import sys, time
from pix2pix_jax.run import lock
with lock.held(sys.argv[1]):
  print("held", flush=True)
  time.sleep(600)
"""

CURVES = True  # see conftest.py


class Do(Observer):
  """Does something after a step."""

  def __init__(self, step, action):
    self.step, self.action = step, action

  def step_ended(self, step, metrics, validation):
    if step == self.step:
      self.action()
    return False


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("trained") / "run"
  train_and_evaluate(config(), workdir)
  return workdir


def test_a_second_run_in_a_workdir_is_refused_until_the_first_ends_however_it_ends(tmp_path):
  holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
  try:
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UsageError, match=rf"in use by another run \(process {holder.pid} on .*another --workdir"):
      train_and_evaluate(config(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [lock.FILE]
    with lock.held(tmp_path, by_this_process=False):  # another process of the same run
      pass
  finally:
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
  with lock.held(tmp_path):
    assert str(os.getpid()) in (tmp_path / lock.FILE).read_text()
    with pytest.raises(UsageError, match="in use by another run"), lock.held(tmp_path):
      pass
  with lock.held(tmp_path):
    pass


@pytest.mark.skipif(os.name != "posix", reason="limits of file sizes are POSIX's")
@pytest.mark.parametrize("limit", [400, 12_000, 60_000])
def test_a_run_that_cannot_write_says_so_once_and_resumes(trained, tmp_path, capfd, limit):
  """Files may have this many bytes, so that the configuration, a checkpoint or the curves cannot be written."""
  import resource

  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
  try:
    with pytest.raises(UsageError, match=r"cannot be written \(File too large.*Free space and run the same command"):
      train_and_evaluate(config(), tmp_path / "run")
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert "Traceback" not in capfd.readouterr().err
  train_and_evaluate(config(), tmp_path / "run")
  assert_same_bits(saved_arrays(trained, 6), saved_arrays(tmp_path / "run", 6))


@pytest.fixture
def mount(tmp_path):
  """Mounts a RAM disk: a function of its size in KiB."""
  folder = tmp_path / "disk"
  folder.mkdir()

  def make(size):
    try:
      done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", folder], capture_output=True)
    except FileNotFoundError:
      pytest.skip("there is no mount command")
    if done.returncode:
      pytest.skip("only root can mount a small disk")
    return folder

  yield make
  subprocess.run(["umount", "-l", folder], capture_output=True)


def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_resumes(trained, tmp_path, mount, capfd):
  disk = mount(360)
  fields = {"train__checkpoint_every_steps": 1}
  with pytest.raises(UsageError, match=r"No space left on device.*The checkpoint of step \d is intact. Free space"):
    train_and_evaluate(config(**fields), disk / "run")
  assert "Traceback" not in capfd.readouterr().err
  assert steps(disk / "run")
  subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
  train_and_evaluate(config(**fields), disk / "run")
  assert "Resuming from step" in capfd.readouterr().out
  assert not list((disk / "run/checkpoints").glob("*tmp*")), "what the failed save left is removed"
  assert_same_bits(saved_arrays(trained, 6), saved_arrays(disk / "run", 6))


def test_a_read_only_workdir_can_be_read_and_refuses_what_writes(trained, mount, capsys):
  disk = mount(50_000)
  workdir = copy(trained, disk / "run")
  subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
  with pytest.raises(UsageError, match=r"Read-only file system.*step 6 is intact. Make it writable"):
    train_and_evaluate(config(train__num_steps=8), workdir)
  with pytest.raises(SystemExit) as stop:
    run_command(lambda: evaluate.evaluate(workdir))
  assert stop.value.code == 2
  assert "Read-only file system. Check its permissions" in capsys.readouterr().err


def test_a_moved_workdir_resumes_where_it_is_now(trained, tmp_path):
  workdir, moved = copy(trained, tmp_path / "run"), tmp_path / "moved"
  settings = config(train__num_steps=12)
  with pytest.raises(UsageError, match="moved or removed while the run wrote to it.*new --workdir to resume"):
    train_and_evaluate(settings, workdir, observer=Do(7, lambda: workdir.rename(moved)))
  assert not (workdir / "checkpoints").exists(), "no second workdir"
  train_and_evaluate(settings, moved)
  whole = copy(trained, tmp_path / "whole")
  train_and_evaluate(settings, whole)
  assert_same_bits(saved_arrays(whole, 12), saved_arrays(moved, 12))


def test_checkpoints_that_vanish_are_reported(trained, tmp_path):
  workdir = copy(trained, tmp_path / "run")
  with pytest.raises(UsageError, match=r"No such file or directory.*No checkpoint was saved yet"):
    train_and_evaluate(
      config(train__num_steps=8), workdir, observer=Do(7, lambda: shutil.rmtree(workdir / "checkpoints"))
    )


def test_faults_of_the_program_are_not_explained_away(tmp_path):
  for fault in (ValueError("of the program"), FileNotFoundError(2, "No such file or directory", "/elsewhere")):
    with pytest.raises(type(fault)) as raised, storage.explained(tmp_path):
      raise fault
    assert raised.value is fault


def test_a_clock_that_jumps_back_changes_nothing(trained, tmp_path, monkeypatch):
  real, calls = time.time, iter(range(10**9))
  monkeypatch.setattr(time, "time", lambda: real() - 1000.0 * next(calls))
  train_and_evaluate(config(train__num_steps=4), tmp_path / "run")
  train_and_evaluate(config(), tmp_path / "run")
  assert_same_bits(saved_arrays(trained, 6), saved_arrays(tmp_path / "run", 6))
