"""How fast MoVA is, against a plain reference and against what this machine's arithmetic allows."""
