"""Checkpoints: our own file (`file`), public ones converted (`convert`), a summary of either."""

from prune.checkpoint.file import (
    FORMAT,
    TRAINING_KEYS,
    Checkpoint,
    assemble,
    capture,
    digest,
    fill,
    load,
    naming,
    network,
    network_id,
    save,
    save_into,
    write_archive,
)

__all__ = [
    "FORMAT",
    "TRAINING_KEYS",
    "Checkpoint",
    "assemble",
    "capture",
    "digest",
    "fill",
    "load",
    "naming",
    "network",
    "network_id",
    "save",
    "save_into",
    "write_archive",
]
