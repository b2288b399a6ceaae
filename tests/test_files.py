"""The one reader and the one writer: every form of image file against references made without them."""

import importlib.util
import os
import struct
import subprocess
import sys
import threading
import zlib

import numpy as np
from PIL import Image, ImageCms
import pytest
import tifffile

from pix2pix_jax.data import files
from pix2pix_jax.errors import UsageError

SIZE = (6, 9)


def draw(channels=3, dtype=np.uint8, size=SIZE, seed=0):
  """(H, W, C), every value of the type's range, or floats of both signs."""
  generator = np.random.default_rng(seed)
  if np.dtype(dtype).kind == "f":
    return generator.normal(0, 100, (*size, channels)).astype(dtype)
  limits = np.iinfo(dtype)
  return generator.integers(limits.min, limits.max, (*size, channels), dtype, endpoint=True)


def smooth(channels=3):
  """uint8 (32, 48, C) that lossy formats keep almost exactly, without any symmetry."""
  y, x = np.mgrid[:32, :48]
  return np.stack([60 + 2 * y + x, 200 - 3 * y + x // 2, 40 + y + 3 * x, 0 * x + 255][:channels], -1).astype(np.uint8)


def png(array, interlaced=False, filter_type=None, extra=()):
  """A PNG of 16 bits by its specification: the five filters in turn, one a row; Adam7 if interlaced."""

  def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

  def passes():
    if not interlaced:
      return [array]
    starts = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    return [array[y::dy, x::dx] for y, x, dy, dx in starts]

  def filtered(part):
    bpp, above, rows = 2 * part.shape[-1], None, b""
    for number, row in enumerate(part.astype(">u2")):
      line = list(row.tobytes())
      above = above or [0] * len(line)
      kind = number % 5 if filter_type is None else filter_type
      left, corner = [0] * bpp + line[:-bpp], [0] * bpp + above[:-bpp]

      def predict(a, b, c, kind=kind):
        nearest = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
        return (0, a, b, (a + b) // 2, nearest)[kind]

      rows += bytes([kind, *((v - predict(a, b, c)) % 256 for v, a, b, c in zip(line, left, above, corner))])
      above = line
    return rows

  color_type = {1: 0, 2: 4, 3: 2, 4: 6}[array.shape[-1]]
  header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, color_type, 0, 0, int(interlaced))
  data = zlib.compress(b"".join(filtered(part) for part in passes() if part.size))
  chunks = [(b"IHDR", header), *extra, (b"IDAT", data), (b"IEND", b"")]
  return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def same(found, expected):
  expected = expected[..., None] if expected.ndim == 2 else expected
  assert found.dtype == expected.dtype.newbyteorder("=") and found.dtype.isnative and found.flags.c_contiguous
  np.testing.assert_array_equal(found, expected)


# --- Formats


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits_with_every_filter(tmp_path, channels, interlaced):
  array = draw(channels, np.uint16, (13, 11))
  (tmp_path / "x.png").write_bytes(png(array, interlaced))
  same(files.read(tmp_path / "x.png"), array)


def test_16_bits_keep_their_levels(tmp_path):
  ramp = np.linspace(20000, 22000, 64 * 64).reshape(64, 64, 1).astype(np.uint16).repeat(3, -1)
  (tmp_path / "x.png").write_bytes(png(ramp))
  assert len(np.unique(files.read(tmp_path / "x.png"))) == 2001


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp", ".ppm", ".tga", ".gif", ".jp2", ".avif", ".qoi"])
def test_8_bit_formats_without_loss(tmp_path, suffix, mode):
  pixels = smooth(4)
  pixels[5:9, 3:20, 3] = 128
  image = Image.fromarray(pixels).convert(mode)
  allowed = {
    ".bmp": ("1", "L", "RGB"),
    ".webp": ("RGB", "RGBA"),
    ".ppm": ("1", "L", "RGB"),
    ".tga": ("L", "LA", "RGB", "RGBA"),
    ".gif": ("1",),
    ".jp2": ("L", "LA", "RGB", "RGBA"),
    ".avif": ("RGB", "RGBA"),
    ".qoi": ("RGB", "RGBA"),
  }
  if mode not in allowed.get(suffix, (mode,)):
    pytest.skip("the format has no such form")
  options = {".webp": {"lossless": True, "exact": True}, ".avif": {"quality": 100, "subsampling": "4:4:4"}}
  try:
    image.save(tmp_path / f"x{suffix}", **options.get(suffix, {}))
  except (KeyError, OSError, ValueError) as error:
    pytest.skip(f"this Pillow does not write it: {error}")
  found = files.read(tmp_path / f"x{suffix}")
  expected = np.asarray(image.convert("L") if mode == "1" else image)
  assert found.dtype == np.uint8
  np.testing.assert_allclose(found.squeeze(), expected, atol=2 if suffix == ".avif" else 0)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG", ".jfif", ".jpe", ".webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossy_formats(tmp_path, suffix, channels):
  image = Image.fromarray(smooth(channels).squeeze())
  image.save(tmp_path / f"x{suffix}", "webp" if suffix == ".webp" else "jpeg", quality=98)
  found = files.read(tmp_path / f"x{suffix}")
  assert found.shape == (32, 48, 3 if suffix == ".webp" else channels)  # WebP has no grey
  np.testing.assert_allclose(found.astype(int), np.broadcast_to(smooth(channels), found.shape), atol=8)


def test_the_content_decides_and_not_the_suffix(tmp_path):
  for suffix, form in ((".jpg", "png"), (".png", "tiff"), (".tif", "png"), (".npy", "bmp"), (".png", "webp")):
    Image.fromarray(smooth()).save(tmp_path / f"x{suffix}", form, lossless=True)
    same(files.read(tmp_path / f"x{suffix}"), smooth())
  with (tmp_path / "x.png").open("wb") as file:
    np.save(file, smooth())
  same(files.read(tmp_path / "x.png"), smooth())


@pytest.mark.parametrize("suffix", [".png", ".tif", ".gif", ".bmp"])
def test_palettes_become_colours_or_indices(tmp_path, suffix):
  index = np.random.default_rng(0).integers(0, 3, SIZE, np.uint8)
  colors = np.array([[9, 8, 7], [250, 0, 3], [0, 120, 255]], np.uint8)
  image = Image.fromarray(index, "P")
  image.putpalette(colors.tobytes())
  image.save(tmp_path / f"x{suffix}")
  same(files.read(tmp_path / f"x{suffix}"), colors[index])
  if suffix != ".gif":  # whose writer sorts the palette
    same(files.read(tmp_path / f"x{suffix}", colors=False), index)
    assert files.read_palette(tmp_path / f"x{suffix}")[:3] == tuple(map(tuple, colors.tolist()))
  files.write(tmp_path / f"plain{suffix if suffix in files.WRITABLE else '.npy'}", index)
  assert files.read_palette(tmp_path / f"plain{suffix if suffix in files.WRITABLE else '.npy'}") == ()


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_a_transparent_palette_becomes_rgba(tmp_path, suffix):
  index = np.random.default_rng(0).integers(0, 3, SIZE, np.uint8)
  colors = np.array([[9, 8, 7, 255], [250, 0, 3, 0], [0, 120, 255, 255]], np.uint8)
  image = Image.fromarray(index, "P")
  image.putpalette(colors[:, :3].tobytes())
  image.save(tmp_path / f"x{suffix}", transparency=1)
  found = files.read(tmp_path / f"x{suffix}")
  np.testing.assert_array_equal(found[..., 3], colors[index][..., 3])
  np.testing.assert_array_equal(found[index != 1], colors[index][index != 1])


def test_inks_become_rgb(tmp_path):
  """Reference: CMYK without black is the complement of RGB; a grey of L* 50 is 119 in sRGB (IEC 61966-2-1)."""
  rgb = smooth()
  cmyk = Image.fromarray(np.concatenate([255 - rgb, np.zeros((32, 48, 1), np.uint8)], -1), "CMYK")
  for name in ("x.tif", "x.jpg"):
    cmyk.save(tmp_path / name, quality=98)
    np.testing.assert_allclose(files.read(tmp_path / name).astype(int), rgb, atol=8)
  Image.fromarray(rgb).convert("YCbCr").save(tmp_path / "ycbcr.tif")
  np.testing.assert_allclose(files.read(tmp_path / "ycbcr.tif").astype(int), rgb, atol=3)
  profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
  lab = ImageCms.applyTransform(Image.fromarray(rgb), ImageCms.buildTransform(*profiles, "RGB", "LAB"))
  lab.save(tmp_path / "lab.tif")
  np.testing.assert_allclose(files.read(tmp_path / "lab.tif").astype(int), rgb, atol=12)

  lab = Image.fromarray(np.full((2, 2, 3), (128, 0, 0), np.uint8), "LAB")
  lab.save(tmp_path / "grey.tif")
  np.testing.assert_allclose(files.read(tmp_path / "grey.tif").astype(int), 119, atol=2)


def test_pnm_of_16_bits(tmp_path):
  for channels, magic in ((1, b"P5"), (3, b"P6")):
    array = draw(channels, np.uint16)
    header = magic + b" # a comment\n9 6\n65535\n"
    (tmp_path / "x.ppm").write_bytes(header + array.astype(">u2").tobytes())
    same(files.read(tmp_path / "x.ppm"), array)
    (tmp_path / "x.ppm").write_bytes(magic + b" 9 6 1023\n" + (array % 1024).astype(">u2").tobytes())
    np.testing.assert_allclose(files.read(tmp_path / "x.ppm"), (array % 1024) * (65535 / 1023), atol=0.5)
  (tmp_path / "x.ppm").write_bytes(b"P3 1 1 65535 1 2 3\n")
  with pytest.raises(UsageError, match="x.ppm is a text PPM"):
    files.read(tmp_path / "x.ppm")


# --- Orientation


def upright(array, orientation):
  """EXIF 2.32, table "Orientation": where the stored row 0 and column 0 lie in the image."""
  height, width = array.shape[:2]
  shown = np.empty((height, width) if orientation < 5 else (width, height), array.dtype)
  for y in range(height):
    for x in range(width):
      row = {1: y, 2: y, 3: height - 1 - y, 4: height - 1 - y, 5: x, 6: x, 7: width - 1 - x, 8: width - 1 - x}
      column = {1: x, 2: width - 1 - x, 3: width - 1 - x, 4: x, 5: y, 6: height - 1 - y, 7: height - 1 - y, 8: y}
      shown[row[orientation], column[orientation]] = array[y, x]
  return shown


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["png", "png16", "palette.png", "jpg", "webp", "tif", "lzw.tif", "bits.tif", "16.tif"])
def test_the_camera_s_orientation_is_applied(tmp_path, form, orientation):
  grey = smooth(1)[..., 0]
  path = tmp_path / f"x.{'png' if form == 'png16' else form}"
  exif = Image.Exif()
  exif[274] = orientation
  expected, tolerance = upright(grey, orientation), 0
  if form == "png16":
    array = np.stack([grey.astype(np.uint16) * 257 + 5] * 3, -1)
    path.write_bytes(png(array, extra=[(b"eXIf", exif.tobytes()[6:])]))
    expected = upright(array[..., 0], orientation)
  elif form == "bits.tif":
    Image.fromarray(grey > 128).save(path, tiffinfo={274: orientation})
    expected = upright((grey > 128) * np.uint8(255), orientation)
  elif form.endswith("tif"):
    array = grey.astype(np.uint16) * 257 if form == "16.tif" else grey
    compression = {"compression": "tiff_lzw"} if form == "lzw.tif" else {}
    Image.fromarray(array).save(path, tiffinfo={274: orientation}, **compression)
    expected = upright(array, orientation)
  elif form == "palette.png":
    image = Image.fromarray(grey, "P")
    image.putpalette(bytes(range(256)) * 3)
    image.save(path, exif=exif)
    expected = upright((np.arange(768).reshape(256, 3) % 256).astype(np.uint8)[grey][..., 0], orientation)
  else:
    tolerance = {"jpg": 4, "webp": 6}.get(form, 0)
    Image.fromarray(grey).save(path, exif=exif, quality=99)
  found = files.read(path)[..., 0]
  assert found.shape == expected.shape
  np.testing.assert_allclose(found.astype(int), expected, atol=tolerance)


def test_damaged_or_senseless_metadata_does_not_turn_the_image(tmp_path):
  exif = Image.Exif()
  exif[274] = 77
  Image.fromarray(smooth()).save(tmp_path / "x.png", exif=exif)
  same(files.read(tmp_path / "x.png"), smooth())
  Image.fromarray(smooth()).save(tmp_path / "x.png", exif=b"Exif\0\0II*\0" + b"\xff" * 30)
  same(files.read(tmp_path / "x.png"), smooth())


def test_a_phone_s_photograph_with_a_preview_is_its_first_image(tmp_path):
  first, second = Image.fromarray(smooth()), Image.fromarray(255 - smooth())
  first.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[second], quality=98)
  assert Image.open(tmp_path / "x.jpg").format == "MPO"
  np.testing.assert_allclose(files.read(tmp_path / "x.jpg").astype(int), smooth(), atol=8)


# --- TIFF

DTYPES = (*(np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32), *(np.float16, np.float32, np.float64))


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzma"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tiff_of_any_number_type(tmp_path, dtype, compression, byteorder):
  for channels in (1, 2, 3, 4, 13):
    array = draw(channels, dtype)
    layout = {"photometric": "rgb" if channels in (3, 4) else "minisblack", "byteorder": byteorder}
    if channels > 1:
      layout["planarconfig"] = "contig"
    tifffile.imwrite(tmp_path / "x.tif", array.squeeze(), compression=compression, **layout)
    same(files.read(tmp_path / "x.tif"), array)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_tiff_in_planes_tiles_and_with_a_predictor(tmp_path, dtype, compression):
  array = draw(3, dtype, (40, 50))
  planes = {"photometric": "rgb", "planarconfig": "separate", "compression": compression}
  tifffile.imwrite(tmp_path / "x.tif", np.moveaxis(array, -1, 0), **planes)
  same(files.read(tmp_path / "x.tif"), array)
  tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb", tile=(16, 32), compression=compression)
  same(files.read(tmp_path / "x.tif"), array)
  if compression and dtype != np.float32:
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb", predictor=True, compression=compression)
    same(files.read(tmp_path / "x.tif"), array)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_deflate", "tiff_adobe_deflate"])
def test_tiff_compressions_written_by_pillow(tmp_path, compression):
  for array in (draw(1), draw(2), draw(3), draw(4), draw(1, np.uint16), draw(1, np.int32), draw(1, np.float32)):
    Image.fromarray(array.squeeze()).save(tmp_path / "x.tif", compression=compression)
    same(files.read(tmp_path / "x.tif"), array)
  bits = draw(1)[..., 0] > 127
  Image.fromarray(bits).save(tmp_path / "x.tif", compression=compression)
  same(files.read(tmp_path / "x.tif"), bits * np.uint8(255))


def test_tiff_in_jpeg_and_fax_compression(tmp_path):
  Image.fromarray(smooth()).save(tmp_path / "x.tif", compression="jpeg", quality=98)
  np.testing.assert_allclose(files.read(tmp_path / "x.tif").astype(int), smooth(), atol=8)
  bits = smooth(1)[..., 0] > 128
  Image.fromarray(bits).save(tmp_path / "x.tif", compression="group4")
  same(files.read(tmp_path / "x.tif"), bits * np.uint8(255))


def lzw(data):
  """TIFF's LZW without any compression: 9-bit codes with a clear code often enough (TIFF 6.0, section 13)."""
  bits = ""
  for start in range(0, len(data), 200):
    bits += f"{256:09b}" + "".join(f"{value:09b}" for value in data[start : start + 200])
  bits += f"{257:09b}"
  bits += "0" * (-len(bits) % 8)
  return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


def lzw_tiff(array, order="<", photometric=None):
  """A TIFF of one strip in LZW (TIFF 6.0, section 2)."""
  height, width, channels = array.shape
  data = lzw(array.astype(array.dtype.newbyteorder(order)).tobytes())
  tags = {
    256: ("H", [width]),
    257: ("H", [height]),
    258: ("H", [8 * array.dtype.itemsize] * channels),
    259: ("H", [5]),
    262: ("H", [(2 if channels > 2 else 1) if photometric is None else photometric]),
    273: ("I", [8]),
    277: ("H", [channels]),
    278: ("H", [height]),
    279: ("I", [len(data)]),
    338: ("H", [2]),
    339: ("H", [3 if array.dtype.kind == "f" else 1] * channels),
  }
  if channels not in (2, 4):
    del tags[338]
  body = data + b"\0" * (len(data) % 2)
  directory, extra = struct.pack(order + "H", len(tags)), b""
  after = 8 + len(body) + 2 + 12 * len(tags) + 4
  for tag, (form, values) in tags.items():
    packed = struct.pack(f"{order}{len(values)}{form}", *values)
    directory += struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[form], len(values))
    if len(packed) > 4:
      directory += struct.pack(order + "I", after + len(extra))
      extra += packed
    else:
      directory += packed.ljust(4, b"\0")
  start = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(body))
  return start + body + directory + b"\0" * 4 + extra


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels, dtype", [(3, np.uint16), (4, np.uint16), (2, np.uint16), (3, np.float32)])
def test_tiff_of_several_wide_channels_in_lzw(tmp_path, channels, dtype, order):
  """Either exact or, where imagecodecs is needed, an error that says so; never 8 bits."""
  array = draw(channels, dtype)
  (tmp_path / "x.tif").write_bytes(lzw_tiff(array, order))
  if (channels in (3, 4) and dtype == np.uint16) or importlib.util.find_spec("imagecodecs"):
    same(files.read(tmp_path / "x.tif"), array)
  else:
    with pytest.raises(UsageError, match="x.tif is a TIFF of .* LZW compression.*pip install imagecodecs"):
      files.read(tmp_path / "x.tif")


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_white_is_zero_is_turned_around(tmp_path, dtype, compression):
  array = draw(1, dtype)
  stored = np.iinfo(dtype).max - array[..., 0]
  tifffile.imwrite(tmp_path / "x.tif", stored, photometric="miniswhite", compression=compression)
  same(files.read(tmp_path / "x.tif"), array)


def test_white_is_zero_of_one_bit_and_in_lzw(tmp_path):
  bits = draw(1)[..., 0] > 127
  tifffile.imwrite(tmp_path / "x.tif", ~bits, photometric="miniswhite")
  same(files.read(tmp_path / "x.tif"), bits * np.uint8(255))
  for dtype in (np.uint8, np.uint16):
    array = draw(1, dtype)
    (tmp_path / "x.tif").write_bytes(lzw_tiff(np.iinfo(dtype).max - array, photometric=0))
    same(files.read(tmp_path / "x.tif"), array)


def test_pyramids_and_overviews_are_their_full_image(tmp_path):
  array = draw(3, size=(32, 48))
  with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
    writer.write(array, photometric="rgb", subifds=1)
    writer.write(array[::2, ::2], photometric="rgb", subfiletype=1)
  same(files.read(tmp_path / "x.tif"), array)
  with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
    writer.write(array, photometric="rgb")
    writer.write(array[::2, ::2].copy(), photometric="rgb", subfiletype=1)
  same(files.read(tmp_path / "x.tif"), array)
  with tifffile.TiffWriter(tmp_path / "x.tif", bigtiff=True) as writer:
    writer.write(array, photometric="rgb")
  same(files.read(tmp_path / "x.tif"), array)


# --- NumPy


@pytest.mark.parametrize("dtype", ["<u2", ">u2", ">f4", "<f8", "f2", "i2", "i4", "i8", "u4", "u1", "i1"])
def test_npy_of_any_number_type_and_order(tmp_path, dtype):
  array = (np.random.default_rng(0).normal(0, 100, (*SIZE, 5)) % 120).astype(dtype)
  for values in (array, np.asfortranarray(array), array[..., 0], array[:, ::-1]):
    np.save(tmp_path / "x.npy", values)
    same(files.read(tmp_path / "x.npy"), np.ascontiguousarray(values))


def test_bool_npy_is_black_and_white(tmp_path):
  array = draw(1)[..., 0] > 127
  np.save(tmp_path / "x.npy", array)
  same(files.read(tmp_path / "x.npy"), array * np.uint8(255))


def npy(descr, shape, size=0):
  header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode().ljust(117) + b"\n"
  return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * size


@pytest.mark.parametrize(
  "content, message",
  [
    (npy("<f8", (10**6, 10**6), 64), "promises 8000000000000 bytes .* but only 64 bytes follow"),
    (npy("<u1", (2**40, 2**40)), "promises"),
    (npy("<u1", (-4, 4), 16), "promises"),
    (npy("<u1", (4, 4), 15), "promises 16 bytes"),
    (npy("|O", (1, 1), 8), "holds object"),
    (npy("<c8", (1, 1), 8), "holds complex64"),
    (npy("<U1", (1, 1), 4), "holds <U1"),
    (npy([("a", "<f4")], (1, 1), 4), "holds"),
    (npy("<u1", (4,), 4), r"has the shape \(4,\)"),
    (npy("<u1", (2, 2, 2, 3), 24), "is a volume of 2 slices"),
    (npy("<u1", (0, 4, 3)), r"has the shape \(0, 4, 3\)"),
    (b"\x93NUMPY", "cannot be read as an image"),
    (b"\x93NUMPY\x01\x00\xff\xff{", "cannot be read as an image"),
    (b"\x93NUMPY\x07\x00" + b"\0" * 100, "cannot be read as an image"),
  ],
)
def test_damaged_npy_files_are_named_and_allocate_nothing(tmp_path, content, message):
  (tmp_path / "x.npy").write_bytes(content)
  with pytest.raises(UsageError, match=f"x.npy .*{message}"):
    files.read(tmp_path / "x.npy")


def test_an_npz_named_npy_is_read_as_npz(tmp_path):
  with (tmp_path / "x.npy").open("wb") as file:
    np.savez(file, a=np.zeros(3))
  with pytest.raises(UsageError, match=r"x.npy holds no image.*it holds a \(3,\)"):
    files.read(tmp_path / "x.npy")


# --- What is no image


@pytest.mark.parametrize(
  "form", ["png", "png16", "jpg", "webp", "bmp", "gif", "ppm", "ppm16", "tif", "zlib.tif", "npy"]
)
def test_truncated_files_are_named(tmp_path, form):
  path = tmp_path / f"x.{form.removesuffix('16')}"
  array = draw(3, size=(60, 80))
  if form == "png16":
    path.write_bytes(png(array.astype(np.uint16) * 257))
  elif form == "ppm16":
    path.write_bytes(b"P6 80 60 65535\n" + array.astype(">u2").tobytes())
  elif form.endswith("tif"):
    tifffile.imwrite(path, array, photometric="rgb", compression="zlib" if form == "zlib.tif" else None)
  elif form == "npy":
    np.save(path, array)
  else:
    Image.fromarray(array).save(path)
  whole = path.read_bytes()
  for share in (0.3, 0.6, 0.9):
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UsageError, match="/x.* cannot be read as an image.*[Rr]eplace it, or remove it"):
      files.read(path)


@pytest.mark.parametrize("suffix", files.SUFFIXES)
@pytest.mark.parametrize("content", [b"nothing", b"\0" * 1000, b"II*\0" + b"\x07" * 40, b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image_is_named(tmp_path, suffix, content):
  (tmp_path / f"x{suffix}").write_bytes(content)
  with pytest.raises(UsageError, match=f"/x{suffix} cannot be read as an image"):
    files.read(tmp_path / f"x{suffix}")


def test_random_damage_is_never_anything_but_a_usage_error(tmp_path):
  generator = np.random.default_rng(0)
  forms = {".tif": {}, ".png": {}, ".jpg": {}, ".gif": {}, ".webp": {}, ".bmp": {}}
  for suffix in forms:
    Image.fromarray(smooth()).save(tmp_path / f"x{suffix}")
    whole = (tmp_path / f"x{suffix}").read_bytes()
    for _ in range(40):
      damaged = bytearray(whole)
      for place in generator.integers(0, min(len(whole), 400), 6):
        damaged[place] = generator.integers(256)
      (tmp_path / f"y{suffix}").write_bytes(damaged)
      try:
        assert files.read(tmp_path / f"y{suffix}").ndim == 3
      except UsageError as error:
        assert f"/y{suffix} " in str(error)


def test_paths_that_are_no_files_are_named(tmp_path):
  (tmp_path / "empty.png").touch()
  (tmp_path / "folder.png").mkdir()
  (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere.png")
  for name, message in (
    ("empty.png", "is empty"),
    ("folder.png", "is a folder"),
    ("broken.png", "No such file"),
    ("absent.png", "No such file"),
    ("a\0b.png", "cannot be read"),
  ):
    with pytest.raises(UsageError, match=message) as caught:
      files.read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_pipe_does_not_block(tmp_path):
  os.mkfifo(tmp_path / "x.png")
  outcome = []

  def call():
    try:
      files.read(tmp_path / "x.png")
    except UsageError as error:
      outcome.append(str(error))

  thread = threading.Thread(target=call, daemon=True)
  thread.start()
  thread.join(5)
  assert outcome and "is not a regular file" in outcome[0]


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_animations_are_refused_and_single_frames_are_not(tmp_path, form):
  path = tmp_path / f"x.{form.lower()}"
  first, second = (Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (10, 200))
  first.save(path, form, save_all=True, append_images=[second])
  with pytest.raises(UsageError, match="is an animation of 2 frames"):
    files.read(path)
  first.save(path, form, save_all=True)
  assert files.read(path).shape[:2] == (8, 8)


@pytest.mark.parametrize(
  "write, message",
  [
    (lambda path: tifffile.imwrite(path, np.zeros((5, 9, 9), np.uint8), photometric="minisblack"), "holds 5 images"),
    (
      lambda path: tifffile.imwrite(
        path, np.zeros((1, 4, 16, 16), np.uint8), photometric="minisblack", volumetric=True, tile=(4, 16, 16)
      ),
      "holds 4 images",
    ),
    (
      lambda path: tifffile.imwrite(path, np.zeros((9, 9, 4), np.uint16), photometric="separated"),
      "16 bits a channel in the colour model SEPARATED",
    ),
  ],
)
def test_tiffs_that_would_lose_or_hide_something_are_refused(tmp_path, write, message):
  write(tmp_path / "x.tif")
  with pytest.raises(UsageError, match=f"x.tif .*{message}"):
    files.read(tmp_path / "x.tif")


def test_an_image_beyond_pillow_s_limit_is_refused(tmp_path, monkeypatch):
  Image.fromarray(smooth()).save(tmp_path / "x.png")
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
  with pytest.raises(UsageError, match="x.png cannot be read as an image.*uncompressed TIFF"):
    files.read(tmp_path / "x.png")


def test_a_tiff_that_claims_terabytes_is_refused(tmp_path):
  tifffile.imwrite(tmp_path / "x.tif", np.zeros((8, 8), np.uint8), compression="zlib", metadata=None)
  with tifffile.TiffFile(tmp_path / "x.tif", mode="r+b") as file:
    for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
      file.pages[0].tags[name].overwrite(10**6, dtype="I")
  with pytest.raises(UsageError, match="x.tif cannot be read.*claims 1000000000000 bytes"):
    files.read(tmp_path / "x.tif")


def test_high_bits_of_jpeg_2000_are_not_dropped(tmp_path):
  grey = draw(1, np.uint16, (32, 32))
  Image.fromarray(grey[..., 0]).save(tmp_path / "x.jp2")
  same(files.read(tmp_path / "x.jp2"), grey)
  Image.fromarray(smooth()).save(tmp_path / "x.jp2")
  content = bytearray((tmp_path / "x.jp2").read_bytes())
  content[content.index(b"\xff\x4f\xff\x51") + 42] = 15
  (tmp_path / "x.jp2").write_bytes(content)
  with pytest.raises(UsageError, match="x.jp2 "):
    files.read(tmp_path / "x.jp2")


# --- Writing

ALL = (*DTYPES, np.uint64, np.int64, np.bool_, np.complex64)


@pytest.mark.parametrize("suffix", [*files.WRITABLE, ".PNG", ".TIFF"])
@pytest.mark.parametrize("dtype", ALL)
def test_what_is_written_is_read_back_bit_for_bit(tmp_path, suffix, dtype):
  for channels in (1, 2, 3, 4, 5, 13):
    for size in (SIZE, (1, 1), (1, 7), (7, 1), (3, 4), (4, 3), (31, 2)):
      if dtype in (np.bool_, np.complex64):
        array = np.ones((*size, channels), dtype)
      else:
        array = draw(channels, dtype, size, seed=channels)
      try:
        files.check_writable(suffix, channels, dtype)
      except UsageError as error:
        assert "choose" in str(error) or "use integers" in str(error)
        with pytest.raises(UsageError):
          files.write(tmp_path / f"x{suffix}", array)
        assert not list(tmp_path.iterdir()), "nothing is left behind"
        continue
      files.write(tmp_path / f"x{suffix}", array)
      same(files.read(tmp_path / f"x{suffix}"), array)
      (tmp_path / f"x{suffix}").unlink()


def test_which_forms_are_writable():
  def allowed(suffix, channels, dtype):
    try:
      files.check_writable(suffix, channels, dtype)
    except UsageError:
      return False
    return True

  for channels in (1, 2, 3, 4):
    assert all(allowed(".png", channels, dtype) for dtype in (np.uint8, np.uint16))
  assert not allowed(".png", 5, np.uint8) and not allowed(".png", 1, np.float32) and not allowed(".png", 1, np.int16)
  assert allowed(".TIF", 5, np.float32) and allowed(".npy", 13, np.float64)
  for suffix in (".jpg", ".bmp", ".webp", ".gif", ""):
    assert not allowed(suffix, 3, np.uint8)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_other_programs_read_16_bit_pngs_alike(tmp_path, channels):
  """TensorFlow's libpng reads every channel; Pillow the high bytes."""
  tf = pytest.importorskip("tensorflow")
  for array in (draw(channels, np.uint16, (33, 20)), smooth(channels).astype(np.uint16) * 200):
    files.write(tmp_path / "x.png", array)
    if channels != 2:  # which TensorFlow does not read
      same(tf.io.decode_png((tmp_path / "x.png").read_bytes(), dtype=tf.uint16).numpy(), array)
    with Image.open(tmp_path / "x.png") as image:
      image.verify()


def test_smooth_16_bit_pngs_are_compressed(tmp_path):
  array = np.add.outer(np.arange(256), np.arange(256)).astype(np.uint16)[..., None].repeat(3, -1)
  files.write(tmp_path / "x.png", array)
  assert (tmp_path / "x.png").stat().st_size < array.nbytes / 20


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_metres_become_integers_of_a_scale(tmp_path, suffix):
  metres = np.float32([[0, 1, 2.5, 80], [-1, np.nan, np.inf, -np.inf], [0.001, 300, 1 / 512 + 1e-4, 1 / 256]])
  files.write(tmp_path / f"x{suffix}", metres, depth_scale=256)
  expected = [[0, 256, 640, 20480], [0, 0, 0, 0], [0, 65535, 1, 1]]
  same(files.read(tmp_path / f"x{suffix}"), np.uint16(expected))
  np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"x{suffix}")), expected)


def test_writing_replaces_whole_files_and_makes_folders(tmp_path):
  path = tmp_path / "a/b [1]/ü?.png"
  files.write(path, draw())
  files.write(path, draw(seed=1))
  same(files.read(path), draw(seed=1))
  assert [each.name for each in path.parent.iterdir()] == [path.name]
  long = tmp_path / ("x" * 250 + ".npy")
  files.write(long, draw())
  same(files.read(long), draw())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
  files.write(tmp_path / "x.png", draw())

  def full(path, array):
    path.write_bytes(b"half")
    raise OSError(28, "No space left on device")

  monkeypatch.setitem(files._WRITERS, ".png", full)
  with pytest.raises(UsageError, match="x.png cannot be written .No space left"):
    files.write(tmp_path / "x.png", draw(seed=1))
  assert [each.name for each in tmp_path.iterdir()] == ["x.png"]
  same(files.read(tmp_path / "x.png"), draw())
  (tmp_path / "file").touch()
  with pytest.raises(UsageError, match="x.png cannot be written"):
    files.write(tmp_path / "file/x.png", draw())


# --- Channels


@pytest.mark.parametrize("dtype, largest", [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
def test_channels_are_converted_where_that_has_one_meaning(dtype, largest):
  white, half = largest, largest / 2

  def convert(values, channels):
    array = np.array([[values]], np.float64)
    array = array.astype(dtype) if np.dtype(dtype).kind == "f" else np.round(array).astype(dtype)
    result = files.with_channels(array, channels, "x.png")
    assert result.dtype == dtype and result.shape == (1, 1, channels)
    return result[0, 0].astype(np.float64)

  tolerance = {"atol": 1.01 if largest > 1 else 1e-6}
  np.testing.assert_allclose(convert([half], 3), [half] * 3, **tolerance)
  np.testing.assert_allclose(convert([half, 0], 1), [white], **tolerance)
  np.testing.assert_allclose(convert([0, half], 3), [half] * 3, **tolerance)
  np.testing.assert_allclose(convert([0, white, 0], 1), [0.587 * white], **tolerance)
  np.testing.assert_allclose(convert([white, 0, 0, 0], 3), [white] * 3, **tolerance)
  np.testing.assert_allclose(convert([white, 0, 0, white], 3), [white, 0, 0], **tolerance)
  np.testing.assert_allclose(convert([white, 0, 0, half], 3), [white, half, half], **tolerance)
  np.testing.assert_allclose(convert([0, 0, white, half], 1), [half + 0.114 * half], **tolerance)


def test_luminance_is_pillow_s():
  rgb = draw(size=(40, 40))
  reference = np.asarray(Image.fromarray(rgb).convert("L")).astype(int)
  assert np.abs(files.with_channels(rgb, 1, "x")[..., 0].astype(int) - reference).max() <= 1


def test_other_conversions_are_refused():
  added_alpha = (draw(1), 2), (draw(3), 4), (draw(2), 4), (draw(4), 2)
  for array, channels in ((draw(5), 3), (draw(3), 5), (draw(1, np.int16), 3), *added_alpha):
    with pytest.raises(UsageError, match="^x.png has .* are needed"):
      files.with_channels(array, channels, "x.png")
  with pytest.raises(UsageError, match="Are the channels its first axis"):
    files.with_channels(np.zeros((3, 40, 60), np.uint8), 3, "x.npy")
  array = draw(7, np.int16)
  assert files.with_channels(array, 7, "x.npy") is array


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
  "name, channels, tags, expected",
  [
    ("grey.png", 1, None, True),
    ("grey_alpha.png", 2, None, True),
    ("rgba.png", 4, None, True),
    ("grey.tif", 1, {}, True),
    ("grey_alpha.tif", 2, {"extrasamples": ["unassalpha"]}, True),
    ("two_bands.tif", 2, {}, False),
    ("two_pages.ome.tif", 2, {"metadata": {"axes": "CYX"}}, False),
    ("rgb.tif", 3, {"photometric": "rgb"}, True),
    ("three_bands.tif", 3, {}, False),
    ("rgba.tif", 4, {"photometric": "rgb", "extrasamples": ["assocalpha"]}, True),
    ("rgb_and_infrared.tif", 4, {"photometric": "rgb", "extrasamples": ["unspecified"]}, False),
    ("four_bands.tif", 4, {}, False),
    ("grey.npy", 1, None, True),
    ("two.npy", 2, None, False),
    ("rgb.npy", 3, None, True),
    ("four.npy", 4, None, False),
  ],
)
def test_channels_are_colours_only_where_the_file_says_so(tmp_path, dtype, name, channels, tags, expected):
  array = draw(channels, dtype)
  if tags is None:
    files.write(tmp_path / name, array)
  elif "ome" in name:
    tifffile.imwrite(tmp_path / name, np.moveaxis(array, -1, 0), photometric="minisblack", **tags)
  else:
    settings = {"photometric": "minisblack", "planarconfig": "contig" if channels > 1 else None, **tags}
    tifffile.imwrite(tmp_path / name, array if channels > 1 else array[..., 0], metadata=None, **settings)
  assert files.read(tmp_path / name).shape[-1] == channels
  assert files.holds_colors(tmp_path / name, channels) == expected


# --- Folders


def touch(root, *names):
  for name in names:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(b"x")


def test_find_lists_what_is_read_and_what_is_left_out(tmp_path):
  touch(tmp_path, "10.png", "2.JPG", "b/1.webp", "a 1/x.npy", "b/[x].tif", "b/ü日本.jfif", "c\\d.bmp")
  touch(tmp_path, "notes.txt", "x.heic", "b/data.zip", "png")
  touch(tmp_path, ".hidden.png", "._2.JPG", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/._2.JPG")
  touch(tmp_path, "__MACOSX/2.png", ".ipynb_checkpoints/2.png", "b/.git/x.png")
  os.mkfifo(tmp_path / "pipe.png")
  (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere")
  found, left_out = files.find(tmp_path)
  expected = ["2.JPG", "10.png", "a 1/x.npy", "b/1.webp", "b/[x].tif", "b/ü日本.jfif", "c\\d.bmp"]
  assert [str(path.relative_to(tmp_path)) for path in found] == expected
  assert {str(path.relative_to(tmp_path)) for path in left_out} == {
    *("notes.txt", "x.heic", "b/data.zip", "png", "pipe.png", "broken.png")
  }


def test_find_follows_links_but_not_in_circles(tmp_path):
  touch(tmp_path, "disk/deep/1.png", "disk/2.png")
  (tmp_path / "in").mkdir()
  (tmp_path / "in/linked").symlink_to(tmp_path / "disk")
  (tmp_path / "in/again").symlink_to(tmp_path / "disk/deep")
  (tmp_path / "in/file.png").symlink_to(tmp_path / "disk/2.png")
  (tmp_path / "in/up").symlink_to(tmp_path / "in")
  (tmp_path / "disk/deep/back").symlink_to(tmp_path / "in")
  found, _ = files.find(tmp_path / "in")
  names = [str(path.relative_to(tmp_path / "in")) for path in found]
  assert {"again/1.png", "file.png", "linked/2.png", "linked/deep/1.png"} <= set(names)
  assert all(name.count("back") <= 1 for name in names) and len(names) < 12


def test_find_in_a_hidden_folder_and_in_none(tmp_path):
  touch(tmp_path, ".cache/x/1.png")
  assert len(files.find(tmp_path / ".cache/x")[0]) == 1, "only names below the folder count"
  with pytest.raises(UsageError, match="nowhere cannot be read"):
    files.find(tmp_path / "nowhere")


def test_natural_order():
  names = ["b/1.png", "a10.png", "a9.png", "a², x.png", "A1.png", "01.png", "1.png", "a/2.png", "a/10.png"]
  ordered = [str(path) for path in files.natural_order(names)]
  assert ordered.index("a9.png") < ordered.index("a10.png") and ordered.index("a/2.png") < ordered.index("a/10.png")
  assert ordered == [str(path) for path in files.natural_order(reversed(names))]


def test_neither_tensorflow_nor_jax_is_imported():
  code = "import sys; from pix2pix_jax.data import files; print({'tensorflow', 'jax'} & set(sys.modules))"
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == "set()"


def test_reading_leaves_no_file_open(tmp_path):
  Image.fromarray(smooth()).save(tmp_path / "x.tif", compression="tiff_lzw")
  (tmp_path / "x.png").write_bytes(png(draw(3, np.uint16)))
  before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else pytest.skip("no /proc")
  for _ in range(5):
    files.read(tmp_path / "x.tif")
    files.read(tmp_path / "x.png")
  assert len(os.listdir("/proc/self/fd")) <= before
