"""Output that never stops a program: a closed pipe or terminal costs the words, not the work."""

import os
import sys
from typing import TextIO

from tqdm import tqdm


def say(text: str, *, error: bool = False) -> None:
  """Prints a line to standard output, or to standard error, above a progress bar if there is one.

  If nobody reads the stream any more (`| head`, `| tee` that was interrupted, a closed terminal), it is silenced.
  """
  stream = sys.stderr if error else sys.stdout
  try:
    tqdm.write(text, file=stream)
    stream.flush()
  except (OSError, ValueError):  # a broken pipe, or a closed file
    silence(stream)


def silence(stream: TextIO) -> None:
  """Sends everything that a stream still gets to nowhere."""
  nowhere = os.open(os.devnull, os.O_WRONLY)
  try:
    os.dup2(nowhere, stream.fileno())
  except (OSError, ValueError):  # no file of the operating system: a notebook's stream
    pass
  finally:
    os.close(nowhere)
