"""The Hugging Face hub: the one file through which models come from it and go to it.

A model is named as a folder, as `starter`, or as a hub id, which may pin a revision: `OWNER/NAME@REVISION`.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from .names import model_folder as named_folder

SECONDS_TO_ANSWER = 4
HUB_ID = re.compile(r"(?P<repository>\w[\w.-]*(/\w[\w.-]*)?)(@(?P<revision>[^@\s]+))?")
# What a causal language model, its tokenizer and its card are read from; subfolders hold other formats.
READ = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md")
NOT_READ = ("*/*", "consolidated*")


def pinned(model: str, revision: str | None) -> str:
    """The name of a model with its revision; ValueError for a revision of what does not come from the hub."""
    if revision is None:
        return model
    found = HUB_ID.fullmatch(model)
    if model == "starter" or Path(model).is_dir() or found is None:
        raise ValueError(f"revision is {revision} but {model} is not a hub id; leave it out")
    if found["revision"]:
        raise ValueError(f"revision is given twice, {found['revision']} and {revision}; leave one out")
    return f"{model}@{revision}"


def model_folder(model: str | Path) -> str:
    """The folder of a model; that of a hub id is brought here first, into the hub's own cache.

    Any other name that is no folder comes back as it is.  Raises ValueError when the hub does not have the model or
    cannot be reached; nothing is tried twice.
    """
    folder = named_folder(model)
    found = HUB_ID.fullmatch(folder)
    return folder if found is None or Path(folder).exists() else _snapshot(found["repository"], found["revision"])


def existing_folder(model: str | Path, what: str = "a model") -> Path:
    """The folder of a model, brought here if need be; ValueError that names `what` is loaded when there is none."""
    folder = Path(model_folder(model))
    if not folder.is_dir():
        raise ValueError(f"cannot load {what} from {folder}: there is no such folder")
    return folder


def weights_stamp(model: str | Path) -> list[tuple[str, int, int]]:
    """Name, size in bytes and time of change of a model's weight files, which differ when the model does."""
    weights = sorted(Path(model_folder(model)).glob("*.safetensors"))
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in weights]


def commit_of(model: str | Path) -> str | None:
    """The commit of a hub id that is here; None for other models."""
    folder = Path(model_folder(model))
    return folder.name if folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", folder.name) else None


@cache
def _snapshot(repository: str, revision: str | None) -> str:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    commit, problem = None, ""
    try:
        commit = HfApi().model_info(repository, revision=revision, timeout=SECONDS_TO_ANSWER).sha
    except RevisionNotFoundError:
        raise ValueError(f"the model {repository} has no revision {revision} on the hub; correct it") from None
    except RepositoryNotFoundError:
        problem = "the hub has no such model, or you have no access to it"
    except Exception as error:  # which HTTP library the hub's client raises from changes with its version
        problem = unreachable(error)
    try:
        return snapshot_download(
            repository,
            revision=commit or revision,
            local_files_only=commit is None,
            allow_patterns=list(READ),
            ignore_patterns=list(NOT_READ),
        )
    except Exception as error:
        problem = problem or unreachable(error)
    raise ValueError(
        f"cannot get the model {repository}: there is no such folder, no copy of it in the cache, and {problem}; "
        "check the name and the connection, or give a folder or starter"
    )


def unreachable(error: BaseException) -> str:
    """What kept an answer of the hub from coming, in words."""
    kind, text = type(error).__name__, " ".join(str(error).split())
    if "Offline" in kind:
        return "the hub is switched off (HF_HUB_OFFLINE)"
    if "Connect" in kind or "Timeout" in kind:
        return f"the hub cannot be reached ({text[:100] or kind})"
    return f"the hub answered: {text[:160] or kind}"


def upload(folder: Path, repository: str, private: bool) -> str:
    """Uploads all files of `folder` to a model repository, which is made if need be; its address.

    Raises ValueError when the hub does not take them.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        made = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload a model of MAML-en-LLM")
    except Exception as error:  # see above
        raise ValueError(
            f"cannot upload to {repository}: {unreachable(error)}; `hf auth login` says who you are to the hub"
        ) from None
    return str(made)
