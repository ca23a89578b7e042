"""Tables come in: files, columns, and the pictures they name."""

from imagemill.tables.table import Table, read_table

__all__ = ["Table", "read_table"]
