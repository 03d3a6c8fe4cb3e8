"""Scoring: detections out of boxes, COCO metrics, plots."""
