"""Validation: is a document what libvirt's own schemas allow?

schemas.py finds and compiles libvirt's RELAX NG files; verdict.py judges a document by them.
"""
