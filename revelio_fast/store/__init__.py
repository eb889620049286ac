"""The activation store: features, image ids and labels on disk, append-only, checksummed, memory-mapped."""

from revelio_fast.store.background import Background
from revelio_fast.store.manifest import StoreError
from revelio_fast.store.reader import ActivationStore, Rows
from revelio_fast.store.writer import StoreWriter

__all__ = ["ActivationStore", "Background", "Rows", "StoreError", "StoreWriter"]
