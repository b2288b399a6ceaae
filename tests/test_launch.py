"""How programs start: malloc's settings, and the cache of compiled programs."""

import os
import platform
import subprocess
import sys

import pytest
from tiny_runs import ROOT, assert_same_bits, command, saved_arrays

from pix2pix_jax import launch


def test_kept_memory_is_requested_once_and_a_users_own_setting_stays():
  program = (
    "import os, sys; from pix2pix_jax import launch; launch.keep_memory(); import jax; "
    "product = jax.jit(lambda x: x @ x)(jax.numpy.ones((2000, 2000))); print(os.environ.get('GLIBC_TUNABLES'), "
    "sys.argv[1:], product.is_ready())"
  )
  environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"} | {
    "PYTHONPATH": str(ROOT),
    "JAX_PLATFORMS": "cpu",
  }
  kept = platform.libc_ver()[0] == "glibc"
  for given, expected in (
    ({}, (launch.KEEP_MEMORY, True) if kept else ("None", False)),
    ({"GLIBC_TUNABLES": "x.y=1"}, ("x.y=1", False)),
  ):
    done = subprocess.run(
      [sys.executable, "-c", program, "a b"], env=environment | given, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{expected[0]} ['a b'] {expected[1]}"  # ready at once: it ran in the main thread


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be asked to keep memory")
def test_memory_is_kept_without_a_restart():
  program = (
    "import os; os.execve = None; from pix2pix_jax import launch; launch.keep_memory(restart=False); import jax; "
    "product = jax.jit(lambda x: x @ x)(jax.numpy.ones((2000, 2000))); print(os.environ.get('GLIBC_TUNABLES'), "
    "product.is_ready())"
  )
  environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"} | {
    "PYTHONPATH": str(ROOT),
    "JAX_PLATFORMS": "cpu",
  }
  done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
  assert done.stdout.strip() == "None True"  # ready at once: it ran in the main thread


def test_compiled_programs_are_kept_in_the_users_cache(tmp_path):
  """The next start uses them, with the same results to the last bit."""
  env = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}

  def start(name, steps):
    arguments = command(tmp_path / name, train__num_steps=steps, data__prepared_dir=tmp_path / "prepared")
    done = subprocess.run(
      arguments, check=False, env=env | {"XDG_CACHE_HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {path.name for path in (tmp_path / "pix2pix_jax/xla/programs").iterdir()}

  kept = start("first", 2)
  assert {name.partition("-")[0] for name in kept} == {"draw", "begin", "train_step", "eval_step"} and len(kept) == 8
  assert start("second", 2) == kept
  first, second = (saved_arrays(tmp_path / name, 2) for name in ("first", "second"))
  assert_same_bits(first, second)
