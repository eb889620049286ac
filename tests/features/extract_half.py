"""Run as a process by test_families.py: features of every second of eight pictures, by several models."""

from __future__ import annotations

import sys

from safetensors.torch import save_file

from revelio_fast.features import FeatureExtractor
from tests.tiny import picture

if __name__ == "__main__":
    out, half, *models = sys.argv[1:]
    pictures = [picture(i) for i in range(int(half), 8, 2)]
    found = {}
    for model, size, prompt, layer in (given.rsplit(":", 3) for given in models):
        extractor = FeatureExtractor.from_pretrained(model, [layer], [250], prompt, image_size=int(size))
        found[model] = extractor.extract(pictures)[layer, 250]
    save_file(found, out)
