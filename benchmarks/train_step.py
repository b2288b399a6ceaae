"""A training step of both networks: time, compilation, memory.

  python benchmarks/train_step.py --against=torch
  python benchmarks/train_step.py --batch_size=10 --dtype=bfloat16 --remat

The step is the one that training compiles (`steps.compile_train_step`), on one batch that lies on the device; the peer's is eager, with
the faster memory format and number of threads (on a GPU with TF32, and for bfloat16 autocast, channels_last and torch.compile).
`median_s` is for one step. Beside the keys that all benchmarks have (see measure.py) the JSON holds

  compile_cold_s, compile_cached_s   tracing and compiling with an empty compilation cache, and in a new process with what that left
  images_per_s                       pairs
  gflop, gflop_per_s                 of a step as direct sums (see measure.count_flops), and what that makes a second
  product_gflop_per_s                of a large matrix product, the fastest of those made between the blocks of this run
  share_of_product                   gflop_per_s over it; algorithms that save operations may exceed 1
  peak_memory_mib                    of a process that found the step compiled and ran it: largest resident set, on a GPU largest allocation
  peak_memory_compiling_mib          the same of the process that compiled it
  peer_peak_memory_mib               of the peer's process
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import measure
import numpy as np

from pix2pix_jax.model import networks as models
from pix2pix_jax.model import state as train_state
from pix2pix_jax.model import steps


def main():
  load = measure.load()
  parser = measure.flags(__doc__)
  parser.add_argument("--steps", type=int, default=0, help="timed steps of each side (default: 20, on a GPU 200)")
  parser.add_argument("--base_features", type=int, default=64, help="width of the networks (default: 64)")
  parser.add_argument("--remat", action="store_true", help="train.remat: recompute the generator's activations")
  parser.add_argument("--compile_only", action="store_true", help=argparse.SUPPRESS)
  options = measure.parse(parser)
  if options.compile_only:
    *_, seconds = compile_step(options)
    print(json.dumps({"seconds": seconds, "peak_memory_mib": measure.peak_memory_mib()}))
    return

  with tempfile.TemporaryDirectory() as cache:
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    cold = subprocess.run(
      [sys.executable, *sys.argv, "--compile_only"], env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    benchmark(options, load, json.loads(cold.stdout.splitlines()[-1]))


def benchmark(options, load, cold):
  """All but the cold compilation, whose figures are `cold`."""
  step, state, batch, compile_cached_s = compile_step(options)

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
  peer = None
  if options.against == "torch":
    peer = measure.Peer.fastest(
      "train_step",
      batch_size=options.batch_size,
      image_size=options.image_size,
      base_features=options.base_features,
      dtype=options.dtype,
    )
    assert peer.info["parameters"] == parameters, (peer.info["parameters"], parameters)
    memory["peer_peak_memory_mib"] = peer.run(2)["peak_memory_mib"]
    sides["peer"] = lambda: peer.run(block)["seconds"]
  samples = measure.alternate(sides, rounds)
  result = measure.compare(samples["ours"], samples.get("peer"))
  if peer:
    peer.close()
    result["peer"] = peer.info
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
    **measure.achieved(step_flops(measure.config(options)), result["median_s"], product, samples["product"]),
  )


def step_functions(config, remat=False):
  """The networks, and the arguments of `steps.train_step` beside state and batch."""
  generator, discriminator = models.make_networks(config.model, dtype=config.train.dtype, remat=remat)
  return (generator, discriminator), dict(
    generator=generator,
    discriminator=discriminator,
    loss=config.loss,
    seed=config.seed,
    optimizer=train_state.make_optimizer(config.optimizer, config.train.num_steps),
  )


def compile_step(options):
  """(the compiled step, a first state, a batch, seconds of compiling)."""
  config = measure.config(options)
  networks, static = step_functions(config, options.remat)
  mesh = steps.make_mesh()
  steps.check_divides(options.batch_size, mesh)
  replicated, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
  state = jax.block_until_ready(jax.jit(lambda: train_state.initial(config, *networks), out_shardings=replicated)())
  pictures = np.random.default_rng(0).uniform(-1, 1, (2, *batch_shape(config))).astype(np.float32)
  batch = jax.device_put({"input": pictures[0], "target": pictures[1]}, split)
  begin = time.perf_counter()
  step = steps.compile_train_step(mesh, **static).lower(state, batch).compile()
  return step, state, batch, time.perf_counter() - begin


def batch_shape(config):
  return config.train.batch_size, config.data.crop_size, config.data.crop_size, 3


def step_flops(config) -> int:
  """Operations of a step, without those that remat makes again."""
  networks, static = step_functions(config)
  state = jax.eval_shape(lambda: train_state.initial(config, *networks))
  pictures = jax.ShapeDtypeStruct(batch_shape(config), jnp.float32)
  return measure.count_flops(
    functools.partial(steps.train_step, **static), state, {"input": pictures, "target": pictures}
  )


if __name__ == "__main__":
  main()
