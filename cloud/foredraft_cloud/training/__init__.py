"""Making a draft and exit heads for a target: texts that the target writes itself, and little models taught to foresee them.

Reading order: ``prompts`` and ``collecting`` (what the target is asked, and its answers), ``shards`` and ``texts`` (the answers
in files, and as batches), ``network`` (a decoder that can be differentiated), ``drafts`` (a draft in training),
``distillation`` (the loss), ``fitting`` (the loop), ``commands``; for exits ``states`` (what the target's layers say of the
texts), ``exits`` (a head in training), ``verdicts`` (rounds played again), ``calibrating`` (how sure hints may be),
``exit_training``.
"""
