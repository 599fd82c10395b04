"""Validation: is a document what libvirt's own schemas allow?

schemas.py finds and compiles libvirt's RELAX NG files; verdict.py judges a document by them;
grammar.py derives from them what judges a lone device; profiles.py says what some hosts cannot
have; policy.py asks more of the documents that libvirt shall create. findings.py is what all of
them answer with.

What is wrong with an invalid document: rng.py reads the same files into the patterns of pattern.py
and the types of datatypes.py; judge.py judges elements by them, walk.py tells the faults in the
words of words.py, and diagnosis.py makes them findings with repairs that were tried.
"""
