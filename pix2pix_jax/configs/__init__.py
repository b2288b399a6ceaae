"""The named configurations. Each holds its differences from `default`; pix2pix_jax/config.py explains every field."""
