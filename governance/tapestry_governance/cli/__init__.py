"""The commands of auditors and stewards."""
