"""Builds what is not Python: the Cython modules and the static C programs.

Everything else about the package stands in pyproject.toml.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Distribution, Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
FAST = Path("src/podrt/_fast")
NATIVE = Path("src/podrt/_native")
PROGRAMS_FOLDER = Path("podrt/_native/bin")

# A monitor lives as long as its pod, so its size in memory counts: one built with musl takes a
# tenth of one built with glibc. Kernel headers are looked up last, behind musl's own.
MUSL = [
    "musl-gcc",
    "-idirafter",
    "/usr/include",
    "-idirafter",
    f"/usr/include/{platform.machine()}-linux-gnu",
]
LINKS = (["-fPIE", "-static-pie"], ["-static"])
COMMON_FLAGS = [
    "-std=gnu11",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",  # functions of a table share their signature
    "-Wshadow",
    "-Wswitch-enum",
    "-fstack-protector-strong",
    "-U_FORTIFY_SOURCE",
    "-D_FORTIFY_SOURCE=2",
    "-Wl,-z,relro,-z,now,-z,noexecstack",
]
PROBE = """
#include <stdio.h>
#include <sys/epoll.h>
#include <linux/openat2.h>
int main(void) { puts("static"); return 0; }
"""
PT_INTERP = 3


def is_static(program: Path) -> bool:
    """True when the ELF file asks for no dynamic loader (64-bit little endian only)."""
    data = program.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        return False
    (start,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    kinds = [struct.unpack_from("<I", data, start + index * size)[0] for index in range(count)]
    return PT_INTERP not in kinds


def works(compiler: list[str], link: list[str], folder: Path) -> bool:
    """Build a small program, and run it: some compilers accept -static-pie and ignore it."""
    source, program = folder / "probe.c", folder / "probe"
    source.write_text(PROBE)
    command = [*compiler, *COMMON_FLAGS, *link, str(source), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, check=False)
    if built.returncode != 0 or not is_static(program):
        return False
    ran = subprocess.run([str(program)], capture_output=True, check=False)
    return ran.returncode == 0 and ran.stdout == b"static\n"


def find_compiler() -> list[str]:
    """The first compiler and way of linking that make a static program here."""
    named = os.environ.get("CC")
    candidates = [shlex.split(named)] if named else [MUSL, ["cc"], ["gcc"]]
    with tempfile.TemporaryDirectory() as folder:
        for compiler in candidates:
            if shutil.which(compiler[0]) is None:
                continue
            for link in LINKS:
                if works(compiler, link, Path(folder)):
                    return [*compiler, *COMMON_FLAGS, *link]
    tried = ", ".join(candidate[0] for candidate in candidates)
    raise SystemExit(
        f"podrt: no compiler here makes static programs (tried {tried}). Install one: "
        "on Debian gcc and libc6-dev or musl-tools, on Fedora gcc and glibc-static, "
        "on Alpine gcc, musl-dev and linux-headers."
    )


def program_sources() -> dict[str, list[Path]]:
    """Each C program and its sources: pause.c is one, all the other files are the monitor."""
    sources = sorted(NATIVE.glob("*.c"))
    pause = [path for path in sources if path.name == "pause.c"]
    monitor = [path for path in sources if path.name != "pause.c"]
    wanted = {"podrt-monitor": monitor, "podrt-pause": pause}
    return {name: paths for name, paths in wanted.items() if paths}


def is_fresh(target: Path, sources: list[Path]) -> bool:
    """True when `target` is newer than what it is made from, headers and this file included."""
    if not target.exists():
        return False
    made_from = [*sources, *NATIVE.glob("*.h"), HERE / "setup.py"]
    return all(path.stat().st_mtime <= target.stat().st_mtime for path in made_from)


def build_programs(folder: Path) -> list[Path]:
    """Compile the C programs into `folder`; what is fresh is left alone."""
    compiler: list[str] = []
    made = []
    for name, sources in program_sources().items():
        target = folder / name
        made.append(target)
        if is_fresh(target, sources):
            continue
        compiler = compiler or find_compiler()
        strict = ["-Werror"] if os.environ.get("PODRT_WERROR") else []
        folder.mkdir(parents=True, exist_ok=True)
        # A running monitor's file cannot be written, but it can be replaced.
        fresh = folder / f".{name}.new"
        command = [*compiler, *strict, *map(str, sources), "-o", str(fresh)]
        print(shlex.join(command), file=sys.stderr)
        if subprocess.run(command, check=False).returncode != 0:
            raise SystemExit(f"podrt: cannot compile {name}")
        fresh.chmod(0o755)
        fresh.replace(target)
    return made


class BuildNative(build_ext):
    """Builds the C programs where the extension modules go."""

    def run(self) -> None:
        super().run()
        in_tree = self.inplace or getattr(self, "editable_mode", False)
        base = Path("src") if in_tree else Path(self.build_lib)
        self.programs = build_programs(base / PROGRAMS_FOLDER)

    def get_outputs(self) -> list[str]:
        base = Path(self.build_lib) / PROGRAMS_FOLDER
        return [*super().get_outputs(), *(str(base / name) for name in program_sources())]


class PlatformDistribution(Distribution):
    """A wheel of podrt always belongs to one platform: it holds programs."""

    def has_ext_modules(self) -> bool:
        return True


def extensions() -> list[Extension]:
    """One extension for each .pyx; libraries are named in a `# distutils:` line of the file."""
    return [
        Extension(
            f"podrt._fast.{path.stem}",
            [str(path)],
            include_dirs=[str(FAST), str(NATIVE)],
            depends=[str(header) for header in sorted(FAST.glob("*.h"))],
            extra_compile_args=["-O2", "-g0", "-std=gnu11"],
        )
        for path in sorted(FAST.glob("*.pyx"))
    ]


os.chdir(HERE)
setup(
    distclass=PlatformDistribution,
    cmdclass={"build_ext": BuildNative},
    ext_modules=cythonize(
        extensions(),
        build_dir="build/cython",
        include_path=["src"],
        compiler_directives={"language_level": 3},
        quiet=True,
    ),
)
