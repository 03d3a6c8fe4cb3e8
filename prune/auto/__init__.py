"""The whole road by itself: cut, recover, fine-tune, export, quantise, measure, recommend."""
