"""What the directory costs: `extmem bench directory`, with the same options.

python bench/directory.py [--rounds 5] [--quick] [--json] [--out FOLDER]
"""

from __future__ import annotations

import sys

from extmem.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["bench", "directory"]
    main()
