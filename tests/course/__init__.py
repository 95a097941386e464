"""The presets of the course, shortened, through the command line: does each show what its header says?"""
