"""The architectures that private training takes; the names need no torch."""

ARCHITECTURES = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3"})
"""Model types whose per-sequence gradients are tested against the loop.

Their layers are tested to compute in float32 with weights in their stored type, too.

No mixture of experts: a module that a step does not use keeps stale gradients.
"""
