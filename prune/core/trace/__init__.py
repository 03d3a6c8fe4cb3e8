"""One recorded run of a module, and the groups of channels that must be removed together."""
