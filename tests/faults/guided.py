"""Damages files in ways that reach new code: `python tests/faults/guided.py --seconds=480`, with atheris installed.

Atheris (https://github.com/google/atheris) measures which branches of the readers, and of the libraries in Python
behind them, a file reaches, and goes on from the files that reach new ones. The checksums of PNG and zip archives are
not compared, so that damage gets beyond them. Each file begins with a byte that chooses its format. A file that crashes
the interpreter stays in the folder that the first line names, as `mutant.SUFFIX`, with a traceback.
"""

import argparse
import faulthandler
import os
from pathlib import Path
import random
import shutil
import sys
import tempfile
import time
import warnings
import zipfile

import atheris

import pix2pix_jax.run.experiment  # noqa: F401  (and with it JAX, which would be slow with counters in it)

with atheris.instrument_imports(include=["pix2pix_jax", "PIL", "tifffile", "nibabel"], enable_loader_override=False):
  import fuzz
  from PIL import PngImagePlugin


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--seconds", type=float, default=60.0)
  parser.add_argument("--count", type=int, default=-1, help="files to try; -1: as many as the time allows")
  parser.add_argument("--seed", type=int, default=1)
  parser.add_argument("--gib", type=float, default=1.0, help="memory beyond what the program has at the start")
  parser.add_argument("--keep", type=Path, help="folder for the files that had problems")
  options = parser.parse_args()
  warnings.simplefilter("ignore")
  zipfile.ZipExtFile._update_crc = lambda self, data: None
  PngImagePlugin.ChunkStream.crc = PngImagePlugin.ChunkStream.crc_skip
  folder = Path(tempfile.mkdtemp(prefix="guided_"))
  print(f"files in {folder}", file=sys.stderr, flush=True)
  faulthandler.enable()
  contents = fuzz.originals(folder)
  trials = fuzz.Trials(folder)
  corpus = folder / "corpus"
  corpus.mkdir()
  names = list(contents)
  for number, content in enumerate(contents.values()):
    (corpus / names[number]).write_bytes(bytes([number]) + content)
  trials.limit_memory(options.gib)
  end, tried = time.monotonic() + options.seconds, 0

  def try_one(data: bytes) -> None:
    nonlocal tried
    if time.monotonic() > end or tried == options.count:
      print(f"{tried} files, ", end="")
      failed = trials.report()
      shutil.rmtree(folder)
      os._exit(failed)  # libFuzzer does not return
    tried += 1
    if data:
      name = names[data[0] % len(names)]
      known = len(trials.problems)
      trials.read(name, data[1:], f"{name} {tried}")
      if len(trials.problems) > known and options.keep:
        (options.keep / f"{tried}_{name}").write_bytes(data[1:])

  def change(data: bytes, max_size: int, seed: int) -> bytes:
    """Half of the changes are those of fuzz.py, which know numbers and digits."""
    if seed % 2 and data:
      return (data[:1] + fuzz.mutant(data[1:], random.Random(seed)))[:max_size]
    return atheris.Mutate(data, max_size)

  # The handlers of libFuzzer could wait for locks that the crashed code holds.
  handlers = [f"-handle_{name}=0" for name in ("segv", "bus", "abrt", "ill", "fpe")]
  flags = ["-max_len=30000", "-rss_limit_mb=0", "-timeout=60", f"-seed={options.seed}", *handlers]
  atheris.Setup([sys.argv[0], *flags, "-verbosity=0", str(corpus)], try_one, custom_mutator=change)
  atheris.Fuzz()


if __name__ == "__main__":
  main()
