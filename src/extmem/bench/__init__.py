"""What things cost, side by side with their peers: what `extmem bench` measures.

`parts` has the table of what there is; each part is a module. All of them measure in rounds in
which everybody takes turns (`rounds`), and hand back what `report` describes. `plots` draws it.
"""

from __future__ import annotations

__all__: list[str] = []
