"""Fetch a checkpoint: a folder in Hugging Face's layout, or a repository of the hub."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from .config import CONFIG
from .errors import BuildError
from .weights import FORMS, read_index, weights_form

# Everything beside the weights that `build` and `finetune` read.
SMALL_FILES = (
    CONFIG,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spm.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)


@dataclass(frozen=True, slots=True)
class Fetched:
    """Where a checkpoint's files are.

    source: what to call it: the folder's name, or the hub id as given.
    commit: of a hub repository, 40 hexadecimal digits; None of a folder.
    """

    folder: Path
    source: str
    commit: str | None


def fetch(folder_or_hub_id: str, *, token: str | None = None, weights: bool = True) -> Fetched:
    """Find a checkpoint's files, and download what of them is not there yet. Raises BuildError.

    A path that exists is a folder. Anything else is a hub id, `name`, `owner/name` or either with
    `@revision`: a branch, a tag, a commit or refs/pr/N; of that repository only what is read is
    fetched, with one form of its weights, into huggingface_hub's cache. What is in the cache does
    where the hub is out of reach, and with HF_HUB_OFFLINE=1.

    token: for private and gated repositories; else huggingface_hub's own (HF_TOKEN, or that of
    `hf auth login`).
    weights: False where only the small files are wanted, such as those of a tokenizer.
    """
    folder = Path(folder_or_hub_id)
    if folder.is_dir():
        return Fetched(folder, folder.resolve().name, None)
    if folder.exists():
        raise BuildError(f"{folder_or_hub_id} is a file; a checkpoint is a folder or a hub id")
    hub_id, at, revision = folder_or_hub_id.partition("@")
    if at and not revision:
        raise BuildError(f"{folder_or_hub_id} names no revision behind its @")
    return _Repository(hub_id, revision or None, folder_or_hub_id, token, weights).fetch()


def with_revision(folder_or_hub_id: str, revision: str | None) -> str:
    """`id@revision`. Raises BuildError where there can be no revision, or is one already."""
    if revision is None:
        return folder_or_hub_id
    if Path(folder_or_hub_id).exists():
        raise BuildError(f"revision is for hub ids; {folder_or_hub_id} is a folder")
    if "@" in folder_or_hub_id:
        raise BuildError(f"{folder_or_hub_id} names a revision already, and revision is {revision}")
    return f"{folder_or_hub_id}@{revision}"


@dataclass(frozen=True, slots=True)
class _Repository:
    hub_id: str
    revision: str | None
    source: str
    token: str | None
    weights: bool

    def fetch(self) -> Fetched:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        try:
            info = HfApi(token=self.token).model_info(self.hub_id, revision=self.revision)
        except HfHubHTTPError as error:
            if error.response.status_code < 500:
                self._refused(error)
            return self._cached(error)
        except HFValidationError as error:
            raise BuildError(f"{self.source}: no such folder, and not a hub id") from error
        except Exception as error:  # no network: httpx's errors, OfflineModeIsEnabled
            return self._cached(error)
        names = [file.rfilename for file in info.siblings or ()]
        if not self.weights:
            folder = self._download(list(SMALL_FILES))
            return Fetched(folder, self.source, folder.name)
        if CONFIG not in names:
            raise BuildError(f"{self.source} has no {CONFIG}: it is no checkpoint of Transformers")
        form = weights_form(names, self.source)
        wanted = [*SMALL_FILES, form]
        if form.endswith(".index.json"):
            shards = read_index(self._download([form]) / form)
            if missing := [shard for shard in shards if shard not in names]:
                raise BuildError(f"{self.source}: {form} names {missing[0]}, which is not there")
            wanted.extend(shards)
        folder = self._download(wanted)
        return Fetched(folder, self.source, folder.name)

    def _download(self, names: list[str]) -> Path:
        """The folder of the revision's commit in the cache, with these files if it has them."""
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError

        try:
            return Path(
                snapshot_download(
                    self.hub_id, revision=self.revision, allow_patterns=names, token=self.token
                )
            )
        except HfHubHTTPError as error:
            self._refused(error)
        except Exception as error:
            if isinstance(error.__cause__, HfHubHTTPError):  # such as 403 for a token of few rights
                self._refused(error.__cause__)
            reason = _first_line(error)
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                reason = f"no space left for {constants.HF_HUB_CACHE}; HF_HUB_CACHE moves it"
            elif isinstance(error, OSError) and error.errno:
                reason = f"{error.filename or constants.HF_HUB_CACHE}: {error.strerror}"
            raise BuildError(f"{self.source} was not fetched from the hub: {reason}") from error

    def _cached(self, unreached: Exception) -> Fetched:
        """What an earlier fetch left in the cache, where the hub does not answer."""
        from huggingface_hub import constants, try_to_load_from_cache

        for name in SMALL_FILES:
            found = try_to_load_from_cache(self.hub_id, name, revision=self.revision)
            if isinstance(found, str) and (not self.weights or _complete(Path(found).parent)):
                folder = Path(found).parent
                return Fetched(folder, self.source, folder.name)
        if constants.HF_HUB_OFFLINE:
            reason = "HF_HUB_OFFLINE is set, and this is not in its cache"
        else:
            reason = f"{constants.ENDPOINT} does not answer ({_first_line(unreached)})"
        raise BuildError(
            f"{self.source}: no such folder, and not fetched from the hub: {reason}"
        ) from unreached

    def _refused(self, error: Exception) -> NoReturn:
        raise BuildError(self._why(error)) from error

    def _why(self, error: Exception) -> str:
        from huggingface_hub import constants, errors

        status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
        if isinstance(error, errors.GatedRepoError):
            return (
                f"{self.source} is gated: ask for access at {constants.ENDPOINT}/{self.hub_id}, "
                "then log in: hf auth login"
            )
        if isinstance(error, errors.RepositoryNotFoundError):
            return (
                f"{self.source}: no such folder, and on the hub it is missing, misspelled or "
                "private; if it is private, log in: hf auth login"
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return f"{self.hub_id} has no revision {self.revision!r}"
        if status == 401:
            return (
                f"{self.source}: the hub does not take the access token; log in anew "
                "(hf auth login), or unset HF_TOKEN"
            )
        if status == 429:
            return f"{self.source}: the hub has had too many requests; try again in some minutes"
        return f"{self.source} was not fetched from the hub: {_first_line(error)}"


def _complete(folder: Path) -> bool:
    """Whether a folder of the cache has weights with all of their shards."""
    names = {path.name for path in folder.iterdir() if path.is_file()}
    form = next((form for form in FORMS if form in names), None)
    if form is None:
        return False
    return not form.endswith(".index.json") or read_index(folder / form).keys() <= names


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
