"""cuda-python and pycuda themselves, not fakes of them, on a driver that is not NVIDIA's: do they
take what we hand them, and give what we take them for?"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def driver_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("driver")
    library = folder / "libcuda.so.1"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "stub_driver.c"]
    subprocess.run([*command, "-Wl,-soname,libcuda.so.1", "-ldl"], check=True)
    return folder


@pytest.mark.parametrize("library", ["cuda-python", "pycuda"])
def test_a_library_does_on_a_stub_what_we_take_it_for(driver_folder: Path, library: str) -> None:
    package = {"cuda-python": "cuda.bindings", "pycuda": "pycuda"}
    for name in {package["cuda-python"], package[library]}:
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is None:
            pytest.skip(f"{name} is not installed")
    path = os.pathsep.join([str(driver_folder), os.environ.get("LD_LIBRARY_PATH", "")])
    done = subprocess.run(
        [sys.executable, HERE / "on_stub_driver.py", library],
        env=os.environ | {"LD_LIBRARY_PATH": path.strip(os.pathsep)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr
