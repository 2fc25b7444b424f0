"""Finds the file of MODEL.WEIGHTS: paths, URLs and their cache, and weights in Python packages."""

from __future__ import annotations

import os
from importlib import util
from pathlib import Path
from urllib.parse import urlparse

from detectron2.checkpoint.catalog import ModelCatalog, ModelCatalogHandler
from detectron2.utils.file_io import Detectron2Handler, PathManager
from iopath.common.file_io import PathHandler, get_cache_dir

from cellseg_d2.errors import CellSegError, one_line

PUBLISHED = {"nuclei": Path(__file__).parent / "published" / "nuclei.pth"}
"""The weights that come with this package: name, as MODEL.WEIGHTS and ``--weights`` take it -> file."""

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


def local_path(weights: str) -> str:
    """The path of a file of weights on this machine; a URL is fetched.

    Args:
        weights: a value of MODEL.WEIGHTS: a name from :data:`PUBLISHED`, a path or a URL. The part after a ``?`` is for
            Detectron2 and does not belong to the address.

    Raises:
        CellSegError: the file is missing, or cannot be fetched; the message says what to fetch, and where to put it.
    """
    if weights in PUBLISHED:
        return str(PUBLISHED[weights])
    address, _, query = weights.partition("?")
    if query not in ("", "matching_heuristics=True"):
        raise CellSegError(f"{weights}: Detectron2 knows no ?{query}; fetch the file and give its path")
    try:
        path = PathManager.get_local_path(address)
    except CellSegError:
        raise
    except Exception as error:  # by handler: URLError, OSError, KeyError for unknown catalog names
        raise CellSegError(
            f"{weights} cannot be fetched ({one_line(error, 100)}); {_advice(address)}"
            "set MODEL.WEIGHTS to a file that is here, or to '' to begin from random weights"
        ) from error
    if not os.path.isfile(path):
        raise CellSegError(f"{weights}: there is no such file")
    return path


def _advice(address: str) -> str:
    """Advice for a message: which file to fetch by other means, and where to put it."""
    url = web_address(address)
    return f"fetch {url} elsewhere and put it at {cache_path(url)}, or " if url else ""


def web_address(address: str) -> str:
    """The ``https`` address behind one of Detectron2's; empty where there is none."""
    if address.startswith(Detectron2Handler.PREFIX):
        return Detectron2Handler.S3_DETECTRON2_PREFIX + address.removeprefix(Detectron2Handler.PREFIX)
    if address.startswith(ModelCatalogHandler.PREFIX):
        try:
            return ModelCatalog.get(address.removeprefix(ModelCatalogHandler.PREFIX))
        except (KeyError, RuntimeError):  # no such name
            return ""
    return address if address.startswith(("http://", "https://")) else ""


def cache_path(url: str) -> Path:
    """The path of a download in iopath's cache, which is ``$FVCORE_CACHE`` or a folder in the home folder."""
    path = urlparse(url).path
    return Path(get_cache_dir()) / os.path.dirname(path.lstrip("/")) / url.rpartition("/")[2]
