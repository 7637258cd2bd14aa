"""An expert of one's own, from a card: `mova` lists it, the pool runs it. No package has to be made for that.

The card is `cards/edge-strength.toml`, the code `edge_strength.py`. Listing reads the card only.
"""

from __future__ import annotations

import os
from pathlib import Path

HERE = Path(__file__).parent
SHADES = " .:-=+*#"


def main() -> None:
    """List the expert, run it on a photograph, and draw what it gives."""
    os.environ["MOVA_CARD_DIR"] = str(HERE / "cards")

    from mova_core.cli.main import main as mova

    mova(["experts", "list"])

    from mova_core.experts.images import load_image
    from mova_core.experts.pool import ExpertPool
    from mova_core.routing import Route

    pool = ExpertPool.from_ids(["edge-strength"])
    photograph = load_image(HERE / "images" / "coffee.jpg")
    encoded = pool.encode([photograph], [Route(("edge-strength",))])
    features = encoded["edge-strength"].features
    print(f"\nfeatures [b, n, c] = {list(features.tokens.shape)} on a grid of {features.grid}")

    strength = features.tokens[0, :, :2].sum(dim=1).reshape(features.grid)  # [h, w]
    shades = (strength / strength.max() * (len(SHADES) - 1)).round().int().tolist()
    print("\n".join("".join(2 * SHADES[shade] for shade in row) for row in shades))


if __name__ == "__main__":
    main()
