"""What every other folder uses: files, streams, text formats, devices; nothing of detectors."""
