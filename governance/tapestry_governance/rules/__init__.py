"""The rules that every entry of the log must keep."""
