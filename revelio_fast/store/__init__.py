"""The activation store: features or maps, image ids and labels on disk, append-only, checksummed, read by position."""

from revelio_fast.store.background import Background
from revelio_fast.store.checks import StoreError
from revelio_fast.store.memory import available_memory, fits_in_memory
from revelio_fast.store.reader import ActivationStore, Rows
from revelio_fast.store.writer import StoreWriter

__all__ = ["ActivationStore", "Background", "Rows", "StoreError", "StoreWriter", "available_memory", "fits_in_memory"]
