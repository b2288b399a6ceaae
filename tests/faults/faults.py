"""What may happen to a workdir, and how long the trials take: `PIX2PIX_SOAK=MINUTES` repeats them at random moments."""

from collections.abc import Iterator
import os
import random
import shutil
import time

from tiny_runs import tiny_config

MINUTES = float(os.environ.get("PIX2PIX_SOAK", 0))
MUTATIONS = ("flip", "truncate", "empty", "remove")


def trials(number: int) -> Iterator[random.Random]:
  """A few seeded sources of random numbers; in a soak, as many as fit into 5/12 of its time, with new seeds."""
  end, seed = time.monotonic() + 25 * MINUTES, time.time_ns() if MINUTES else 0
  count = 0
  while count < number or time.monotonic() < end:
    yield random.Random(seed + count)
    count += 1
  print(f"{count} trials")


def damage(path, kind, rng):
  """Changes one bit of a file, cuts it off, empties it or removes it."""
  content = bytearray(path.read_bytes())
  if kind == "remove":
    path.unlink()
  elif kind == "flip":
    bit = rng.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
  else:
    path.write_bytes(content[: rng.randrange(len(content)) if kind == "truncate" else 0])


def largest_file(folder):
  return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def steps(workdir):
  return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


def copy(workdir, target):
  """Copies what a resume needs."""
  shutil.rmtree(target, ignore_errors=True)
  return shutil.copytree(workdir, target, ignore=shutil.ignore_patterns("events*", "samples"))


def config(**fields):
  """A run of six steps, saved at 2, 4 and 6 and validated at 3 and 6."""
  return tiny_config(**fields)
