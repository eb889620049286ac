"""Whether a store's rows are still of the images of a source: by name, by content and by class."""

from __future__ import annotations

import functools
from collections.abc import Callable

from revelio_fast.data import BrokenImageError, ImageSource, SourceError
from revelio_fast.store import ActivationStore


def contents_of(source: ImageSource) -> Callable[[int], bytes | None]:
    """``content(image_id)`` of a source's images, each read once; None for one that cannot be read."""

    @functools.cache
    def content(image_id: int) -> bytes | None:
        try:
            return source.item(image_id).content
        except BrokenImageError:
            return None

    return content


def refuse_other_images(
    source: ImageSource, store: ActivationStore, content: Callable[[int], bytes | None] | None = None
) -> None:
    """Check that the rows of a store are of images that the source has, with the same bytes and the same class.

    The source may have more images. Contents are compared where the store has them; files are read for it, not decoded.

    Parameters
    ----------
    content : callable, optional
        `contents_of` the source, where it serves several stores.

    Raises
    ------
    SourceError
        Saying how many images are gone, changed or in another class, and naming the first of each.
    """
    content = content or contents_of(source)
    labels, names, contents = source.labels, store.names, store.contents
    found: dict[str, list[str]] = {"not in the source": [], "changed": [], "in another class": []}
    for row, (image_id, label) in enumerate(zip(store.image_ids.tolist(), store.labels.tolist(), strict=True)):
        name = (names[row] if names else None) or f"image {image_id}"
        if image_id not in labels:
            found["not in the source"].append(name)
        elif contents is not None and contents[row].any() and content(image_id) != bytes(contents[row].tolist()):
            found["changed"].append(name)
        elif labels[image_id] != label:
            found["in another class"].append(name)
    said = [f"{len(which)} now {how} (first: {which[0]})" for how, which in found.items() if which]
    if said:
        whence = "" if names else " It has no names of images: a version that numbered them by position made it."
        raise SourceError(
            f"{store.path} has rows of {len(store)} images, which must be those of {source.name}: {', '.join(said)}."
            f"{whence} An image that is not in the source was removed, renamed, or left out by another limit. Choose "
            "another folder, or delete this one (resume=False) and extract again."
        )
