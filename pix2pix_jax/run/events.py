"""TensorBoard's event files, written without TensorFlow, which takes seconds to load."""

from collections.abc import Mapping
import io
import math
import os
from pathlib import Path
import socket
import struct
import time
from typing import Any

import numpy as np
from PIL import Image
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.plugins.image import metadata as image
from tensorboard.plugins.scalar import summary_v2 as scalar
from tensorboard.plugins.text import summary_v2 as text
from tensorboard.util import tensor_util


class EventWriter:
  """Writes an event file in a folder; what is written can be read at once.

  Args:
    folder: created if needed; None: nothing is written.
  """

  def __init__(self, folder: Path | None):
    path = Path(os.devnull)
    if folder is not None:
      folder.mkdir(parents=True, exist_ok=True)
      path = folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}.v2"
    self._file = path.open("ab")
    self._write(0, file_version="brain.Event:2")

  def _write(self, step: int, **content: Any) -> None:
    event = event_pb2.Event(wall_time=time.time(), step=step, **content)
    self._file.write(_record(event.SerializeToString()))
    self._file.flush()

  def _write_summary(self, step: int, summary: summary_pb2.Summary) -> None:
    self._write(step, summary=summary)

  def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Writes scalars by their tags."""
    values_of = [value for tag, number in values.items() for value in scalar.scalar_pb(tag, number).value]
    self._write_summary(step, summary_pb2.Summary(value=values_of))

  def write_image(self, step: int, tag: str, pixels: np.ndarray) -> None:
    """Writes an image, uint8 (H, W, 3)."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)  # a third of the time
    height, width = pixels.shape[:2]
    content = [str(width).encode(), str(height).encode(), stream.getvalue()]
    self._write_tensor(step, tag, content, image.create_summary_metadata(None, None))

  def write_text(self, tag: str, content: str) -> None:
    """Writes a text of the whole run."""
    self._write_summary(0, text.text_pb(tag, content))

  def write_hyperparameters(self, values: Mapping[str, bool | int | float | str]) -> None:
    """Writes the hyperparameters of the run."""
    self._write_summary(0, hparams.hparams_pb(dict(values)))

  def write_charts(self, names: list[str]) -> None:
    """Writes a layout of charts ("custom scalars"), each with the training and validation values of a metric."""
    charts = [
      layout_pb2.Chart(title=name, multiline=layout_pb2.MultilineChartContent(tag=[f"^(train|val)/{name}$"]))
      for name in names
    ]
    category = layout_pb2.Category(title="training and validation", chart=charts)
    content = layout_pb2.Layout(category=[category]).SerializeToString()
    self._write_tensor(0, custom_scalar.CONFIG_SUMMARY_TAG, content, custom_scalar.create_summary_metadata())

  def _write_tensor(self, step: int, tag: str, content: Any, metadata: summary_pb2.SummaryMetadata) -> None:
    tensor = tensor_util.make_tensor_proto(np.array(content, object))
    value = summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)
    self._write_summary(step, summary_pb2.Summary(value=[value]))

  def close(self) -> None:
    self._file.close()


# --- Records: the length and the content, each with its checksum


def _record(content: bytes) -> bytes:
  length = struct.pack("<Q", len(content))
  return length + _masked(length) + content + _masked(content)


def _masked(content: bytes) -> bytes:
  crc = crc32c(content)
  return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def crc32c(content: bytes) -> int:
  """The CRC-32C (Castagnoli) of at least four bytes.

  Python's loop over the bytes of an image takes half a second, so NumPy steps through many equal parts of them at once.
  The checksum of two parts is that of the second xor that of the first, moved over as many zeros as the second is long.
  How it moves is found with single bits, which step over zeros beside the parts.
  """
  count = math.isqrt(len(content)) + 1
  length = -(-len(content) // count)
  padded = np.zeros(count * length, np.uint8)  # zeros in front change nothing
  padded[count * length - len(content) :] = np.frombuffer(content, np.uint8)
  padded[count * length - len(content) :][:4] ^= 255  # the initial value
  steps = np.zeros((length, count + 32), np.uint32)
  steps[:, :count] = padded.reshape(count, length).T
  states = np.zeros(count + 32, np.uint32)
  states[count:] = np.uint32(1) << np.arange(32, dtype=np.uint32)
  for column in steps:
    states = _TABLE[(states ^ column) & 255] ^ states >> 8
  total, moved = 0, states[count:].tolist()
  for state in states[:count].tolist():
    bits, total = total, state
    while bits:
      total ^= moved[bits.bit_length() - 1]
      bits ^= 1 << (bits.bit_length() - 1)
  return total ^ 0xFFFFFFFF


def _table() -> np.ndarray:
  values = np.arange(256, dtype=np.uint32)
  for _ in range(8):
    values = np.where(values & 1, values >> 1 ^ np.uint32(0x82F63B78), values >> 1)
  return values


_TABLE = _table()
