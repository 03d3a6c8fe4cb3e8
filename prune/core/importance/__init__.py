"""How much each channel matters: criteria, the statistics they need, importance by group."""
