"""What a GPU needs at least for a training step, computed from shapes: nothing runs, and no speed is claimed.

  python benchmarks/roofline.py
  python benchmarks/roofline.py --image_sizes=256 --batch_sizes=1,64 --dtypes=bfloat16 --tflops=1979 --gbytes=4800

For every image size, batch size and precision, a row of a Markdown table:

  GFLOP       operations of the convolutions and matrix products, as direct sums (`measure.count_flops`)
  GB          bytes that these read and write, and the state, read and written once (`measure.count_bytes`). Norms,
              activations and losses count nothing, as if the compiler fused all of them into the convolutions
  arithmetic, memory   milliseconds of both at the speeds of the data sheet; the larger one bounds the step
  steps/s     at that bound, which no program reaches
  host        GB per second that the host would send at that speed, if it made the batches in float32
  draws       kB per second that it sends if the split is kept on the device (`train.data_on_device`)

The defaults are those of an H100 SXM: 495 TFLOP/s in TF32, which XLA uses for float32, 989 in bfloat16 (both dense),
and 3,350 GB/s of memory. Its PCIe link carries 64 GB/s.
"""

import argparse

import jax
import jax.numpy as jnp
import measure
import numpy as np

PEAK = {"float32": 495.0, "bfloat16": 989.0}
DRAWS = 16  # bytes per pair: `pipeline.train_draws`


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--image_sizes", default="128,256,512", help="sides in pixels (default: 128,256,512)")
  parser.add_argument("--batch_sizes", default="1,10,64", help="images per step (default: 1,10,64)")
  parser.add_argument("--dtypes", default="float32,bfloat16", help="precisions (default: float32,bfloat16)")
  parser.add_argument("--base_features", type=int, default=64, help="width of the networks (default: 64)")
  parser.add_argument("--tflops", type=float, default=0, help="dense TFLOP/s (default: those of an H100)")
  parser.add_argument("--gbytes", type=float, default=3350, help="GB/s of the GPU's memory (default: 3350)")
  options = parser.parse_args()
  print("| image | batch | precision | GFLOP | GB | arithmetic | memory | steps/s | host | draws |")
  print("|" + " --- |" * 10)
  for dtype in options.dtypes.split(","):
    for size in map(int, options.image_sizes.split(",")):
      for batch in map(int, options.batch_sizes.split(",")):
        print(row(size, batch, dtype, options), flush=True)


def row(size: int, batch: int, dtype: str, options: argparse.Namespace) -> str:
  """One row of the table."""
  flops, moved = cost(size, batch, dtype, options.base_features)
  arithmetic, memory = flops / (options.tflops or PEAK[dtype]) / 1e12, moved / options.gbytes / 1e9
  speed = 1 / max(arithmetic, memory)
  sent = batch * size**2 * 6 * np.dtype(np.float32).itemsize  # input and target, three channels each
  return (
    f"| {size}² | {batch} | {dtype} | {flops / 1e9:,.4g} | {moved / 1e9:.3g} | {1000 * arithmetic:.3g} ms | "
    f"{1000 * memory:.3g} ms | {speed:,.3g} | {sent * speed / 1e9:.3g} GB/s | {DRAWS * batch * speed / 1e3:,.3g} kB/s |"
  )


def cost(size: int, batch: int, dtype: str, base_features: int) -> tuple[int, int]:
  """(operations, bytes) of a step of the paper's model."""
  options = argparse.Namespace(image_size=size, batch_size=batch, dtype=dtype, base_features=base_features)
  run = measure.experiment(options)
  images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32, sharding=run.split_rows)
  step = run.train_step, run.abstract(), {"input": images, "target": images}
  return measure.count_flops(*step), measure.count_bytes(*step)


if __name__ == "__main__":
  main()
