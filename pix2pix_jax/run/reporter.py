"""How a training tells of itself: TensorBoard, history.jsonl, samples, curves, and a progress bar or plain lines."""

import contextlib
import os
from pathlib import Path
import sys
import time

import jax
import numpy as np
from tqdm import tqdm

from pix2pix_jax.errors import UsageError
from pix2pix_jax.run import history, viz

STEPS_IN_FLIGHT = 8  # the host prepares at most so many steps ahead of the devices


class Reporter:
  """Gathers the metrics of steps on the devices and fetches them at log intervals only. Silent but on process 0.

  The first step, in which XLA compiles, is waited for, told of by itself, and left out of every speed.
  `writer` is a CLU metric writer, `num_steps` and `log_every_steps` come from the config.
  """

  def __init__(self, writer, workdir: Path, *, start: int, num_steps: int, log_every_steps: int):
    self._writer, self._workdir = writer, workdir
    self._num_steps, self._log_every_steps = num_steps, log_every_steps
    self._is_main = jax.process_index() == 0
    self._history = history.History(workdir, start) if self._is_main else None
    self._on_terminal = self._is_main and sys.stderr.isatty()
    self._bar = tqdm(
      total=num_steps, initial=start, disable=not self._on_terminal, unit="step", dynamic_ncols=True, smoothing=0.05
    )
    self._pending = []
    self._is_first = True
    self._got_data = time.perf_counter()
    self._restart_clock()

  def _restart_clock(self) -> None:
    self._since, self._paused, self._waited, self._timed_steps = time.perf_counter(), 0.0, 0.0, 0

  def say(self, text: str) -> None:
    if self._is_main:
      tqdm.write(text) if self._on_terminal else print(text, flush=True)

  @contextlib.contextmanager
  def pause(self):
    """Time in here (validation, checkpoints) does not count as training."""
    begin = time.perf_counter()
    yield
    self._paused += time.perf_counter() - begin

  @contextlib.contextmanager
  def data_wait(self):
    """Time in here is waited for data."""
    begin = time.perf_counter()
    yield
    self._got_data = time.perf_counter()
    self._waited += self._got_data - begin

  def trained(self, step: int, metrics: dict[str, jax.Array], *, last: bool) -> None:
    """Takes the metrics of a step, still on the devices; at log intervals writes the means since the last."""
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
      pace = f"  {speed:.2f} steps/s  {(self._num_steps - step) / speed / 60:.1f} min left" if self._timed_steps else ""
      self.say(
        f"step {step}/{self._num_steps}  " + "  ".join(f"{name} {value:.4f}" for name, value in shown.items()) + pace
      )
    self._pending = []
    self._restart_clock()

  def _first_step_done(self, metrics: dict[str, jax.Array]) -> None:
    """Waits for the first step, tells how long it took, and starts the clock anew."""
    jax.block_until_ready(metrics)
    took, age = time.perf_counter() - self._got_data, _program_age()
    self.say(
      f"first step compiled and run in {took:.1f} s"
      if age is None
      else f"first step after {age:.1f} s ({took:.1f} s of it compiling and running that step)"
    )
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
    self.say(
      f"step {step}/{self._num_steps}  validation  "
      + "  ".join(f"{name} {means[name]:.4f}" for name in ("generator_loss", "l1", "psnr", "ssim") if name in means)
    )

  def _write(self, step: int, scalars: dict[str, float]) -> None:
    self._writer.write_scalars(step, scalars)
    if self._is_main:
      self._history.append(step, scalars)

  def close(self) -> None:
    """Draws the curves and ends the files."""
    self._bar.close()
    self._writer.close()
    if self._is_main:
      viz.curves(history.read(self._workdir), self._workdir / "curves.png")


_age_told = False


def _program_age() -> float | None:
  """Seconds since this process was started, asked once. None later, in an interactive session, and where there is no /proc to ask."""
  global _age_told
  if _age_told or not hasattr(sys.modules["__main__"], "__file__"):
    return None
  _age_told = True
  try:
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf(
      "SC_CLK_TCK"
    )  # after booting
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
  except (OSError, AttributeError, ValueError, IndexError):
    return None


def require_finite(step: int, scalars) -> None:
  """Ends a training that has become NaN or infinite before it is saved over the last good checkpoint."""
  broken = [name for name, value in scalars.items() if not np.isfinite(value)]
  if broken:
    raise UsageError(
      f"At step {step} {', '.join(broken)} became NaN or infinite. Nothing was saved since the last good checkpoint. "
      "Lower optimizer.learning_rate or loss.l1_weight, look for NaN in the data, or try train.dtype=float32."
    )
