"""Named random streams: one seed gives independent keys for weights, noise and data.

Every use of randomness has a name. A stream's key depends only on the seed and the name, so no two uses share a key,
and adding a stream does not change the others.
"""

import zlib

import jax


def key(seed: int | jax.Array, stream: str) -> jax.Array:
  """The key of a stream ("init", "dropout", …). `seed` may be traced."""
  return jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()))


def data_seed(seed: int, stream: str) -> int:
  """A seed in [0, 2**31) for random numbers drawn outside JAX ("order", "jitter")."""
  return zlib.crc32(f"{seed}/{stream}".encode()) & 0x7FFFFFFF
