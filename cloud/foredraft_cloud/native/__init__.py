"""A pass in compiled code: the layers' arithmetic for few rows, for processors with AVX-512, VNNI and bfloat16 instructions.

Compiled on the machine that runs it, when a model is first loaded. Where there is no compiler or another processor,
:mod:`foredraft_cloud.transformer` computes the same in torch.
"""
