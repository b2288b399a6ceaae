"""Peak memory of `pix2pix_jax translate --tile` on a GeoTIFF that would not fit into memory.

  python benchmarks/large_raster.py --side=20000 --tile=512

Draws a uint16 raster of `--side`² pixels and `--channels` bands, saves an untrained model, and translates the raster to
float32 by the command of the package. The JSON has

  raster_gib        size of the raster's numbers
  peak_memory_gib   largest resident memory of the translating process
  seconds           its time, with compilation; it is proportional to the pixels and to the cost of the network
"""

import argparse
import json
from pathlib import Path
import resource
import subprocess
import sys
import tempfile
import time

import jax.numpy as jnp
import numpy as np
from rasterio.crs import CRS

from pix2pix_jax import config as config_lib
from pix2pix_jax.data import files
from pix2pix_jax.data.formats.geometry import Geometry
from pix2pix_jax.run import checkpoint
from pix2pix_jax.run.experiment import Experiment
from pix2pix_jax.signals import DataSpec, Quantity


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--side", type=int, default=20_000, help="height and width in pixels (default: 20000)")
  parser.add_argument("--channels", type=int, default=4, help="bands of the raster (default: 4)")
  parser.add_argument("--tile", type=int, default=512, help="side of a tile in pixels (default: 512)")
  parser.add_argument("--base_features", type=int, default=64, help="width of the generator (default: 64)")
  parser.add_argument("--levels", type=int, default=8, help="levels of the generator (default: 8)")
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    draw(folder / "scene.tif", options.side, options.channels)
    save_model(folder / "run", options)
    command = [
      *(sys.executable, "-m", "pix2pix_jax", "translate", f"--workdir={folder / 'run'}", f"--tile={options.tile}"),
      *(f"--input={folder / 'scene.tif'}", f"--output={folder / 'out.tif'}"),
    ]
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=sys.stderr)
    seconds = time.perf_counter() - begin
    assert files.lazy_shape(folder / "out.tif") == (options.side, options.side, 1)
  peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
  raster = options.side**2 * options.channels * 2
  print(
    json.dumps(
      {
        "command": " ".join(["python", "benchmarks/large_raster.py", *sys.argv[1:]]),
        "raster_gib": round(raster / 2**30, 2),
        "peak_memory_gib": round(peak / 2**30, 2),
        "seconds": round(seconds),
      }
    )
  )


def draw(path: Path, side: int, channels: int) -> None:
  """A georeferenced raster of smooth noise, written in rows."""
  geometry = Geometry(
    "raster", (side, side), "uint16", nodata=0, crs=CRS.from_epsg(32632).to_wkt(), transform=(10, 0, 5e5, 0, -10, 5.5e6)
  )
  generator = np.random.default_rng(0)
  with files.RasterWriter(path, side, side, channels, "uint16", geometry) as writer:
    for row in range(0, side, 512):
      rows = min(512, side - row)
      coarse = generator.integers(100, 4000, (-(-rows // 16), -(-side // 16), channels), np.uint16)
      writer.write(row, 0, np.repeat(np.repeat(coarse, 16, 0), 16, 1)[:rows, :side])


def save_model(workdir: Path, options: argparse.Namespace) -> None:
  """A workdir with an untrained model from the raster's bands to one quantity."""
  config = config_lib.default()
  config.update_from_flattened_dict(
    {
      "data.input_kind": "quantity",
      "data.target_kind": "quantity",
      "data.crop_size": 2**options.levels,
      "data.load_size": 2**options.levels,
      "model.base_features": options.base_features,
      "model.levels": options.levels,
      "train.num_steps": 1,
    }
  )
  spec = DataSpec(
    Quantity(options.channels, "uint16", ((0.0, 4000.0),)), Quantity(1, "float32", ((-30.0, 5.0),)), {"train": 1}
  )
  config = config_lib.resolve(config, spec)
  config_lib.make_workdir(workdir)
  config_lib.write(workdir, config)
  with checkpoint.Checkpointer(workdir, config=config) as checkpointer:
    checkpointer.save(1, Experiment(config, spec).init().replace(step=jnp.int32(1)))


if __name__ == "__main__":
  main()
