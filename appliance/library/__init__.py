"""From settings and files to devices that are served."""
