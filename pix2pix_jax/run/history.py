"""The scalars of a run as `history.jsonl` in its workdir: one line per record, `{"step": 100, "train/l1": 0.21, …}`.

TensorBoard's event files hold the same scalars. Curves and the report read this file, because that needs no
TensorFlow. On resume, it is truncated to the restored step.
"""

import json
import os
from pathlib import Path


class History:
  """Appends scalars. Rows beyond `resumed_step` are dropped first; a fresh run (step 0) starts with an empty file."""

  def __init__(self, workdir: Path, resumed_step: int):
    self._path = workdir / "history.jsonl"
    kept = [row for row in read(workdir) if row["step"] <= resumed_step and resumed_step]
    part = self._path.with_suffix(".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    os.replace(part, self._path)

  def append(self, step: int, scalars: dict[str, float]) -> None:
    with self._path.open("a", encoding="utf-8") as file:
      file.write(json.dumps({"step": step, **scalars}) + "\n")


def read(workdir: Path) -> list[dict[str, float]]:
  """All rows in order. Lines that hold no record with a step, such as one cut off by a crash, are skipped."""
  path = Path(workdir) / "history.jsonl"
  rows = []
  for line in path.read_bytes().decode(errors="replace").splitlines() if path.exists() else []:
    try:
      row = json.loads(line)
    except ValueError:
      continue
    if isinstance(row, dict) and isinstance(row.get("step"), int):
      rows.append(row)
  return rows
