"""The settings of a server: one object, of which flags and variables are spellings."""
