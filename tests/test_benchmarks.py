"""The benchmarks run at tiny sizes, print what they document, and count operations rightly."""

import argparse
import concurrent.futures
import functools
import importlib.util
import json
import os
from pathlib import Path
import platform
import re
import sys

import jax
import jax.numpy as jnp
import pytest

from pix2pix_jax.model import state as train_state
from pix2pix_jax.run import reporter

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
AGAINST = "torch" if importlib.util.find_spec("torch") else "none"
SHARED = {
  "benchmark",
  "command",
  "device",
  "versions",
  "load",
  "environment",
  "batch_size",
  "image_size",
  "dtype",
  "median_s",
  "spread",
}
SPEED = {"images_per_s", "gflop", "gflop_per_s", "product_gflop_per_s", "share_of_product"}
KEYS = {
  "train_step": SPEED
  | {"compile_cold_s", "compile_cached_s", "peak_memory_mib", "peak_memory_compiling_mib", "remat", "parameters"},
  "translate": SPEED | {"compile_s", "folder_files_per_s"},
  "input_pipeline": {
    "images_per_s",
    "devices_images_per_s",
    "prepare_s",
    "load_s",
    "first_epoch_images_per_s",
    "pairs",
    "load_size",
  },
  "startup": {"cold_s", "first_step_s", "cold_first_step_s", "steps_per_second", "data_wait_share"},
}
PEER = {"peer_median_s", "peer_spread", "peer", "ratio"}
PEER_KEYS = {
  "train_step": {"peer_peak_memory_mib"},
  "translate": {"peer_images_per_s"},
  "input_pipeline": {"peer_images_per_s", "peer_median_s_by_workers"},
  "startup": {"cold_ratio"},
}


@pytest.fixture(scope="module")
def scripts():
  """benchmarks/ on the path, as it is for its scripts."""
  sys.path.insert(0, str(BENCHMARKS))
  yield importlib.import_module
  sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def results(scripts):
  """What each benchmark printed in a quick run, by its name; two run at a time."""
  run_all = scripts("run_all")
  os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
  )  # OpenMP threads that wait for each other are slow beside parallel tests
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    done = list(pool.map(run_all.run, reversed(run_all.commands(quick=True, against=AGAINST))))
  return {one["benchmark"]: one for one in done}


@pytest.mark.parametrize("name", KEYS)
def test_the_line_of_json_has_the_documented_keys(results, name):
  one = results[name]
  assert one.keys() >= SHARED | KEYS[name]
  assert one["command"].startswith(f"python benchmarks/{name}.py --image_size=32")
  assert (one["batch_size"], one["image_size"], one["dtype"]) == (2, 32, "float32")
  assert one["median_s"] > 0 and one["spread"] >= 0
  assert one["versions"].keys() == {"python", "jax", "flax", "torch"}
  docstring = (BENCHMARKS / f"{name}.py").read_text().split('"""')[1] + (BENCHMARKS / "measure.py").read_text().split(
    '"""'
  )[1]
  settings = {
    "base_features",
    "steps",
    "blocks",
    "seconds",
    "starts",
    "val_pairs",
    "remat",
    "parameters",
    "folder_files",
  }
  assert [key for key in one if key not in docstring and key not in settings] == []


@pytest.mark.skipif(
  AGAINST == "none", reason="PyTorch is not installed; only the peer that the benchmarks compare with needs it"
)
@pytest.mark.parametrize("name", KEYS)
def test_the_peer_is_measured_beside_it(results, name):
  one = results[name]
  assert one.keys() >= PEER | PEER_KEYS[name]
  assert one["ratio"] == pytest.approx(one["peer_median_s"] / one["median_s"], rel=2e-3)


def test_compiled_programs_are_found_again(results):
  assert results["train_step"]["compile_cached_s"] < results["train_step"]["compile_cold_s"]
  assert results["startup"]["median_s"] < results["startup"]["cold_s"]


def test_results_tell_commands_but_neither_host_nor_folders(scripts, results):
  text = scripts("run_all").markdown(list(results.values()))
  for one in results.values():
    assert f"`{one['command']}`" in text
  assert (
    platform.node() not in text.split()
    and str(BENCHMARKS.parent) not in text
    and "/tmp" not in text
    and str(Path.home()) not in text
  )
  assert jax.__version__ in text and len(re.findall("^```json$", text, re.M)) == len(results) == 5


def test_operations_of_the_papers_model(scripts):
  """Counted by hand: 16 taps x small picture x channels in x out, times two, for every pass that a step needs."""
  measure, train_step = scripts("measure"), scripts("train_step")
  options = argparse.Namespace(batch_size=1, image_size=256, base_features=64, dtype="float32")
  config = measure.config(options)
  assert train_step.step_flops(config) / 1e9 == pytest.approx(86.93, abs=0.01)
  assert train_step.step_flops(
    measure.config(argparse.Namespace(**vars(options) | {"batch_size": 3}))
  ) / 1e9 == pytest.approx(3 * 86.93, abs=0.03)
  networks, _ = train_step.step_functions(config)
  state = jax.eval_shape(lambda: train_state.initial(config, *networks))
  picture = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
  generate, judge = (functools.partial(network.apply, norm_stats="image") for network in networks)
  assert measure.count_flops(
    functools.partial(generate, dropout=False), state.generator.variables, picture
  ) / 1e9 == pytest.approx(12.10, abs=0.01)
  assert measure.count_flops(judge, state.discriminator.variables, picture, picture) / 1e9 == pytest.approx(
    6.39, abs=0.01
  )


def test_matrix_products_are_counted(scripts):
  x = jax.ShapeDtypeStruct((2, 3, 5), jnp.float32)
  y = jax.ShapeDtypeStruct((2, 5, 7), jnp.float32)
  assert (
    scripts("measure").count_flops(jax.jit(lambda x, y: jnp.einsum("bij,bjk->bik", x, y)), x, y) == 2 * 2 * 3 * 5 * 7
  )


class Writer:
  def write_scalars(self, step, scalars):
    pass


@pytest.mark.parametrize("log_every_steps", [1, 3])
def test_the_first_step_is_told_and_not_part_of_any_speed(tmp_path, monkeypatch, capsys, log_every_steps):
  clock = 0.0
  monkeypatch.setattr(reporter.time, "perf_counter", lambda: clock)
  monkeypatch.setattr(reporter, "_program_age", lambda: 45.0)
  told = reporter.Reporter(Writer(), tmp_path, start=0, num_steps=3, log_every_steps=log_every_steps)
  for step, seconds in enumerate((40.0, 2.0, 2.0), 1):
    with told.data_wait():
      clock += 0.5
    clock += seconds - 0.5
    told.trained(step, {"l1": jnp.zeros(())}, last=step == 3)
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == "first step after 45.0 s (39.5 s of it compiling and running that step)"
  rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
  assert [row["step"] for row in rows] == ([1, 2, 3] if log_every_steps == 1 else [3])
  timed = [row for row in rows if row["step"] > 1]
  assert [row["train/steps_per_second"] for row in timed] == [0.5] * len(timed)
  assert [row["train/data_wait_share"] for row in timed] == [0.25] * len(timed)
  assert "train/steps_per_second" not in rows[0] or log_every_steps == 3
  assert lines[-1].endswith("0.50 steps/s  0.0 min left")


def test_the_age_of_the_process_is_told_once(monkeypatch):
  if not Path("/proc/self/stat").exists():
    pytest.skip("there is no /proc here, so the age of a process is not known")
  monkeypatch.setattr(reporter, "_age_told", False)
  monkeypatch.setattr(
    sys.modules["__main__"], "__file__", "main.py", raising=False
  )  # as of a program, not of a session
  assert 0 < reporter._program_age() < 3600 * 24
  assert reporter._program_age() is None
