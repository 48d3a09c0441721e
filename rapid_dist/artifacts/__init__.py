"""What a stage leaves behind: files on a store, described by a manifest written last."""
