"""The benchmarks run at tiny sizes, print the documented keys, and count operations correctly."""

import argparse
import concurrent.futures
import functools
import importlib.util
import json
import os
from pathlib import Path
import platform
import re
import subprocess
import sys
import types

import forked
import jax
import jax.numpy as jnp
import pytest

from pix2pix_jax import config as config_lib
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
    "streamed_images_per_s",
    "devices_images_per_s",
    "cpu_ms",
    "streamed_cpu_ms",
    "raw_bytes",
    "prepared_bytes",
    "decoded_bytes",
    "form",
    "prepare_s",
    "load_s",
    "first_epoch_images_per_s",
    "pairs",
    "load_size",
  },
  "feeding": {
    "host_median_s",
    "device_median_s",
    "cpu_ms",
    "host_cpu_ms",
    "device_cpu_ms",
    "same_bits",
    "metric_difference",
    "input_bytes",
    "device_input_bytes",
    "per_dispatch",
    "pairs",
  },
  "startup": {
    *("cold_s", "first_step_s", "cold_first_step_s", "stages_s", "cold_stages_s"),
    *("steps_per_second", "data_wait_share"),
  },
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
  """A function that imports a script of benchmarks/, which is on the path as when the scripts run."""
  sys.path.insert(0, str(BENCHMARKS))
  yield importlib.import_module
  sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def results(scripts):
  """Name → the JSON that each benchmark printed in a quick run; two run at a time."""
  run_all = scripts("run_all")
  # OpenMP threads that spin while they wait are slow next to parallel tests.
  os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
  started = types.SimpleNamespace(run=forked.run, PIPE=subprocess.PIPE)
  with pytest.MonkeyPatch.context() as patch, concurrent.futures.ThreadPoolExecutor(2) as pool:
    patch.setattr(run_all, "subprocess", started)
    done = list(pool.map(run_all.run, reversed(run_all.commands(quick=True, against=AGAINST))))
  return {one["benchmark"]: one for one in done}


@pytest.mark.parametrize("name", KEYS)
def test_the_json_line_has_the_documented_keys(results, name):
  one = results[name]
  assert one.keys() >= SHARED | KEYS[name]
  assert one["command"].startswith(f"python benchmarks/{name}.py --batch_size=2")
  assert (one["batch_size"], one["image_size"], one["dtype"]) == (2, 32, "float32")
  assert one["median_s"] > 0 and one["spread"] >= 0
  assert one["versions"].keys() == {"python", "jax", "flax", "torch"}
  docstring = "".join((BENCHMARKS / file).read_text().split('"""')[1] for file in (f"{name}.py", "measure.py"))
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


@pytest.mark.skipif(AGAINST == "none", reason="PyTorch, which only the benchmarks' peer needs, is not installed")
@pytest.mark.parametrize("name", PEER_KEYS)
def test_the_peer_is_measured_in_the_same_run(results, name):
  one = results[name]
  assert one.keys() >= PEER | PEER_KEYS[name]
  assert one["ratio"] == pytest.approx(one["peer_median_s"] / one["median_s"], rel=2e-3)


def test_compiled_programs_are_reused(results):
  assert results["train_step"]["compile_cached_s"] < results["train_step"]["compile_cold_s"]
  warm, cold = (results["startup"][name] for name in ("stages_s", "cold_stages_s"))
  assert warm.keys() == cold.keys() and {"Until the first line", "Loading JAX", "Reading the data"} < warm.keys()
  drawn = "Initializing the networks"
  assert 0 < warm[drawn] < cold[drawn]  # other work disturbs this less than the whole start


def test_results_have_commands_but_neither_host_nor_folders(scripts, results):
  text = scripts("run_all").markdown(list(results.values()))
  for one in results.values():
    assert f"`{one['command']}`" in text
  assert platform.node() not in text.split()
  assert not [folder for folder in (str(BENCHMARKS.parent), "/tmp", str(Path.home())) if folder in text]
  assert jax.__version__ in text and len(re.findall("^```json$", text, re.M)) == len(results) == 7


@pytest.mark.skipif(AGAINST == "none", reason="PyTorch, which only the benchmarks' peer needs, is not installed")
def test_every_peer_has_a_time_or_a_reason(scripts, results):
  runtimes = results["translate"]["runtimes"]
  assert runtimes["peers"].keys() == {"ONNX Runtime", "OpenVINO"}
  for one in (results["train_step"], runtimes):
    timed = {name: peer["ratio"] for name, peer in one["peers"].items() if "not_available" not in peer}
    assert all(peer["not_available"] for name, peer in one["peers"].items() if name not in timed)
    if timed:
      assert one["best_ratio"] == one["peers"][one["best_peer"]]["ratio"] == min(timed.values())
  assert {"PyTorch", "PyTorch, kept memory"} == results["train_step"]["peers"].keys()
  missing = {**results["train_step"], "peers": {"torch.compile": {"not_available": "there is no C++ compiler"}}}
  assert "| torch.compile | not available: there is no C++ compiler |" in scripts("run_all").markdown([missing])


def test_costs_are_fitted(scripts, results):
  cost = scripts("cost")
  points = [{"batch_size": n, "step_s": 3 * n**2, "peer_step_s": None, "memory_mib": 7} for n in (1, 2, 4)]
  assert cost.exponents(points, "batch_size") == pytest.approx({"step_s": 2, "memory_mib": 0})
  assert cost.exponents(points[:1], "batch_size") == {}
  series = results["cost"]["series"]
  assert [len(series[name]["points"]) for name in cost.SERIES] == [1] * 4 and results["cost"]["left_out"] == []
  assert series["batch_size"]["points"][0].keys() >= {"batch_size", "step_s", "memory_mib"}
  assert series["pairs"]["points"][0].keys() >= {"pairs", "prepare_s", "memory_mib", "start_s", "start_memory_mib"}
  assert "Growth over batch_size" in scripts("run_all").markdown([results["cost"]])


def test_operations_of_the_papers_model(scripts):
  """By hand: 16 taps x pixels of the small image x channels in x out, times two, for every pass that a step needs."""
  measure, train_step = scripts("measure"), scripts("train_step")
  options = argparse.Namespace(batch_size=1, image_size=256, base_features=64, dtype="float32")
  assert train_step.step_flops(options) / 1e9 == pytest.approx(86.93, abs=0.01)
  options.batch_size, options.remat = 3, True  # remat recomputes, which does not count
  assert train_step.step_flops(options) / 1e9 == pytest.approx(3 * 86.93, abs=0.03)
  run = measure.experiment(options)
  state, image = run.abstract(), jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
  generate, classify = (functools.partial(network.apply, norm_stats="image") for network in run.networks.values())
  generator_flops = measure.count_flops(functools.partial(generate, dropout=False), state.generator.variables, image)
  assert generator_flops / 1e9 == pytest.approx(12.10, abs=0.01)
  discriminator_flops = measure.count_flops(classify, state.discriminator.variables, image, image)
  assert discriminator_flops / 1e9 == pytest.approx(6.39, abs=0.01)


def test_matrix_products_are_counted(scripts):
  x = jax.ShapeDtypeStruct((2, 3, 5), jnp.float32)
  y = jax.ShapeDtypeStruct((2, 5, 7), jnp.float32)
  product = jax.jit(lambda x, y: jnp.einsum("bij,bjk->bik", x, y))
  assert scripts("measure").count_flops(product, x, y) == 2 * 2 * 3 * 5 * 7
  moved = 4 * (2 * 3 * 5 + 2 * 5 * 7 + 2 * 3 * 7)  # by the product, and as much by the call
  assert scripts("measure").count_bytes(product, x, y) == 2 * moved


def test_a_roofline_is_computed_from_shapes(scripts):
  """A step reads and writes its state, in float32; bfloat16 halves the rest."""
  roofline = scripts("roofline")
  flops, moved = roofline.cost(64, 1, "float32", 8)
  same_flops, half = roofline.cost(64, 1, "bfloat16", 8)
  options = argparse.Namespace(batch_size=1, image_size=64, base_features=8, dtype="float32")
  state = jax.tree.leaves(scripts("measure").experiment(options).abstract())
  own = 2 * sum(leaf.size * leaf.dtype.itemsize for leaf in state)
  assert flops == same_flops and moved > own and (half - own) / (moved - own) == pytest.approx(0.5, abs=0.05)
  options = argparse.Namespace(tflops=1.0, gbytes=1e9, base_features=8)
  cells = roofline.row(64, 1, "float32", options).split(" | ")
  assert float(cells[5].removesuffix(" ms")) == pytest.approx(1000 * flops / 1e12, rel=0.01)


def test_the_host_and_the_device_feed_the_same_steps(results):
  one = results["feeding"]
  assert one["same_bits"] and one["metric_difference"][0] < 1e-5
  assert one["input_bytes"] == 2 * 2 * 32 * 32 * 3 * 4 and one["device_input_bytes"] == 2 * 16


def test_the_benchmarks_for_a_gpu_run_on_a_cpu(scripts):
  """What the quick ones do not run: another precision and layout."""
  run_all = scripts("run_all")
  every = run_all.commands(gpu=True, quick=True)
  names = {"train_step", "translate", "input_pipeline", "feeding", "replicas", "startup"}
  assert {command[0] for command in every} == names
  full = run_all.commands(gpu=True)
  assert [command[: len(one)] for command, one in zip(every, full, strict=True)] == full
  (chosen,) = (command for command in every if "--layout=nhwc" in command)
  one = run_all.run(chosen)
  assert one["dtype"] == "bfloat16" and one["median_s"] > 0 and one["batch_size"] == 10
  assert one["environment"]["XLA_FLAGS"].endswith("nhwc=true")


def test_replicas_are_timed_side_by_side(scripts):
  """Only on a GPU by default: `make bench` on a CPU stays as it is."""
  run_all = scripts("run_all")
  assert "replicas" not in {command[0] for command in run_all.commands() + run_all.commands(quick=True)}
  sizes = dict(flag.removeprefix("--").split("=") for flag in run_all.TINY["replicas"])
  numbers = {name: int(value) for name, value in sizes.items() if name != "replicas"}
  options = argparse.Namespace(**numbers, replicas=sizes["replicas"], batch_size=1, dtype="float32")
  one = scripts("replicas").benchmark(options)
  assert one.keys() >= {"median_s", "spread"} and [point["replicas"] for point in one["points"]] == [1, 2]
  single, double = one["points"]
  assert single["gain"] == 1 and double["gain"] == pytest.approx(2 * single["median_s"] / double["median_s"], rel=1e-3)
  assert 1.5 < double["memory_mib"] / single["memory_mib"] < 2.5
  docstring = (BENCHMARKS / "replicas.py").read_text().split('"""')[1]
  assert all(re.search(rf"\b{key}\b", docstring) for key in single)


class Writer:
  def load(self):
    pass

  def write_scalars(self, step, scalars):
    pass

  def close(self):
    pass


@pytest.mark.parametrize(
  "log_every_steps, age, first_line",
  [
    (1, 45.0, "First step done 45.0 s after launch (39.5 s to compile and run)."),
    (3, None, "First step done (39.5 s to compile and run)."),
  ],
)
def test_the_first_step_is_reported_and_excluded_from_throughput(
  scripts, tmp_path, monkeypatch, capsys, log_every_steps, age, first_line
):
  clock = 0.0
  monkeypatch.setattr(reporter.time, "perf_counter", lambda: clock)
  monkeypatch.setattr(reporter, "_program_age", lambda: age)
  train = config_lib.default().train
  train.num_steps, train.log_every_steps = 3, log_every_steps
  with reporter.Reporter(Writer(), tmp_path, start=0, config=train) as reported:
    for step, seconds in enumerate((40.0, 2.0, 2.0), 1):
      with reported.data_wait():
        clock += 0.5
      clock += seconds - 0.5
      reported.trained(step, {"l1": jnp.zeros(())}, last=step == 3)
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == first_line
  assert scripts("startup").FIRST_STEP.search(first_line)["seconds"] == "39.5"
  rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
  assert [row["step"] for row in rows] == ([1, 2, 3] if log_every_steps == 1 else [3])
  timed = [row for row in rows if row["step"] > 1]
  assert [row["train/steps_per_second"] for row in timed] == [0.5] * len(timed)
  assert [row["train/data_wait_share"] for row in timed] == [0.25] * len(timed)
  assert "train/steps_per_second" not in rows[0] or log_every_steps == 3
  assert lines[-1].endswith("0.50 steps/s  0 s left")


def test_the_age_of_the_process_is_reported_once(monkeypatch):
  if not Path("/proc/self/stat").exists():
    pytest.skip("there is no /proc here, so the age of a process is unknown")
  monkeypatch.setattr(reporter, "_age_reported", False)
  # A script has a __file__, an interactive session does not.
  monkeypatch.setattr(sys.modules["__main__"], "__file__", "main.py", raising=False)
  assert 0 < reporter._program_age() < 3600 * 24
  assert reporter._program_age() is None


def test_a_raster_is_translated_and_measured():
  pytest.importorskip("rasterio")
  flags = ["--side=96", "--channels=2", "--tile=64", "--base_features=2", "--levels=4"]
  done = forked.run([sys.executable, BENCHMARKS / "large_raster.py", *flags])
  assert done.returncode == 0, done.stderr
  result = json.loads(done.stdout.splitlines()[-1])
  assert result["peak_memory_gib"] > 0 and result["seconds"] > 0


def test_scaling_over_processes_is_measured():
  flags = ["--processes=1", "--batch_size=1", "--size=16", "--base_features=2", "--steps=30"]
  done = forked.run([sys.executable, BENCHMARKS / "scaling.py", *flags])
  assert done.returncode == 0, done.stderr
  result = json.loads(done.stdout.splitlines()[-1])
  assert result["steps_per_second"] > 0 and result["efficiency"] == 1
  assert result["read_bytes_per_process"] > 0 and result["all_reduces"] == result["summed_bytes"] == 0


def test_the_bytes_of_all_reduces_are_read_from_the_program(scripts):
  program = """
    %sum = f32[256]{0} all-reduce(%a), channel_id=1
    %both = (f32[4,32]{1,0}, f32[], /*index=5*/f32[25,8]{1,0}) all-reduce(%b, %c, %d), channel_id=2
    %other = f32[7]{0} add(%a, %sum)"""
  assert scripts("scaling").sizes(program) == [1024, 4 * (128 + 1 + 200)]
