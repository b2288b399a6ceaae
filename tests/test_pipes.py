"""Closed pipes, terminals and streams: a run goes on or stops as asked, saves, and exits as documented."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from tiny_runs import ROOT, command

from pix2pix_jax import output
from pix2pix_jax.errors import run_command
from pix2pix_jax.run import checkpoint, history, stopping
from pix2pix_jax.run.stopping import StopOnSignal

posix = pytest.mark.skipif(os.name != "posix", reason="signals, pseudo-terminals and /dev of POSIX")
ENDLESS = {
  "train__tensorboard": True,
  "train__num_steps": 10**6,
  "train__eval_every_steps": 10**6,
  "train__checkpoint_every_steps": 10**6,
}


def saved_step(workdir):
  """The newest checkpoint; its arrays are read."""
  with checkpoint.Checkpointer(workdir, read_only=True) as checkpointer:
    step = checkpointer.resolve_step("latest")
    assert checkpointer.restore_variables(step)["generator"]["params"]
    return step


@pytest.fixture
def started():
  """Starts a process, which is killed if the test leaves it running."""
  with contextlib.ExitStack() as stack:

    def start(arguments, **options):
      process = stack.enter_context(subprocess.Popen(arguments, **options))
      stack.callback(process.kill)
      return process

    yield start


def wait_for_steps(process, workdir, meanwhile=lambda: None):
  """Waits until the run has logged its first steps."""
  end = time.monotonic() + 120
  while process.poll() is None and time.monotonic() < end:
    meanwhile()
    if any("train/l1" in row for row in history.read(workdir)):
      return
    time.sleep(0.2)
  raise AssertionError(f"no step was logged; exit status {process.poll()}")


# --- Runs


@posix
def test_an_interrupted_tee_costs_nothing(tmp_path, started):
  """`main.py 2>&1 | tee log`, then Ctrl-C: tee dies, so that both streams are broken, and the run is signalled."""
  run = started(command(tmp_path, **ENDLESS), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
  wait_for_steps(run, tmp_path)
  run.stdout.close()
  time.sleep(0.5)  # some lines are written to the broken pipe
  assert run.poll() is None
  run.send_signal(signal.SIGINT)
  assert run.wait(120) == 130
  assert saved_step(tmp_path) > 1


# Makes standard input the controlling terminal, whose end is a SIGHUP.
ON_TERMINAL = """if True:
  import fcntl, os, sys, termios
  fcntl.ioctl(0, termios.TIOCSCTTY, 0)
  os.execv(sys.argv[1], sys.argv[1:])
"""


@posix
def test_a_closed_terminal_stops_a_run_after_saving(tmp_path, started):
  """The kernel sends SIGHUP and every write fails, including those of the progress bar."""
  import termios

  terminal, side = os.openpty()
  termios.tcsetwinsize(side, (24, 100))
  wrapped = [sys.executable, "-c", ON_TERMINAL, *command(tmp_path, **ENDLESS)]
  run = started(wrapped, stdin=side, stdout=side, stderr=side, start_new_session=True)
  os.close(side)
  os.set_blocking(terminal, False)
  shown = bytearray()

  def read():
    with contextlib.suppress(BlockingIOError):
      shown.extend(os.read(terminal, 100_000))

  wait_for_steps(run, tmp_path, meanwhile=read)
  read()
  assert b"step/s" in shown, "no progress bar"
  os.close(terminal)
  assert run.wait(120) == 130
  assert saved_step(tmp_path) > 1


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_the_first_step_is_reported(tmp_path, started, number):
  run = started(command(tmp_path, **ENDLESS), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  while not run.stdout.readline().startswith("Data, in pairs"):
    assert run.poll() is None
  run.send_signal(number)
  _, shown = run.communicate(timeout=120)
  assert run.returncode == 130
  assert shown.splitlines()[-1:] == ["Interrupted before the first checkpoint; nothing was saved."], shown


@posix
def test_a_run_whose_output_nobody_reads_trains_to_its_end(tmp_path, started):
  """`main.py 2> errors | head -3`."""
  with open(tmp_path / "errors", "wb") as errors:
    run = started(command(tmp_path / "run"), stdout=subprocess.PIPE, stderr=errors)
    for _ in range(3):
      run.stdout.readline()
    run.stdout.close()
    assert run.wait(240) == 0
  assert "Error" not in (tmp_path / "errors").read_text()
  assert saved_step(tmp_path / "run") == 6 and (tmp_path / "run/eval/val/metrics.json").exists()


@posix
def test_a_run_without_standard_streams_trains_to_its_end(tmp_path):
  """Files that are opened must not get the numbers of closed streams, to which libraries write."""
  shell = ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *command(tmp_path / "run", train__tensorboard=True)]
  assert subprocess.run(shell, timeout=240, check=False).returncode == 0
  assert saved_step(tmp_path / "run") == 6 and (tmp_path / "run/eval/val/metrics.json").exists()


# --- Commands, without their work

PROGRAM = """
import logging, sys, time, warnings
from absl import logging as absl_logging
from tqdm import tqdm
from pix2pix_jax import errors, output
def main():
  time.sleep(float(sys.argv[2]))  # the reader leaves
  for n in tqdm(range(3), mininterval=0, file=None):
    print("printed → ×", n)
    print("printed", file=sys.stderr, flush=True)
    output.say("said ×")
    output.say("said ×", error=True)
    warnings.warn(f"warned {n}")
    logging.warning("logged")
    absl_logging.error("logged by absl")
  open(sys.argv[1], "w").write("done")
  END
errors.run_command(main)
"""
ENDS = {
  "pass": 0,
  "sys.exit(1)": 1,
  "raise errors.UsageError('wrong')": 2,
  "raise KeyboardInterrupt": 130,
}
REDIRECTIONS = [
  "| true",
  "2>&1 | true",
  "2>&1 >/dev/null | true",
  ">&-",
  "2>&-",
  "<&- >&- 2>&-",
  ">/dev/full",
  "2>/dev/full",
  ">/dev/full 2>&1",
  "",
]


@posix
@pytest.mark.parametrize("redirection", REDIRECTIONS)
@pytest.mark.parametrize("end", ENDS)
def test_no_stream_changes_what_a_command_does_or_its_status(tmp_path, redirection, end):
  if "/dev/full" in redirection and not os.path.exists("/dev/full"):
    pytest.skip("no /dev/full")
  (tmp_path / "program.py").write_text(PROGRAM.replace("END", end))
  script = f'({{ "$0" program.py done "$1"; echo $? > status; }} {redirection})'
  environment = os.environ | {"PYTHONPATH": str(ROOT)}
  shell = ["sh", "-c", script, sys.executable, "0.3" if "|" in redirection else "0"]
  done = subprocess.run(shell, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
  assert (tmp_path / "done").read_text() == "done", done.stderr
  assert int((tmp_path / "status").read_text()) == ENDS[end]
  assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@posix
def test_a_broken_stream_does_not_silence_the_other(tmp_path):
  (tmp_path / "program.py").write_text(PROGRAM.replace("END", "output.say('the last line')"))
  environment = os.environ | {"PYTHONPATH": str(ROOT)}
  shell = ["sh", "-c", '"$0" program.py done 0 2>/dev/full', sys.executable]
  done = subprocess.run(shell, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
  assert done.stdout.count("printed → ×") == 3 and done.stdout.endswith("the last line\n")


@pytest.mark.parametrize("encoding", ["ascii", "ascii:surrogateescape", "cp1252"])
def test_characters_that_an_encoding_lacks_are_replaced(tmp_path, encoding):
  (tmp_path / "program.py").write_text(PROGRAM.replace("END", "pass"), encoding="utf-8")
  environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
  program = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "done"), "0"]
  done = subprocess.run(program, env=environment, capture_output=True, check=False)
  assert done.returncode == 0
  times = "×".encode(encoding.partition(":")[0], "replace")
  assert done.stdout.count(b"printed ? " + times) == 3 and done.stdout.count(b"said " + times) == 3


def test_the_streams_are_those_of_before_afterwards():
  before = sys.stdout, sys.stderr
  with pytest.raises(ZeroDivisionError), output.unbreakable():
    assert sys.stdout is not before[0] and sys.stdout.encoding == before[0].encoding
    raise ZeroDivisionError
  assert (sys.stdout, sys.stderr) == before


# --- Words


@pytest.mark.parametrize("number, text", [(0, "0 images"), (1, "1 image"), (2, "2 images"), (2500, "2,500 images")])
def test_nouns_agree_with_their_number(number, text):
  assert output.counted(number, "image") == text


@pytest.mark.parametrize(
  "seconds, text",
  [
    (0.2, "0 s"),
    (45, "45 s"),
    (119, "119 s"),
    (120, "2.0 min"),
    (150, "2.5 min"),
    (720, "12 min"),
    (7199, "2 h 0 min"),
    (7500, "2 h 5 min"),
    (86400, "24 h 0 min"),
  ],
)
def test_durations_have_a_unit_that_suits_them(seconds, text):
  assert output.duration(seconds) == text


# --- Signals


@posix
@pytest.mark.parametrize("number", StopOnSignal.SIGNALS)
def test_a_signal_asks_once_and_its_handler_returns(number):
  old = signal.getsignal(number)
  with StopOnSignal() as stop:
    assert not stop.asked
    signal.raise_signal(number)
    assert stop.asked
  assert signal.getsignal(number) == old


@posix
@pytest.mark.parametrize("number", StopOnSignal.SIGNALS)
def test_an_ignored_signal_stays_ignored(number):
  """As nohup does it for SIGHUP."""
  old = signal.signal(number, signal.SIG_IGN)
  try:
    with StopOnSignal() as stop:
      signal.raise_signal(number)
      assert not stop.asked
    assert signal.getsignal(number) == signal.SIG_IGN
  finally:
    signal.signal(number, old)


def test_an_interrupt_that_a_callback_swallows_is_repeated():
  class Collected:
    def __del__(self):
      raise KeyboardInterrupt

  def command():
    Collected()
    time.sleep(60)

  old = sys.unraisablehook
  try:
    with pytest.raises(SystemExit) as stop:
      run_command(command)
  finally:
    sys.unraisablehook = old
  assert stop.value.code == 130


@pytest.mark.parametrize("number", StopOnSignal.SIGNALS)
def test_a_second_signal_stops_at_once(number, monkeypatch):
  with StopOnSignal() as stop, pytest.raises(KeyboardInterrupt):
    signal.raise_signal(number)
    if number != signal.SIGINT:
      signal.raise_signal(number)  # immediately: a launcher that forwards a signal twice
      assert stop.asked
      monkeypatch.setattr(stopping, "SAME_SIGNAL", 0.0)
    signal.raise_signal(number)
