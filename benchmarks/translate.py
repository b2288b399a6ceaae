"""Speed of translation, for arrays in memory and for a folder of files.

  python benchmarks/translate.py --batch_size=1 --against=torch
  python benchmarks/translate.py --batch_size=8 --against=torch

`median_s` is the latency of one batch through `Translator`, uint8 arrays in and out, with random weights. The peer does
the same without gradients. Both follow the paper's protocol: dropout on, batch norm with the statistics of the batch.
With --runtimes, ONNX Runtime and OpenVINO follow, if they are installed, with the same weights in float32. They are
made for networks that do the same for every image, so this part is without dropout and with the running statistics,
here too. In addition to the keys that all benchmarks share (see measure.py), the JSON has

  images_per_s, peer_images_per_s
  compile_s                  time of the first call with this batch size, without a compilation cache
  folder_files_per_s         speed of the files command (pix2pix_jax.translate) with this batch size, which reads,
                             translates and writes `--files` PNGs
  runtimes                   with --runtimes: `median_s` and `spread` of this package in that setting, and `peers`,
                             `best_peer` and `best_ratio` as in train_step.py
  gflop, gflop_per_s, product_gflop_per_s, share_of_product   as in train_step.py
"""

import argparse
from collections.abc import Callable
import contextlib
import functools
import importlib.util
from pathlib import Path
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import measure
import numpy as np
from PIL import Image
import runtime_peer

from pix2pix_jax import translate
from pix2pix_jax.data.synthesis import facades
from pix2pix_jax.inference import Translator
from pix2pix_jax.run import translation


def main():
  load = measure.load()
  parser = measure.flags(__doc__)
  parser.add_argument("--steps", type=int, default=0, help="timed batches per side (default: 20, on a GPU 200)")
  parser.add_argument("--base_features", type=int, default=64, help="width of the generator (default: 64)")
  parser.add_argument("--files", type=int, default=32, help="files in the folder; 0: skip that part (default: 32)")
  parser.add_argument("--runtimes", action="store_true", help="compare with ONNX Runtime and OpenVINO, too")
  options = measure.parse(parser)
  jax.config.update("jax_enable_compilation_cache", False)
  experiment = measure.experiment(options)
  generator = experiment.networks["generator"]
  init = functools.partial(generator.init, dropout=False, norm_stats="batch")
  shape = (options.batch_size, options.image_size, options.image_size, 3)
  variables = jax.jit(init)(jax.random.key(0), jnp.zeros((1, *shape[1:])))
  translator = Translator(experiment.config, variables)
  images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

  def run(count):
    return time_calls(functools.partial(translator, norm_stats="batch", batch_size=options.batch_size), images, count)

  compile_s = run(1)
  run(2)
  product = measure.MatrixProduct(options.dtype)
  rounds, block = measure.blocks_of(options.steps)
  sides = {"ours": lambda: run(block), "product": product}
  peer = None
  if options.against == "torch":
    peer = measure.Peer(
      "translate",
      batch_size=options.batch_size,
      image_size=options.image_size,
      base_features=options.base_features,
      dtype=options.dtype,
      try_all=True,
    )
    assert peer.info["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    peer.run(2)
    sides["peer"] = lambda: peer.run(block)["seconds"]
  samples = measure.alternate(sides, rounds)
  result = measure.compare(samples["ours"], samples.get("peer"))
  if peer:
    peer.close()
    result |= {"peer": peer.info, "peer_images_per_s": options.batch_size / result["peer_median_s"]}
  if options.runtimes:
    result["runtimes"] = against_runtimes(translator, images, rounds, block)
  if options.files:
    result |= {"folder_files": options.files, "folder_files_per_s": files_per_s(translator, options)}
  measure.report(
    options,
    load,
    **result,
    images_per_s=options.batch_size / result["median_s"],
    base_features=options.base_features,
    steps=rounds * block,
    compile_s=compile_s,
    **measure.achieved(forward_flops(generator, variables, shape), result["median_s"], product, samples["product"]),
  )


def time_calls(translate_images: Callable[[np.ndarray], np.ndarray], images: np.ndarray, count: int) -> float:
  """Seconds per call. A call waits for the device, because it returns a NumPy array."""
  begin = time.perf_counter()
  for _ in range(count):
    outputs = translate_images(images)
  assert outputs.shape == images.shape and outputs.dtype == np.uint8
  return (time.perf_counter() - begin) / count


def against_runtimes(translator: Translator, images: np.ndarray, rounds: int, block: int) -> dict[str, Any]:
  """This package and the runtimes without dropout and with the running statistics, in turn."""
  ours = functools.partial(translator, dropout=False, norm_stats="running", batch_size=len(images))
  expected = ours(images)
  sides = {"ours": lambda: time_calls(ours, images, block)}
  infos: dict[str, dict[str, Any]] = {}
  with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
    np.save(f"{folder}/images.npy", images)
    for name, package in runtime_peer.PACKAGES.items():
      missing = [module for module in ("onnx", package) if not importlib.util.find_spec(module)]
      if missing:
        infos[name] = {"not_available": f"{' and '.join(missing)} not installed"}
        continue
      runtime_peer.write_model(translator, images.shape, f"{folder}/model.onnx")
      peer = stack.enter_context(measure.Peer(name, script="runtime_peer.py", folder=folder))
      peer.run(2)
      outputs = np.load(f"{folder}/{name}.npy")
      assert np.abs(outputs.astype(int) - expected).max() <= 1, f"{name} computes something else"
      infos[name] = peer.info
      sides[name] = functools.partial(lambda peer: peer.run(block)["seconds"], peer)
    samples = measure.alternate(sides, rounds)
  return measure.summary(samples["ours"]) | measure.compare_with(samples, infos)


def files_per_s(translator: Translator, options: argparse.Namespace) -> float:
  """Translates a folder of drawn label maps twice and times the second pass; the first compiles."""
  with tempfile.TemporaryDirectory() as folder:
    for index in range(options.files):
      labels = facades.draw(0, index, (options.image_size, options.image_size))["input"]
      Image.fromarray(labels).save(f"{folder}/{index}.png")
    inputs, _ = translate.find_inputs(folder)
    for turn in ("first", "second"):
      outputs = translate.name_outputs(inputs, Path(folder) / turn)
      begin = time.perf_counter()
      work = translation.FileTranslator(translator, outputs, translation.Options(batch_size=options.batch_size))
      work.run()
      seconds = time.perf_counter() - begin
      assert not work.failed, work.failed
    return options.files / seconds


def forward_flops(generator: Any, variables: dict[str, Any], shape: tuple[int, ...]) -> int:
  """The operations of one call of the generator."""
  forward = functools.partial(generator.apply, dropout=True, norm_stats="image", rngs={"dropout": jax.random.key(0)})
  return measure.count_flops(forward, jax.eval_shape(lambda: variables), jax.ShapeDtypeStruct(shape, jnp.float32))


if __name__ == "__main__":
  main()
