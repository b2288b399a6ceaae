"""The scalars of a run as `history.jsonl` in its workdir: one line per record, `{"step": 100, "train/l1": 0.21, …}`.

TensorBoard's event files hold the same scalars. Curves and the report read this file, because that needs no
TensorFlow. On resume, it is truncated to the restored step.
"""

import json
import os
from pathlib import Path

from pix2pix_jax import output

_FILE = "history.jsonl"


class History:
  """Appends scalars. Rows beyond `resumed_step` are dropped first; a fresh run (step 0) starts with an empty file.

  A damaged file does not stop a run: the lines that hold no record are left out, and the whole file is kept as
  `history.jsonl.damaged`.
  """

  def __init__(self, workdir: Path, resumed_step: int):
    self._path = workdir / _FILE
    rows, damaged = _parse(self._path)
    if damaged:
      copy = self._path.with_name(f"{_FILE}.damaged")
      copy.write_bytes(self._path.read_bytes())
      lines = output.counted(damaged, "damaged line")
      output.say(f"Warning: {self._path} has {lines}, which the curves lack. The original is kept as {copy}.")
    kept = [row for row in rows if row["step"] <= resumed_step and resumed_step]
    part = self._path.with_suffix(".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    os.replace(part, self._path)

  def append(self, step: int, scalars: dict[str, float]) -> None:
    with self._path.open("a", encoding="utf-8") as file:
      file.write(json.dumps({"step": step, **scalars}) + "\n")


def read(workdir: Path) -> list[dict[str, float]]:
  """All rows in order. Lines that hold no record with a step, such as one cut off by a crash, are skipped."""
  return _parse(Path(workdir) / _FILE)[0]


def _parse(path: Path) -> tuple[list[dict[str, float]], int]:
  """All rows, and the number of damaged lines. An unfinished last line, which a crash leaves, does not count."""
  whole, _, unfinished = (path.read_bytes() if path.exists() else b"").rpartition(b"\n")
  rows = [_row(line) for line in whole.split(b"\n") if line.strip()]
  last = _row(unfinished)
  return [row for row in [*rows, last] if row], sum(row is None for row in rows)


def _row(line: bytes) -> dict[str, float] | None:
  """The record in a line, all of whose values are numbers; None if there is none."""
  try:
    row = json.loads(line)
  except (ValueError, RecursionError):
    return None
  is_number = lambda value: isinstance(value, int | float) and not isinstance(value, bool)
  if not isinstance(row, dict) or not all(map(is_number, row.values())) or not isinstance(row.get("step"), int):
    return None
  return row
