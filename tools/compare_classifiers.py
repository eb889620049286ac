"""Classifiers of handwritten digits on mini-sd, side by side: accuracy and seconds an image (about ten minutes).

    python -m tools.compare_classifiers --json docs/evidence/classifiers.json

A Markdown table is written next to the JSON file. Seconds are wall time of this machine: run it when nothing else does.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from revelio_fast.assets import mini_sd_path
from revelio_fast.atomic import atomic_write_bytes, atomic_write_json
from revelio_fast.classifiers import (
    CachedMaps,
    Classified,
    DiffCConfig,
    Pruning,
    ZeroShotClassifier,
    class_prompts,
    feature_record,
    load_classifier,
    train_diffc_online,
    train_on,
)
from revelio_fast.concepts import linear_probe, pooled_features
from revelio_fast.data import ImageSource, RandomCrops, open_source
from revelio_fast.features import FeatureExtractor, MapStore, extract_maps
from revelio_fast.models import OUTPUT
from revelio_fast.models.prompts import File, Prompts
from revelio_fast.report.versions import versions
from tools.mini_sd.data import DIGIT_NAMES

LAYER, TIMESTEP = "up_ft1", 25
TEMPLATE = "a handwritten {}"
BATCH = 50
EMPTY, ZERO_SHOT, ORACLE = "empty", "class named by the zero-shot classifier", "TRUE class (leak: an upper bound)"
JUDGES = {
    "5 noises of all classes": Pruning((5,), (1,)),
    "25 noises, classes dropped after 5": Pruning((5, 25), (3, 1)),
    "25 noises of all classes": Pruning((25,), (1,)),
}


class Comparison:
    """Runs the classifiers on the same images and collects a row for each."""

    def __init__(self, train: ImageSource, test: ImageSource, epochs: int, work: Path):
        self.train, self.test, self.epochs, self.work = train, test, epochs, work
        self.rows: list[dict[str, Any]] = []

    def add(self, method: str, **values: Any) -> None:
        """Keep and print a row."""
        self.rows.append({"method": method, **values})
        print(json.dumps(self.rows[-1]), flush=True)

    def zero_shot(self) -> Path:
        """The Diffusion Classifier with and without elimination; returns the names of the first as prompts."""
        extractor = FeatureExtractor.from_pretrained(mini_sd_path(), [OUTPUT], [0])
        prompts = class_prompts(DIGIT_NAMES, TEMPLATE)
        named: dict[int, str] = {}
        for name, pruning in JUDGES.items():
            judge = ZeroShotClassifier(extractor, prompts, DIGIT_NAMES, pruning=pruning, batch_size=BATCH)
            found = judge.classify(self.test, progress=False)
            alive = (len(DIGIT_NAMES), *pruning.keep)
            added = [now - before for now, before in zip(pruning.samples, (0, *pruning.samples), strict=False)]
            forwards = sum(count * classes for count, classes in zip(added, alive, strict=False))
            self.add(f"zero-shot, {name}", prompt="each class", forwards=forwards, **measured(found))
            if not named:
                for each in (found, judge.classify(self.train, progress=False)):
                    names = [prompts[label] for label in each.predicted.tolist()]
                    named |= dict(zip(each.image_ids.tolist(), names, strict=True))
        return self.prompt_file("named.csv", named)

    def prompt_file(self, name: str, prompts: dict[int, str]) -> Path:
        """A CSV file of prompts by image id."""
        path = self.work / name
        with path.open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["image_id", "prompt"])
            lines.writerows(prompts.items())
        return path

    def true_classes(self) -> Path:
        """Prompts that name each image's true class."""
        prompts = class_prompts(DIGIT_NAMES, TEMPLATE)
        labels = {**self.train.labels, **self.test.labels}
        return self.prompt_file("true.csv", {image_id: prompts[label] for image_id, label in labels.items()})

    def maps(self, layer: str, prompt: str | Prompts, folder: str, num_crops: int = 0) -> tuple[MapStore, MapStore]:
        """Cached maps of both halves."""
        extractor = FeatureExtractor.from_pretrained(mini_sd_path(), [layer], [TIMESTEP], prompt)
        crops = RandomCrops(extractor.image_size, hflip=False)
        options: dict[str, Any] = {"batch_size": BATCH, "progress": False}
        train = extract_maps(
            extractor, self.train, self.work / folder / "train", num_crops=num_crops, crops=crops, **options
        )
        test = extract_maps(extractor, self.test, self.work / folder / "test", **options)
        return train[layer, TIMESTEP], test[layer, TIMESTEP]

    def config(self, head: str = "diffc") -> DiffCConfig:
        """The demo's Diff-C, without mirroring: a mirrored digit is another sign."""
        return DiffCConfig(head=head, width=48, epochs=self.epochs, lr=1e-3, lr_min=5e-4, augmentation="none")

    def cached(self, method: str, folder: str, train: MapStore, test: MapStore, words: str, prompt: Any = None) -> None:
        """Train a head on cached maps (their crops, if there are any) and time it on the test images."""
        out = self.work / folder / method.replace(" ", "-")
        started = time.perf_counter()
        train_on(
            CachedMaps(train.variants() or train, train.labels), CachedMaps(test, test.labels),
            self.config("resnet" if method.startswith("SD") else "diffc"), out_dir=out, n_classes=len(DIGIT_NAMES),
            class_names=DIGIT_NAMES, features=feature_record(test.metadata), progress=False,
        )  # fmt: skip
        self.trained(method, out, words, time.perf_counter() - started, prompt)

    def trained(self, method: str, out: Path, words: str, seconds: float, prompt: Any = None) -> None:
        """Classify the test images with a trained classifier."""
        classifier = load_classifier(out, prompt=prompt)
        found = classifier.classify(self.test, batch_size=BATCH, progress=False)
        layer = f"{classifier.extractor.layers[0]}, t = {TIMESTEP}"
        parameters = sum(p.numel() for p in classifier.model.parameters())
        self.add(
            method, features=layer, prompt=words, forwards=1, parameters=parameters, training_seconds=round(seconds, 1),
            **measured(found),
        )  # fmt: skip

    def probe(self, train: MapStore, test: MapStore) -> None:
        """Logistic regression on the same maps, pooled."""
        result = linear_probe(pooled_features(train.maps), train.labels, pooled_features(test.maps), test.labels)
        self.add(
            "linear probe", features=f"{LAYER}, t = {TIMESTEP}", prompt=EMPTY, forwards=1,
            parameters=result.n_classes * (result.d + 1), accuracy=result.accuracy, interval=list(result.interval),
            images=result.n_test,
        )  # fmt: skip

    def run(self) -> None:
        """All classifiers."""
        named = self.zero_shot()
        train, test = self.maps(LAYER, "", "empty", num_crops=4)
        self.probe(train, test)
        self.cached("SD features", "bottleneck", *self.maps("bottleneck", "", "bottleneck"), EMPTY)
        self.cached("Diff-C, 4 cached crops of each image", "empty", train, test, EMPTY)
        self.cached("Diff-C", "plain", *self.maps(LAYER, "", "plain"), EMPTY)
        out = self.work / "online"
        extractor = FeatureExtractor.from_pretrained(mini_sd_path(), [LAYER], [TIMESTEP])
        started = time.perf_counter()
        train_diffc_online(
            extractor, self.train, self.test, self.config(), out_dir=out, batch_size=BATCH, class_names=DIGIT_NAMES,
            progress=False,
        )  # fmt: skip
        self.trained("Diff-C, fresh crops in every epoch", out, EMPTY, time.perf_counter() - started)
        for words, path in ((ZERO_SHOT, named), (ORACLE, self.true_classes())):
            prompts = File(path)
            self.cached("Diff-C", path.stem, *self.maps(LAYER, prompts, path.stem), words, prompts)


def measured(found: Classified) -> dict[str, Any]:
    """Accuracy and speed of a classification as JSON values."""
    metrics = found.metrics()
    return {name: metrics[name] for name in ("accuracy", "interval", "images", "seconds_per_image")}


def table(about: dict[str, Any]) -> str:
    """The Markdown page."""
    lines = [
        "# Classifiers of handwritten digits on mini-sd\n",
        f"Written by `{about['command']}` at {about['commit']}, {about['versions']['machine']}, torch "
        f"{about['versions']['torch']}. {about['train']} training and {about['test']} test digits (chance 10 %), "
        f"Diff-C and SD features of width 48, {about['epochs']} epochs. Seconds: wall time from the image to the "
        "class, decoding and diffusion model included; forwards: rows through the network, for Diff-C truncated after "
        "its layer. The zero-shot classifier is not trained; its prompts name the classes. A CLIP model that knows "
        "digits is not at hand: the class named by the zero-shot classifier takes its place.\n",
        "| classifier | features | prompt | accuracy | 95 % interval | s an image | forwards | trained parameters |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in about["rows"]:
        low, high = row["interval"]
        seconds = f"{row['seconds_per_image']:.4f}" if row.get("seconds_per_image") else ""
        parameters = f"{row['parameters']:,}" if "parameters" in row else ""
        lines.append(
            f"| {row['method']} | {row.get('features', 'denoising error')} | {row['prompt']} | {row['accuracy']:.1%} | "
            f"{low:.1%} to {high:.1%} | {seconds} | {row['forwards']} | {parameters} |"
        )
    diffc = next(row for row in about["rows"] if row["method"] == "Diff-C")
    judges = [row for row in about["rows"] if row["method"].startswith("zero-shot")]
    ratios = ", ".join(f"{row['seconds_per_image'] / diffc['seconds_per_image']:.0f}" for row in judges)
    if about["load_average"] > 1.25 * about["cores"]:  # torch's own threads make up one load a core
        lines.append(
            f"\nOther programs ran meanwhile (load average {about['load_average']:.0f} on {about['cores']} cores): "
            "these seconds are no measure of speed, and their ratios a rough one."
        )
    lines.append(
        f"\nThe zero-shot classifiers take {ratios} times as long for an image as Diff-C with the empty prompt. The "
        "prompt of the true class tells the network the answer: that row is no accuracy of anything that could be "
        "used. The seconds of prompts by the zero-shot classifier do not include its own; on the training digits, "
        "which mini-sd saw with their captions, it may name the class better than on new ones.\n\n"
        "Figures on mini-sd are no statement about Stable Diffusion or about the paper's results."
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--train", type=int, default=1000, help="training digits")
    parser.add_argument("--test", type=int, default=500, help="test digits")
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as work:
        comparison = Comparison(
            open_source("digits", split="train", limit=options.train),
            open_source("digits", split="test", limit=options.test),
            options.epochs,
            Path(work),
        )
        comparison.run()
    about = {
        "command": shlex.join(["python", "-m", "tools.compare_classifiers", *sys.argv[1:]]),
        "commit": commit,
        "versions": versions(),
        "load_average": max(load, os.getloadavg()[0]),
        "cores": os.cpu_count(),
        "train": len(comparison.train),
        "test": len(comparison.test),
        "epochs": options.epochs,
        "rows": comparison.rows,
    }
    atomic_write_json(options.json, about)
    atomic_write_bytes(options.json.with_suffix(".md"), table(about).encode())


if __name__ == "__main__":
    main()
