"""One training step of both networks: time, compilation and memory.

  python benchmarks/train_step.py --against=torch
  python benchmarks/train_step.py --batch_size=10 --dtype=bfloat16 --remat

The step is the one that training compiles (`Experiment.train_step`), on a batch that is already on the device. The peer
runs eagerly, with whichever memory format and number of threads is faster (on a GPU with TF32; for bfloat16 with
autocast, channels_last and torch.compile). On a CPU, stronger peers with the same format and threads follow: with this
package's allocator settings, with torch.compile, which needs a C++ compiler, and with both; --peers=eager leaves out
those that compile. `median_s` is the time of one step. In addition to the keys that all benchmarks share (see
measure.py), the JSON has

  compile_cold_s, compile_cached_s   tracing and compiling with an empty compilation cache, and in a new process with
                                     the cache filled
  images_per_s                       pairs per second
  gflop, gflop_per_s                 operations of a step as direct sums (see measure.count_flops), and per second
  product_gflop_per_s                speed of the fastest large matrix product between this run's blocks
  share_of_product                   gflop_per_s / product_gflop_per_s; algorithms that save operations can exceed 1
  peak_memory_mib                    of a process that ran the step from the compilation cache: peak resident memory, or
                                     peak allocation on a GPU
  peak_memory_compiling_mib          the same for the process that compiled it
  peer_peak_memory_mib               the same for the peer's process
  peers, best_peer, best_ratio       all peers by name, with `peak_memory_mib` and `first_steps_s`, the time of the two
                                     first steps, which compile; the name of the fastest, and how many times as long as
                                     here its step takes
"""

import argparse
import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import measure
import numpy as np

from pix2pix_jax.run import experiment as experiment_lib
from pix2pix_jax.run.experiment import Experiment


def main():
  load = measure.load()
  parser = measure.flags(__doc__)
  parser.add_argument("--steps", type=int, default=0, help="timed steps per side (default: 20, on a GPU 200)")
  parser.add_argument("--base_features", type=int, default=64, help="width of the networks (default: 64)")
  parser.add_argument("--remat", action="store_true", help="train.remat: recompute the generator's activations")
  parser.add_argument(
    "--peers", choices=("all", "eager"), default="all", help="eager: without torch.compile (default: all)"
  )
  parser.add_argument("--compile_only", action="store_true", help=argparse.SUPPRESS)
  options = measure.parse(parser)
  if options.compile_only:
    *_, seconds = compile_step(measure.experiment(options))
    print(json.dumps({"seconds": seconds, "peak_memory_mib": measure.peak_memory_mib()}))
    return

  with tempfile.TemporaryDirectory() as cache:
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    cold = subprocess.run(
      [sys.executable, *sys.argv, "--compile_only"], env=env, stdout=subprocess.PIPE, encoding="utf-8", check=True
    )
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    benchmark(options, load, json.loads(cold.stdout.splitlines()[-1]))


def benchmark(options: argparse.Namespace, load: float, cold: dict[str, float]) -> None:
  """Measures everything except the cold compilation, whose results are `cold`."""
  step, state, batch, compile_cached_s = compile_step(measure.experiment(options))

  def run(count):
    nonlocal state
    begin = time.perf_counter()
    for _ in range(count):
      state, metrics = step(state, batch)
    jax.block_until_ready((state, metrics))
    return (time.perf_counter() - begin) / count

  run(2)
  memory = {"peak_memory_mib": measure.peak_memory_mib(), "peak_memory_compiling_mib": cold["peak_memory_mib"]}
  parameters = sum(leaf.size for leaf in jax.tree.leaves((state.generator.params, state.discriminator.params)))
  product = measure.MatrixProduct(options.dtype)
  rounds, block = measure.blocks_of(options.steps)
  sides = {"ours": lambda: run(block), "product": product}
  with contextlib.ExitStack() as stack:
    peers, infos = start_peers(options, stack) if options.against == "torch" else ({}, {})
    for peer in peers.values():
      assert peer.info["parameters"] == parameters, (peer.info["parameters"], parameters)
    sides |= {name: functools.partial(run_peer, peer, block) for name, peer in peers.items()}
    samples = measure.alternate(sides, rounds)
  result = measure.compare(samples["ours"], samples.get("PyTorch"))
  if peers:
    memory["peer_peak_memory_mib"] = infos["PyTorch"]["peak_memory_mib"]
    result |= {"peer": peers["PyTorch"].info, **measure.compare_with(samples, infos)}
  measure.report(
    options,
    load,
    **result,
    images_per_s=options.batch_size / result["median_s"],
    base_features=options.base_features,
    remat=options.remat,
    steps=rounds * block,
    compile_cold_s=cold["seconds"],
    compile_cached_s=compile_cached_s,
    **memory,
    parameters=parameters,
    **measure.achieved(step_flops(options), result["median_s"], product, samples["product"]),
  )


def start_peers(
  options: argparse.Namespace, stack: contextlib.ExitStack
) -> tuple[dict[str, measure.Peer], dict[str, dict[str, Any]]]:
  """The peers after two steps, which `stack` closes, and what to report about them, both by name."""
  settings = {name: getattr(options, name) for name in ("batch_size", "image_size", "base_features", "dtype")}
  peers = {"PyTorch": stack.enter_context(measure.Peer.fastest("train_step", **settings))}
  infos = {"PyTorch": first_steps(peers["PyTorch"])}
  if jax.default_backend() != "cpu":
    return peers, infos
  settings |= {name: peers["PyTorch"].info[name] for name in ("channels_last", "threads")}
  compiler = shutil.which(os.environ.get("CXX", "g++"))
  for name, keep_memory, is_compiled in (
    ("PyTorch, kept memory", True, False),
    ("torch.compile", False, True),
    ("torch.compile, kept memory", True, True),
  ):
    if is_compiled and options.peers == "eager":
      continue
    if is_compiled and not compiler:
      infos[name] = {"not_available": "there is no C++ compiler"}
      continue
    try:
      peer = stack.enter_context(
        measure.Peer("train_step", keep_memory=keep_memory, **settings | ({"compile": True} if is_compiled else {}))
      )
      infos[name] = first_steps(peer)
      peers[name] = peer
    except measure.PeerError as error:
      infos[name] = {"not_available": str(error)}
  return peers, infos


def first_steps(peer: measure.Peer) -> dict[str, float]:
  done = peer.run(2)
  return {"first_steps_s": 2 * done["seconds"], "peak_memory_mib": done["peak_memory_mib"]}


def run_peer(peer: measure.Peer, count: int) -> float:
  return peer.run(count)["seconds"]


def compile_step(run: Experiment) -> tuple[Any, Any, Any, float]:
  """Returns the compiled step, an initial state, a batch, and the seconds that compiling took."""
  experiment_lib.check_batch_size(run.config.train.batch_size)
  state = jax.block_until_ready(run.init())
  images = np.random.default_rng(0).uniform(-1, 1, (2, *batch_shape(run))).astype(np.float32)
  batch = jax.device_put({"input": images[0], "target": images[1]}, run.split_rows)
  begin = time.perf_counter()
  step = run.train_step.lower(state, batch).compile()
  return step, state, batch, time.perf_counter() - begin


def batch_shape(run: Experiment) -> tuple[int, int, int, int]:
  size = run.config.data.crop_size
  return run.config.train.batch_size, size, size, 3


def step_flops(options: argparse.Namespace) -> int:
  """The operations of a step, without those that remat repeats."""
  run = measure.experiment(argparse.Namespace(**vars(options) | {"remat": False}))
  images = jax.ShapeDtypeStruct(batch_shape(run), jnp.float32, sharding=run.split_rows)
  return measure.count_flops(run.train_step, run.abstract(), {"input": images, "target": images})


if __name__ == "__main__":
  main()
