"""Files of weights: those that ship with lifter, and those of the Hugging Face Hub. Nothing here needs torch."""

import tempfile
from contextlib import contextmanager
from pathlib import Path

from ._errors import first_line
from ._extras import needs
from ._io import regular

WEIGHTS = Path(__file__).with_name("weights")
DEFAULT, LIVE = "base", "small"  # the models that ship with lifter: the one to lift with, and the one to stream with
SUFFIX = ".safetensors"
HUB, HUB_FILE = "hf-hub:", "model.safetensors"


def weights_path(path=None) -> Path:
    """Return the file that a `path` of `lifter.load_pretrained` means, downloaded if it is not there yet."""
    path = DEFAULT if path is None else path
    if str(path).startswith(HUB):
        return _download(str(path).removeprefix(HUB))
    shipped = WEIGHTS / f"{path}{SUFFIX}"
    return shipped if Path(path).name == str(path) and shipped.is_file() else regular(path, "checkpoint")


def _download(repository) -> Path:
    with needs("hub", "hf-hub:"):
        from huggingface_hub import hf_hub_download
    name, _, revision = repository.partition("@")
    with _hub(repository):
        return Path(hf_hub_download(name, HUB_FILE, revision=revision or None))


def upload(repository, save):
    with needs("hub", "hf-hub:"):
        from huggingface_hub import HfApi
    with tempfile.TemporaryDirectory() as folder, _hub(repository):
        save(file := Path(folder) / HUB_FILE)
        HfApi().create_repo(repository, exist_ok=True)
        HfApi().upload_file(path_or_fileobj=file, path_in_repo=HUB_FILE, repo_id=repository)


@contextmanager
def _hub(repository):
    """Name the repository in errors of the Hub."""
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except HFValidationError as error:
        raise ValueError(f"{HUB}{repository}: expected {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION") from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(f"{HUB}{repository}: not downloaded yet, and the Hub cannot be reached") from error
    except EntryNotFoundError as error:
        raise FileNotFoundError(f"{HUB}{repository}: the repository has no {HUB_FILE}") from error
    except HfHubHTTPError as error:
        raise OSError(f"{HUB}{repository}: {first_line(error)}") from error
