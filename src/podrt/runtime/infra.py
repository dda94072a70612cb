"""An infra container's program, where it has one: its image, and what it runs.

Without a shared pid or cgroup namespace and without a command or an image there is none: the pod's
monitor holds the namespaces, and no process is spent. Source: semantics.md section 7.
"""

from __future__ import annotations

import functools
import os

import msgspec

from podrt.engines.monitor import native_program
from podrt.errors import InvalidConfig, StoreFailed
from podrt.images.layers import PAUSE_PROGRAM, make_pause
from podrt.model.container import ContainerConfig, NamespaceMode, Namespaces
from podrt.model.image import Image, ImageDefaults
from podrt.model.pod import PodConfig

from .context import Context
from .image_names import image_named

_OWN = Namespaces(pid=NamespaceMode.PRIVATE, cgroup=NamespaceMode.PRIVATE)


def check_infra(config: PodConfig, *, infra: bool) -> None:
    """Refuse what an infra container cannot run, or what needs one. Raises: InvalidConfig."""
    for flag, value in (
        ("--infra-command", config.infra_command),
        ("--infra-image", config.infra_image),
        ("--infra-name", config.infra_name),
    ):
        if value and not infra:
            raise InvalidConfig(flag, "the pod has no infra container")
    if config.infra_command and not config.infra_image:
        program = config.infra_command[0]
        if program not in (PAUSE_PROGRAM, PAUSE_PROGRAM[1:]):
            raise InvalidConfig(
                "--infra-command",
                f"{program} is not in the infra container, which only holds {PAUSE_PROGRAM}: "
                "name an image that has it with --infra-image",
            )


def infra_image(ctx: Context, config: PodConfig) -> Image:
    """What the infra container's root file system is made of. Raises: NotFound, StoreFailed."""
    if config.infra_image:
        return image_named(ctx.store.tables, config.infra_image)
    layer = make_pause(ctx.layout.images_dir, _pause_program())
    return Image(id="", layers=(layer,), defaults=ImageDefaults(entrypoint=(PAUSE_PROGRAM,)))


def infra_config(
    config: ContainerConfig, pod: PodConfig, defaults: ImageDefaults
) -> ContainerConfig:
    """`config` with what the infra container of `pod` runs. Raises: InvalidConfig."""
    program = pod.infra_command or defaults.entrypoint + defaults.command
    if not program:
        raise InvalidConfig("--infra-image", f"{pod.infra_image} runs nothing: --infra-command")
    return msgspec.structs.replace(
        config,
        image=pod.infra_image,
        entrypoint=program,
        command=(),
        namespaces=_OWN,
        read_only=not pod.infra_image,
    )


@functools.cache
def _pause_program() -> bytes:
    path = native_program("podrt-pause")
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as exc:
        raise StoreFailed(os.path.normpath(path), exc.errno or 0, "read") from exc
