"""Builds the one C extension; everything else about the distribution is declared in pyproject.toml."""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

ENGINE = Path("datamover/engine")

# 3.11 is the first version whose stable ABI has Py_buffer, so one abi3 wheel serves every later interpreter.
LIMITED_API = "0x030B0000"

compile_args = ["-std=c11", "-O3", "-g", "-fvisibility=hidden", "-Wall", "-Wextra"]
link_args: list[str] = []
if os.environ.get("TAPEBAY_WERROR") == "1":
    compile_args.append("-Werror")
if os.environ.get("TAPEBAY_SANITIZE") == "1":
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
    compile_args += ["-O1", *sanitizers]
    link_args += sanitizers

setup(
    ext_modules=[
        Extension(
            "datamover.engine._engine",
            sources=sorted(str(path) for path in ENGINE.rglob("*.c")),
            depends=sorted(str(path) for path in ENGINE.rglob("*.h")),
            include_dirs=[str(ENGINE)],
            define_macros=[("Py_LIMITED_API", LIMITED_API), ("_GNU_SOURCE", "1")],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if sys.implementation.name == "cpython" else {},
)
