"""Folders on a disk or S3, manifests and tables: what every stage reads and writes, knowing no domain."""
