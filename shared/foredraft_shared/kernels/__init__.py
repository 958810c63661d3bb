"""Passes in compiled code: a decoder's layers for few rows, in the vector instructions of this processor.

Compiled on the machine that runs it, when a model is first loaded. The device computes its drafts with it: with AVX-512, AVX2
or NEON, to the same bits. The cloud computes its passes with it where there are AVX-512, VNNI and bfloat16. Without a compiler,
or on another processor, both have another way.
"""
