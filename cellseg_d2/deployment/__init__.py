"""A model as a folder that runs without torch, Detectron2 and this package: ``cellseg-d2 export --weights``."""
