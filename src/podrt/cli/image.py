"""`podrt image import | ls | rm`."""

from __future__ import annotations

import argparse

from podrt.config import Settings
from podrt.errors import InUse, InvalidConfig, NotFound, PodrtError
from podrt.model.image import Image
from podrt.runtime.runtime import Runtime
from podrt.runtime.view import open_view
from podrt.store.records import ImageRecord

from .errors import exit_code, print_error
from .flags import Parser
from .output import age, check_format, print_json, print_table
from .run_async import run
from .shapes import image_row, short_image

_HEADS = ("REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE")
NO_SUCH = 1
IN_USE = 2


def import__flags(parser: Parser) -> None:
    """Flags of `image import`."""
    parser.add_argument("source", metavar="FILE", help="a tar archive; - is standard input")
    parser.add_argument("reference", nargs="?", default="", metavar="REFERENCE", help="its name")
    parser.many("--change", "-c", metavar="INSTRUCTION", help="CMD, ENTRYPOINT, ENV, ...")
    parser.add_argument("--message", "-m", default="", metavar="TEXT", help="a comment")
    parser.switch("--quiet", "-q", help="accepted")


def import_(args: argparse.Namespace, settings: Settings) -> int:
    """Make an image from a root file system's archive and print its ID."""

    async def verb(runtime: Runtime) -> Image:
        return await runtime.import_image(
            args.source, args.reference, changes=args.change, message=args.message
        )

    print(f"sha256:{run(settings, verb).id}")
    return 0


def ls_flags(parser: Parser) -> None:
    """Flags of `image ls`."""
    parser.add_argument("--format", default=None, metavar="json", help="json")
    parser.switch("--quiet", "-q", help="IDs only")
    parser.switch("--no-trunc", help="whole IDs")
    parser.switch("--noheading", "-n", help="no heading")


def ls(args: argparse.Namespace, settings: Settings) -> int:
    """List images, newest first."""
    as_json = check_format(args.format)
    with open_view(settings) as view:
        images = [record.image for record in view.store.tables.all(ImageRecord)]
    images.sort(key=lambda image: -image.created_at_ns)
    if as_json:
        print_json([image_row(image) for image in images])
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
    shown = (identity, age(image.created_at_ns), _size(image.size_bytes))
    names = [reference.rpartition(":") for reference in image.references]
    return [(name, tag, *shown) for name, _, tag in names] or [("<none>", "<none>", *shown)]


def _size(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def remove_flags(parser: Parser) -> None:
    """Flags of `image rm`."""
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="names or IDs")
    parser.switch("--all", "-a", help="all images")
    parser.switch("--force", "-f", help="all names of an image at once")
    parser.switch("--ignore", "-i", help="pass over images that do not exist")


def remove(args: argparse.Namespace, settings: Settings) -> int:
    """Remove images: 1 when one does not exist, 2 when one is in use."""

    async def verb(runtime: Runtime) -> int:
        names = [image.id for image in runtime.images()] if args.all else args.images
        if not names and not args.all:
            raise InvalidConfig("", "image name or ID must be specified")
        code = 0
        for name in names:
            try:
                await runtime.remove_image(name, force=args.force or args.all)
                print(name)
            except PodrtError as exc:
                if isinstance(exc, NotFound) and args.ignore:
                    continue
                print_error(exc)
                code = max(code, _code(exc))
        return code

    return run(settings, verb)


def _code(error: PodrtError) -> int:
    if isinstance(error, NotFound):
        return NO_SUCH
    return IN_USE if isinstance(error, InUse) else exit_code(error)
