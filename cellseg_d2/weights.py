"""Weights that come as Python packages: ``package://PACKAGE/FILE`` as a value of MODEL.WEIGHTS."""

from __future__ import annotations

from importlib import util
from pathlib import Path

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

from cellseg_d2.errors import CellSegError

PREFIX = "package://"


class PackagePathHandler(PathHandler):
    """Resolves ``package://PACKAGE/FILE`` to a file of an installed package, without a network."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: object) -> str:
        package, _, file = path.removeprefix(PREFIX).partition("/")
        spec = util.find_spec(package)
        if spec is None or spec.origin is None:
            raise CellSegError(f"{path}: the package {package} is not installed; pip install 'cellseg_d2[lite]'")
        return str(Path(spec.origin).parent / file)

    def _isfile(self, path: str, **kwargs: object) -> bool:
        return Path(self._get_local_path(path)).is_file()

    def _exists(self, path: str, **kwargs: object) -> bool:
        return Path(self._get_local_path(path)).exists()


def register_package_weights() -> None:
    """Makes Detectron2's file access understand ``package://``; calling it again changes nothing."""
    PathManager.register_handler(PackagePathHandler(), allow_override=True)
