"""Weights are read bit for bit as PyTorch reads them, and no file makes the reader run code, exhaust memory or crash.

Files are built here by hand, so that all but one section runs without PyTorch.
"""

from collections import OrderedDict
import io
import json
import os
from pathlib import Path
import pickle
import struct
import sys
import zipfile

import numpy as np
import pytest

from pix2pix_jax.errors import UsageError
from pix2pix_jax.torch_weights import read_state_dict

RNG = np.random.default_rng(0)

# --- Files, opcode by opcode ------------------------------------------------------------------------------------------

MAGIC, VERSION, SYSTEM = 0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}


def plain(value) -> bytes:
  """The opcodes that push a plain Python value."""
  return pickle.dumps(value, 2)[2:-1]


def named(name: str) -> bytes:
  """The opcode that pushes a global."""
  module, _, attribute = name.rpartition(".")
  return f"c{module}\n{attribute}\n".encode()


def call(name: str, *arguments: bytes) -> bytes:
  return named(name) + b"(" + b"".join(arguments) + b"tR"


def storage(key: str, kind: str, length: int, legacy: bool = False) -> bytes:
  view = plain(None) if legacy else b""
  return b"(" + plain("storage") + named(kind) + plain(key) + plain("cpu") + plain(length) + view + b"tQ"


def tensor(stored: bytes, shape, strides, offset=0) -> bytes:
  hooks = call("collections.OrderedDict")
  return call(
    "torch._utils._rebuild_tensor_v2", stored, plain(offset), plain(shape), plain(strides), plain(False), hooks
  )


def dictionary(**values: bytes) -> bytes:
  return b"}(" + b"".join(plain(key) + value for key, value in values.items()) + b"u"


def program(value: bytes) -> bytes:
  return b"\x80\x02" + value + b"."


def zip_file(value: bytes, storages: dict[str, bytes], byteorder=b"little", compression=zipfile.ZIP_STORED) -> bytes:
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w", compression) as archive:
    archive.writestr("run/data.pkl", program(value))
    if byteorder:
      archive.writestr("run/byteorder", byteorder)
    for key, content in storages.items():
      archive.writestr(f"run/data/{key}", content)
    archive.writestr("run/version", b"3\n")
  return buffer.getvalue()


def legacy_file(value: bytes, storages: dict[str, np.ndarray], system=SYSTEM) -> bytes:
  head = b"".join(pickle.dumps(part, 2) for part in (MAGIC, VERSION, system))
  tail = b"".join(struct.pack("<q", array.size) + array.tobytes() for array in storages.values())
  return head + program(value) + pickle.dumps(list(storages), 2) + tail


def safetensors_file(arrays: dict[str, np.ndarray], dtypes: dict[str, str], **changes) -> bytes:
  header, content = {"__metadata__": {"format": "pt"}}, b""
  for key, array in arrays.items():
    place = [len(content), len(content) + array.nbytes]
    header[key] = {"dtype": dtypes[key], "shape": list(array.shape), "data_offsets": place} | changes.get(key, {})
    content += array.tobytes()
  text = json.dumps(header).encode()
  return struct.pack("<Q", len(text)) + text + content


MATRIX = RNG.standard_normal((4, 6)).astype(np.float32)
BIAS = RNG.standard_normal(5)  # float64
STEPS = np.array(123, np.int64)
HALF = np.array([0x3F80, 0xC049, 0x0001], np.uint16)  # bfloat16: 1, -3.140625, and the least number above 0
HALF_VALUES = np.array([1, -3.140625, 2.0**-133], np.float32)

STORAGES = {"0": MATRIX, "1": BIAS, "2": STEPS, "3": HALF}
EXPECTED = {
  "weight": MATRIX,
  "turned": MATRIX.T[1:4],
  "bias": BIAS.astype(np.float32),
  "steps": np.float32(123),
  "half": HALF_VALUES,
}


def tree(legacy: bool = False) -> bytes:
  """Two views of one storage, and one tensor for each other storage."""
  matrix = storage("0", "torch.FloatStorage", 24, legacy)
  return dictionary(
    weight=tensor(matrix, (4, 6), (6, 1)),
    turned=tensor(matrix, (3, 4), (1, 6), offset=1),
    bias=call(
      "torch._utils._rebuild_parameter",
      tensor(storage("1", "torch.DoubleStorage", 5, legacy), (5,), (1,)),
      plain(True),
      call("collections.OrderedDict"),
    ),
    steps=tensor(storage("2", "torch.cuda.LongStorage", 1, legacy), (), ()),
    half=tensor(storage("3", "torch.BFloat16Storage", 3, legacy), (3,), (1,)),
  )


def sample(layout: str) -> bytes:
  if layout == "zip":
    return zip_file(tree(), {key: array.tobytes() for key, array in STORAGES.items()})
  if layout == "legacy":
    return legacy_file(tree(legacy=True), STORAGES)
  return safetensors_file(
    {"weight": MATRIX, "turned": MATRIX.T[1:4].copy(), "bias": BIAS, "steps": STEPS, "half": HALF},
    {"weight": "F32", "turned": "F32", "bias": "F64", "steps": "I64", "half": "BF16"},
  )


def one_tensor(array: np.ndarray, key: str = "weight") -> bytes:
  kinds = {"float32": "torch.FloatStorage", "float64": "torch.DoubleStorage"}
  strides = tuple(stride // array.itemsize for stride in array.strides)
  value = tensor(storage("0", kinds[array.dtype.name], array.size), array.shape, strides)
  return zip_file(dictionary(**{key: value}), {"0": array.tobytes()})


def read(folder: Path, content: bytes):
  path = folder / "G.pth"
  path.write_bytes(content)
  return read_state_dict(path, expected="the right file")


def refusal(folder: Path, content: bytes) -> str:
  with pytest.raises(UsageError) as caught:
    read(folder, content)
  message = str(caught.value)
  assert message.startswith(f"{folder / 'G.pth'} ")
  return message


LAYOUTS = ("zip", "legacy", "safetensors")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_without_pytorch(layout, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  arrays = read(tmp_path, sample(layout))
  assert arrays.keys() == EXPECTED.keys()
  for key, expected in EXPECTED.items():
    assert arrays[key].dtype == np.float32 and arrays[key].flags.c_contiguous and arrays[key].flags.writeable
    np.testing.assert_array_equal(arrays[key], expected, strict=key != "steps")


def test_layouts_are_recognised_by_content_not_by_suffix(tmp_path):
  (tmp_path / "weights.safetensors").write_bytes(sample("zip"))
  np.testing.assert_array_equal(read_state_dict(tmp_path / "weights.safetensors")["weight"], MATRIX)


@pytest.mark.parametrize(
  "kind, dtype, values",
  [
    ("HalfStorage", "<f2", [1.5, -65504, 2**-24]),
    ("IntStorage", "<i4", [-7, 2**24]),
    ("ShortStorage", "<i2", [-300, 300]),
    ("CharStorage", "i1", [-128, 127]),
    ("ByteStorage", "u1", [0, 255]),
    ("BoolStorage", "?", [True, False]),
  ],
)
def test_storages_of_every_type(kind, dtype, values, tmp_path):
  array = np.array(values, dtype)
  value = tensor(storage("0", f"torch.{kind}", array.size), array.shape, (1,))
  arrays = read(tmp_path, zip_file(dictionary(a=value), {"0": array.tobytes()}))
  np.testing.assert_array_equal(arrays["a"], np.array(values, np.float32), strict=True)


def test_dtypes_without_a_storage_class(tmp_path):
  array = np.array([1, 65535], np.uint16)
  value = call(
    "torch._utils._rebuild_tensor_v3",
    storage("0", "torch.storage.UntypedStorage", array.nbytes),
    *map(plain, (0, (2,), (1,), False)),
    call("collections.OrderedDict"),
    named("torch.uint16"),
  )
  np.testing.assert_array_equal(read(tmp_path, zip_file(dictionary(a=value), {"0": array.tobytes()}))["a"], [1, 65535])


def test_sizes_may_be_torch_sizes_and_tensors_may_be_empty(tmp_path):
  size = call("torch.Size", plain((0, 3)))
  value = call(
    "torch._utils._rebuild_tensor_v2",
    storage("0", "torch.FloatStorage", 0),
    plain(0),
    size,
    plain((3, 1)),
    plain(False),
    call("collections.OrderedDict"),
  )
  assert read(tmp_path, zip_file(dictionary(a=value), {"0": b""}))["a"].shape == (0, 3)


# --- Checkpoints that hold more than a state dict ---------------------------------------------------------------------


def nested(**values: bytes) -> bytes:
  return zip_file(dictionary(**values), {key: array.tobytes() for key, array in STORAGES.items()})


@pytest.mark.parametrize("name", ["state_dict", "model", "params_ema"])
def test_the_only_state_dict_of_a_checkpoint_is_unwrapped(name, tmp_path):
  arrays = read(tmp_path, nested(**{name: tree()}, epoch=plain(3), optimizer=plain({"lr": 0.1})))
  np.testing.assert_array_equal(arrays["weight"], MATRIX)


def test_what_is_not_one_state_dict_is_named(tmp_path):
  assert "several state dicts: G, D. Save" in refusal(tmp_path, nested(G=tree(), D=tree(), epoch=plain(3)))
  weight = tensor(storage("0", "torch.FloatStorage", 24), (24,), (1,))
  assert "'epoch' is an object of type int" in refusal(tmp_path, nested(weight=weight, epoch=plain(3)))
  assert "'inner' is an object of type dict" in refusal(tmp_path, nested(weight=weight, inner=tree()))
  assert "a key of type int" in refusal(tmp_path, zip_file(b"}" + plain(1) + weight + b"s", {"0": MATRIX.tobytes()}))
  assert "an object of type list, not a state dict. Give the right file" in refusal(tmp_path, zip_file(plain([1]), {}))
  assert "holds no tensors" in refusal(tmp_path, zip_file(plain({}), {}))


# --- Values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_values_that_are_not_finite_in_float32_are_refused_by_name(value, tmp_path):
  message = refusal(tmp_path, one_tensor(np.array([0, value, 1]), "down.weight"))
  assert "NaN, infinite or too large for float32, in down.weight" in message


def test_negative_variances_are_refused_by_name(tmp_path):
  array = np.array([1, -0.5], np.float32)
  assert "negative variances in a.running_var" in refusal(tmp_path, one_tensor(array, "a.running_var"))
  np.testing.assert_array_equal(read(tmp_path, one_tensor(array, "a.running_mean"))["a.running_mean"], array)


# --- Files that mean harm ---------------------------------------------------------------------------------------------


class Call:
  """Pickled as a call of `function`, as pickle itself would write it."""

  def __init__(self, function, *arguments):
    self.reduced = function, arguments

  def __reduce__(self):
    return self.reduced


def containers(value: bytes) -> dict[str, bytes]:
  """A program in every place that is unpickled."""
  whole = sample("legacy")
  return {
    "zip": zip_file(value, {}),
    "legacy": legacy_file(value, {}),
    "magic": program(value),
    "system": b"".join(pickle.dumps(part, 2) for part in (MAGIC, VERSION)) + program(value),
    "keys": whole[: whole.index(pickle.dumps(list(STORAGES), 2))] + program(value),
  }


@pytest.mark.parametrize("place", containers(b"N"))
@pytest.mark.parametrize("protocol", range(5))
def test_code_is_refused_by_name_and_does_not_run(place, protocol, tmp_path):
  canary = tmp_path / "ran"
  harmful = pickle.dumps(Call(os.system, f"touch {canary}"), protocol)
  value = harmful[2 if protocol >= 2 else 0 : -1]
  if protocol == 4:
    value = value[9:]  # the frame's header, whose length is no longer right
  message = refusal(tmp_path, containers(value)[place])
  assert f"refers to {os.system.__module__}.system, which is not part of a tensor" in message
  assert not canary.exists()


@pytest.mark.parametrize(
  "name",
  [
    "builtins.eval",
    "builtins.getattr",
    "__builtin__.exec",
    "os.system",
    "collections.defaultdict",
    "numpy.core.multiarray._reconstruct",
    "torch.load",
    "torch.nn.modules.linear.Linear",
    "torch.storage._load_from_bytes",
    "torch._utils._rebuild_wrapper_subclass",
    "torch.ComplexFloatStorage",
    "pix2pix_jax.torch_weights.read_state_dict",
    "argparse.Namespace",
  ],
)
def test_every_name_that_no_tensor_needs_is_refused(name, tmp_path):
  assert f"refers to {name}, which" in refusal(tmp_path, zip_file(call(name, plain("1")), {}))


def test_dotted_names_reach_no_attributes(tmp_path):
  value = plain("collections") + plain("OrderedDict.__subclasses__") + b"\x93)R"  # STACK_GLOBAL of protocol 4
  assert "refers to collections.OrderedDict.__subclasses__" in refusal(tmp_path, zip_file(value, {}))


@pytest.mark.parametrize(
  "state", [b"N" + plain({"__defaults__": ()}) + b"\x86", plain({"__defaults__": ()}), plain({"x": 1})]
)
@pytest.mark.parametrize("name", ["collections.OrderedDict", "torch.Size", "torch._utils._rebuild_tensor_v2"])
def test_a_pickle_cannot_change_the_reader(name, state, tmp_path):
  with pytest.raises(UsageError):
    read(tmp_path, zip_file(named(name) + state + b"b", {}))
  np.testing.assert_array_equal(read(tmp_path, sample("zip"))["turned"], MATRIX.T[1:4])


@pytest.mark.parametrize(
  "pid",
  [
    plain("module"),
    b"(" + plain("module") + named("torch.FloatStorage") + b"t",
    b"(" + plain("storage") + plain("torch.nn") + plain("0") + plain("cpu") + plain(3) + b"t",
    b"(" + plain("storage") + named("torch.FloatStorage") + plain("0") + plain("cpu") + plain(-3) + b"t",
    b"(" + plain("storage") + named("torch.FloatStorage") + plain(0) + plain("cpu") + plain(3) + b"t",
  ],
)
def test_references_that_are_not_storages_are_refused(pid, tmp_path):
  assert "outside object that is not a storage" in refusal(tmp_path, zip_file(pid + b"Q", {}))


@pytest.mark.parametrize(
  "value",
  [
    tensor(storage("0", "torch.FloatStorage", 24), (5, 6), (6, 1)),
    tensor(storage("0", "torch.FloatStorage", 24), (4, 6), (6, 1), offset=1),
    tensor(storage("0", "torch.FloatStorage", 24), (2,), (10**30,)),
    tensor(storage("0", "torch.FloatStorage", 24), (4,), (-1,), offset=3),
    tensor(storage("0", "torch.FloatStorage", 24), (4,), (1,), offset=-1),
    tensor(storage("0", "torch.FloatStorage", 24), (4, 6), (6,)),
    tensor(storage("0", "torch.FloatStorage", 24), (1,) * 33, (1,) * 33),
    tensor(storage("0", "torch.FloatStorage", 24), (2.0,), (1,)),
    tensor(storage("0", "torch.FloatStorage", 25), (4, 6), (6, 1)),
    tensor(storage("0", "torch.DoubleStorage", 24), (4, 6), (6, 1)),
    tensor(storage("../data.pkl", "torch.ByteStorage", 24), (24,), (1,)),
    tensor(plain("0"), (24,), (1,)),
    call("torch._utils._rebuild_parameter", plain("0"), plain(True), plain(None)),
  ],
)
def test_tensors_stay_within_their_storage(value, tmp_path):
  assert "cannot be read as a state dict" in refusal(tmp_path, zip_file(dictionary(a=value), {"0": MATRIX.tobytes()}))


def test_an_expanded_tensor_cannot_exceed_the_file(tmp_path):
  one = storage("0", "torch.FloatStorage", 1)
  content = {"0": np.float32(3).tobytes()}
  small = read(tmp_path, zip_file(dictionary(a=tensor(one, (2, 3), (0, 0))), content))
  np.testing.assert_array_equal(small["a"], np.full((2, 3), 3, np.float32))
  huge = refusal(tmp_path, zip_file(dictionary(a=tensor(one, (10**6, 10**6), (0, 0))), content))
  assert "more numbers than the file has bytes" in huge


def test_an_index_cannot_make_the_unpickler_allocate(tmp_path):
  for place, content in containers(b"Nr" + struct.pack("<I", 2**31)).items():
    assert "an index in the pickle is too large" in refusal(tmp_path, content), place


def test_archives_cannot_unpack_to_more_than_their_size(tmp_path):
  zeros = {"0": bytes(10**6)}
  value = dictionary(a=tensor(storage("0", "torch.FloatStorage", 250_000), (250_000,), (1,)))
  assert "compressed" in refusal(tmp_path, zip_file(value, zeros, compression=zipfile.ZIP_DEFLATED))
  # The directory claims more bytes for the two storages than there are, as overlapping members would.
  content = bytearray(zip_file(value, {"0": bytes(1000), "1": bytes(1000)}))
  entries = [i for i in range(len(content)) if content[i : i + 4] == b"PK\x01\x02"]
  for entry in entries[2:4]:
    content[entry + 20 : entry + 28] = struct.pack("<II", 2**20, 2**20)  # compressed and full size
  assert "larger than the file" in refusal(tmp_path, bytes(content))


@pytest.mark.parametrize(
  "content",
  [zip_file(tree(), {}, byteorder=b"big"), legacy_file(tree(legacy=True), STORAGES, SYSTEM | {"little_endian": False})],
)
def test_big_endian_files_are_refused(content, tmp_path):
  assert "big-endian" in refusal(tmp_path, content)


def test_files_from_before_the_byteorder_member(tmp_path):
  content = zip_file(tree(), {key: array.tobytes() for key, array in STORAGES.items()}, byteorder=b"")
  np.testing.assert_array_equal(read(tmp_path, content)["weight"], MATRIX)


def header(length: int, text: bytes = b"{}") -> bytes:
  return struct.pack("<Q", length) + text


@pytest.mark.parametrize(
  "content, message",
  [
    (header(2**62), "does not fit in the file"),
    (header(3), "does not fit in the file"),
    (header(100_000_001, b"{" + bytes(100_000_000)), "does not fit in the file"),
    (header(2, b"{]"), "cannot be read"),
    (header(20_000, b'{"a":' + b"[" * 19_995), "cannot be read"),
    (safetensors_file({"a": MATRIX}, {"a": "F8_E4M3"}), "stores a as F8_E4M3"),
    (safetensors_file({"a": MATRIX}, {"a": "F32"}, a={"data_offsets": [4, 100]}), "where the tensor before it ends"),
    (safetensors_file({"a": MATRIX}, {"a": "F32"}, a={"shape": [4, 7]}), "not as long as its shape"),
    (safetensors_file({"a": MATRIX}, {"a": "F32"}, a={"shape": [-4, -6]}), "by a shape and a position"),
    (safetensors_file({"a": MATRIX}, {"a": "F32"}) + b"\0", "bytes instead of"),
    (safetensors_file({}, {}), "holds no tensors"),
  ],
)
def test_damaged_safetensors_are_refused(content, message, tmp_path):
  assert message in refusal(tmp_path, content)


# --- Damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_truncated_files_are_named(layout, tmp_path):
  content = sample(layout)
  for length in {*range(0, len(content), 13), *range(30), *range(len(content) - 20, len(content))}:
    assert "Give the right file" in refusal(tmp_path, content[:length]), length


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_flipped_bit_gives_an_explanation_or_an_array(layout, tmp_path):
  content = sample(layout)
  for position in range(0, len(content), 3):
    damaged = bytearray(content)
    damaged[position] ^= 1 << (position % 8)
    try:
      arrays = read(tmp_path, bytes(damaged))
    except UsageError as error:
      assert str(tmp_path / "G.pth") in str(error)
    else:
      assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays.values())


def test_zip_archives_detect_every_flipped_bit_of_a_weight(tmp_path):
  content = sample("zip")
  begin = content.index(MATRIX.tobytes())
  for position in range(begin, begin + MATRIX.nbytes, 5):
    damaged = bytearray(content)
    damaged[position] ^= 1
    assert "this file may be damaged" in refusal(tmp_path, bytes(damaged))


def test_other_files_are_named(tmp_path):
  with pytest.raises(UsageError, match="nowhere.pth cannot be read: No such file or directory. Give the right file"):
    read_state_dict(tmp_path / "nowhere.pth", expected="the right file")
  with pytest.raises(UsageError, match="cannot be read"):
    read_state_dict(tmp_path)
  assert "neither a zip archive nor a pickle" in refusal(tmp_path, b"<html>not found</html>")
  assert "a pickle, but not one that torch.save wrote" in refusal(tmp_path, pickle.dumps({"a": 1}))
  buffer = io.BytesIO()
  np.savez(buffer, a=MATRIX)
  assert "not one that torch.save wrote" in refusal(tmp_path, buffer.getvalue())


# --- Beside PyTorch ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
  return pytest.importorskip("torch", reason="PyTorch is not installed; hand-built files stand in for its own")


@pytest.mark.parametrize("new_format", [True, False])
def test_files_that_pytorch_wrote(torch, new_format, tmp_path):
  generator = torch.Generator().manual_seed(0)
  base = torch.randn(6, 8, generator=generator)
  state = OrderedDict(
    base=base,
    transposed=base.t(),
    window=base[2:5, 1::3],
    parameter=torch.nn.Parameter(torch.randn(3, generator=generator)),
    expanded=torch.randn(3, 1, generator=generator).expand(3, 4),
    scalar=torch.tensor(5),
    empty=torch.zeros(0, 3),
    channels_last=torch.randn(2, 3, 4, 5, generator=generator).contiguous(memory_format=torch.channels_last),
  )
  for dtype in ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"):
    state[dtype] = (100 * torch.randn(9, generator=generator)).abs().to(getattr(torch, dtype))
  state["bool"] = torch.tensor([True, False])
  if new_format:  # torch.load itself cannot read uint16 from a legacy file
    state["uint16"] = torch.tensor([0, 65535], dtype=torch.uint16)
  state._metadata = {"": {"version": 1}}  # as nn.Module.state_dict adds
  path = tmp_path / "G.pth"
  torch.save(state, path, _use_new_zipfile_serialization=new_format)
  arrays, expected = read_state_dict(path), torch.load(path, weights_only=True)
  assert arrays.keys() == expected.keys()
  for key, value in expected.items():
    np.testing.assert_array_equal(arrays[key], value.detach().float().numpy(), strict=True, err_msg=key)


@pytest.mark.parametrize("new_format", [True, False])
def test_networks_and_checkpoints_that_pytorch_wrote(torch, new_format, tmp_path):
  network = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
  optimizer = torch.optim.Adam(network.parameters())
  network(torch.randn(1, 2, 5, 5)).sum().backward()
  optimizer.step()
  path = tmp_path / "G.pth"
  checkpoint = {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
  torch.save(checkpoint, path, _use_new_zipfile_serialization=new_format)
  arrays = read_state_dict(path)
  for key, value in network.state_dict().items():
    np.testing.assert_array_equal(arrays[key], value.float().numpy(), strict=True, err_msg=key)
  torch.save(network, path, _use_new_zipfile_serialization=new_format)
  with pytest.raises(UsageError, match="refers to torch.nn.modules.container.Sequential.*state_dict"):
    read_state_dict(path)


def test_safetensors_library_agrees(tmp_path):
  library = pytest.importorskip("safetensors.numpy", reason="the safetensors package is not installed")
  arrays = {"a": MATRIX, "b": BIAS, "c": STEPS, "d": RNG.standard_normal(3).astype(np.float16)}
  library.save_file(arrays, tmp_path / "G.safetensors", metadata={"format": "pt"})
  for key, array in read_state_dict(tmp_path / "G.safetensors").items():
    np.testing.assert_array_equal(array, arrays[key].astype(np.float32), strict=True)
