"""The parts of report.html: markup, plots, the run's numbers, the sections."""
