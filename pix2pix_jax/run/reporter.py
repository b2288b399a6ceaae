"""Progress reporting: TensorBoard, history.jsonl, samples, curves, and a progress bar or plain lines."""

from collections.abc import Iterator, Mapping
import contextlib
import os
from pathlib import Path
import sys
import time
from typing import Any

from clu import metric_writers
import jax
import numpy as np
from tqdm import tqdm

from pix2pix_jax.run import history, viz
from pix2pix_jax.run.finite import require_finite

STEPS_IN_FLIGHT = 8  # the host prepares at most so many steps ahead of the devices


def make_writer(workdir: Path) -> metric_writers.MetricWriter:
  """TensorBoard event files, written in the background, by process 0 only."""
  if jax.process_index() > 0:
    return metric_writers.MultiWriter([])
  return metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(workdir)))


class Reporter:
  """Collects the metrics of steps on the devices and fetches them at log intervals only. Silent except on process 0.

  The first step, in which XLA compiles, is timed separately and excluded from throughput. A context manager: leaving it
  draws the curves and closes the files.

  Args:
    writer: CLU metric writer.
    workdir: of the run.
    start: step that the run resumes from, 0 for a fresh one.
    config: its `train` section.
  """

  def __init__(self, writer: Any, workdir: Path, *, start: int, config: Any):
    self._writer, self._workdir = writer, workdir
    self._num_steps, self._log_every_steps = config.num_steps, config.log_every_steps
    self._is_main = jax.process_index() == 0
    self._history = history.History(workdir, start) if self._is_main else None
    self._on_terminal = self._is_main and sys.stderr.isatty()
    self._bar = tqdm(
      total=config.num_steps,
      initial=start,
      disable=not self._on_terminal,
      unit="step",
      dynamic_ncols=True,
      smoothing=0.05,
    )
    self._pending: list[Mapping[str, jax.Array]] = []
    self._is_first = True
    self._got_data = time.perf_counter()
    self._restart_clock()

  def __enter__(self) -> "Reporter":
    return self

  def __exit__(self, *unused: object) -> None:
    self._bar.close()
    self._writer.close()
    if self._is_main:
      viz.curves(history.read(self._workdir), self._workdir / "curves.png")

  def _restart_clock(self) -> None:
    self._since, self._paused, self._waited, self._timed_steps = time.perf_counter(), 0.0, 0.0, 0

  def say(self, text: str) -> None:
    """Prints a message without breaking the progress bar."""
    if self._on_terminal:
      tqdm.write(text)
    elif self._is_main:
      print(text, flush=True)

  @contextlib.contextmanager
  def pause(self) -> Iterator[None]:
    """Time in here (validation, checkpoints) does not count as training."""
    begin = time.perf_counter()
    yield
    self._paused += time.perf_counter() - begin

  @contextlib.contextmanager
  def data_wait(self) -> Iterator[None]:
    """Time in here counts as waiting for data."""
    begin = time.perf_counter()
    yield
    self._got_data = time.perf_counter()
    self._waited += self._got_data - begin

  def trained(self, step: int, metrics: Mapping[str, jax.Array], *, last: bool) -> None:
    """Accepts the metrics of a step, still on the devices; at log intervals writes their means since the last one."""
    self._pending.append(metrics)
    self._bar.update()
    self._timed_steps += 1
    if self._is_first:
      self._first_step_done(metrics)
    if len(self._pending) > STEPS_IN_FLIGHT:
      jax.block_until_ready(self._pending[-STEPS_IN_FLIGHT])
    if step % self._log_every_steps and not last:
      return
    rows = jax.device_get(self._pending)
    scalars = {f"train/{name}": float(np.mean([row[name] for row in rows])) for name in rows[0]}
    require_finite(step, scalars)
    seconds = max(time.perf_counter() - self._since - self._paused, 1e-9)
    speed = self._timed_steps / seconds
    if self._timed_steps:
      scalars |= {"train/steps_per_second": speed, "train/data_wait_share": self._waited / seconds}
    self._write(step, scalars)
    shown = {
      name: scalars[f"train/{name}"]
      for name in ("generator_loss", "discriminator_loss", "l1")
      if f"train/{name}" in scalars
    }
    self._bar.set_postfix({name: f"{value:.3f}" for name, value in shown.items()})
    if not self._on_terminal:
      minutes = (self._num_steps - step) / speed / 60 if self._timed_steps else 0
      pace = f"  {speed:.2f} steps/s  {minutes:.1f} min left" if self._timed_steps else ""
      losses = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
      self.say(f"step {step}/{self._num_steps}  {losses}{pace}")
    self._pending = []
    self._restart_clock()

  def _first_step_done(self, metrics: Mapping[str, jax.Array]) -> None:
    """Waits for the first step, prints how long it took, and restarts the clock."""
    jax.block_until_ready(metrics)
    took, age = time.perf_counter() - self._got_data, _program_age()
    since_launch = "" if age is None else f" {age:.1f} s after launch"
    self.say(f"First step done{since_launch} ({took:.1f} s to compile and run).")
    self._is_first = False
    self._bar.unpause()
    self._restart_clock()

  def validated(self, step: int, means: dict[str, float], grid: np.ndarray) -> None:
    """Writes the means of a validation and its sample grid, uint8 (H, W, 3)."""
    require_finite(step, means)
    self._write(step, {f"val/{name}": value for name, value in means.items()})
    self._writer.write_images(step, {"val/samples": grid[None]})
    if self._is_main:
      viz.save_png(self._workdir / "samples" / f"step_{step:08d}.png", grid)
    shown = [f"{name} {means[name]:.4f}" for name in ("generator_loss", "l1", "psnr", "ssim") if name in means]
    self.say(f"step {step}/{self._num_steps}  validation  {'  '.join(shown)}")

  def _write(self, step: int, scalars: dict[str, float]) -> None:
    self._writer.write_scalars(step, scalars)
    if self._history:
      self._history.append(step, scalars)


_age_reported = False


def _program_age() -> float | None:
  """Seconds since this process started. None from the second call on, in an interactive session, or without /proc."""
  global _age_reported
  if _age_reported or not hasattr(sys.modules["__main__"], "__file__"):
    return None
  _age_reported = True
  try:
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(stat[19]) / os.sysconf("SC_CLK_TCK")  # seconds after boot
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
  except (OSError, AttributeError, ValueError, IndexError):
    return None
