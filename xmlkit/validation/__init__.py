"""Validation: is a document what libvirt's own schemas allow?

schemas.py finds and compiles libvirt's RELAX NG files; verdict.py judges a document by them;
grammar.py derives from them what judges a lone device; profiles.py says what some hosts cannot
have; policy.py asks more of the documents that libvirt shall create.
"""
