"""A bundle that is damaged anywhere is refused, and the model before it goes on."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from electra_qa.bundle import MANIFEST, Bundle, BundleError, load_bundle
from electra_qa.engines import EngineSettings, load_engine
from electra_qa.server.errors import ReloadError
from electra_qa.server.lifecycle import started
from electra_qa.server.loading import load
from electra_qa.server.settings import ServerSettings

REGIONS = 40
Damage = Callable[[bytearray, int, random.Random], None]


def flipped(content: bytearray, place: int, chance: random.Random) -> None:
    content[place] ^= 1 << chance.randrange(8)


def cut(content: bytearray, place: int, _: random.Random) -> None:
    del content[place:]


def zeroed(content: bytearray, place: int, _: random.Random) -> None:
    """As after a crash of the file system; something other than 0 must be there."""
    content[place : place + 4096] = bytes(len(content[place : place + 4096]))
    content[place] ^= 1


def doubled(content: bytearray, place: int, _: random.Random) -> None:
    content[place:place] = content[place : place + 512] or b"x"


@pytest.mark.parametrize("damage", [flipped, cut, zeroed, doubled])
@pytest.mark.parametrize("name", ["model.fp32.onnx", "tokenizer.json"])
def test_damage_anywhere_is_found(
    tiny_bundle: Bundle, tmp_path: Path, name: str, damage: Damage
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.path, folder)
    whole = (folder / name).read_bytes()
    chance = random.Random(f"{name} {damage.__name__}")
    for region in range(REGIONS):
        content = bytearray(whole)
        place = len(whole) * region // REGIONS + chance.randrange(len(whole) // REGIONS)
        damage(content, place, chance)
        (folder / name).write_bytes(content)
        with pytest.raises(BundleError, match=f"{name} is damaged"):
            load_bundle(folder)


def test_a_damaged_manifest_is_refused_or_says_the_same_of_the_files(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """What can't be told from a manifest is served with another version."""
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.path, folder)
    whole = (folder / MANIFEST).read_bytes()
    chance = random.Random(0)
    for _ in range(300):
        content = bytearray(whole)
        flipped(content, chance.randrange(len(whole)), chance)
        (folder / MANIFEST).write_bytes(content)
        try:
            bundle = load_bundle(folder)
            load_engine(bundle, EngineSettings("null"))
        except BundleError:
            continue
        assert bundle.version != tiny_bundle.version
        assert bundle.manifest.files == tiny_bundle.manifest.files


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def huge(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(2**33)  # a hole: no block of the disk


def other(path: Path) -> None:
    path.write_bytes(b"{}")


KINDS = [fifo, device, folder, huge, other]


@pytest.mark.parametrize("name", [MANIFEST, "tokenizer.json", "model.fp32.onnx"])
async def test_a_server_goes_on_whatever_its_folder_becomes(
    tiny_bundle: Bundle, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "bundle"
    null = EngineSettings("null")
    settings = ServerSettings("127.0.0.1:0", warm_up_lengths="none")
    # Its sum takes a while, and is another one's test.
    kinds = [kind for kind in KINDS if name == MANIFEST or kind is not huge]
    bundle, engine = load(tiny_bundle.path, null)
    async with started(bundle, engine, settings, lambda: load(path, null)) as (_, models):
        for kind in kinds:
            shutil.copytree(tiny_bundle.path, path)
            kind(path / name)
            with pytest.raises(ReloadError, match="the bundle is missing, damaged"):
                await models.reload()
            assert models.current.version == tiny_bundle.version
            shutil.rmtree(path)
        shutil.copytree(tiny_bundle.path, path)
        assert await models.reload() == tiny_bundle.version


@pytest.mark.parametrize("name", ["tokenizer.json", "model.fp32.onnx"])
async def test_what_is_swapped_after_its_check_is_never_served(
    tiny_bundle: Bundle, tmp_path: Path, name: str
) -> None:
    """The wrong model under the right version."""
    path = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.path, path)
    swapped = (path / name).read_bytes()
    if name == "tokenizer.json":
        content = json.loads(swapped)
        content["normalizer"]["lowercase"] = False
        swapped = json.dumps(content).encode()
    else:
        swapped = swapped[:-1] + bytes([swapped[-1] ^ 1])

    def swapping() -> tuple[Bundle, object]:
        loaded = load_bundle(path)
        if name != "tokenizer.json":
            (path / name).write_bytes(swapped)
        engine = load_engine(loaded)
        (path / name).write_bytes(swapped)
        return loaded, engine

    settings = ServerSettings("127.0.0.1:0", warm_up_lengths="none")
    bundle, engine = load(tiny_bundle.path, EngineSettings("null"))
    async with started(bundle, engine, settings, swapping) as (_, models):  # type: ignore[arg-type]
        with pytest.raises(ReloadError):
            await models.reload()
