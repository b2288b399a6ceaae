"""Speed of the input pipeline, from façades on disk to batches of jittered float32 pairs.

  python benchmarks/input_pipeline.py --against=torch
  python benchmarks/input_pipeline.py --form=png --against=torch
  python benchmarks/input_pipeline.py --source_dir=facades --batch_size=10 --against=torch

This package (`pipeline.train_batches`) decodes and resizes every pair once, and keeps it in memory to crop, mirror and
normalise it at every use; a split beyond `data.cache_gib` is streamed: all five steps are repeated at every use. The
peer, a Dataset with a DataLoader, does the same as streaming. Both read the same side-by-side files, resize them
(bicubic) to 286/256 of the image size, crop, mirror, and return batches as NumPy arrays or CPU tensors. The machine is
otherwise idle, unlike during training. A sample is a block of `--seconds` with a fresh iterator; its first batch is not
counted.

`median_s` is the time per batch, `peer_median_s` that of the peer with its best number of workers. In addition to
the keys that all benchmarks share (see measure.py), the JSON has

  images_per_s, peer_images_per_s   pairs per second
  streamed_images_per_s      the same without a cache
  cpu_ms, streamed_cpu_ms    CPU time per pair, of all threads; unlike rates, it hardly depends on the machine's load
  devices_images_per_s       the same, including the transfer of each batch to the devices (`pipeline.to_devices`)
  prepare_s, load_s          time before the first batch: writing shards (first start only) and decoding (every start)
  first_epoch_images_per_s   pairs divided by the time of preparing, loading and one epoch together
  peer_median_s_by_workers   for each number of workers
  raw_bytes, prepared_bytes  of the split's files before and after preparation
  decoded_bytes              of the pixels at the load size, which a decoded copy on disk would take
  pairs, load_size, form
"""

import argparse
import collections
from collections.abc import Callable, Iterator
from pathlib import Path
import tempfile
import time
from typing import Any

import jax
import measure
import numpy as np
from PIL import Image

from pix2pix_jax import config as config_lib
from pix2pix_jax.data import pipeline, prepare
from pix2pix_jax.data.synthesis import facades


def main():
  load = measure.load()
  parser = measure.flags(__doc__, dtypes=("float32",))
  parser.add_argument(
    "--source_dir",
    help="folder with train/N.jpg or .png, side by side as in the pix2pix archive (default: drawn for this run)",
  )
  parser.add_argument("--form", choices=("jpg", "png"), default="jpg", help="format of the files (default: jpg)")
  parser.add_argument("--pairs", type=int, default=100, help="pairs to draw (default: 100)")
  parser.add_argument(
    "--workers", default="0,1,2", help="worker counts to try in the peer's DataLoader (default: 0,1,2)"
  )
  parser.add_argument("--seconds", type=float, default=2.0, help="length of a block (default: 2)")
  parser.add_argument("--blocks", type=int, default=measure.BLOCKS, help=f"blocks per side (default: {measure.BLOCKS})")
  parser.set_defaults(base_features=64)
  options = measure.parse(parser)
  with tempfile.TemporaryDirectory() as folder:
    counts = {"train": options.pairs}
    source = options.source_dir or write_pairs(Path(folder) / "facades", counts, options.image_size, options.form)
    measure.report(options, load, **benchmark(options, source, f"{folder}/prepared"))


def benchmark(options: argparse.Namespace, source: str | Path, prepared_dir: str) -> dict[str, Any]:
  run = measure.experiment(options)
  config = run.config
  config_lib.update(config, {"data.name": "folder", "data.source_dir": str(source), "data.prepared_dir": prepared_dir})
  config.data.side_by_side = "target_input"
  begin = time.perf_counter()
  prepared = prepare.prepare(config.data)
  prepare_s = time.perf_counter() - begin
  load = lambda cache_gib: pipeline.load_split(
    prepared, "train", config_lib.load_shape(config.data), cache_gib=cache_gib
  )
  split = load(config.data.cache_gib)
  load_s = time.perf_counter() - begin - prepare_s
  make_batches = lambda split: (
    lambda: pipeline.train_batches(split, config.data, batch_size=options.batch_size, seed=config.seed)
  )
  batches, streamed = make_batches(split), make_batches(load(0))
  first = batches()
  for _ in range(max(1, len(split) // options.batch_size)):
    next(first)
  first_epoch_s = time.perf_counter() - begin
  del first

  cpu_s: dict[str, list[float]] = collections.defaultdict(list)

  def seconds_per_batch(make: Callable[[], Iterator[Any]], name: str) -> float:
    """Times the batches of a fresh iterator."""
    iterator = make()
    jax.block_until_ready(next(iterator))
    begin, cpu_begin, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begin < options.seconds:
      jax.block_until_ready(next(iterator))
      count += 1
    cpu_s[name].append((time.process_time() - cpu_begin) / count)
    return (time.perf_counter() - begin) / count

  sides = {
    "ours": lambda: seconds_per_batch(batches, "ours"),
    "streamed": lambda: seconds_per_batch(streamed, "streamed"),
    "devices": lambda: seconds_per_batch(lambda: pipeline.to_devices(batches(), run.split_rows), "devices"),
  }
  peers = {}
  if options.against == "torch":
    for workers in options.workers.split(","):
      peers[workers] = measure.Peer(
        "load",
        path=f"{source}/train",
        batch_size=options.batch_size,
        load_size=config.data.load_size,
        crop_size=options.image_size,
        workers=int(workers),
      )
      sides[workers] = lambda peer=peers[workers]: peer.run(options.seconds)["seconds"]
  samples = measure.alternate(sides, options.blocks)
  for peer in peers.values():
    peer.close()
  by_workers = {workers: measure.summary(samples[workers])["median_s"] for workers in peers}
  best = min(by_workers, key=by_workers.get, default=None)
  result = measure.compare(samples["ours"], samples.get(best))
  speed = lambda seconds: options.batch_size / seconds
  if best is not None:
    result |= {
      "peer": peers[best].info,
      "peer_images_per_s": speed(by_workers[best]),
      "peer_median_s_by_workers": by_workers,
    }
  return result | dict(
    images_per_s=speed(result["median_s"]),
    streamed_images_per_s=speed(measure.summary(samples["streamed"])["median_s"]),
    devices_images_per_s=speed(measure.summary(samples["devices"])["median_s"]),
    cpu_ms=1000 * float(np.median(cpu_s["ours"])) / options.batch_size,
    streamed_cpu_ms=1000 * float(np.median(cpu_s["streamed"])) / options.batch_size,
    raw_bytes=_bytes(Path(source) / "train", "*"),
    prepared_bytes=_bytes(prepared.folder, "*train*"),
    decoded_bytes=sum(array.nbytes for array in split.arrays.values()),
    prepare_s=prepare_s,
    load_s=load_s,
    first_epoch_images_per_s=len(split) / first_epoch_s,
    pairs=len(split),
    load_size=config.data.load_size,
    form=options.form,
    seconds=options.seconds,
    blocks=options.blocks,
  )


def _bytes(folder: Path, pattern: str) -> int:
  return sum(path.stat().st_size for path in folder.glob(pattern) if path.is_file())


def write_pairs(folder: Path, counts: dict[str, int], size: int, form: str = "jpg") -> Path:
  """Draws façades as SPLIT/N.jpg in the pix2pix archive's layout: photograph left, labels right. Returns `folder`."""
  index = 0
  for split, count in counts.items():
    (folder / split).mkdir(parents=True)
    for number in range(1, count + 1):
      pair = facades.draw(0, index, (size, size))
      Image.fromarray(np.concatenate([pair["target"], pair["input"]], axis=1)).save(
        folder / split / f"{number}.{form}", quality=95
      )
      index += 1
  return folder


if __name__ == "__main__":
  main()
