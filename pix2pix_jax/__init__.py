"""pix2pix in JAX: paired image-to-image translation with conditional adversarial networks."""

__version__ = "0.1.0"
