"""Autoencoders as other code saves them, one file per format; nothing here executes a pickle."""

from revelio_fast.interop.accelerate import Acceleration, accelerate, restore
from revelio_fast.interop.formats import FORMATS
from revelio_fast.interop.load import load_sae
from revelio_fast.interop.official import read_official, write_official

__all__ = ["FORMATS", "Acceleration", "accelerate", "load_sae", "read_official", "restore", "write_official"]
