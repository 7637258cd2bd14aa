"""Checkpoints of the released MoVA (arXiv 2404.13046): reading them into ours, and giving their layout back.

`naming` says where each tensor of a release goes, `shards` reads the files it comes in, `writing` the files
it goes to; `importing` does the one, `exporting` the other. `profiles` holds what no weight file tells.
"""
