"""Damaged headers promise absurd sizes, which are refused before memory is allocated for them."""

MAX_EXPANSION = 2000  # above what deflate and LZW reach


def check_claim(claimed: int, stored: int) -> None:
  """Checks the decoded size that a header promises.

  Args:
    claimed: bytes of pixels by the header.
    stored: bytes of the file.

  Raises:
    ValueError: no compression reaches that ratio.
  """
  if claimed > MAX_EXPANSION * stored + 2**28:
    raise ValueError(f"it claims {claimed} bytes of pixels in a file of {stored} bytes")
