"""The platform's Python API: everything the commands do, as calls that return values and print nothing.

Progress is handed in (`rlvo.progress.ShowProgress`); warnings are returned. `rlvo.Study` is the short way in (`api`).
"""
