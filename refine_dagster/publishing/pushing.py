"""An exported dataset on the Hugging Face Hub, as one commit."""

from __future__ import annotations

from pathlib import Path

from refine_dagster.errors import RefineError, first_line
from refine_dagster.publishing.new_folder import read_manifest


def push_folder(folder: Path, repository: str, *, private: bool = True) -> str:
    """Push an exported folder to a dataset repository, made if needed; return its address.

    The token is the one that `hf auth login` keeps, or `HF_TOKEN`. What the repository has and the
    folder lacks stays there.

    Raises:
        RefineError: the Hub refuses it, or cannot be reached.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    manifest = read_manifest(folder)
    if manifest is None or manifest.get("kind") != "dataset":
        raise RefineError("is no exported dataset", where=str(folder), fix="export one first")
    api = HfApi()
    version = str(manifest["data_version"])[:12]
    try:
        api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=folder,
            commit_message=f"Data version {version}, {sum(manifest['rows'].values())} rows",
        )
    except (
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        httpx.TransportError,
    ) as error:
        raise RefineError(
            f"the Hub did not take it: {first_line(error)}",
            where=repository,
            fix="check the name, log in with `hf auth login`, and push again; "
            f"the folder {folder} is whole",
        ) from error
    return f"{api.endpoint}/datasets/{repository}"
