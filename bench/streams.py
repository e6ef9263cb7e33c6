"""What a frame costs by its size, beside its peers: `extmem bench streams`, with the same options.

python bench/streams.py [--rounds 5] [--quick] [--json] [--out FOLDER]
"""

from __future__ import annotations

import sys

from extmem.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["bench", "streams"]
    main()
