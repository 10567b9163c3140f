"""What a killed process leaves: folders in which it was making something."""

from pathlib import Path

from layerserve_server.folder_owner import UnfinishedFolder


def left_behind(parent: Path) -> Path:
    """Returns an unfinished folder whose owner has ended: the system has freed its lock."""
    folder = UnfinishedFolder(parent)
    (folder.path / "half").write_text("half")
    folder._owner.release()
    return folder.path.parent
