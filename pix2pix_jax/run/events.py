"""TensorBoard's event files. CLU writes them; a thread loads it, and with it TensorFlow, beside the first steps."""

from collections.abc import Callable, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np

from pix2pix_jax.data.source import import_tensorflow


class EventWriter:
  """Writes event files to a folder, in the background. What is written before CLU has been loaded is kept until then.

  Args:
    folder: created if needed; None: nothing is written.
  """

  def __init__(self, folder: Path | None):
    self._folder = folder
    self._pending: list[Callable[[Any], object]] = []
    self._loading: futures.Future[Any] | None = None

  def load(self) -> None:
    """Begins to load CLU, which takes seconds, in a thread."""
    if self._folder is not None and self._loading is None:
      pool = futures.ThreadPoolExecutor(1, "pix2pix_jax events")
      self._loading = pool.submit(_make, self._folder)
      pool.shutdown(wait=False)

  def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Writes scalars by their tags."""
    self._write(lambda writer: writer.write_scalars(step, dict(values)))

  def write_image(self, step: int, tag: str, pixels: np.ndarray) -> None:
    """Writes an image, uint8 (H, W, 3)."""
    self._write(lambda writer: writer.write_images(step, {tag: pixels[None]}))

  def write_text(self, tag: str, content: str) -> None:
    """Writes a text of the whole run."""
    self._write(lambda writer: writer.write_texts(0, {tag: content}))

  def write_hyperparameters(self, values: Mapping[str, bool | int | float | str]) -> None:
    """Writes the hyperparameters of the run."""
    self._write(lambda writer: writer.write_hparams(dict(values)))

  def write_charts(self, names: list[str]) -> None:
    """Writes a layout of charts ("custom scalars"), each with the training and validation values of a metric."""
    self._write(lambda writer: _write_charts(self._folder, names))

  def _write(self, write: Callable[[Any], object]) -> None:
    if self._folder is not None:
      self._pending.append(write)
    if self._loading and self._loading.done():
      self._write_pending()

  def _write_pending(self) -> None:
    assert self._loading
    writer = self._loading.result()
    while self._pending:
      self._pending.pop(0)(writer)

  def close(self) -> None:
    """Writes the rest, unless `load` was never called: a run that ended before its first step leaves no files."""
    if self._loading:
      self._write_pending()
      self._loading.result().close()


def _make(folder: Path) -> Any:
  import_tensorflow()
  from clu import metric_writers

  return metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(folder)))


def _write_charts(folder: Path | None, names: list[str]) -> None:
  from tensorboard.plugins.custom_scalar import layout_pb2, summary

  charts = [
    layout_pb2.Chart(title=name, multiline=layout_pb2.MultilineChartContent(tag=[f"^(train|val)/{name}$"]))
    for name in names
  ]
  layout = layout_pb2.Layout(category=[layout_pb2.Category(title="training and validation", chart=charts)])
  tf = import_tensorflow()
  with tf.summary.create_file_writer(str(folder)).as_default():
    tf.summary.experimental.write_raw_pb(summary.pb(layout).SerializeToString(), step=0)
