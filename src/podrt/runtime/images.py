"""Images as the runtime keeps them: files from the images room, records in the log."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import msgspec
import trio

from podrt.errors import InUse, NotFound
from podrt.images import blobs
from podrt.images.importer import import_image, sweep
from podrt.images.reference import candidates
from podrt.model.image import Image
from podrt.store.records import ContainerRecord, Delete, ImageRecord, Op, Put
from podrt.store.tables import Tables
from podrt.store.wal import Store

from .context import Context
from .image_names import image_named


async def import_archive(
    ctx: Context, source: str, reference: str, *, changes: Sequence[str], message: str
) -> Image:
    """Import a root file system's archive and record the image. Raises as `import_image`."""
    ctx.check_open()
    directory = ctx.layout.images_dir
    blobs.make_layout(directory)
    # Until the image is recorded a sweep would take its files for nobody's.
    with blobs.hold_images(directory):
        image = await trio.to_thread.run_sync(
            lambda: import_image(directory, source, reference, changes=changes, message=message)
        )
        await ctx.commit(lambda tables: _moved_references(tables, image))
    return image


def _moved_references(tables: Tables, image: Image) -> list[Op]:
    """Put the image; whoever had one of its references loses it."""
    ops: list[Op] = []
    known = tables.get(ImageRecord, image.id)
    former = known.image.references if known is not None else ()
    for other in list(tables.all(ImageRecord)):
        kept = tuple(ref for ref in other.image.references if ref not in image.references)
        if other.id != image.id and kept != other.image.references:
            ops.append(_put(other.image, kept))
    ops.append(_put(image, tuple(dict.fromkeys((*former, *image.references)))))
    return ops


def _without_reference(tables: Tables, image_id: str, reference: str) -> list[Op]:
    """Take one name from the image as it is now: another may have been moved meanwhile."""
    known = tables.get(ImageRecord, image_id)
    if known is None:
        raise NotFound("image", reference)
    kept = tuple(other for other in known.image.references if other != reference)
    return [_put(known.image, kept)]


def _put(image: Image, references: tuple[str, ...]) -> Put:
    renamed = msgspec.structs.replace(image, references=references)
    return Put(ImageRecord(id=image.id, image=renamed))


async def remove_image(ctx: Context, name: str, *, force: bool) -> Image:
    """Remove an image, or only the name given if it has others.

    Raises: NotFound; InUse naming the containers made from it.
    """
    ctx.check_open()
    ctx.view.refresh()
    image = image_named(ctx.store.tables, name)
    named = [reference for reference in candidates(name) if reference in image.references]
    if named and len(image.references) > 1:
        await ctx.commit(lambda tables: _without_reference(tables, image.id, named[0]))
        return image
    if len(image.references) > 1 and not force:
        raise InUse(f"image {image.id[:12]}", image.references)

    def build(tables: Tables) -> list[Op]:
        users = [
            record.config.name
            for record in tables.all(ContainerRecord)
            if record.image_id == image.id
        ]
        if users:
            raise InUse(f"image {name}", users)
        return [Delete(ImageRecord, image.id)]

    await ctx.commit(build)
    await trio.to_thread.run_sync(sweep_images, ctx)
    return image


def sweep_images(ctx: Context) -> None:
    """Remove the files that no recorded image needs."""

    def known() -> list[Image]:
        # A store of its own: this runs in a thread, beside the one that the loop uses.
        with contextlib.closing(Store.open(ctx.layout.state_dir, readonly=True)) as store:
            store.catch_up()
            return [record.image for record in store.tables.all(ImageRecord)]

    sweep(ctx.layout.images_dir, known)
