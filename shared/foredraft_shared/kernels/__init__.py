"""Passes in compiled code: a decoder's layers for few rows, for processors with AVX-512, VNNI and bfloat16 instructions.

Compiled on the machine that runs it, when a model is first loaded. The cloud computes its passes with it, the device its drafts;
where there is no compiler or another processor, both have another way.
"""
