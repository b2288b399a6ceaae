"""The scalars of a run as `history.jsonl` in its workdir: one line a step, `{"step": 100, "train/l1": 0.21, …}`.

TensorBoard's event files hold the same; this file is what the curves and the report read without TensorFlow, and it
is cut back on resume, so that it never tells of steps that the final parameters have not seen.
"""

import json
import os
from pathlib import Path


class History:
  """Appends scalars; starts by dropping what lies beyond `resumed_step`, or all if that is 0 and the run starts afresh."""

  def __init__(self, workdir: Path, resumed_step: int):
    self._path = workdir / "history.jsonl"
    kept = [row for row in read(workdir) if row["step"] <= resumed_step and resumed_step]
    part = self._path.with_suffix(".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in kept))
    os.replace(part, self._path)

  def append(self, step: int, scalars: dict[str, float]) -> None:
    with self._path.open("a") as file:
      file.write(json.dumps({"step": step, **scalars}) + "\n")


def read(workdir: Path) -> list[dict[str, float]]:
  """All rows in order; a last line that was cut off by a crash is left out."""
  path = Path(workdir) / "history.jsonl"
  rows = []
  for line in path.read_text().splitlines() if path.exists() else []:
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return rows
