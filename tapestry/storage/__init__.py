"""Durable local storage: files and folders, locks, and SQLite databases.

Whatever must survive a crash or a power failure is written through this package. No
other module of the product calls ``os.fsync``, ``fcntl`` or ``sqlite3.connect``, or
renames a file into its place.

===================  ===============================================================
``durable_files``    replace, create and append to a file; replace a folder
``file_lock``        hold a file or a folder until the process ends
``sqlite_database``  open a database of one kind; write all or nothing
===================  ===============================================================

Not protected:
    A disk that reports a write as durable and loses it. A network file system whose
    locks or renames are weaker than those of a local one.
"""
