"""TFDS builders that ship with the project; importing one registers it with TFDS."""
