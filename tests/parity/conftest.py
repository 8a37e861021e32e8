"""Model folders for the agreement tests, made once a session."""

from pathlib import Path

import pytest

from tests.parity import local_models


@pytest.fixture(scope="session")
def clip_folder(torchvision: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP of Transformers in the hub's layout."""
    pytest.importorskip("transformers")
    return local_models.save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def siglip_folder(torchvision: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SigLIP of Transformers in the hub's layout."""
    pytest.importorskip("transformers")
    return local_models.save_siglip(tmp_path_factory.mktemp("siglip"))
