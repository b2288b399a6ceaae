"""Progress reporting: TensorBoard, history.jsonl, samples, curves, and a progress bar or plain lines."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import json
import os
from pathlib import Path
import sys
import time
from typing import TYPE_CHECKING, Any

import jax
import ml_collections
from tqdm import tqdm

from pix2pix_jax import config as config_lib
from pix2pix_jax import output
from pix2pix_jax.model import metrics as metrics_lib
from pix2pix_jax.run import balance, events, history, processes, replicas, viz
from pix2pix_jax.run.finite import require_finite

if TYPE_CHECKING:
  from pix2pix_jax.run.evaluation import Evaluation

_CHARTS = (
  *("generator_loss", "discriminator_loss", "gan_loss", "l1", "psnr", "ssim", "rmse"),
  *("mae", "cross_entropy", "mean_iou", "pixel_accuracy", "feature_loss", "r1_penalty"),
)
_VALIDATION = ("generator_loss", "l1", "psnr", "ssim", "rmse", "mean_iou", "pixel_accuracy")  # shown after each
STEPS_IN_FLIGHT = 8  # the host runs at most this many steps, or else two dispatches, ahead of the devices
FIRST_ESTIMATE = 15  # seconds of training without a log line, after which the remaining time is estimated


def make_writer(workdir: Path, config: ml_collections.ConfigDict) -> events.EventWriter:
  """A writer of TensorBoard event files; only process 0 has any, and none with `train.tensorboard=False`.

  The files also contain the configuration, as text and as hyperparameters, and a layout of charts ("custom scalars")
  that shows the training and validation values of a metric together.
  """
  if not (processes.is_main() and config.train.tensorboard):
    return events.EventWriter(None)
  writer = events.EventWriter(workdir)
  fields = {name: config_lib.get(config, name) for name, _ in config_lib.each_field()}
  rows = "".join(f"| {name} | {value} |\n" for name, value in fields.items())
  writer.write_text("config", f"| field | value |\n| --- | --- |\n{rows}")
  writer.write_hyperparameters(
    {name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in fields.items()}
  )
  writer.write_charts(list(_CHARTS))
  return writer


class Reporter:
  """Collects the metrics of steps on the devices and fetches them at log intervals only. Silent except on process 0.

  The first step, in which XLA compiles, is timed separately and excluded from throughput. A context manager: on exit,
  it draws the curves and closes the files.

  Args:
    writer: writer of TensorBoard's files (`make_writer`).
    workdir: folder of the run.
    start: step that the run resumes from, 0 for a fresh run.
    config: the `train` section of the run's configuration.
    logger: a logger besides TensorBoard (`loggers.make`), or None.
    unit: unit of the target; empty if it has none.
  """

  def __init__(
    self, writer: events.EventWriter, workdir: Path, *, start: int, config: Any, logger: Any = None, unit: str = ""
  ):
    self._writer, self._workdir, self._logger, self._unit = writer, workdir, logger, unit
    self._config = config
    self._is_main = processes.is_main()
    self._history = history.History(workdir, start) if self._is_main else None
    self._on_terminal = self._is_main and sys.stderr is not None and sys.stderr.isatty()
    self._bar = tqdm(
      total=config.num_steps,
      initial=start,
      disable=not self._on_terminal,
      unit="step",
      dynamic_ncols=True,
      smoothing=0.05,
    )
    self._pending: list[Mapping[str, jax.Array]] = []
    self._balance = balance.Balance()
    self._is_first = True
    self._is_estimated = False
    self._validation_seconds = 0.0  # of the last one
    self._steps_done, self._other_seconds = 0, 0.0  # after the first step, over all intervals: saving and so on
    self._got_data = time.perf_counter()
    self._restart_clock()

  def __enter__(self) -> "Reporter":
    return self

  def __exit__(self, *unused: object) -> None:
    self._bar.close()
    self._writer.close()
    if hasattr(self._logger, "close"):
      self._logger.close()
    if self._is_main:
      viz.curves(
        history.read(self._workdir),
        self._workdir / "curves.png",
        changes=config_lib.read_changes(self._workdir),
        unit=self._unit,
      )

  def _restart_clock(self) -> None:
    self._since, self._paused, self._waited, self._timed_steps = time.perf_counter(), 0.0, 0.0, 0

  def say(self, text: str) -> None:
    """Prints a message without breaking the progress bar."""
    if self._is_main:
      output.say(text)

  @contextlib.contextmanager
  def pause(self) -> Iterator[None]:
    """Excludes the time spent inside (validation, checkpoints) from the training speed."""
    begin = time.perf_counter()
    yield
    seconds = time.perf_counter() - begin
    self._paused += seconds
    self._other_seconds += seconds

  @contextlib.contextmanager
  def validating(self) -> Iterator[None]:
    """Times a validation, for the estimate of the remaining time."""
    begin = time.perf_counter()
    self._bar.set_description("validating")
    yield
    self._bar.set_description("")
    self._validation_seconds = time.perf_counter() - begin
    self._other_seconds -= self._validation_seconds

  def _seconds_left(self, step: int, speed: float) -> float:
    """Estimates the time for the remaining steps at this speed, for the remaining validations, and for what else
    happens between steps (saving, callbacks) at its mean so far.
    """
    steps = self._config.num_steps - step
    validations = -(-steps // self._config.eval_every_steps) if self._validation_seconds else 0
    other = self._other_seconds / max(1, self._steps_done)
    return steps * (1 / speed + other) + validations * self._validation_seconds

  @contextlib.contextmanager
  def data_wait(self) -> Iterator[None]:
    """Counts the time spent inside as waiting for data."""
    begin = time.perf_counter()
    yield
    self._got_data = time.perf_counter()
    self._waited += self._got_data - begin

  def trained(
    self,
    step: int,
    metrics: Mapping[str, jax.Array],
    *,
    last: bool,
    at_log: Callable[[], Mapping[str, jax.Array]] = dict,
  ) -> None:
    """Collects the metrics of the steps of a dispatch, still on the devices: scalars of one step, or arrays (steps,) of
    several, of which `step` is the last; replicas add an axis at the end. At log intervals, writes their means over the
    interval.
    """
    self._pending.append(metrics)
    count = next(iter(metrics.values())).size // self._config.num_replicas
    self._bar.update(count)
    self._timed_steps += count
    self._steps_done += count
    if self._is_first:
      self._first_step_done(metrics, count)
    in_flight = max(2, STEPS_IN_FLIGHT // count)
    if len(self._pending) > in_flight:
      jax.block_until_ready(self._pending[-in_flight])
    if step % self._config.log_every_steps and not last:
      self._estimate(step)
      return
    self._is_estimated = True
    means = replicas.steps_mean(jax.device_get(self._pending), self._config.num_replicas)
    seconds = max(time.perf_counter() - self._since - self._paused, 1e-9)
    means |= jax.device_get(dict(at_log()))
    scalars = replicas.scalars({f"train/{name}": value for name, value in means.items()})
    require_finite(step, scalars)
    speed = self._timed_steps / seconds
    if self._timed_steps:
      scalars |= {"train/steps_per_second": speed, "train/data_wait_share": self._waited / seconds}
    self._write(step, scalars)
    losses = ("generator_loss", "discriminator_loss", "l1", "cross_entropy")
    shown = [name for name in losses if f"train/{name}" in scalars]
    self._bar.set_postfix({name: f"{scalars[f'train/{name}']:.3f}" for name in shown})
    if not self._on_terminal:
      pace = (
        f"  {speed:.2f} steps/s  {output.duration(self._seconds_left(step, speed))} left" if self._timed_steps else ""
      )
      values = "  ".join(f"{name} {replicas.shown(scalars, f'train/{name}')}" for name in shown)
      self.say(f"step {step}/{self._config.num_steps}  {values}{pace}")
    if advice := self._balance.look(step, scalars):
      self.say(f"Warning: {advice}")
    self._pending = []
    self._restart_clock()

  def _estimate(self, step: int) -> None:
    """Says once how long the run will take, if the first log line is more than a few seconds away."""
    seconds = time.perf_counter() - self._since - self._paused
    if self._is_estimated or self._on_terminal or seconds < FIRST_ESTIMATE or self._timed_steps < 2:
      return
    self._is_estimated = True
    speed = self._timed_steps / seconds
    self.say(f"step {step}/{self._config.num_steps}  {output.duration(self._seconds_left(step, speed))} left")

  def _first_step_done(self, metrics: Mapping[str, jax.Array], count: int) -> None:
    """Waits for the first dispatch, prints how long it took, and restarts the clock."""
    jax.block_until_ready(metrics)
    took, age = time.perf_counter() - self._got_data, _program_age()
    since_launch = "" if age is None else f" {age:.1f} s after launch"
    steps = "step" if count == 1 else f"{count} steps"
    self.say(f"First {steps} done{since_launch} ({took:.1f} s to compile and run).")
    self._is_first = False
    self._writer.load()
    self._bar.unpause()
    self._restart_clock()

  def validated(self, step: int, validation: "Evaluation") -> None:
    """Writes the means of a validation, by replica too if there are several, and its sample grid."""
    means = validation.scalars
    require_finite(step, means)
    if not self._is_main:
      return
    grid = validation.grid
    self._write(step, {f"val/{name}": value for name, value in means.items()})
    self._writer.write_image(step, "val/samples", grid)
    if hasattr(self._logger, "log_images"):
      self._logger.log_images(step, {"val/samples": grid})
    texts = {viz.LAYOUT_KEY: json.dumps(validation.grid_layout)}
    viz.save_png(self._workdir / "samples" / f"step_{step:08d}.png", grid, texts)
    units = {name: metrics_lib.unit_of(name, self._unit) for name in _VALIDATION}
    shown = [f"{name} {replicas.shown(means, name)} {units[name]}".rstrip() for name in _VALIDATION if name in means]
    self.say(f"step {step}/{self._config.num_steps}  validation  {'  '.join(shown)}")

  def _write(self, step: int, scalars: dict[str, float]) -> None:
    self._writer.write_scalars(step, scalars)
    if self._logger:
      self._logger.log(step, scalars)
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
    stat = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    started = int(stat[19]) / os.sysconf("SC_CLK_TCK")  # seconds after boot
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
  except (OSError, AttributeError, ValueError, IndexError):
    return None
