"""Compact encodings of the arrays in prepared data: the bytes of their own files, or compressed without loss.

Each example is a record of TFDS with `id` and one `Encoded` feature for each array, which holds one of these:

* an image file, PNG, JPEG or WebP, as it was found (`keep_files`); or a PNG made of the pixels;
* "part", a window and an image file, of which the array is that part; without a file, the other side's is meant, so
  that files with input and target side by side are stored once;
* "array", a header and the compressed array (`_Header`).

A file is stored only if it decodes to exactly the reader's pixels.
"""

from collections.abc import Iterator
import io
from pathlib import Path
import struct
from typing import Any, NamedTuple
import zlib

import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

from pix2pix_jax.data.formats import pillow
from pix2pix_jax.data.resizing import Window

FILE_FORMATS = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"RIFF": "WEBP"}
MAX_FILE_PIXELS = 2**26  # Pillow warns above 2**26.4
PART, ARRAY = b"part", b"array"
_WINDOW = struct.Struct("<IIII")
_FILE_START = len(PART) + _WINDOW.size
SCALES = (1, 256, 1000)  # depth in metres is often made of integers by one of these divisors


class Encoded(tfds.features.FeatureConnector):
  """An array (H, W, channels) of a number type, stored as bytes. Examples are arrays, or bytes as described above."""

  def __init__(self, channels: int, dtype: Any):
    super().__init__()
    self._channels, self._dtype = channels, np.dtype(dtype)

  def get_tensor_info(self) -> tfds.features.TensorInfo:
    return tfds.features.TensorInfo(shape=(None, None, self._channels), dtype=self._dtype)

  def get_serialized_info(self) -> tfds.features.TensorInfo:
    return tfds.features.TensorInfo(shape=(), dtype=np.object_)

  def encode_example(self, example_data: np.ndarray | bytes) -> bytes:
    return example_data if isinstance(example_data, bytes) else encode(example_data)

  def decode_example(self, example: Any) -> Any:
    raise NotImplementedError("Records are read by PreparedSource, which decodes their sides together.")

  def to_json_content(self) -> dict[str, Any]:
    return {"channels": self._channels, "dtype": self._dtype.name}

  @classmethod
  def from_json_content(cls, value: Any) -> "Encoded":
    return cls(**value)


class Record(NamedTuple):
  """A parsed record: the id of a pair, and its encoded arrays by name."""

  id: str
  contents: dict[str, bytes]

  @classmethod
  def parse(cls, serialized: bytes) -> "Record":
    contents = {}
    for entry in _fields(_fields(serialized, 1)[0], 1):  # Example.features, Features.feature
      ((name,), (feature,)) = _fields(entry, 1), _fields(entry, 2)
      contents[name.decode()] = _fields(_fields(feature, 1)[0], 1)[0]  # Feature.bytes_list, BytesList.value
    return cls(contents.pop("id").decode(), contents)

  def arrays(self) -> dict[str, np.ndarray]:
    """The decoded arrays, (H, W, C) each."""
    found: dict[str, np.ndarray] = {}
    files: dict[bytes, np.ndarray] = {}
    for name, content in self.contents.items():
      if not content.startswith(PART):
        found[name] = decode(content)
        continue
      file = content[_FILE_START:] or self._shared_file()
      if file not in files:
        files[file] = decode(file)
      y, x, height, width = _WINDOW.unpack_from(content, len(PART))
      found[name] = files[file][y : y + height, x : x + width]
    return found

  def sizes(self) -> dict[str, tuple[int, int]]:
    """(height, width) of each array, without decoding it."""
    found = {}
    for name, content in self.contents.items():
      if content.startswith(ARRAY):
        header = _Header.unpack(content)
        found[name] = (header.height, header.width)
      elif content.startswith(PART):
        found[name] = _WINDOW.unpack_from(content, len(PART))[2:]
      else:
        with _open(content) as image:
          found[name] = (image.height, image.width)
    return found

  def _shared_file(self) -> bytes:
    parts = (content[_FILE_START:] for content in self.contents.values() if content.startswith(PART))
    return next(filter(None, parts))


def _fields(message: bytes, number: int) -> list[bytes]:
  """The contents of a protocol buffer's fields with this number, so that records are read without TensorFlow.

  All its fields have to hold bytes or messages, as those of `tf.train.Example` do here.
  """
  found, place = [], 0
  while place < len(message):
    tag, place = _varint(message, place)
    length, place = _varint(message, place)
    if tag & 7 != 2 or place + length > len(message):
      raise ValueError("not a record of examples")
    if tag >> 3 == number:
      found.append(message[place : place + length])
    place += length
  return found


def _varint(message: bytes, place: int) -> tuple[int, int]:
  """An integer in groups of 7 bits from the lowest on, and the place after it."""
  value = shift = 0
  while True:
    byte = message[place]
    value |= (byte & 127) << shift
    place, shift = place + 1, shift + 7
    if byte < 128:
      return value, place


def keep_files(example: dict[str, Any], paths: dict[str, Path]) -> dict[str, Any]:
  """Replaces arrays of an example by the bytes of their files, where these decode to the same pixels.

  Args:
    example: arrays by name, and others, which stay.
    paths: files of `input` and `target`; the same one if it holds both, side by side.
  """
  kept, written = dict(example), set[Path]()
  for name, path in paths.items():
    array = example[name]
    if array.dtype != np.uint8 or array.shape[0] * array.shape[1] > MAX_FILE_PIXELS // 2:
      continue
    content, whole = _read_file(path)
    if whole is None:
      continue
    if np.array_equal(whole, array):
      kept[name] = content
    elif (window := _find(array, whole)) is not None:
      kept[name] = PART + _WINDOW.pack(*window) + (b"" if path in written else content)
      written.add(path)
  return kept


def _find(array: np.ndarray, whole: np.ndarray) -> Window | None:
  """Where a reader has cut an array out of its file: at a side, or at the lower middle (KITTI). None: nowhere."""
  (height, width), (full_height, full_width) = array.shape[:2], whole.shape[:2]
  for y, x in ((0, 0), (0, full_width - width), (full_height - height, (full_width - width) // 2)):
    if min(y, x) >= 0 and np.array_equal(whole[y : y + height, x : x + width], array):
      return y, x, height, width
  return None


def _read_file(path: Path) -> tuple[bytes, np.ndarray | None]:
  """The content of a file and its pixels; None if they are not those of an 8-bit image that `decode` reads."""
  with path.open("rb") as file:
    if not (head := file.read(4)).startswith(tuple(FILE_FORMATS)):
      return b"", None
    content = head + file.read()
  try:
    return content, decode(content)
  except Exception:  # the reader has its own way with this file
    return b"", None


# --- Single arrays


def encode(array: np.ndarray) -> bytes:
  """The smallest encoding of an array (H, W, C) that is fast to decode: a PNG for images of 8 bits, else "array"."""
  if array.dtype == np.uint8 and array.shape[-1] <= 4 and array.shape[0] * array.shape[1] <= MAX_FILE_PIXELS:
    stream = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(stream, "PNG")
    return stream.getvalue()
  return min((_pack(*form) for form in _forms(array)), key=len)


def decode(content: bytes) -> np.ndarray:
  """The array (H, W, C) of an image file or of "array"."""
  if content.startswith(ARRAY):
    return _unpack(content)
  with _open(content) as image:
    array = pillow.pixels(image, colors=True)
  return array[..., None] if array.ndim == 2 else array


def _open(content: bytes) -> Image.Image:
  return Image.open(io.BytesIO(content), formats=tuple(FILE_FORMATS.values()))


class _Header(NamedTuple):
  """What precedes a compressed array.

  Attributes:
    height, width, channels: the shape.
    dtype: number type of the array, such as "<f4".
    stored: number type of the stored numbers; integers for floats that are fractions of them by `scale`, in which the
      largest integer stands for NaN.
    scale: divisor of the stored integers; 0: none.
    deltas: whether each number is stored as its difference from its left neighbour.
  """

  height: int
  width: int
  channels: int
  dtype: bytes
  stored: bytes
  scale: int = 0
  deltas: bool = False

  @classmethod
  def unpack(cls, content: bytes) -> "_Header":
    return cls(*_LAYOUT.unpack_from(content, len(ARRAY)))


_LAYOUT = struct.Struct("<III3s3sI?")


def _forms(array: np.ndarray) -> Iterator[tuple[_Header, np.ndarray]]:
  """Headers for an array and what each one stores."""
  array = np.ascontiguousarray(array)
  height, width, channels = array.shape
  header = _Header(height, width, channels, _name(array.dtype), _name(array.dtype))
  values = array
  if array.dtype.kind == "f" and (found := _as_integers(array)):
    scale, values = found
    header = header._replace(stored=_name(values.dtype), scale=scale)
  yield header, values
  if values.dtype.kind in "ui":
    yield header._replace(deltas=True), np.diff(values, axis=1, prepend=values.dtype.type(0))


def _name(dtype: np.dtype) -> bytes:
  return dtype.newbyteorder("<").str.replace("|", "<").encode()


def _as_integers(array: np.ndarray) -> tuple[int, np.ndarray] | None:
  """(scale, 16-bit integers) of which the array is exactly a fraction; None if there is no such scale."""
  missing = np.isnan(array)
  for scale in SCALES:
    with np.errstate(over="ignore"):  # infinity is no integer either
      scaled = np.where(missing, 0, array) * np.float32(scale)
    low, high = scaled.min(initial=0), scaled.max(initial=0)
    for dtype in (np.uint16, np.int16):
      limits = np.iinfo(dtype)
      if limits.min <= low and high < limits.max:
        integers = np.where(missing, limits.max, np.rint(scaled)).astype(dtype)
        if np.array_equal(_as_floats(integers, scale, array.dtype), array, equal_nan=True):
          return scale, integers
        break
  return None


def _as_floats(integers: np.ndarray, scale: int, dtype: np.dtype) -> np.ndarray:
  values = integers.astype(dtype) / dtype.type(scale)
  return np.where(integers == np.iinfo(integers.dtype).max, dtype.type(np.nan), values)


def _pack(header: _Header, values: np.ndarray) -> bytes:
  """First the first bytes of all numbers, then the second ones, and so on, which compresses better."""
  planes = values.reshape(-1, 1).view(np.uint8).T
  return ARRAY + _LAYOUT.pack(*header) + zlib.compress(np.ascontiguousarray(planes).data, 6)


def _unpack(content: bytes) -> np.ndarray:
  header = _Header.unpack(content)
  planes = np.frombuffer(zlib.decompress(memoryview(content)[len(ARRAY) + _LAYOUT.size :]), np.uint8)
  stored = np.dtype(header.stored.decode())
  values = np.ascontiguousarray(planes.reshape(stored.itemsize, -1).T).view(stored)
  values = values.reshape(header.height, header.width, header.channels)
  if header.deltas:
    values = np.cumsum(values, axis=1, dtype=stored)
  return _as_floats(values, header.scale, np.dtype(header.dtype.decode())) if header.scale else values
