"""Cleaning: what is between reading documents and learning from them.

Duplicates, boilerplate and texts too short are left out, secrets are replaced; `clean.py` does it while documents
stream by.
"""
