"""The file that marks a cohort as simulated."""

SIMULATION_FILE = "simulation.json"  # written by ``survfuse simulate`` beside the patients
