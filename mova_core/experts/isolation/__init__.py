"""Experts in processes of their own, each in its virtual environment, behind the contract of all others."""
