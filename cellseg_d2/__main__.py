"""``python -m cellseg_d2 VERB ...``, the same as ``cellseg-d2 VERB ...``."""

import sys

from cellseg_d2.commands import main

if __name__ == "__main__":
    sys.exit(main())
