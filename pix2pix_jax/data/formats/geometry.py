"""Where the pixels of a file lie in the world, and which number stands for "no value"."""

import dataclasses
from typing import Any

Numbers = tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Geometry:
  """What a file says about its grid, read by `files.read_geometry` and stored again by writers of the same format.

  Attributes:
    form: the family of formats, `"raster"` (GeoTIFF), `"nifti"`, `"itk"` (MetaImage, NRRD, DICOM) or `"ome"`.
    shape: of a raster (height, width); of a volume its spatial axes as its library numbers them: (i, j, k) of NIfTI,
      (z, y, x) of the others.
    dtype: number type of the values as `files.read` returns them.
    nodata: the number that stands for "no value", or None. `files.read` leaves it in place.
    bands: names of the channels; empty if the file has none.
    unit: unit of the values; empty if the file has none.
    crs: coordinate reference system as WKT; empty if there is none.
    transform: (a, b, c, d, e, f): the corner of a pixel (column, row) lies at x = a·column + b·row + c,
      y = d·column + e·row + f. None if there is none.
    affine: 4×4, row by row: voxel (x, y, z, 1) → millimetres, x to the patient's right, y to the front, z to the head
      (RAS+), for NIfTI and ITK alike. None for other formats.
    spacing: distances of voxels along (x, y, z), in millimetres; for OME-TIFF in the unit of `extra`.
    origin: centre of the first voxel in millimetres by ITK's axes (LPS+: left, back, head).
    direction: 3×3 unit vectors of the voxel axes, row by row, by ITK's axes.
    extra: more that the format's own writer stores again.
  """

  form: str
  shape: tuple[int, ...]
  dtype: str
  nodata: float | None = None
  bands: tuple[str, ...] = ()
  unit: str = ""
  crs: str = ""
  transform: Numbers | None = None
  affine: tuple[Numbers, ...] | None = None
  spacing: Numbers = ()
  origin: Numbers = ()
  direction: Numbers = ()
  extra: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)

  @property
  def grid(self) -> tuple[int, int, int]:
    """(z, y, x) of a volume, whichever way its library numbers axes; z is 1 for a flat image."""
    reversed_shape = self.shape if self.form == "nifti" else self.shape[::-1]
    x, y, z = (*reversed_shape, 1)[:3]
    return z, y, x
