"""`kill -9` at any moment: the same command ends in the bits of an undisturbed run, with its final evaluation.

Victims are forked from a process that has imported everything, so that each takes seconds. They kill themselves at a
chosen operation on a file of the workdir (opened for writing, renamed, created or removed), in a soak also at a random
time.
"""

import collections
import json
import multiprocessing
import os
from pathlib import Path
import signal
import sys
import threading

from faults import MINUTES, config, steps, trials
import pytest
from tiny_runs import assert_same_bits, saved_arrays

from pix2pix_jax.run import history
from pix2pix_jax.train import train_and_evaluate

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks programs that use threads")


def victim(workdir, part, count, seconds, log):
  """Trains, and kills itself at the `count`-th operation on a path with `part` in it, or after `seconds`."""
  left = count

  def watch(event, arguments):
    nonlocal left
    if event not in ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove"):
      return
    path = str(arguments[0])
    reads = event == "open" and not (int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR))
    if reads or not path.startswith(workdir):
      return
    if log:
      with open(log, "a") as file:
        file.write(f"{event} {path.removeprefix(workdir)}\n")
    if part in path:
      left -= 1
      if not left:
        os.kill(os.getpid(), signal.SIGKILL)

  sys.addaudithook(watch)
  if seconds:
    threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
  with open(os.devnull, "w") as nowhere:
    os.dup2(nowhere.fileno(), 1)
    os.dup2(nowhere.fileno(), 2)
  train_and_evaluate(config(), workdir)


@pytest.fixture(scope="module")
def start():
  """Starts a victim and returns its exit status."""
  context = multiprocessing.get_context("forkserver")
  context.set_forkserver_preload(["pix2pix_jax.train", "tensorflow_datasets"])

  def run(workdir, part="", count=0, seconds=0.0, log=""):
    process = context.Process(target=victim, args=(str(workdir), part, count, seconds, str(log)))
    process.start()
    process.join(180)
    if process.is_alive():
      process.kill()
      pytest.fail("a run hangs")
    return process.exitcode

  return run


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory):
  """An undisturbed run, and its operations on files."""
  folder = tmp_path_factory.mktemp("undisturbed")
  assert start(folder / "run", log=folder / "log") == 0
  return folder / "run", (folder / "log").read_text().splitlines()


def check_rerun(undisturbed, workdir):
  """Starts the same run again, in this process."""
  train_and_evaluate(config(), workdir)
  reference = undisturbed[0]
  assert_same_bits(saved_arrays(reference, 6), saved_arrays(workdir, 6))
  summaries = [json.loads((each / "eval/val/metrics.json").read_text()) for each in (reference, workdir)]
  assert summaries[0]["step"] == summaries[1]["step"] == 6
  assert summaries[0]["metrics"]["l1"] == pytest.approx(summaries[1]["metrics"]["l1"], rel=1e-5)
  rows = [[row for row in history.read(each) if "val/l1" in row] for each in (reference, workdir)]
  assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]] == [0, 3, 6]
  assert not [path for path in (workdir / "checkpoints").iterdir() if "tmp" in path.name]


MOMENTS = {
  "the first save": ("checkpoints/2.", 3),
  "a later save": ("checkpoints/6.", 3),
  "the final evaluation": ("eval/val/metrics.json", 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at(start, undisturbed, tmp_path, moment):
  workdir, (part, count) = tmp_path / "run", MOMENTS[moment]
  assert sum(part in line for line in undisturbed[1]) >= count
  assert start(workdir, part, count) == -signal.SIGKILL
  assert (steps(workdir) == []) == (moment == "the first save")
  assert not (workdir / "eval/val/metrics.json").exists()
  check_rerun(undisturbed, workdir)


@pytest.mark.skipif(not MINUTES, reason="make soak")
def test_killed_again_and_again_at_random(start, undisturbed, tmp_path):
  """Up to three times in one run: at an operation on a file, or at a time."""
  ends: collections.Counter[str] = collections.Counter()
  for number, rng in enumerate(trials(1)):
    workdir = tmp_path / f"run{number}"
    for _ in range(rng.randint(1, 3)):
      at_operation = rng.random() < 0.7
      count = rng.randint(1, len(undisturbed[1])) if at_operation else 0
      status = start(workdir, "", count, 0.0 if at_operation else rng.uniform(0.5, 8))
      assert status in (0, -signal.SIGKILL)
      ends["finished" if status == 0 else "killed at a file" if at_operation else "killed at a time"] += 1
    try:
      check_rerun(undisturbed, workdir)
    except BaseException:
      print(f"seed of trial {number}: see {Path(workdir)}")
      raise
  print(dict(ends))
