"""Replicas of tensors that no folder holds."""

from tapestry.artifacts.model_identity import ModelContent
from tapestry.model.replica import Replica
from tapestry.vectors import Parameters


def replica_of(tensors: Parameters) -> Replica:
    """Start a replica of a model without settings files."""
    return Replica.start(ModelContent(tensors=tensors))
