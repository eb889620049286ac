"""CLIP zero-shot: classes and probabilities of a plain transformers computation; kept, resumed, refused by name."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from revelio_fast.data import BrokenImageError, ImageItem, ImageSource, SourceError
from revelio_fast.models import ModelError, prompts
from revelio_fast.models.clip_prompts import Prediction, ZeroShot, readable, zero_shot
from tests.tiny import picture

NAMES = ["basset_hound", "tench, Tinca tinca", "lily", "aeroplane", "brick wall"]
KEYS = [str(number) for number in range(10)]
TEMPLATES = ("a photo of a {}.", "a very blurry {class}", "{}")


@pytest.fixture
def source() -> ImageSource:
    return ImageSource("pictures", KEYS, [4, 4, 2, 3, 4, 0, 1, 2, 0, 4], lambda i: f"picture {i}", picture, NAMES)


def plain(model: Path, images: list[Image.Image], templates: tuple[str, ...]) -> Tensor:
    """Probabilities ``[images, classes]``, one image and one sentence at a time."""
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    network = CLIPModel.from_pretrained(model).eval()
    processor, tokenizer = CLIPImageProcessor.from_pretrained(model), CLIPTokenizer.from_pretrained(model)
    unit = torch.nn.functional.normalize
    words = ["basset hound", "tench", "lily", "aeroplane", "brick wall"]
    with torch.no_grad():
        classes = []
        for word in words:
            told = [template.replace("{class}", word).replace("{}", word) for template in templates]
            tokens = [tokenizer(each, return_tensors="pt") for each in told]
            classes.append(unit(sum(unit(network.get_text_features(**each).pooler_output) for each in tokens))[0])
        pixels = [processor(images=image, return_tensors="pt") for image in images]
        seen = torch.cat([unit(network.get_image_features(**each).pooler_output) for each in pixels])
        return (network.logit_scale.exp() * seen @ torch.stack(classes).T).softmax(1)


@pytest.mark.parametrize("templates", [TEMPLATES, TEMPLATES[:1]])
def test_classes_are_those_of_plain_transformers(tiny_clip: Path, source: ImageSource, templates) -> None:
    expected = plain(tiny_clip, [item.load() for item in source], templates)
    found = zero_shot(source, tiny_clip, templates=templates, batch_size=4, progress=False)
    assert list(found.predictions) == source.image_ids and len(set(expected.argmax(1).tolist())) > 2
    assert [each.label for each in found.predictions.values()] == expected.argmax(1).tolist()
    # Sums of 32 to 64 float32 terms in another order, two layers, times a logit scale of 14: far below 1e-4.
    confidence = torch.tensor([each.confidence for each in found.predictions.values()])
    torch.testing.assert_close(confidence, expected.max(1).values, rtol=1e-4, atol=1e-4)
    labels = torch.tensor(list(source.labels.values()))
    assert 0 < found.accuracy < 1
    assert found.accuracy == pytest.approx((expected.argmax(1) == labels).float().mean().item())
    assert (found.labelled, found.class_names[:2]) == (10, ["basset hound", "tench"])


def test_one_template_is_clips_own_forward(tiny_clip: Path, source: ImageSource) -> None:
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    tokens = CLIPTokenizer.from_pretrained(tiny_clip)(
        [f"a {readable(n)}" for n in NAMES], padding=True, return_tensors="pt"
    )
    pixels = CLIPImageProcessor.from_pretrained(tiny_clip)(images=[item.load() for item in source], return_tensors="pt")
    with torch.no_grad():
        logits = CLIPModel.from_pretrained(tiny_clip).eval()(**tokens, **pixels).logits_per_image
    found = zero_shot(source, tiny_clip, templates=["a {}"], progress=False)
    assert [each.label for each in found.predictions.values()] == logits.argmax(1).tolist()


def test_predictions_are_kept_and_continued(tiny_clip: Path, source: ImageSource, tmp_path: Path) -> None:
    first = zero_shot(source, tiny_clip, cache_dir=tmp_path, batch_size=3, progress=False)
    (cache,) = tmp_path.iterdir()
    whole = cache.read_bytes()
    rows = list(csv.DictReader(whole.decode().splitlines()))
    ids = source.image_ids
    assert [row["image_id"] for row in rows] == [str(i) for i in ids]
    assert [row["content"] for row in rows] == [item.content.hex() for item in source]
    assert rows[0]["prompt"] == f"a photo of a {rows[0]['class_name']}." and rows[0]["path"] == "picture 0"

    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(ImageItem, "decode")
        assert zero_shot(source, tiny_clip, cache_dir=tmp_path, batch_size=3, progress=False) == first

    cut = whole[: whole.index(f"\n{ids[5]},".encode()) + 5]
    cache.write_bytes(cut)
    assert zero_shot(source, tiny_clip, cache_dir=tmp_path, batch_size=3, progress=False) == first
    assert cache.read_bytes() == whole

    # What was not computed is believed: the file is the answer, whatever the model would say now.
    other = 2
    assert first.predictions[ids[2]].label != other == source.labels[ids[2]]
    changed = [row if row["image_id"] != str(ids[2]) else {**row, "label": str(other)} for row in rows]
    with cache.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(changed)
    again = zero_shot(source, tiny_clip, cache_dir=tmp_path, progress=False)
    assert again.predictions[ids[2]].label == other and again.accuracy == pytest.approx(first.accuracy + 0.1)


def test_another_question_has_another_file(tiny_clip: Path, source: ImageSource, tmp_path: Path) -> None:
    moved = shutil.copytree(tiny_clip, tmp_path / "clip")
    for options in ({}, {"templates": TEMPLATES}, {"prompt": "a {}"}, {"model": moved}):
        asked = {"source": source, "model": tiny_clip, **options}
        zero_shot(**asked, cache_dir=tmp_path / "cache", progress=False)
    assert len(list((tmp_path / "cache").iterdir())) == 4
    # The same name, but another picture: its line is not used, and the new one is from then on.
    expected = list(zero_shot(source, tiny_clip, progress=False).predictions.values())
    for _ in range(2):
        other = ImageSource("pictures", KEYS, [0] * 10, str, lambda i: picture(9 - i), NAMES)
        found = zero_shot(other, tiny_clip, cache_dir=tmp_path / "cache", progress=False).predictions
        assert [each.label for each in found.values()] == [each.label for each in expected[::-1]]


def test_broken_images(tiny_clip: Path, source: ImageSource) -> None:
    good = source._opener
    source._opener = lambda i: good(i) if i != 4 else (_ for _ in ()).throw(OSError("no picture"))
    with pytest.raises(BrokenImageError, match="The image picture 4 cannot"):
        zero_shot(source, tiny_clip, progress=False)
    found = zero_shot(source, tiny_clip, on_error="skip", progress=False)
    assert list(found.predictions) == [i for i in source.image_ids if i != source.image_ids[4]] and found.labelled == 9


def test_unlabelled_images_have_no_accuracy(tiny_clip: Path) -> None:
    bare = ImageSource("bare", ["a", "b"], [-1, -1], str, picture, NAMES)
    found = zero_shot(bare, tiny_clip, progress=False)
    assert found.accuracy is None and found.labelled == 0 and len(found.predictions) == 2


def test_sentences_follow_the_data_set(tiny_clip: Path, source: ImageSource, tmp_path: Path) -> None:
    source.dataset = "pets"
    asked = prompts.FromClip(tiny_clip, cache_dir=tmp_path)
    texts = asked.texts(source)
    assert isinstance(asked.result, ZeroShot)
    first = source.image_ids[0]
    name = asked.result.class_names[asked.result.predictions[first].label]
    assert texts[first] == f"a photo of a {name}, a breed of cat or dog." and list(tmp_path.glob("clip-*.csv"))
    assert prompts.FromClip(tiny_clip, prompt="my {}").texts(source)[first] == f"my {name}"


def test_what_cannot_be_asked_is_named(tiny_clip: Path, source: ImageSource, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no class names for CLIP"):
        zero_shot(source.without_labels(), tiny_clip)
    with pytest.raises(SourceError, match=r"'a cat' has no place for the class: write \{\}"):
        prompts.FromClip(tiny_clip, templates=["a cat"])
    with pytest.raises(ModelError, match="no model folder"):
        zero_shot(source, tmp_path / "nothing")
    broken = shutil.copytree(tiny_clip, tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    torch.save({}, broken / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no pickled checkpoint is opened"):
        zero_shot(source, broken)
    config = json.loads((broken / "config.json").read_text()) | {"model_type": "bert"}
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="is of type 'bert'"):
        zero_shot(source, broken)


def test_readable() -> None:
    assert [readable(each) for each in ("basset_hound", "tench, Tinca tinca", "707-320")] == [
        "basset hound", "tench", "707-320"
    ]  # fmt: skip
    assert Prediction(1, 0.5)._fields == ("label", "confidence")
