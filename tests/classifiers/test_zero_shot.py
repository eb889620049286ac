"""The Diffusion Classifier against a plain loop over diffusers' own parts: errors, predictions types, elimination."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from revelio_fast.assets import mini_sd_path
from revelio_fast.classifiers import Pruning, ZeroShotClassifier, class_prompts
from revelio_fast.classifiers import predictions as predictions_module
from revelio_fast.data import image_to_tensor, open_source
from revelio_fast.data.identity import image_id_of, pixel_digests
from revelio_fast.features import FeatureExtractor
from revelio_fast.features.noise import image_noise
from revelio_fast.models import OUTPUT

PROMPTS = ["a dark picture", "a light picture", "a cat", "a dog"]


def reference(model: Path, pixels: Tensor, prompts: list[str], timesteps: list[int], loss: str) -> Tensor:
    """Errors of the noise, float64 [classes, timesteps], one forward at a time."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    kinds = {"vae": AutoencoderKL, "unet": UNet2DConditionModel, "text_encoder": CLIPTextModel}
    parts = {name: kind.from_pretrained(model, subfolder=name).float().eval() for name, kind in kinds.items()}
    tokenizer = CLIPTokenizer.from_pretrained(model, subfolder="tokenizer")
    scheduler = DDPMScheduler.from_pretrained(model, subfolder="scheduler")
    found = torch.zeros(len(prompts), len(timesteps), dtype=torch.float64)
    with torch.no_grad():
        latents = parts["vae"].encode(pixels[None]).latent_dist.mode() * parts["vae"].config.scaling_factor
        for row, prompt in enumerate(prompts):
            ids = tokenizer(
                prompt, padding="max_length", max_length=tokenizer.model_max_length, truncation=True,
                return_tensors="pt",
            ).input_ids  # fmt: skip
            text = parts["text_encoder"](ids)[0]
            for column, t in enumerate(timesteps):
                kept = scheduler.alphas_cumprod[t]
                noise = image_noise(5, pixel_digests(pixels[None]), t, 0, latents.shape[1:])
                noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
                output = parts["unet"](noisy, torch.tensor([t]), encoder_hidden_states=text).sample
                predicted = {
                    "epsilon": output,
                    "v_prediction": kept.sqrt() * output + (1 - kept).sqrt() * noisy,
                    "sample": (noisy - kept.sqrt() * output) / (1 - kept).sqrt(),
                }[scheduler.config.prediction_type]
                difference = (predicted - noise).double()
                error = difference.square() if loss == "l2" else difference.abs()
                found[row, column] = error.mean()
    return found


def model_that_predicts(tiny_sd: Path, kind: str, folder: Path) -> Path:
    if kind == "epsilon":
        return tiny_sd
    shutil.copytree(tiny_sd, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": kind}))
    return folder


@pytest.fixture(scope="module")
def pixels(pictures: Path) -> Tensor:
    return image_to_tensor(open_source(pictures)[17].load(), 32)


@pytest.fixture(scope="module")
def extractor(tiny_sd: Path) -> FeatureExtractor:
    return FeatureExtractor.from_pretrained(tiny_sd, [OUTPUT], [0], seed=5)


@pytest.mark.parametrize(
    "kind, loss",
    [("epsilon", "l2"), ("epsilon", "l1"), ("v_prediction", "l2"), ("v_prediction", "l1"), ("sample", "l2")],
)
def test_errors_are_those_of_a_plain_loop(tiny_sd: Path, pixels: Tensor, tmp_path: Path, kind: str, loss: str) -> None:
    model = model_that_predicts(tiny_sd, kind, tmp_path / "model")
    judge = ZeroShotClassifier(
        FeatureExtractor.from_pretrained(model, [OUTPUT], [0], seed=5), PROMPTS, pruning=Pruning((5,), (1,)),
        loss=loss, batch_size=6,
    )  # fmt: skip
    found = judge.errors(pixels)
    expected = reference(model, pixels, PROMPTS, [100, 300, 500, 700, 900], loss).mean(1)
    # float32 networks of some 20 layers, batched another way: relative differences of about 1e-6 each.
    torch.testing.assert_close(found.errors, expected, rtol=1e-4, atol=0)
    assert found.samples.tolist() == [5] * 4
    assert found.ranking == expected.argsort().tolist()


def test_elimination_keeps_the_best_of_each_stage(extractor: FeatureExtractor, tiny_sd: Path, pixels: Tensor) -> None:
    pruning = Pruning((2, 5, 10), (3, 2, 1))
    judge = ZeroShotClassifier(extractor, PROMPTS, pruning=pruning, batch_size=7)
    timesteps = list(range(50, 1000, 100))
    table = reference(tiny_sd, pixels, PROMPTS, timesteps, "l2")
    classes, seen, ranking = set(range(4)), [], []
    for chosen, keep in zip(pruning.stages(), pruning.keep, strict=True):
        seen += chosen
        order = sorted(classes, key=lambda c: float(table[c, seen].sum()))
        ranking = order[keep:] + ranking
        classes = set(order[:keep])
    found = judge.errors(pixels)
    assert found.ranking == [*classes, *ranking]
    assert found.samples[found.ranking].tolist() == [10, 10, 5, 2]
    for place, count in zip(found.ranking, (10, 10, 5, 2), strict=True):
        expected = table[place, seen[:count]].mean()
        torch.testing.assert_close(found.errors[place], expected, rtol=1e-4, atol=0)


def test_stages_are_evenly_spread_and_never_repeat() -> None:
    for pruning in (Pruning(), Pruning((3, 7, 8), (9, 3, 1)), Pruning((1,), (1,)), Pruning((7, 10), (2, 1))):
        stages = pruning.stages()
        flat = [index for stage in stages for index in stage]
        assert sorted(flat) == list(range(pruning.samples[-1]))
        assert [sum(map(len, stages[: i + 1])) for i in range(len(stages))] == list(pruning.samples)
    assert Pruning().stages()[0][:3] == [5, 15, 25]


def test_all_classes_see_the_same_noise_and_ties_go_to_the_first(extractor: FeatureExtractor, pixels: Tensor) -> None:
    judge = ZeroShotClassifier(extractor, ["a cat"] * 3, ["x", "y", "z"], pruning=Pruning((4,), (1,)), batch_size=12)
    found = judge.errors(pixels)
    # The rows of one batch go through the same arithmetic, so equal prompts give equal bits.
    assert len(set(found.errors.tolist())) == 1 and found.ranking == [0, 1, 2]
    assert not torch.equal(judge.errors(pixels.flip(2)).errors, found.errors)


def test_a_cut_off_file_is_continued_to_the_same_bits(
    extractor: FeatureExtractor, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = ZeroShotClassifier(extractor, PROMPTS[:2], ["dark", "light"], pruning=Pruning((2,), (1,)), batch_size=4)
    source = open_source(pictures, limit=8)
    whole = judge.classify(source, tmp_path / "whole.csv", progress=False)
    append, calls = predictions_module.PredictionLog.append, []

    def append_or_die(self, *arguments) -> None:
        append(self, *arguments)
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(predictions_module.PredictionLog, "append", append_or_die)
    with pytest.raises(KeyboardInterrupt):
        judge.classify(source, tmp_path / "cut.csv", progress=False)
    monkeypatch.undo()
    again = judge.classify(source, tmp_path / "cut.csv", progress=False)
    assert (tmp_path / "whole.csv").read_bytes() == (tmp_path / "cut.csv").read_bytes()
    assert again.timed == 5 and whole.timed == 8 and torch.equal(again.predicted, whole.predicted)
    assert whole.labels.tolist() == [0] * 4 + [1] * 4
    other = ZeroShotClassifier(extractor, PROMPTS[1:3], ["dark", "light"], pruning=Pruning((2,), (1,)), batch_size=4)
    with pytest.raises(ValueError, match="made with other settings"):
        other.classify(source, tmp_path / "cut.csv", progress=False)


def test_broken_images(extractor: FeatureExtractor, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    for number in range(3):
        shutil.copy(pictures / "dark" / f"{number:02}.png", folder)
    (folder / "01.png").write_bytes(b"no")
    judge = ZeroShotClassifier(extractor, PROMPTS, pruning=Pruning((1,), (1,)))
    with pytest.raises(ValueError, match=r"01\.png"):
        judge.classify(folder, progress=False)
    found = judge.classify(folder, on_error="skip", progress=False)
    assert found.image_ids.tolist() == [image_id_of("00.png"), image_id_of("02.png")]


def test_mini_sd_names_digits() -> None:
    """docs/mini-sd.md: 88.5 % of 200 digits by five noises; of 20 digits that is 88.5 +- 7 %, chance is 10 %."""
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    judge = ZeroShotClassifier(
        FeatureExtractor.from_pretrained(mini_sd_path(), [OUTPUT], [0]), class_prompts(names, "a handwritten {}"),
        names, pruning=Pruning((2, 6), (3, 1)), batch_size=20,
    )  # fmt: skip
    found = judge.classify(open_source("digits", split="test", limit=20), progress=False)
    assert found.accuracy is not None and found.accuracy > 0.5


@pytest.mark.parametrize(
    "samples, keep, words",
    [
        ((5, 5), (2, 1), r"samples is \(5, 5\)"),
        ((0,), (1,), r"samples is \(0,\)"),
        ((5, 9), (1, 2), r"keep is \(1, 2\)"),
        ((5,), (2,), "falling to 1"),
        ((5, 9), (1,), "one number for each stage"),
    ],
)
def test_impossible_stages_are_named(samples: tuple, keep: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Pruning(samples, keep)


def test_bad_input_is_named(tiny_sd: Path, extractor: FeatureExtractor) -> None:
    with pytest.raises(ValueError, match="needs the layer 'output'"):
        ZeroShotClassifier(FeatureExtractor.from_pretrained(tiny_sd, ["bottleneck"], [0]), PROMPTS)
    with pytest.raises(ValueError, match="4 prompts for 3 classes"):
        ZeroShotClassifier(extractor, PROMPTS, ["a", "b", "c"])
    with pytest.raises(ValueError, match="loss is 'huber'"):
        ZeroShotClassifier(extractor, PROMPTS, loss="huber")
    with pytest.raises(ValueError, match="only 1000 timesteps"):
        ZeroShotClassifier(extractor, PROMPTS, pruning=Pruning((25, 1001), (2, 1)))
    with pytest.raises(ValueError, match="has no place for the class"):
        class_prompts(["a"], "a photo")
    assert class_prompts(["basset_hound"], "a {}, a pet") == ["a basset hound, a pet"]
