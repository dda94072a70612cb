"""`podrt image ls`: reading, without Trio and without a lock."""

from __future__ import annotations

import argparse

from podrt.config import Settings
from podrt.model.image import Image
from podrt.runtime.view import open_view
from podrt.store.records import ImageRecord

from .flags import Parser
from .output import FORMAT_HELP, age, open_format, print_json, print_table
from .rows import IMAGE_HEADS, image_fields, image_size
from .shapes import image_row, short_image

_HEADS = ("REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE")


def ls_flags(parser: Parser) -> None:
    """Flags of `image ls`."""
    parser.add_argument("--format", default=None, metavar="FORMAT", help=FORMAT_HELP)
    parser.switch("--quiet", "-q", help="IDs only")
    parser.switch("--no-trunc", help="whole IDs")
    parser.switch("--noheading", "-n", help="no heading")


def ls(args: argparse.Namespace, settings: Settings) -> int:
    """List images, newest first."""
    form = open_format(args.format, "images", kind="image")
    with open_view(settings) as view:
        images = [record.image for record in view.store.tables.all(ImageRecord)]
    images.sort(key=lambda image: -image.created_at_ns)
    if form.is_json:
        print_json([image_row(image) for image in images])
        return 0
    if form.report is not None:
        fields = [
            image_fields(image, name, tag, whole=args.no_trunc)
            for image in images
            for name, tag in _names(image)
        ]
        form.report.print_rows(fields, None if args.noheading else IMAGE_HEADS)
        return 0
    if args.quiet:
        for image in images:
            print(f"sha256:{image.id}" if args.no_trunc else short_image(image))
        return 0
    rows = [row for image in images for row in _rows(image, whole=args.no_trunc)]
    print_table(_HEADS, rows, with_heads=not args.noheading)
    return 0


def _rows(image: Image, *, whole: bool) -> list[tuple[str, ...]]:
    identity = f"sha256:{image.id}" if whole else short_image(image)
    shown = (identity, age(image.created_at_ns), image_size(image.size_bytes))
    return [(name, tag, *shown) for name, tag in _names(image)]


def _names(image: Image) -> list[tuple[str, str]]:
    """The repositories and tags that an image has."""
    names = [reference.rpartition(":") for reference in image.references]
    return [(name, tag) for name, _, tag in names] or [("<none>", "<none>")]
