"""Making a draft for a target: texts that the target writes itself, and a shallow model taught to foresee them.

Reading order: ``prompts`` and ``collecting`` (what the target is asked, and its answers), ``texts`` (the answers as
batches), ``network`` (a decoder that can be differentiated), ``drafts`` (the model that is trained), ``distillation`` (the
loss), ``fitting`` (the loop), ``commands``.
"""
