"""Where an image's prompt comes from: one text for all, a column, a file, its class, or what CLIP takes it for."""

from __future__ import annotations

import csv
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revelio_fast.data import ImageSource, SourceError
from revelio_fast.data.identity import normal_name
from revelio_fast.models.clip_prompts import ZeroShot, default_templates, in_sentence, readable, zero_shot
from revelio_fast.models.spec import ModelError
from revelio_fast.settings import Settings, option

KEY_COLUMNS = ("name", "image_id")
FILE_COLUMNS = ("file", "path", "file_name", "image")


class Prompts(ABC):
    """One prompt for each image of a source; what `FeatureExtractor.from_pretrained` takes as `prompt`."""

    @abstractmethod
    def about(self) -> str | dict[str, Any]:
        """What a manifest says of the prompts, as JSON values; a plain text for one that all images share."""

    @abstractmethod
    def texts(
        self,
        source: ImageSource,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        on_error: str = "stop",
        progress: bool = False,
    ) -> dict[int, str]:
        """``{image_id: prompt}``. What is dear to find is kept in `cache_dir`, if there is one.

        Raises
        ------
        SourceError
            If an image has no prompt; names it. With ``on_error="skip"`` images that cannot be read may lack one.
        """

    def summary(self) -> str | None:
        """What was found out about the latest source on the way, as a sentence; None if nothing."""
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.about()!r})"


class Fixed(Prompts):
    """The same text for all images; ``""`` is the paper's empty prompt. A plain str means this."""

    def __init__(self, text: str):
        self.text = text

    def about(self) -> str:
        return self.text

    def texts(self, source: ImageSource, **_: Any) -> dict[int, str]:
        return dict.fromkeys(source.image_ids, self.text)


class Column(Prompts):
    """A column of the source's CSV file or data set, e.g. captions; an empty cell is the empty prompt."""

    def __init__(self, column: str):
        self.column = column

    def about(self) -> dict[str, Any]:
        return {"mode": "column", "column": self.column}

    def texts(self, source: ImageSource, **_: Any) -> dict[int, str]:
        found = source.column(self.column)
        for image_id, value in found.items():
            if not isinstance(value, str):
                raise SourceError(
                    f"The column {self.column!r} holds {value!r} for the image {source.item(image_id).path}: "
                    "a prompt is a text."
                )
        return found


class File(Prompts):
    """A CSV (or TSV) file with a column ``prompt`` and a column ``name``, ``image_id`` or ``file``.

    A name is that of the source's `names`. A file is named as the source names it or relative to the CSV file's
    folder.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path).expanduser()

    def about(self) -> dict[str, Any]:
        return {"mode": "file", "file": self.path.name}

    def texts(self, source: ImageSource, **_: Any) -> dict[int, str]:
        by_name, kind = self._read()
        found: dict[int, str] = {}
        for item in source:
            name = {"name": item.name, "image_id": str(item.image_id)}.get(kind) or os.path.abspath(item.path)
            if name not in by_name:
                raise SourceError(f"{self.path} has no prompt for the image {item.path}: add a line for {name}.")
            found[item.image_id] = by_name[name]
        return found

    def _read(self) -> tuple[dict[str, str], str]:
        """Prompts by name, image id or absolute path, and the column that holds it."""
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file, delimiter="\t" if self.path.suffix.lower() == ".tsv" else ",")
                rows, columns = list(reader), list(reader.fieldnames or [])
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise SourceError(f"The prompts {self.path} cannot be read: {error}.") from error
        kind = next((name for name in (*KEY_COLUMNS, *FILE_COLUMNS) if name in columns), None)
        if kind is None or "prompt" not in columns:
            raise SourceError(
                f"{self.path} must have a column 'prompt' and a column 'name', 'image_id' or 'file': its columns are "
                f"{', '.join(map(repr, columns))}."
            )
        found: dict[str, str] = {}
        for line, row in enumerate(rows, start=2):
            name = (row[kind] or "").strip()
            if kind == "name":
                name = normal_name(name)
            elif kind != "image_id":
                name = os.path.abspath(self.path.parent / name)
            if name in found:
                raise SourceError(f"{self.path}, line {line}: {row[kind]!r} has a prompt already, above: keep one.")
            found[name] = row["prompt"] or ""
        return found, kind


class ClassTemplate(Prompts):
    """A sentence around each image's *true* class. An oracle: the features know the label before any classifier.

    Parameters
    ----------
    template : str
        With ``{}`` for the class, e.g. ``"a photo of a {}"``.
    """

    def __init__(self, template: str):
        in_sentence(template, "")
        self.template = template

    def about(self) -> dict[str, Any]:
        return {"mode": "true class", "template": self.template, "oracle": True}

    def texts(self, source: ImageSource, **_: Any) -> dict[int, str]:
        if not source.class_names:
            raise SourceError(f"{source.name} has no class names to put into {self.template!r}.")
        sentences = [in_sentence(self.template, readable(name)) for name in source.class_names]
        for item in source:
            if not 0 <= item.label < len(sentences):
                raise SourceError(f"The image {item.path} has no class to put into {self.template!r}.")
        return {image_id: sentences[label] for image_id, label in source.labels.items()}


class FromClip(Prompts):
    """A sentence around the class that a CLIP model predicts zero-shot, as the paper's ``from_CLIP``.

    Parameters
    ----------
    model : str or path
        A CLIP model: a folder, or a Hub id.
    templates : sequence of str, optional
        Sentences that ask CLIP; those of the data set by default.
    prompt : str, optional
        The sentence for the diffusion model; the first of `templates` by default.
    revision : str, optional
    cache_dir : path, optional
        Where predictions are kept; an extraction's output folder by default.

    Attributes
    ----------
    result : ZeroShot or None
        Of the latest source: predictions and zero-shot accuracy.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        templates: Sequence[str] | None = None,
        prompt: str | None = None,
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ):
        for each in (*(templates or ()), *([prompt] if prompt is not None else [])):
            in_sentence(each, "")
        self.model = os.fspath(model)
        self.templates = tuple(templates) if templates else None
        self.prompt = prompt
        self.revision = revision
        self.cache_dir = cache_dir
        self.result: ZeroShot | None = None

    def about(self) -> dict[str, Any]:
        return {
            "mode": "from_clip",
            "model": self.model,
            "revision": self.revision,
            "templates": list(self.templates) if self.templates else None,
            "prompt": self.prompt,
        }

    def summary(self) -> str | None:
        if self.result is None or self.result.accuracy is None:
            return None
        return f"CLIP {self.model}: zero-shot accuracy {self.result.accuracy:.2%} of {self.result.labelled} images"

    def texts(
        self,
        source: ImageSource,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        on_error: str = "stop",
        progress: bool = False,
    ) -> dict[int, str]:
        self.result = zero_shot(
            source, self.model, templates=self.templates, prompt=self.prompt, cache_dir=self.cache_dir or cache_dir,
            revision=self.revision, on_error=on_error, progress=progress,
        )  # fmt: skip
        sentence = self.prompt or (self.templates or default_templates(source))[0]
        sentences = [in_sentence(sentence, name) for name in self.result.class_names]
        return {image_id: sentences[found.label] for image_id, found in self.result.predictions.items()}


def as_prompts(prompt: str | Prompts) -> Prompts:
    """`Fixed` for a text, any `Prompts` as it is.

    Raises
    ------
    ModelError
        For anything else.
    """
    if isinstance(prompt, Prompts):
        return prompt
    if not isinstance(prompt, str):
        raise ModelError(
            f"prompt must be one text for all images ('' is the empty prompt) or one of revelio_fast.prompts "
            f"(Column, File, ClassTemplate, FromClip), got {type(prompt).__name__}."
        )
    return Fixed(prompt)


@dataclass(frozen=True)
class PromptConfig(Settings):
    """Where prompts come from, if not one text for all; for pooled features and Diff-C's maps alike.

    Parameters
    ----------
    column : str, optional
        Column of the source that holds prompts, e.g. captions.
    file : str, optional
        CSV file with columns 'prompt' and 'image_id' or 'file'.
    from_clip : str, optional
        CLIP model, a folder or a Hub id: a sentence around the class that it predicts zero-shot.
    template : str, optional
        Sentence with {} for the class that CLIP predicts; without a CLIP model for the TRUE class: an oracle, the
        features know the label.
    clip_templates : sequence of str, optional
        Sentences that ask CLIP, {} for the class, separated by |; the data set's by default.
    clip_revision : str, optional
        Branch, tag or commit of the CLIP model.
    """

    column: str | None = None
    file: str | None = None
    from_clip: str | None = None
    template: str | None = None
    clip_templates: tuple[str, ...] | None = option(None, separator="|")
    clip_revision: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.prompts()

    def prompts(self, text: str = "", cache_dir: str | os.PathLike[str] | None = None) -> Prompts:
        """The prompts that are asked for; `template` without `from_clip` is a `ClassTemplate`.

        Parameters
        ----------
        text : str
            One for all images.
        cache_dir : path, optional
            Where CLIP's predictions are kept.

        Raises
        ------
        SourceError
            If more than one kind is asked for.
        """
        kinds = {
            "a text": text or None,
            "a column": self.column,
            "a file": self.file,
            "a template or CLIP": self.from_clip if self.from_clip is not None else self.template,
        }
        asked = [name for name, value in kinds.items() if value is not None]
        if len(asked) > 1:
            raise SourceError(f"Prompts come from one place only, but {' and '.join(asked)} were given: choose one.")
        if self.column is not None:
            return Column(self.column)
        if self.file is not None:
            return File(self.file)
        if self.from_clip is not None:
            return FromClip(
                self.from_clip, self.clip_templates, self.template, revision=self.clip_revision, cache_dir=cache_dir
            )
        return Fixed(text) if self.template is None else ClassTemplate(self.template)
