"""What a hand-over costs beside its peers: `extmem bench handover`, with the same options.

python bench/handover.py [--rounds 5] [--quick] [--json] [--out FOLDER]
"""

from __future__ import annotations

import sys

from extmem.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["bench", "handover"]
    main()
