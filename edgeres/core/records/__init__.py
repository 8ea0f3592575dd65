"""What stages write and others read, each defined once; without torch, so that a report can be made anywhere."""
