"""Where a bundle lies; finding it loads no models."""

from pathlib import Path

from suisen.errors import BundleError

MANIFEST = "manifest.json"


def find(folder: Path) -> Path:
    """The bundle in ``folder``: itself, or ``folder/bundle`` of a run."""
    for place in (folder, folder / "bundle"):
        if (place / MANIFEST).is_file():
            return place
    raise BundleError(f"{folder} holds no bundle ({MANIFEST} is missing); give a bundle or a run folder")
