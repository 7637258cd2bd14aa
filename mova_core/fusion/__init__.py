"""Fusion: the MoV-Adapter, the experts' packs, and the text encoder of its gate."""
