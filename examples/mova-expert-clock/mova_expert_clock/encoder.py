"""A small encoder of pictures, and the heads that teach it to read clocks.

Notation for tensor shapes:
    b: pictures, h, w: side of the picture in pixels, n: tokens of the grid (h * w / 256), c: channels
"""

from __future__ import annotations

from torch import Tensor, nn

STRIDE = 16
HOURS = 12
MINUTES = 12


class ClockEncoder(nn.Module):
    """Four convolutions of stride two, then attention among all cells: a hand spans many of them.

    Args:
        channels: feature channels c.
        layers: of attention.
    """

    def __init__(self, channels: int = 64, layers: int = 2) -> None:
        super().__init__()
        widths = (3, channels // 4, channels // 2, channels, channels)
        self.stem = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1), nn.GroupNorm(4, o), nn.GELU())
                for i, o in zip(widths, widths[1:], strict=False)
            )
        )
        self.place = nn.Conv2d(channels, channels, 3, padding=1)  # borders tell a cell where it is
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                channels, 4, 2 * channels, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, stream: Tensor) -> Tensor:
        """[b, 3, h, w] -> [b, n, c]."""
        cells = self.stem(stream)  # [b, c, h / 16, w / 16]
        tokens = (cells + self.place(cells)).flatten(2).transpose(1, 2)  # [b, n, c]
        for layer in self.layers:
            tokens = layer(tokens)
        normed: Tensor = self.norm(tokens)
        return normed


class ClockReader(nn.Module):
    """The encoder with two heads, for hour and minute. The heads teach it; they are not part of the expert.

    Args:
        encoder: what is taught.
        channels: its feature channels.
        cells: its tokens n.
    """

    def __init__(self, encoder: ClockEncoder, channels: int, cells: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.hour = nn.Linear(cells * channels, HOURS)
        self.minute = nn.Linear(cells * channels, MINUTES)

    def forward(self, stream: Tensor) -> tuple[Tensor, Tensor]:
        """[b, 3, h, w] -> logits [b, 12] of the hour, [b, 12] of the minute in steps of five."""
        tokens = self.encoder(stream).flatten(1)  # [b, n * c]
        return self.hour(tokens), self.minute(tokens)
