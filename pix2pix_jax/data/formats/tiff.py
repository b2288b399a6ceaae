"""TIFF by tifffile, and by Pillow where that knows more: one image, or a stack of slices such as OME-TIFF."""

import io
import logging
import math
import os
from pathlib import Path
import struct
import sys

import numpy as np
from PIL import Image, UnidentifiedImageError
import tifffile

from pix2pix_jax.data.formats import geotiff, limits, pillow
from pix2pix_jax.data.formats.geometry import Geometry
from pix2pix_jax.errors import UsageError

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PIXEL_AXES = "YXS"  # of one page; every other axis of a stack counts slices, except C, the channels
OME_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")

# A damaged file becomes a UsageError, which the library's own log would repeat.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


def read(path: Path, size: int, colors: bool, index: int | None) -> np.ndarray:
  """tifffile reads all number types; Pillow adds the colour models, and compressions that tifffile alone cannot read;
  rasterio adds compressions of GeoTIFF.

  Args:
    path: the file.
    size: its bytes.
    colors: as in `files.read`.
    index: which slice; None if the file holds one image.
  """
  with tifffile.TiffFile(path) as file:
    planes = slices(file)
    if index is None and len(planes) > 1:
      raise UsageError(
        f"{path} holds {len(planes)} images; choose one by slice=0 to {len(planes) - 1}, or save each as a file of "
        "its own."
      )
    channels = [_page(path, page, size, colors) for page in planes[index or 0]]
    return channels[0] if len(channels) == 1 else np.concatenate(channels, axis=-1)


def slices(file: tifffile.TiffFile) -> list[list[tifffile.TiffPage]]:
  """For each slice its pages, one for each channel; overviews and masks are no slices.

  Raises:
    ValueError: no image, or one whose sides are not numbers.
    UsageError: several series of images, or volumes within one page.
  """
  _check_directories(file)
  pages = [page for page in file.pages if isinstance(page, tifffile.TiffPage)]
  pages = [page for page in pages if not page.is_reduced and not page.is_mask]
  if not pages:
    raise ValueError("it contains no whole image")
  sides = [(page.imagedepth, page.imagelength, page.imagewidth, page.samplesperpixel) for page in pages]
  if not all(isinstance(side, int) for each in sides for side in each):  # a tag may hold several values, or text
    raise ValueError("a tag of its size or its channels is not one integer")
  if (count := len(pages) * pages[0].imagedepth) > len(pages):
    raise UsageError(f"{file.filehandle.path} holds {count} images in one page; save each as a file of its own.")
  if len(pages) == 1:
    return [pages]
  limits.check_claim(sum(page.nbytes for page in pages), file.filehandle.size)
  if file.is_ome and len(file.series) > 1:
    raise UsageError(
      f"{file.filehandle.path} holds {len(file.series)} series of images; save each as a file of its own."
    )
  series = file.series[0]
  outer = series.axes.rstrip(PIXEL_AXES) if pages[0].planarconfig == 1 else series.axes[: -len(pages[0].axes)]
  shape = series.shape[: len(outer)]
  if "C" not in outer or math.prod(shape) != len(pages):
    return [[page] for page in pages]
  order = np.moveaxis(np.arange(len(pages)).reshape(shape), outer.index("C"), -1)
  return [[pages[number] for number in each] for each in order.reshape(-1, order.shape[-1])]


def _check_directories(file: tifffile.TiffFile) -> None:
  """Follows the directories of the pages, each of which names the place of the next (TIFF 6.0, section 2).

  Raises:
    ValueError: one lies beyond the end of the file, or they form a loop.
  """
  form, handle = file.tiff, file.filehandle
  handle.seek(8 if form.is_bigtiff else 4)
  read = lambda layout, size: struct.unpack(layout, handle.read(size))[0]
  offset = read(form.offsetformat, form.offsetsize)
  room = handle.size  # which directories share
  while offset:
    if offset >= handle.size:
      raise ValueError("the file is truncated: its last image is missing")
    handle.seek(offset)
    length = read(form.tagnoformat, form.tagnosize) * form.tagsize
    room -= length + form.tagnosize + form.offsetsize
    if room < 0:
      raise ValueError("its directories of images form a loop")
    handle.seek(length, os.SEEK_CUR)
    offset = read(form.offsetformat, form.offsetsize)


def count(path: Path) -> int | None:
  """The number of slices; None for a single image."""
  with tifffile.TiffFile(path) as file:
    found = len(slices(file))
    return found if found > 1 else None


def holds_colors(path: Path, channels: int) -> bool:
  """Whether the tags of an image of 2 to 4 channels declare them to be RGB, or alpha in an even last channel."""
  with tifffile.TiffFile(path) as file:
    planes = slices(file)[0]
    page = planes[0]
  tags = tifffile.PHOTOMETRIC
  is_grey = page.photometric in (tags.MINISBLACK, tags.MINISWHITE)
  extra = tifffile.EXTRASAMPLE
  has_alpha = len(page.extrasamples) == 1 and page.extrasamples[0] in (extra.ASSOCALPHA, extra.UNASSALPHA)
  return len(planes) == 1 and is_grey == (channels < 3) and has_alpha == (channels in (2, 4))


def claimed_size(path: Path) -> tuple[int, int, int, int]:
  """(number of images; height, width and channels of the first) by the headers."""
  with tifffile.TiffFile(path) as file:
    planes = slices(file)
    first = planes[0]
    return len(planes), first[0].imagelength, first[0].imagewidth, len(first) * first[0].samplesperpixel


def lazy_shape(path: Path) -> tuple[int, int, int] | None:
  """(H, W, C) of a single image of which rasterio can read windows as they are; otherwise None."""
  with tifffile.TiffFile(path) as file:
    planes = slices(file)
    page = planes[0][0]
    if len(planes) > 1 or len(planes[0]) > 1 or not _is_plain(page):
      return None
    shape = page.imagelength, page.imagewidth, page.samplesperpixel
    return shape if geotiff.reads(path, page) else None


def _is_plain(page: tifffile.TiffPage) -> bool:
  """Whether the stored numbers of a page are its values, upright: no palette, ink, inverted grey or packed bits."""
  plain = page.photometric in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
  premultiplied = tifffile.EXTRASAMPLE.ASSOCALPHA in page.extrasamples
  return plain and page.bitspersample >= 8 and not premultiplied and _orientation(page) == 1


def _page(path: Path, page: tifffile.TiffPage, size: int, colors: bool) -> np.ndarray:
  if any(start + length > size for start, length in zip(page.dataoffsets, page.databytecounts)):
    raise ValueError("the file is truncated: its last pixels are missing")
  limits.check_claim(page.nbytes, size)
  array = np.array(_stored(path, page, colors))
  if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and page.bitspersample > 8 and array.dtype.kind == "u":
    array[..., 0] = np.iinfo(array.dtype).max - array[..., 0]
  return pillow.upright(array, _orientation(page))


def _orientation(page: tifffile.TiffPage) -> int:
  tag = page.tags.get(pillow.ORIENTATION_TAG)
  return 1 if tag is None else int(tag.value)


def _stored(path: Path, page: tifffile.TiffPage, colors: bool) -> np.ndarray:
  """(H, W, C) of a page as stored; Pillow has already inverted inverted greys of up to 8 bits."""
  photometric = tifffile.PHOTOMETRIC
  plain = page.photometric in (photometric.MINISBLACK, photometric.MINISWHITE, photometric.RGB)
  premultiplied = tifffile.EXTRASAMPLE.ASSOCALPHA in page.extrasamples
  bits = page.bitspersample
  if bits <= 8 and (bits < 8 or not plain or premultiplied or page.photometric == photometric.MINISWHITE):
    return _with_pillow(path, page, colors)
  if not plain:
    name = getattr(page.photometric, "name", page.photometric)
    raise UsageError(f"{path} is a TIFF with {bits} bits a channel in the colour model {name}. Save it as RGB or grey.")
  try:
    array = page.asarray()
  except (KeyError, ValueError, ImportError) as error:
    if "imagecodecs" not in str(error) and not isinstance(error, ImportError):
      raise
    if geotiff.can_decode(page):
      return geotiff.read(path)
    return _with_pillow(path, page, colors)
  if page.axes.startswith("S"):  # one plane for each channel
    array = np.moveaxis(array, 0, -1)
  return array[..., None] if array.ndim == 2 else array


def _with_pillow(path: Path, page: tifffile.TiffPage, colors: bool) -> np.ndarray:
  data = bytearray(path.read_bytes())
  if pillow.ORIENTATION_TAG in page.tags:  # Pillow turns some TIFFs upright itself and confuses the sides of others
    order = page.parent.byteorder
    struct.pack_into(order + "H", data, page.tags[pillow.ORIENTATION_TAG].valueoffset, 1)

  def opening():
    image = Image.open(io.BytesIO(data), formats=["TIFF"])
    image.seek(page.index)
    return image

  bits, channels = page.bitspersample, page.samplesperpixel
  if bits == 16 and channels in (3, 4) and page.planarconfig == tifffile.PLANARCONFIG.CONTIG:
    high, low = (";16L", ";16B") if sys.byteorder == "little" else (";16B", ";16L")  # libtiff returns native order
    return pillow.two_bytes(opening, "RGB" if channels == 3 else "RGBA", high, low)
  try:
    with opening() as image:
      array = pillow.pixels(image, colors)
  except UnidentifiedImageError:
    array = None
  array = array[..., None] if array is not None and array.ndim == 2 else array
  if array is None or bits > 8 and (array.shape[-1], array.dtype) != (channels, page.dtype):
    compression = getattr(page.compression, "name", page.compression)
    raise UsageError(
      f"{path} is a TIFF of {channels} channels with {bits} bits in {compression} compression, which needs the package "
      "imagecodecs: run pip install imagecodecs, or save the file uncompressed or with deflate."
    )
  return array


# --- Geometry


def geometry(path: Path) -> Geometry | None:
  """That of a GeoTIFF or an OME-TIFF; None for other TIFFs."""
  with tifffile.TiffFile(path) as file:
    page = slices(file)[0][0]
    if geotiff.is_georeferenced(page):
      return geotiff.geometry(path, page)
    return _ome_geometry(file, page) if file.is_ome else None


def _ome_geometry(file: tifffile.TiffFile, page: tifffile.TiffPage) -> Geometry:
  """Sizes of voxels, names of channels and counts of Z and T (OME schema 2016-06, elements Pixels and Channel)."""
  image = tifffile.xml2dict(file.ome_metadata or "")["OME"]["Image"]
  pixels = image["Pixels"]
  channels = pixels.get("Channel", [])
  channels = channels if isinstance(channels, list) else [channels]
  sizes = {f"PhysicalSize{axis}": pixels[f"PhysicalSize{axis}"] for axis in "XYZ" if f"PhysicalSize{axis}" in pixels}
  units = {f"{name}Unit": pixels[f"{name}Unit"] for name in sizes if f"{name}Unit" in pixels}
  names = tuple(str(channel.get("Name", "")) for channel in channels)
  depth = {axis: int(pixels[f"Size{axis}"]) for axis in "TZ"}
  return Geometry(
    "ome",
    (math.prod(depth.values()), page.imagelength, page.imagewidth),
    str(np.dtype(page.dtype).newbyteorder("=")),
    bands=names if any(names) else (),
    spacing=tuple(float(sizes.get(f"PhysicalSize{axis}", 1)) for axis in "XYZ"),
    extra={"metadata": {**sizes, **units}, **depth},
  )


# --- Writing


def write(path: Path, array: np.ndarray) -> None:
  """An uncompressed TIFF of any number type, (H, W, C)."""
  channels = array.shape[-1]
  tifffile.imwrite(
    path,
    array[..., 0] if channels == 1 else array,
    photometric="rgb" if channels in (3, 4) else "minisblack",
    planarconfig=None if channels == 1 else "contig",
    metadata=None,
  )


def write_volume(path: Path, array: np.ndarray, geometry: Geometry | None) -> None:
  """An OME-TIFF of slices (D, H, W, C), with the voxel sizes, channel names and time steps of its geometry.

  Raises:
    UsageError: a number type that OME-TIFF does not know.
  """
  if str(array.dtype) not in OME_DTYPES:
    raise UsageError(f"OME-TIFF holds {', '.join(OME_DTYPES)}, not {array.dtype}. Convert the array.")
  depth, height, width, channels = array.shape
  times, metadata = 1, {}
  if geometry is not None and geometry.form == "ome":
    times = geometry.extra["T"] if geometry.extra["T"] * geometry.extra["Z"] == depth else 1
    metadata = dict(geometry.extra["metadata"])
    if len(geometry.bands) == channels:
      metadata["Channel"] = {"Name": list(geometry.bands)}
  stack = np.moveaxis(array, -1, 1).reshape(times, depth // times, channels, height, width)
  tifffile.imwrite(path, stack, ome=True, photometric="minisblack", metadata={"axes": "TZCYX", **metadata})
