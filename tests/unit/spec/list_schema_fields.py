"""List the fields of the runtime specification: `python list_schema_fields.py SCHEMA_DIRECTORY`.

The directory is `schema` of a checkout of the specification; the output belongs, below a comment
with version and date, into runtime_spec_fields.txt.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OTHER_SYSTEMS = ("solaris", "windows", "vm", "zos", "freebsd")


class Schema:
    """Schema files that refer to each other."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def resolve(self, node: dict[str, Any], file: str) -> tuple[dict[str, Any], str]:
        """A definition behind its references, and the file it is in."""
        while "$ref" in node:
            name, _, path = str(node["$ref"]).partition("#")
            file = name or file
            node = json.loads((self._directory / file).read_text())
            for part in filter(None, path.split("/")):
                node = node[part]
        return node, file

    def fields(self, node: dict[str, Any], file: str, path: str) -> Iterator[str]:
        """The paths below `path`, and the values it may have."""
        node, file = self.resolve(node, file)
        for value in node.get("enum", ()):
            yield f"{path}={value}"
        for part in (*node.get("allOf", ()), *node.get("anyOf", ())):
            yield from self.fields(part, file, path)
        for name, part in node.get("properties", {}).items():
            inner = f"{path}.{name}" if path else name
            yield inner
            if inner not in OTHER_SYSTEMS:
                yield from self.fields(part, file, inner)
        if isinstance(node.get("additionalProperties"), dict):
            yield f"{path}.*"
            yield from self.fields(node["additionalProperties"], file, f"{path}.*")
        if "patternProperties" in node:
            yield f"{path}.*"
        if "items" in node:
            yield f"{path}[]"
            yield from self.fields(node["items"], file, f"{path}[]")


if __name__ == "__main__":
    TOP = "config-schema.json"
    schema = Schema(Path(sys.argv[1]))
    print("\n".join(sorted(set(schema.fields({"$ref": f"{TOP}#"}, TOP, "")))))
