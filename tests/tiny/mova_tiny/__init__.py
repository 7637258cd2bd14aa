"""A complete model so small that a test can build, train and ask it: a base encoder and three experts."""
