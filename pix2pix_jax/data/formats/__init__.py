"""File formats, one module each. `pix2pix_jax.data.files` chooses among them and turns their errors into messages.

Array libraries beyond NumPy, Pillow and tifffile are imported when a file needs them. None imports TensorFlow or JAX.
"""
