"""The server behind `pix2pix_jax demo`: image bytes in and out, batches, the HTTP interface. Imports no TensorFlow."""
