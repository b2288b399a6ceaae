"""Files of several arrays and slices: npz, HDF5, OME-TIFF; suffixes; libraries that are not installed."""

import struct
import subprocess
import sys
import zipfile

import h5py
import numpy as np
from PIL import Image
import pytest
import tifffile

from pix2pix_jax.data import files
from pix2pix_jax.errors import UsageError


def draw(shape, dtype=np.uint16, seed=0):
  generator = np.random.default_rng(seed)
  if np.dtype(dtype).kind == "f":
    return generator.normal(0, 100, shape).astype(dtype)
  return generator.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def same(found, expected):
  assert found.dtype == expected.dtype and found.flags.c_contiguous
  np.testing.assert_array_equal(found, expected)


# --- Names


@pytest.mark.parametrize(
  "name, stem, suffix",
  [
    ("a.png", "a", ".png"),
    ("case.1/b.NII.GZ", "b", ".nii.gz"),
    ("b.1.nii.gz", "b.1", ".nii.gz"),
    ("c.gz", "c", ".gz"),
    ("d.ome.tif", "d", ".ome.tif"),
    ("d.OME.TIFF", "d", ".ome.tiff"),
    ("1.2.840.113", "1.2.840.113", ""),
    ("e", "e", ""),
    ("f.h5", "f", ".h5"),
    ("ß.nii", "ß", ".nii"),
  ],
)
def test_stem_and_suffix(name, stem, suffix):
  assert (files.stem(name), files.suffix(name)) == (stem, suffix)


def test_find_knows_two_part_suffixes(tmp_path):
  for name in ("a.nii.gz", "b.nii", "c.mha", "d.ome.tif", "e.npz", "f.hdf5", "g.gz", "h.tar.gz"):
    (tmp_path / name).write_bytes(b"x")
  found, left_out = files.find(tmp_path)
  assert [path.name for path in found] == ["a.nii.gz", "b.nii", "c.mha", "d.ome.tif", "e.npz", "f.hdf5"]
  assert [path.name for path in left_out] == ["g.gz", "h.tar.gz"]


# --- npz and HDF5


def write_npz(path, **arrays):
  np.savez(path, **arrays)


def write_compressed_npz(path, **arrays):
  np.savez_compressed(path, **arrays)


def write_hdf5(path, **arrays):
  with h5py.File(path, "w") as file:
    for name, array in arrays.items():
      file[name] = array


WRITERS = [(write_npz, ".npz"), (write_compressed_npz, ".npz"), (write_hdf5, ".h5")]


@pytest.mark.parametrize("write, suffix", WRITERS)
@pytest.mark.parametrize("dtype", ["uint8", "int16", ">u2", "float32", "float64"])
def test_one_array_is_read_directly_and_several_by_key(tmp_path, write, suffix, dtype):
  path = tmp_path / f"x{suffix}"
  array, other = draw((5, 7, 6), np.dtype(dtype).newbyteorder("=")), draw((5, 7), np.float32)
  write(path, depth=array.astype(dtype), K=np.eye(3)[0], time=np.float64(3))
  same(files.read(path), array)
  write(path, depth=array.astype(dtype), rgb=other)
  same(files.read(path, key="depth"), array)
  same(files.read(path, key="rgb"), other[..., None])
  with pytest.raises(UsageError, match=rf"x{suffix} holds 2 images: depth \(5, 7, 6\), rgb \(5, 7\).*key='depth'"):
    files.read(path)
  with pytest.raises(UsageError, match=rf"x{suffix} holds no array named 'disparity'; it holds depth"):
    files.read(path, key="disparity")
  write(path, points=np.zeros((2, 2, 2, 2)))
  with pytest.raises(UsageError, match=r"holds no image.*points \(2, 2, 2, 2\)"):
    files.read(path)


def test_hdf5_groups_and_bool(tmp_path):
  with h5py.File(tmp_path / "x.h5", "w") as file:
    file["frames/0/mask"] = np.array([[True, False]])
    file["title"] = "text"
    file["empty"] = h5py.Empty("f")
  same(files.read(tmp_path / "x.h5"), np.array([[[255], [0]]], np.uint8))
  same(files.read(tmp_path / "x.h5", key="/frames/0/mask"), np.array([[[255], [0]]], np.uint8))


def test_npz_of_objects_is_refused_and_not_unpickled(tmp_path):
  np.savez(tmp_path / "x.npz", a=np.array([[{}]], object))
  with pytest.raises(UsageError, match="x.npz holds object"):
    files.read(tmp_path / "x.npz")


def test_a_key_for_an_ordinary_image_is_an_error(tmp_path):
  files.write(tmp_path / "x.png", np.zeros((2, 2), np.uint8))
  with pytest.raises(UsageError, match="x.png has no named arrays, so 'a'"):
    files.read(tmp_path / "x.png", key="a")


# --- Stacks in TIFF


@pytest.mark.parametrize("axes", ["CYX", "ZYX", "ZCYX", "TZCYX", "CZYX", "TCYX", "TZYX", "CTYX"])
def test_ome_tiff_channels_and_slices(tmp_path, axes):
  sizes = {"T": 2, "Z": 3, "C": 4, "Y": 5, "X": 6}
  stack = draw([sizes[axis] for axis in axes])
  tifffile.imwrite(tmp_path / "x.ome.tif", stack, ome=True, metadata={"axes": axes}, photometric="minisblack")
  full = stack
  for place, axis in enumerate("TZCYX"):  # insert what is missing, then put the axes in this order
    if axis not in axes:
      full, axes = full[None], axis + axes
    source = axes.index(axis)
    full = np.moveaxis(full, source, place)
    axes = axes.replace(axis, "")
    axes = axes[:place] + axis + axes[place:]
  slices = np.moveaxis(full, 2, -1).reshape(-1, 5, 6, full.shape[2])
  count = len(slices)
  assert files.count_slices(tmp_path / "x.ome.tif") == (None if count == 1 else count)
  same(files.read_volume(tmp_path / "x.ome.tif"), slices)
  same(files.read(tmp_path / "x.ome.tif", slice=count - 1), slices[-1])
  if count > 1:
    with pytest.raises(UsageError, match=f"x.ome.tif holds {count} images; choose one by slice=0 to {count - 1}"):
      files.read(tmp_path / "x.ome.tif")
  else:
    same(files.read(tmp_path / "x.ome.tif"), slices[0])


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_ome_tiff_of_colour_slices(tmp_path, planar):
  stack = draw((4, 5, 6, 3), np.uint8)
  stored, axes = (stack, "ZYXS") if planar == "contig" else (np.moveaxis(stack, -1, 1), "ZSYX")
  tifffile.imwrite(
    tmp_path / "x.ome.tif", stored, ome=True, metadata={"axes": axes}, photometric="rgb", planarconfig=planar
  )
  same(files.read_volume(tmp_path / "x.ome.tif"), stack)


IMAGEJ = {"imagej": True, "metadata": {"axes": "ZYX"}}


@pytest.mark.parametrize("form", [IMAGEJ, {"metadata": None}, {}, {"compression": "zlib"}, {"bigtiff": True}])
def test_plain_stacks_are_slices(tmp_path, form):
  stack = draw((4, 5, 6))
  tifffile.imwrite(tmp_path / "x.tif", stack, photometric="minisblack", **form)
  assert files.count_slices(tmp_path / "x.tif") == 4
  for index in range(4):
    same(files.read(tmp_path / "x.tif", slice=index), stack[index, ..., None])
  for index in (-1, 4):
    with pytest.raises(UsageError, match=f"x.tif has 4 slices, 0 to 3; there is no slice {index}"):
      files.read(tmp_path / "x.tif", slice=index)


def test_imagej_hyperstack_channels(tmp_path):
  stack = draw((3, 2, 5, 6))
  tifffile.imwrite(tmp_path / "x.tif", stack, imagej=True, metadata={"axes": "ZCYX"})
  same(files.read_volume(tmp_path / "x.tif"), np.moveaxis(stack, 1, -1))


def test_pages_of_different_sizes_are_slices_but_no_volume(tmp_path):
  with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
    for width in (6, 7):
      writer.write(draw((5, width)), photometric="minisblack")
  assert [files.read(tmp_path / "x.tif", slice=index).shape for index in (0, 1)] == [(5, 6, 1), (5, 7, 1)]
  with pytest.raises(UsageError, match="x.tif holds images of different sizes"):
    files.read_volume(tmp_path / "x.tif")


def test_pillow_reads_the_chosen_page(tmp_path):
  """Palettes and LZW go through Pillow, whose file objects start at the first page."""
  pages = [Image.fromarray(draw((5, 6), np.uint8, seed=seed)) for seed in range(3)]
  pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:], compression="tiff_lzw")
  for index, page in enumerate(pages):
    same(files.read(tmp_path / "x.tif", slice=index), np.asarray(page)[..., None])


def test_ordinary_images_have_no_slices(tmp_path):
  array = draw((5, 6, 3), np.uint8)
  files.write(tmp_path / "x.tif", array)
  assert files.count_slices(tmp_path / "x.tif") is None and files.read_geometry(tmp_path / "x.tif") is None
  same(files.read(tmp_path / "x.tif", slice=0), array)
  same(files.read_volume(tmp_path / "x.tif"), array[None])
  with pytest.raises(UsageError, match="x.tif is one image, so it has no slice 1"):
    files.read(tmp_path / "x.tif", slice=1)
  with pytest.raises(UsageError, match="x.tif: the axis is 1"):
    files.read(tmp_path / "x.tif", axis=1)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_ome_tiff_is_written_back_with_voxels_names_and_times(tmp_path, dtype):
  stack = draw((2, 3, 2, 5, 6), dtype)
  metadata = {
    "axes": "TZCYX",
    "Channel": {"Name": ["DAPI", "GFP"]},
    "PhysicalSizeX": 0.25,
    "PhysicalSizeY": 0.5,
    "PhysicalSizeZ": 2.0,
    "PhysicalSizeXUnit": "µm",
  }
  tifffile.imwrite(tmp_path / "x.ome.tif", stack, ome=True, metadata=metadata, photometric="minisblack")
  volume, geometry = files.read_volume(tmp_path / "x.ome.tif"), files.read_geometry(tmp_path / "x.ome.tif")
  assert geometry.spacing == (0.25, 0.5, 2.0) and geometry.bands == ("DAPI", "GFP") and geometry.shape == (6, 5, 6)
  files.write_volume(tmp_path / "y.ome.tif", volume, geometry)
  with tifffile.TiffFile(tmp_path / "y.ome.tif") as file:
    pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
    np.testing.assert_array_equal(file.series[0].asarray(), stack)
  assert (pixels["SizeT"], pixels["SizeZ"], pixels["SizeC"], pixels["PhysicalSizeZ"]) == (2, 3, 2, 2.0)
  assert files.read_geometry(tmp_path / "y.ome.tif") == geometry
  with pytest.raises(UsageError, match="is to be 3×5×6 voxels .* geometry of a file of 6×5×6"):
    files.write_volume(tmp_path / "z.ome.tif", volume[:3], geometry)
  with pytest.raises(UsageError, match="OME-TIFF holds .* not int64"):
    files.write_volume(tmp_path / "z.ome.tif", volume.astype(np.int64))
  assert sorted(path.name for path in tmp_path.iterdir()) == ["x.ome.tif", "y.ome.tif"]


def test_a_volume_as_npy(tmp_path):
  volume = draw((4, 5, 6, 2), np.float16)
  files.write_volume(tmp_path / "x.npy", volume)
  same(np.load(tmp_path / "x.npy"), volume)
  same(files.read_volume(tmp_path / "x.npy"), volume)


# --- Errors


def make(path):
  """A file of a new format, by its own library."""
  if path.suffix == ".npz":
    np.savez_compressed(path, a=draw((60, 80, 3)))
  elif path.suffix == ".h5":
    write_hdf5(path, a=draw((60, 80, 3)))
  else:
    tifffile.imwrite(path, draw((4, 60, 80)), ome=True, metadata={"axes": "ZYX"}, photometric="minisblack")


@pytest.mark.parametrize("name", ["x.npz", "x.h5", "x.ome.tif"])
def test_truncated_and_damaged_files_are_usage_errors(tmp_path, name):
  path = tmp_path / name
  make(path)
  whole, generator = path.read_bytes(), np.random.default_rng(0)
  for share in (0.01, 0.3, 0.9):
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UsageError, match=f"{name} cannot be read"):
      files.read_volume(path)
  for _ in range(40):
    damaged = bytearray(whole)
    for place in generator.integers(0, 1500, 8):
      damaged[place] = generator.integers(256)
    path.write_bytes(damaged)
    for reading in (files.read_volume, files.count_slices, files.read_geometry):
      try:
        reading(path)
      except UsageError as error:
        assert f"{name} " in str(error)


def test_an_npz_that_claims_terabytes_is_refused(tmp_path):
  header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }".ljust(117) + b"\n"
  with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
    archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 64)
  with pytest.raises(UsageError, match="x.npz cannot be read.*promises 8000000000000 bytes"):
    files.read(tmp_path / "x.npz")


HEADS = {
  "x.nii": b"\x5c\1\0\0".ljust(344, b"\0") + b"n+1\0" + b"\0" * 100,
  "x.mha": b"ObjectType = Image\n",
  "x.nrrd": b"NRRD0004\n",
  "x.dcm": b"\0" * 128 + b"DICM" + b"\0" * 100,
}


@pytest.mark.parametrize("name, library", [(n, "nibabel" if n == "x.nii" else "SimpleITK") for n in HEADS])
def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, name, library):
  monkeypatch.setitem(sys.modules, library, None)
  (tmp_path / name).write_bytes(HEADS[name])
  for reading in (files.read, files.count_slices, files.read_volume, files.read_geometry):
    with pytest.raises(UsageError, match=rf"{name} needs the package {library}, .*pip install '.\[medical\]'"):
      reading(tmp_path / name)
  if name != "x.dcm":
    with pytest.raises(UsageError, match=rf"y.*needs the package {library}, .*pip install '.\[medical\]'"):
      files.write_volume(tmp_path / f"y{name[1:]}", np.zeros((2, 3, 4), np.float32))
  assert [path.name for path in tmp_path.iterdir()] == [name]


def test_optional_libraries_load_only_when_needed(tmp_path):
  files.write(tmp_path / "x.tif", draw((5, 6)))
  code = (
    "import sys; from pathlib import Path; from pix2pix_jax.data import files; files.read(Path(sys.argv[1])); "
    "print({'rasterio', 'nibabel', 'SimpleITK', 'h5py', 'jax', 'tensorflow'} & set(sys.modules))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code, str(tmp_path / "x.tif")], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == "set()"
