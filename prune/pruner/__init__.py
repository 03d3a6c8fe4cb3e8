"""A detector's checkpoint from end to end: select, cut, verify, recover, save."""
