"""Names of images: taken apart, checked, and made full as podman makes them.

Source: containers-image(5) and the OCI distribution specification's grammar of names.
"""

from __future__ import annotations

import re

import msgspec

from podrt.errors import InvalidConfig

DEFAULT_TAG = "latest"
LOCAL_REGISTRY = "localhost"
# Where a name without a registry may be stored, in the order podman looks. docker.io keeps
# its own images under "library/", which people never write.
_SHORT_NAME_HOMES = (LOCAL_REGISTRY, "docker.io")

# The grammar's bound on a whole name; longer ones would not fit other tools either.
_MAX_NAME = 255
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_PART}(?:/{_PART})*")
_HOST = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]{1,5})?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ID = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """An image's name in its parts; `registry` is "" for a short name.

    `tag` and `digest` ("sha256:" and 64 hex digits) exclude each other; with neither the tag
    is `latest`.
    """

    registry: str
    path: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        """The name as it is stored and shown."""
        name = f"{self.registry}/{self.path}" if self.registry else self.path
        return f"{name}@{self.digest}" if self.digest else f"{name}:{self.tag or DEFAULT_TAG}"


def parse_reference(text: str, field: str = "image") -> Reference:
    """Take `text` apart. `name:tag@digest` drops the tag, as podman does.

    Raises: InvalidConfig naming `field`.
    """
    rest, digest = _split_digest(text, field)
    rest, tag = _split_tag(rest, text, field)
    registry, path = _split_registry(rest)
    if registry and _HOST.fullmatch(registry) is None:
        raise InvalidConfig(field, f"{text!r}: {registry!r} is not a registry's name")
    if _PATH.fullmatch(path) is None:
        reason = "a repository name must be lowercase" if path != path.lower() else "invalid name"
        raise InvalidConfig(field, f"{_shown(text)}: invalid reference format: {reason}")
    if len(registry) + 1 + len(path) > _MAX_NAME:
        raise InvalidConfig(field, f"{_shown(text)}: a name has at most {_MAX_NAME} characters")
    return Reference(registry=registry, path=path, tag="" if digest else tag, digest=digest)


def normalise(text: str, field: str = "reference") -> str:
    """The full name under which an image named `text` is stored here.

    A short name becomes `localhost/<name>:latest`. Raises: InvalidConfig naming `field`; a
    digest cannot be chosen, so it is refused too.
    """
    reference = parse_reference(text, field)
    if reference.digest:
        raise InvalidConfig(field, f"{_shown(text)}: a new image is named by a tag, not a digest")
    if not reference.registry:
        reference = msgspec.structs.replace(reference, registry=LOCAL_REGISTRY)
    return str(reference)


def candidates(text: str, field: str = "image") -> tuple[str, ...]:
    """The full names an image asked for as `text` may be stored under, the best first.

    Raises: InvalidConfig naming `field`.
    """
    reference = parse_reference(text, field)
    if reference.registry:
        return (str(reference),)
    homes = []
    for registry in _SHORT_NAME_HOMES:
        is_official = registry == "docker.io" and "/" not in reference.path
        path = f"library/{reference.path}" if is_official else reference.path
        homes.append(str(msgspec.structs.replace(reference, registry=registry, path=path)))
    return tuple(homes)


def id_prefix(text: str) -> str | None:
    """The hex digits if `text` may be (the beginning of) an image's ID, else None."""
    match = _ID.fullmatch(text)
    return match.group(1) if match else None


def _shown(text: str) -> str:
    """`text` quoted, and cut where it would fill the screen."""
    return repr(text if len(text) <= _MAX_NAME else f"{text[:32]}...")


def _split_digest(text: str, field: str) -> tuple[str, str]:
    name, at, digest = text.partition("@")
    if at and _DIGEST.fullmatch(digest) is None:
        raise InvalidConfig(
            field, f"{_shown(text)}: a digest is 'sha256:' and 64 lower-case hex digits"
        )
    return name, digest


def _split_tag(name: str, text: str, field: str) -> tuple[str, str]:
    # A colon before the last slash belongs to a registry's port.
    head, slash, leaf = name.rpartition("/")
    leaf, colon, tag = leaf.partition(":")
    if colon and _TAG.fullmatch(tag) is None:
        raise InvalidConfig(field, f"{_shown(text)}: invalid reference format: invalid tag")
    return head + slash + leaf, tag or DEFAULT_TAG


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == LOCAL_REGISTRY):
        return first, rest
    return "", name
