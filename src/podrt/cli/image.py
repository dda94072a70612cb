"""`podrt image import | rm`."""

from __future__ import annotations

import argparse

from podrt.config import Settings
from podrt.errors import InUse, InvalidConfig, NotFound, PodrtError
from podrt.model.image import Image
from podrt.runtime.runtime import Runtime

from .errors import exit_code, print_error
from .flags import Parser
from .run_async import run

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
