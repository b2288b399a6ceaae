"""Damaged headers promise absurd sizes, which are refused before memory is allocated for them."""

MAX_EXPANSION = 2000  # above what deflate and LZW reach
# Of more than 1 GiB, which hardly any image has. Deflate reaches 1000 with nothing but zeros, photographs 2 or 3.
MAX_EXPANSION_OF_LARGE, LARGE = 100, 2**30


def check_claim(claimed: int, stored: int) -> None:
  """Checks the decoded size that a header promises.

  Args:
    claimed: bytes of pixels by the header.
    stored: bytes of the file.

  Raises:
    ValueError: no compression reaches that ratio; or none does with an image of that size that is worth reading.
  """
  is_bomb = claimed > LARGE and claimed > MAX_EXPANSION_OF_LARGE * stored
  if is_bomb or claimed > MAX_EXPANSION * stored + 2**28:
    raise ValueError(f"it claims {claimed} bytes of pixels in a file of {stored} bytes")
