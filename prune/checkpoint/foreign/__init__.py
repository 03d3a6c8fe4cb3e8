"""Files of other projects, read without running a line of theirs."""
