"""The program of a run's process: started by its name, or forked."""
