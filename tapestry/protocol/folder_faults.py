"""Faults of a node's folder, by which a node that cannot work says why.

The list is closed, and so are the words: of what is wrong at an institution, its
coordinator learns one of these codes and nothing else. The message of the error, which
may name paths and lines of data, stays at the node.
"""

from enum import StrEnum


class FolderFault(StrEnum):
    """A code of an error (``governance/ERRORS.md``) that may leave a node.

    ``internal`` stands for any error that is not on this list.
    """

    BASE_UNKNOWN = "base-unknown"
    WEIGHTS_MISSING = "weights-missing"
    MODEL_CONFIG_MISSING = "model-config-missing"
    MODEL_UNREADABLE = "model-unreadable"
    MODEL_SETTING_INVALID = "model-setting-invalid"
    TENSOR_SET_DIFFERS = "tensor-set-differs"
    CACHE_DAMAGED = "cache-damaged"
    MEMORY_TOO_SMALL = "memory-too-small"
    PACKAGE_MISSING = "package-missing"
    WORKLOAD_UNKNOWN = "workload-unknown"
    SETTING_INVALID = "setting-invalid"
    FOLDER_MISSING = "folder-missing"
    FILE_MISSING = "file-missing"
    FILE_UNREADABLE = "file-unreadable"
    FILE_NOT_PLAIN = "file-not-plain"
    LINK_NOT_ALLOWED = "link-not-allowed"
    DATA_MANIFEST_MISSING = "data-manifest-missing"
    RECORDS_MISSING = "records-missing"
    RECORD_INVALID = "record-invalid"
    DATASET_DIFFERS = "dataset-differs"
    LEDGER_MISSING = "ledger-missing"
    LEDGER_SETTING_DIFFERS = "ledger-setting-differs"
    LEDGER_RESTORED = "ledger-restored"
    STATE_RESTORED = "state-restored"
    INTERNAL = "internal"

    @property
    def words(self) -> str:
        """The code as a clause for people; it says no more than the code does."""
        return _WORDS[self]

    @classmethod
    def of(cls, error: Exception) -> "FolderFault":
        """Reduce an error to its code, if that is on the list.

        Guarantees:
            Nothing of the error but its code is looked at.
        """
        code = getattr(error, "code", None)
        return next((each for each in cls if each.value == code), cls.INTERNAL)


_WORDS = {
    FolderFault.BASE_UNKNOWN: "the base that it is told to open is not there",
    FolderFault.WEIGHTS_MISSING: "its base has no weights",
    FolderFault.MODEL_CONFIG_MISSING: "its base has no config.json",
    FolderFault.MODEL_UNREADABLE: "its base cannot be opened",
    FolderFault.MODEL_SETTING_INVALID: "a setting of its base is not allowed",
    FolderFault.TENSOR_SET_DIFFERS: "the tensors of its base are not those of its kind",
    FolderFault.CACHE_DAMAGED: "its copy of the base is damaged",
    FolderFault.MEMORY_TOO_SMALL: "its machine has too little memory for the base",
    FolderFault.PACKAGE_MISSING: "a package is not installed there",
    FolderFault.WORKLOAD_UNKNOWN: "it has no such workload",
    FolderFault.SETTING_INVALID: "a setting of it or of its data is invalid",
    FolderFault.FOLDER_MISSING: "a folder that it is told to read is not there",
    FolderFault.FILE_MISSING: "a file that it needs is not there",
    FolderFault.FILE_UNREADABLE: "a file that it needs cannot be read",
    FolderFault.FILE_NOT_PLAIN: "something else is in the place of a file",
    FolderFault.LINK_NOT_ALLOWED: "a link is in the place of a file",
    FolderFault.DATA_MANIFEST_MISSING: "its data have no manifest",
    FolderFault.RECORDS_MISSING: "its data have no records",
    FolderFault.RECORD_INVALID: "a record of its data cannot be read",
    FolderFault.DATASET_DIFFERS: "its data are not those that its ledger counts for",
    FolderFault.LEDGER_MISSING: "its ledger is gone",
    FolderFault.LEDGER_SETTING_DIFFERS: "its ledger counts by other settings",
    FolderFault.LEDGER_RESTORED: "its ledger is older than the log",
    FolderFault.STATE_RESTORED: "its state is older than the log",
    FolderFault.INTERNAL: "it cannot start, for a reason that its own status has",
}
