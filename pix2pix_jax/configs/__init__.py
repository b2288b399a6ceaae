"""Configurations: `default` comments every field, the others hold differences only."""
