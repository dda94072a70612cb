"""The `podrt` command; `python -m podrt` is the same."""

from __future__ import annotations

import sys

import podrt


def main() -> int:
    """Run the command line that the process was started with; the result is the exit code."""
    arguments = sys.argv[1:]
    # Answered before anything is imported: scripts ask this often.
    if arguments in (["--version"], ["-v"]):
        print(f"podrt version {podrt.__version__}")
        return 0
    if arguments == ["version"]:
        from podrt.cli.version import version_text

        print(version_text())
        return 0
    # A command line of its own, which other container managers speak.
    if arguments[:1] == ["oci"]:
        from podrt.cli.oci import main as run_oci

        return run_oci(arguments[1:])
    from podrt.cli.main import main as run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
