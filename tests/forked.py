"""Programs of this package in a tenth of their time to start: forks of a process that has imported what they import.

On Linux, `Popen` and `run` do what those of `subprocess` do. A parent process, which each test process starts once,
forks for every program, so signals, exit statuses, pipes and `/proc` are those of any other child. Elsewhere, and with
environment variables that are read while modules are imported, they start Python as `subprocess` does.

Tests of what happens while a program starts use `subprocess`.
"""

import array
import atexit
import functools
import importlib
import os
from pathlib import Path
import pickle
import runpy
import socket
import subprocess
import sys
import tempfile
import threading

# Variables that are read after JAX is imported, so that each program can have its own.
_LATE = {"XLA_FLAGS", "JAX_PLATFORMS", "PYTHONPATH", "PYTEST_CURRENT_TEST"}
_PRELOADED = [
  "jax",
  "scipy.sparse",
  "pix2pix_jax.train",
  "pix2pix_jax.cli",
]
_lock = threading.Lock()
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)


def run(command, *, check=False, timeout=300, **settings):
  """subprocess.run with the output captured as text, unless `settings` say otherwise."""
  if not settings.keys() & {"stdout", "stderr"}:
    settings |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
  with Popen(command, **{"text": True, **settings}) as process:
    try:
      out, err = process.communicate(timeout=timeout)
    except BaseException:
      process.kill()
      raise
  done = subprocess.CompletedProcess(command, process.returncode, out, err)
  if check:
    done.check_returncode()
  return done


class Popen(subprocess.Popen):
  """subprocess.Popen for `[sys.executable, SCRIPT or "-m", ...]`."""

  def _execute_child(
    self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell, *rest
  ):
    p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = rest[:6]
    environment = dict(os.environ if env is None else env)
    if sys.platform != "linux" or not _can_fork(args, environment) or shell or pass_fds or preexec_fn:
      return super()._execute_child(
        args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell, *rest
      )
    streams = [number if child == -1 else child for number, child in enumerate((p2cread, c2pwrite, errwrite))]
    self.pid = _fork([os.fspath(each) for each in args[1:]], os.fspath(cwd or os.getcwd()), environment, streams)
    self._child_created = True
    self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)
    return None


def _can_fork(args, environment) -> bool:
  if args[0] != sys.executable or str(args[1]).startswith("-") and args[1] != "-m":
    return False
  own = os.environ | {"GLIBC_TUNABLES": environment.get("GLIBC_TUNABLES", "")}
  changed = {name for name in own.keys() | environment.keys() if own.get(name) != environment.get(name)}
  return changed <= _LATE | {"GLIBC_TUNABLES"} and "GLIBC_TUNABLES" not in environment


@functools.cache
def _server() -> socket.socket:
  from pix2pix_jax import launch

  ours, its = socket.socketpair()
  environment = os.environ | {"GLIBC_TUNABLES": launch.KEEP_MEMORY}
  process = subprocess.Popen([sys.executable, __file__, str(its.fileno())], pass_fds=[its.fileno()], env=environment)
  its.close()

  def stop():
    ours.close()
    process.wait()

  atexit.register(stop)
  return ours


def _fork(arguments, cwd, environment, streams) -> int:
  """The number of a new process, which becomes a child of this one."""
  import ctypes

  libc = ctypes.CDLL(None)
  message = pickle.dumps((arguments, cwd, environment))
  with _lock:
    server = _server()
    libc.prctl(_SUBREAPER, 1, 0, 0, 0)
    try:
      fds = array.array("i", streams)
      server.sendmsg([len(message).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
      server.sendall(message)
      return int.from_bytes(_exactly(server, 8), "big")
    finally:
      libc.prctl(_SUBREAPER, 0, 0, 0, 0)


def _exactly(connection, size: int) -> bytes:
  data = b""
  while len(data) < size:
    if not (part := connection.recv(size - len(data))):
      raise EOFError
    data += part
  return data


def _serve(connection):
  """Forks for every message; returns in each fork, with its arguments."""
  for name in _PRELOADED:
    importlib.import_module(name)
  _draw_curves()
  while True:
    size, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(3 * 4))
    if not size:
      os._exit(0)
    streams = array.array("i")
    streams.frombytes(ancillary[0][2])
    arguments, cwd, environment = pickle.loads(_exactly(connection, int.from_bytes(size, "big")))
    number, its_number = os.pipe()
    if not (between := os.fork()):  # whose end makes the process of the test the parent
      if child := os.fork():
        os.write(its_number, child.to_bytes(8, "big"))
        os._exit(0)
      for each in (number, its_number, connection.detach()):
        os.close(each)
      for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
      sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding=old.encoding, errors=old.errors, closefd=False, buffering=1 if number == 2 else -1)
        for number, mode, old in ((0, "r", sys.stdin), (1, "w", sys.stdout), (2, "w", sys.stderr))
      )
      os.chdir(cwd)
      tunables = {"GLIBC_TUNABLES": os.environ["GLIBC_TUNABLES"]}
      os.environ.clear()
      os.environ.update(environment | tunables)
      return arguments
    os.waitpid(between, 0)
    connection.sendall(os.read(number, 8))
    for each in (number, its_number, *streams):
      os.close(each)


def _draw_curves():
  """Loads fonts and what else Matplotlib needs at its first image."""
  from pix2pix_jax.run import viz

  with tempfile.TemporaryDirectory() as folder:
    viz.curves([{"step": step, "train/l1": 0.5} for step in (1, 2)], Path(folder) / "curves.png")


def _main():
  arguments = _serve(socket.socket(fileno=int(sys.argv[1])))
  import jax

  if platforms := os.environ.get("JAX_PLATFORMS"):
    jax.config.update("jax_platforms", platforms)
  sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
  if arguments[0] == "-m":
    sys.argv = arguments[1:]
    sys.path[0] = os.getcwd()
    runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
  else:
    sys.argv = arguments
    sys.path[0] = str(Path(arguments[0]).parent.absolute())
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
  _main()
