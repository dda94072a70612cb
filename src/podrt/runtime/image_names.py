"""Which image a name means, as podman resolves it; synchronous, for the reading side too."""

from __future__ import annotations

from podrt.errors import Ambiguous, NotFound
from podrt.images.reference import candidates, id_prefix
from podrt.model.image import Image
from podrt.store.records import ImageRecord
from podrt.store.tables import Tables


def image_named(tables: Tables, name: str) -> Image:
    """The image with that reference (as podman resolves it) or unique ID prefix.

    Raises: NotFound, Ambiguous, InvalidConfig for what is no reference.
    """
    found = [record.image for record in tables.all(ImageRecord)]
    wanted = candidates(name)
    for reference in wanted:
        for image in found:
            if reference in image.references:
                return image
    prefix = id_prefix(name)
    matches = [image for image in found if prefix and image.id.startswith(prefix)]
    if len(matches) > 1:
        raise Ambiguous("image", name, [image.id for image in matches])
    if not matches:
        raise NotFound("image", name)
    return matches[0]
