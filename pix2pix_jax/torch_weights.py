"""Reads PyTorch state dicts (.pth, .pt) and .safetensors files without PyTorch.

A PyTorch file is a pickle that refers to raw arrays, called storages. Normally, a pickle can run any code when it is
read. Here, only the few names that a tensor needs are resolved, to functions of this module; all others are refused.

The first bytes, not the suffix, decide between three layouts:

* zip (PyTorch 1.6 and later): `data.pkl`, one member `data/KEY` for each storage, and `byteorder`;
* legacy (before 1.6): one stream of a magic number, a version, system information, the pickle and the storages;
* safetensors: the length of a JSON header, the header (dtype, shape and position of each tensor), then the raw numbers.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
import errno
import functools
import io
import json
import math
from pathlib import Path
import pickle
import pickletools
from typing import Any, BinaryIO, NamedTuple
import zipfile

import jax.numpy as jnp
import numpy as np

from pix2pix_jax.errors import UsageError, few

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_MAX_HEADER = 100_000_000  # bytes of a safetensors header, the limit of the format's own library
_MAX_DIMENSIONS = 32

_DTYPES = {
  "float64": np.dtype("<f8"),
  "float32": np.dtype("<f4"),
  "float16": np.dtype("<f2"),
  "bfloat16": np.dtype(jnp.bfloat16),
  "int64": np.dtype("<i8"),
  "int32": np.dtype("<i4"),
  "int16": np.dtype("<i2"),
  "int8": np.dtype("i1"),
  "uint64": np.dtype("<u8"),
  "uint32": np.dtype("<u4"),
  "uint16": np.dtype("<u2"),
  "uint8": np.dtype("u1"),
  "bool": np.dtype("u1"),  # 0 or 1
}
_TYPED_STORAGES = {
  "DoubleStorage": "float64",
  "FloatStorage": "float32",
  "HalfStorage": "float16",
  "BFloat16Storage": "bfloat16",
  "LongStorage": "int64",
  "IntStorage": "int32",
  "ShortStorage": "int16",
  "CharStorage": "int8",
  "ByteStorage": "uint8",
  "BoolStorage": "bool",
}
_STORAGE_DTYPES = {
  f"{module}.{name}": dtype for module in ("torch", "torch.cuda") for name, dtype in _TYPED_STORAGES.items()
}
_STORAGE_DTYPES |= dict.fromkeys(
  ("torch.UntypedStorage", "torch.storage.UntypedStorage", "torch.storage._UntypedStorage"), "uint8"
)
_TORCH_DTYPES = {f"torch.{name}": name for name in _DTYPES}
_SAFETENSORS_DTYPES = {
  "F64": "float64",
  "F32": "float32",
  "F16": "float16",
  "BF16": "bfloat16",
  "I64": "int64",
  "I32": "int32",
  "I16": "int16",
  "I8": "int8",
  "U64": "uint64",
  "U32": "uint32",
  "U16": "uint16",
  "U8": "uint8",
  "BOOL": "bool",
}


class _Refused(Exception):
  """The file is intact but cannot be used; the message continues a sentence that begins with the path."""


# Named tuples, because a pickle can change the attributes of other objects.


class _Storage(NamedTuple):
  """A one-dimensional array in the file."""

  key: str
  dtype: str
  length: int

  @property
  def nbytes(self) -> int:
    return self.length * _DTYPES[self.dtype].itemsize


class _Tensor(NamedTuple):
  """A view of a storage. Offset and strides count numbers, not bytes."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


_Load = Callable[[_Storage], bytes]


def read_state_dict(
  path: Path, expected: str = "a *_net_G.pth or *_net_D.pth of pytorch-CycleGAN-and-pix2pix"
) -> dict[str, np.ndarray]:
  """The tensors of a file as float32 arrays, by key.

  If a checkpoint holds one state dict among other entries (`{"state_dict": …, "epoch": …}`), that one is returned.

  Args:
    path: a .pth or .pt file that torch.save wrote, or a .safetensors file.
    expected: the kind of file that error messages ask for.

  Raises:
    UsageError: the file is missing, damaged, not a state dict, or refers to Python objects other than tensors; or it
      holds values that no network can use: NaN, infinite or beyond float32, or a negative `running_var`.
  """
  path = Path(path)
  try:
    if path.exists() and not path.is_file():  # opening a pipe may never end
      raise OSError(errno.EINVAL, "not a regular file")
    file, size = path.open("rb"), path.stat().st_size
  except OSError as error:
    raise UsageError(f"{path} cannot be read: {error.strerror}. Give {expected}.") from error
  with file:
    try:
      tree, load = _parse(file, size)
      tensors = _state_dict(tree)
      _check_dtypes(tensors)
      if sum(math.prod(tensor.shape) for tensor in tensors.values()) > size:
        raise ValueError("its tensors have more numbers than the file has bytes")
      arrays = {key: _array(tensor, load) for key, tensor in tensors.items()}
    except _Refused as error:
      raise UsageError(f"{path} {error} Give {expected}.") from error
    except Exception as error:  # a damaged pickle can raise anything
      reason = " ".join(str(error).split())[:200] or type(error).__name__
      raise UsageError(
        f"{path} cannot be read as a state dict ({reason}). Give {expected}; this file may be damaged or incomplete."
      ) from error
  _check_values(path, arrays)
  return arrays


def _check_dtypes(tensors: Mapping[str, "_Tensor"]) -> None:
  integers = [
    key
    for key, tensor in tensors.items()
    if key.endswith((".weight", ".bias", ".running_mean", ".running_var")) and "float" not in tensor.storage.dtype
  ]
  if integers:
    raise _Refused(f"stores {few(integers)} as integers. It may be quantised; give the floats it was made from.")


def _check_values(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
  if broken := [key for key, array in arrays.items() if not np.isfinite(array).all()]:
    raise UsageError(
      f"{path} has values that are NaN, infinite or too large for float32, in {few(broken)}. "
      "Its training probably diverged; give an earlier checkpoint."
    )
  if broken := [key for key, array in arrays.items() if key.endswith("running_var") and (array < 0).any()]:
    raise UsageError(f"{path} has negative variances in {few(broken)}. It is damaged; give another copy or checkpoint.")


def _parse(file: BinaryIO, size: int) -> tuple[Any, _Load]:
  """The file's object tree, in which tensors are `_Tensor`, and a function that reads a storage."""
  start = file.read(9)
  file.seek(0)
  if start.startswith(b"PK\x03\x04"):
    return _parse_zip(file, size)
  if start[8:] == b"{":
    return _parse_safetensors(file, size)
  if start.startswith(b"\x80"):
    return _parse_legacy(file, size)
  raise ValueError("it is neither a zip archive nor a pickle nor a safetensors file")


def _state_dict(tree: Any) -> dict[str, _Tensor]:
  """The tensors of a state dict, or of the only state dict among the entries of a checkpoint."""
  if not isinstance(tree, dict):
    raise _Refused(f"holds an object of type {type(tree).__name__}, not a state dict.")
  nested = {
    str(key): value
    for key, value in tree.items()
    if isinstance(value, dict) and value and all(isinstance(inner, _Tensor) for inner in value.values())
  }
  if len(nested) > 1:
    raise _Refused(f"holds several state dicts: {few(nested)}. Save the right one to a separate file.")
  if nested and not any(isinstance(value, _Tensor) for value in tree.values()):
    (tree,) = nested.values()
  for key, value in tree.items():
    if not isinstance(key, str):
      raise _Refused(f"has a key of type {type(key).__name__}; the keys of a state dict are strings.")
    if not isinstance(value, _Tensor):
      raise _Refused(f"is not a state dict: {key!r} is an object of type {type(value).__name__}, not a tensor.")
  if not tree:
    raise _Refused("holds no tensors.")
  return dict(tree)


def _array(tensor: _Tensor, load: _Load) -> np.ndarray:
  """The numbers of a tensor, float32 and contiguous."""
  storage, offset, shape, strides = tensor
  if math.prod(shape) == 0:
    return np.zeros(shape, np.float32)
  last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides))
  if last >= storage.length:
    raise ValueError(f"a tensor of shape {shape} reaches beyond its storage of {storage.length} numbers")
  numbers = np.frombuffer(load(storage), _DTYPES[storage.dtype])
  view = np.lib.stride_tricks.as_strided(numbers[offset:], shape, [numbers.itemsize * stride for stride in strides])
  with np.errstate(over="ignore"):  # _check_values reports values that became infinite
    return np.array(view, np.float32, order="C")


# --- Zip


def _parse_zip(file: BinaryIO, size: int) -> tuple[Any, _Load]:
  archive = zipfile.ZipFile(file)
  members = archive.infolist()
  # PyTorch does not compress. Without compression and overlaps, the contents cannot exceed the size of the file.
  if any(member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size for member in members):
    raise _Refused("is a compressed zip archive, which PyTorch does not write.")
  if sum(member.file_size for member in members) > size:
    raise ValueError("the members of the archive are larger than the file")
  names = [member.filename for member in members]
  pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
  if len(pickles) != 1:
    raise _Refused("is a zip archive, but not one that torch.save wrote: it has no data.pkl.")
  folder = pickles[0].removesuffix("data.pkl")
  if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
    raise _Refused("was written on a big-endian machine, which is not supported.")

  @functools.cache  # several tensors can share a storage
  def load(storage: _Storage) -> bytes:
    content = archive.read(f"{folder}data/{storage.key}")
    if len(content) != storage.nbytes:
      raise ValueError(f"storage {storage.key} has {len(content)} bytes instead of {storage.nbytes}")
    return content

  return _Unpickler(io.BytesIO(archive.read(pickles[0]))).load(), load


# --- Legacy


def _parse_legacy(file: BinaryIO, size: int) -> tuple[Any, _Load]:
  magic = _Unpickler(file).load()
  if magic != _LEGACY_MAGIC:
    raise _Refused("is a pickle, but not one that torch.save wrote.")
  version, system = _Unpickler(file).load(), _Unpickler(file).load()
  if version != _LEGACY_VERSION:
    raise ValueError("unknown version of the legacy format")
  if not system["little_endian"]:
    raise _Refused("was written on a big-endian machine, which is not supported.")
  unpickler = _Unpickler(file)
  tree = unpickler.load()
  positions = {}
  for key in _Unpickler(file).load():
    count = int.from_bytes(_read(file, 8), "little")
    storage = unpickler.storages[key]
    if count != storage.length:
      raise ValueError(f"storage {key} has {count} numbers instead of {storage.length}")
    positions[key] = file.tell()
    if positions[key] + storage.nbytes > size:
      raise ValueError("the file ends before its numbers do")
    file.seek(storage.nbytes, io.SEEK_CUR)

  @functools.cache
  def load(storage: _Storage) -> bytes:
    file.seek(positions[storage.key])
    return _read(file, storage.nbytes)

  return tree, load


def _read(file: BinaryIO, count: int) -> bytes:
  content = file.read(count)
  if len(content) != count:
    raise ValueError("the file ends before its numbers do")
  return content


# --- The pickle inside both


class _Unpickler(pickle.Unpickler):
  """Builds tensors, dictionaries, lists, tuples, strings and numbers, and nothing else.

  Names resolve to strings, built-in types and bound methods, because a pickle can set attributes of whatever it builds
  or names, and these have no attributes that matter.
  """

  def __init__(self, file: BinaryIO):
    _check_memo(file)
    super().__init__(file, encoding="utf-8")  # for the strings of Python 2
    self.storages: dict[str, _Storage] = {}

  def find_class(self, module: str, name: str) -> Any:
    full = f"{module}.{name}"
    if full in _STORAGE_DTYPES or full in _TORCH_DTYPES:
      return full
    match full:
      case "collections.OrderedDict":
        return OrderedDict
      case "torch.Size":
        return tuple
      case "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2":
        return self._rebuild_tensor
      case "torch._utils._rebuild_tensor_v3":
        return self._rebuild_tensor_of_dtype
      case "torch._utils._rebuild_parameter":
        return self._rebuild_parameter
    raise _Refused(
      f"refers to {full}, which is not part of a tensor and could run code, so the file was not loaded. "
      "In PyTorch, torch.save(network.state_dict(), FILE) saves the weights alone."
    )

  def persistent_load(self, pid: Any) -> _Storage:
    match pid:
      case ("storage", str(kind), str(key), _, int(count)) | ("storage", str(kind), str(key), _, int(count), None):
        if kind in _STORAGE_DTYPES and count >= 0:
          return self.storages.setdefault(key, _Storage(key, _STORAGE_DTYPES[kind], count))
    raise _Refused("refers to an outside object that is not a storage of numbers.")

  def _rebuild_tensor(self, storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None) -> _Tensor:
    del requires_grad, hooks
    if metadata:
      raise _Refused("holds a tensor with a conjugate or negative bit, which is not supported.")
    numbers = (offset, *size, *stride)
    if (
      not isinstance(storage, _Storage)
      or any(type(number) is not int or number < 0 for number in numbers)
      or not len(size) == len(stride) <= _MAX_DIMENSIONS
    ):
      raise ValueError("a tensor is not described by a storage, an offset, a shape and strides")
    return _Tensor(storage, offset, tuple(size), tuple(stride))

  def _rebuild_tensor_of_dtype(
    self, storage, offset, size, stride, requires_grad, hooks, dtype, metadata=None
  ) -> _Tensor:
    """Rebuilds a tensor whose dtype has no storage class, such as uint16: its storage counts bytes."""
    tensor = self._rebuild_tensor(storage, offset, size, stride, requires_grad, hooks, metadata)
    name = _TORCH_DTYPES[dtype]
    count, rest = divmod(storage.nbytes, _DTYPES[name].itemsize)
    if rest:
      raise ValueError(f"a storage of {storage.nbytes} bytes cannot hold {name}")
    return tensor._replace(storage=_Storage(storage.key, name, count))

  def _rebuild_parameter(self, tensor, requires_grad=False, hooks=None) -> _Tensor:
    del requires_grad, hooks
    if not isinstance(tensor, _Tensor):
      raise ValueError("a parameter is not made of a tensor")
    return tensor


def _check_memo(file: BinaryIO) -> None:
  """Refuses memo indices beyond the pickle's length: the unpickler would allocate a table of that size."""
  start = file.tell()
  for opcode, argument, _ in pickletools.genops(file):
    if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > file.tell() - start:
      raise ValueError("an index in the pickle is too large")
  file.seek(start)


# --- Safetensors


def _parse_safetensors(file: BinaryIO, size: int) -> tuple[Any, _Load]:
  length = int.from_bytes(file.read(8), "little")
  if length > min(_MAX_HEADER, size - 8):
    raise ValueError(f"a header of {length} bytes does not fit in the file")
  header = json.loads(file.read(length))
  header.pop("__metadata__", None)
  tree, positions, place = {}, {}, 8 + length
  for key, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    if entry["dtype"] not in _SAFETENSORS_DTYPES:
      raise _Refused(f"stores {key} as {entry['dtype']}, which is not supported.")
    if len(shape) > _MAX_DIMENSIONS or any(type(number) is not int or number < 0 for number in (*shape, begin, end)):
      raise ValueError(f"{key} is not described by a shape and a position")
    storage = _Storage(key, _SAFETENSORS_DTYPES[entry["dtype"]], math.prod(shape))
    if begin != place - 8 - length or end - begin != storage.nbytes:
      raise ValueError(f"{key} is not where the tensor before it ends, or not as long as its shape")
    strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    tree[key] = _Tensor(storage, 0, tuple(shape), strides)
    positions[key] = place
    place += storage.nbytes
  if place != size:
    raise ValueError(f"the file has {size} bytes instead of {place}")

  def load(storage: _Storage) -> bytes:
    file.seek(positions[storage.key])
    return _read(file, storage.nbytes)

  return tree, load
