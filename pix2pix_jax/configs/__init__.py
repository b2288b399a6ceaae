"""The named configurations. Each sets the fields that differ from `default`; config.py explains every field."""
