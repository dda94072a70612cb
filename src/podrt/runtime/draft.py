"""A pod built piece by piece: NewPod, AddInfra and SavePod of the seed as steps of one creation.

Nothing is taken and nobody sees anything before `save`, which commits the pod with all its
containers at once. So a draft that is given up, or whose caller dies, leaves nothing to undo.
"""

from __future__ import annotations

import msgspec

from podrt.errors import InvalidState
from podrt.model.container import ContainerConfig
from podrt.model.pod import PodConfig

from . import create
from .context import Context
from .pod import Pod
from .resolve import resolve_pod


class PodDraft:
    """A pod that is not there yet. It has an infra container only if `add_infra` is called."""

    def __init__(self, ctx: Context, config: PodConfig) -> None:
        ctx.check_open()
        # Every error of the configuration comes now, before its caller builds on it.
        resolve_pod(config, ctx.settings)
        self._ctx = ctx
        self._config = config
        self._infra = False
        self._containers: list[ContainerConfig] = []
        self._is_saved = False

    def add_infra(self, name: str = "") -> None:
        """Give the pod the infra container that holds what it shares.

        Raises: InvalidState for a pod that was asked to have none.
        """
        self._check_open("add infra to")
        if self._config.infra is False:
            raise InvalidState("add infra to", self._words, "it was made with infra=False")
        self._infra = True
        if name:
            self._config = msgspec.structs.replace(self._config, infra_name=name)

    def add(self, config: ContainerConfig) -> None:
        """Add a container, which is created with the pod."""
        self._check_open("add container to")
        self._containers.append(config)

    async def save(self) -> Pod:
        """Create all of it, or nothing; one `create` event for each object follows.

        Raises: as `Runtime.create_pod`.
        """
        self._check_open("save")
        config = msgspec.structs.replace(self._config, infra=self._infra)
        record = await create.create_pod(self._ctx, config, self._containers)
        self._is_saved = True
        return Pod(self._ctx, record.id, record.config.name)

    @property
    def _words(self) -> str:
        return f"pod {self._config.name}" if self._config.name else "pod"

    def _check_open(self, verb: str) -> None:
        self._ctx.check_open()
        if self._is_saved:
            raise InvalidState(verb, self._words, "it has been saved")
