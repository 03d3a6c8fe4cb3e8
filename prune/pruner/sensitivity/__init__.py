"""Sensitivity: how much the mAP or loss changes when one coupled group is cut alone, by masking."""
